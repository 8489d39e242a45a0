/* The codes of a page of visual1, visual2, visual4: whole numbers from 0 on, in 1, 2 or 4 bits.
 *
 * A *group* is 64 codes, 16 by 4, of which kernels multiply four at a time. A *unit* of 64 bytes
 * holds 8 / bits groups one above the other: byte i has, from its low bits up, code i of each. Groups
 * are in the order in which the sums go along: of keys, the four blocks of 16 tokens of dims 0 to 3,
 * then those of dims 4 to 7; of values, the 16 runs of 4 tokens of dims 0 to 15, then those of the
 * next. */
#ifndef TKV_FORMAT_VISUAL_H
#define TKV_FORMAT_VISUAL_H

#include <stddef.h>
#include <stdint.h>

#include "tightkv/tightkv.h"

#define TKV_VISUAL_UNIT 64

static inline size_t tkv_visual_code_bytes(uint32_t bits, uint32_t D)
{
    return (size_t)TKV_PAGE_TOKENS * D * bits / 8;
}

/* Where code i of group g stands among the values of a page, [64][D]. */
static inline size_t tkv_visual_place(tkv_kind kind, uint32_t D, size_t g, size_t i)
{
    if (kind == TKV_K)
        return (g % 4 * 16 + i / 4) * D + g / 4 * 4 + i % 4;
    return (g % 16 * 4 + i % 4) * D + g / 16 * 16 + i / 4;
}

#endif
