/* Third bits of turbo3 codes in row order (format/row_order.h), in plain C: for the reference, and
 * for overlays that have nothing better. */
#ifndef TKV_ORDER_THIRD_H
#define TKV_ORDER_THIRD_H

#include <stddef.h>
#include <stdint.h>

#include "tightkv/tightkv.h"

/* Third bits of keys: 4 dims of a token are half a byte; two tokens of a group make one. */
static inline void tkv_third_to_tile_k(const uint8_t *const *rows, size_t at, uint32_t D,
                                       uint8_t *third)
{
    for (size_t block = 0; block < TKV_PAGE_TOKENS; block += 16)
        for (size_t group = 0; group < D / 4; group++)
            for (size_t t = block; t < block + 16; t += 2) {
                const uint32_t shift = group % 2 * 4;
                const uint32_t even = (uint32_t)rows[t][at + group / 2] >> shift & 15u,
                               odd = (uint32_t)rows[t + 1][at + group / 2] >> shift & 15u;
                *third++ = (uint8_t)(even | odd << 4);
            }
}

static inline void tkv_third_to_rows_k(const uint8_t *third, uint32_t D, uint8_t *rows,
                                       size_t stride)
{
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++)
        for (size_t j = 0; j < D / 8; j++) {
            const uint8_t *groups = third + (t / 16 * (D / 4) + 2 * j) * 8 + t % 16 / 2;
            const uint32_t shift = t % 2 * 4;
            rows[t * stride + j] =
                (uint8_t)((groups[0] >> shift & 15u) | (groups[8] >> shift & 15u) << 4);
        }
}

/* Bit i of four half bytes, side by side. */
static inline uint32_t tkv_pick_bits(const uint32_t half[4], size_t i)
{
    return (half[0] >> i & 1) | (half[1] >> i & 1) << 1 | (half[2] >> i & 1) << 2 |
           (half[3] >> i & 1) << 3;
}

/* Transposes both half bytes of four bytes, as if each were a row of bits. Its own inverse. */
static inline void tkv_transpose_halves(uint8_t x[4])
{
    const uint32_t low[4] = {x[0] & 15u, x[1] & 15u, x[2] & 15u, x[3] & 15u};
    const uint32_t high[4] = {x[0] >> 4u, x[1] >> 4u, x[2] >> 4u, x[3] >> 4u};
    for (size_t i = 0; i < 4; i++)
        x[i] = (uint8_t)(tkv_pick_bits(low, i) | tkv_pick_bits(high, i) << 4);
}

/* Third bits of values: byte e of four tokens' two gives bytes e, 2 + e, 4 + e, 6 + e of a group. */
static inline void tkv_third_to_tile_v(const uint8_t *const *rows, size_t at, uint32_t D,
                                       uint8_t *third)
{
    for (size_t run = 0; run < TKV_PAGE_TOKENS; run += 16)
        for (size_t unit = 0; unit < D / 16; unit++)
            for (size_t t = run; t < run + 16; t += 4, third += 8)
                for (size_t e = 0; e < 2; e++) {
                    uint8_t x[4];
                    for (size_t i = 0; i < 4; i++)
                        x[i] = rows[t + i][at + 2 * unit + e];
                    tkv_transpose_halves(x);
                    for (size_t i = 0; i < 4; i++)
                        third[2 * i + e] = x[i];
                }
}

static inline void tkv_third_to_rows_v(const uint8_t *third, uint32_t D, uint8_t *rows,
                                       size_t stride)
{
    for (size_t run = 0; run < TKV_PAGE_TOKENS; run += 16)
        for (size_t unit = 0; unit < D / 16; unit++)
            for (size_t t = run; t < run + 16; t += 4, third += 8)
                for (size_t e = 0; e < 2; e++) {
                    uint8_t x[4];
                    for (size_t i = 0; i < 4; i++)
                        x[i] = third[2 * i + e];
                    tkv_transpose_halves(x);
                    for (size_t i = 0; i < 4; i++)
                        rows[(t + i) * stride + 2 * unit + e] = x[i];
                }
}

/* Third bits begin at `at` of each row; `third` is where they are in a page. */
static inline void tkv_third_to_tile(const uint8_t *const *rows, size_t at, uint32_t D,
                                     tkv_kind kind, uint8_t *third)
{
    if (kind == TKV_K)
        tkv_third_to_tile_k(rows, at, D, third);
    else
        tkv_third_to_tile_v(rows, at, D, third);
}

/* rows: at the third bits of the first one. */
static inline void tkv_third_to_rows(const uint8_t *third, uint32_t D, tkv_kind kind, uint8_t *rows,
                                     size_t stride)
{
    if (kind == TKV_K)
        tkv_third_to_rows_k(third, D, rows, stride);
    else
        tkv_third_to_rows_v(third, D, rows, stride);
}

#endif
