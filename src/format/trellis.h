/* Trellis-coded coefficients (FORMAT.md, tight): constants and layout.
 *
 * A token's coefficients are coded one after the other into a stream of bits, coefficient i taking
 * bits[i] new ones; its value is levels[bits[i]][w], w the last 8 bits of the stream (before it
 * begins: zeros). So neighbouring coefficients share bits, and the encoder searches the whole
 * stream for the one that is nearest.
 *
 * In a page, coefficient i of 64 tokens takes bits[i] words of 64 bits, the oldest bit first: bit t
 * of a word, little-endian, belongs to token t. */
#ifndef TKV_FORMAT_TRELLIS_H
#define TKV_FORMAT_TRELLIS_H

#include <stddef.h>
#include <stdint.h>

#include "tightkv/tightkv.h"

#define TKV_TRELLIS_WINDOW 8 /* bits that a value is looked up by */
#define TKV_TRELLIS_STATES (1 << TKV_TRELLIS_WINDOW)
#define TKV_TRELLIS_BITS   7 /* most new bits of a coefficient */

/* Levels for values of unit variance, in steps of TKV_TRELLIS_STEP times the rate's unit; row 0 is
 * zeros. Units are folded into the basis, so that one scale serves a row. */
extern const int8_t tkv_trellis_levels[TKV_TRELLIS_BITS + 1][TKV_TRELLIS_STATES];
extern const float tkv_trellis_unit[TKV_TRELLIS_BITS + 1];

#define TKV_TRELLIS_STEP (1.0f / 32)

/* The encoder's search (kernels.h, trellis_codes) counts in 16 bits: values that `reach` scales are
 * kept within TKV_TRELLIS_MOST, the cost of an error grows no longer by its square but by itself
 * from TKV_TRELLIS_FAR on, and a stream that is worse than the best by more than TKV_TRELLIS_LOST
 * counts as that much worse. */
#define TKV_TRELLIS_MOST 4000
#define TKV_TRELLIS_FAR  128
#define TKV_TRELLIS_LOST 40000

/* What the search needs: for each coefficient its levels, and for each window that it keeps for one
 * of 16 tokens where the best stream comes from; and the costs of the best streams. */
#define TKV_TRELLIS_SCRATCH_BYTES (TKV_TRELLIS_STATES * (TKV_MAX_HEAD_DIM * (2 + 16 / 2) + 2 * 16))

/* Bytes of a page's codes. */
static inline size_t tkv_trellis_bytes(const uint8_t *bits, uint32_t D)
{
    size_t n = 0;
    for (uint32_t i = 0; i < D; i++)
        n += bits[i];
    return n * sizeof(uint64_t);
}

#endif
