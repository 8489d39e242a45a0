/* Rows into a learned basis, in plain C for the compiler to turn into vectors of each instruction
 * set: a lane is one output, whose sum is in the same order everywhere. */
#ifndef TKV_BASIS_STEPS_H
#define TKV_BASIS_STEPS_H

#include <math.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/kernels.h"

#define TKV_BASIS_LANES 64 /* at most */

/* `n_rows` rows by `lanes` outputs. Literals: then the sums stay in registers. */
TKV_INLINE void tkv_basis_block(const float *restrict x, uint32_t n_rows, uint32_t D, size_t lanes,
                                const float *restrict m, float *restrict y)
{
    float sum[4][TKV_BASIS_LANES] = {{0}};
    for (uint32_t i = 0; i < D; i++)
        for (uint32_t r = 0; r < n_rows; r++)
            for (size_t j = 0; j < lanes; j++)
                sum[r][j] = fmaf(x[(size_t)r * D + i], m[(size_t)i * D + j], sum[r][j]);
    for (uint32_t r = 0; r < n_rows; r++)
        memcpy(y + (size_t)r * D, sum[r], lanes * sizeof(float));
}

TKV_INLINE void tkv_basis_rows(const float *restrict x, uint32_t n_rows, uint32_t D, size_t lanes,
                               const float *restrict m, float *restrict y)
{
    size_t j = 0;
    for (; j + lanes <= D; j += lanes)
        tkv_basis_block(x, n_rows, D, lanes, m + j, y + j);
    for (; j < D; j += 16)
        tkv_basis_block(x, n_rows, D, 16, m + j, y + j);
}

TKV_INLINE void tkv_basis_all(const float *restrict x, size_t n, uint32_t D, size_t lanes,
                              const float *restrict m, float *restrict y)
{
    size_t r = 0;
    for (; r + 4 <= n; r += 4)
        tkv_basis_rows(x + r * D, 4, D, lanes, m, y + r * D);
    for (; r < n; r++)
        tkv_basis_rows(x + r * D, 1, D, lanes, m, y + r * D);
}

TKV_INLINE void tkv_turn_pairs(float *restrict x, uint32_t step, uint32_t apart, uint32_t n_pairs,
                               const float (*restrict turn)[2])
{
    for (uint32_t i = 0; i < n_pairs; i++) {
        const float a = x[i * step], b = x[i * step + apart];
        const float c = turn[i][0], s = turn[i][1];
        x[i * step] = a * c - b * s;
        x[i * step + apart] = a * s + b * c;
    }
}

/* Literal steps let the compiler use vectors. */
TKV_INLINE void tkv_turn_all(float *restrict x, size_t n, uint32_t D, uint32_t half,
                             uint32_t n_pairs, const float (*restrict turn)[2])
{
    for (size_t r = 0; r < n; r++, x += D) {
        if (half)
            tkv_turn_pairs(x, 1, half, n_pairs, turn);
        else
            tkv_turn_pairs(x, 2, 1, n_pairs, turn);
    }
}

TKV_INLINE void tkv_turn_tile_all(float *restrict tile, uint32_t half, uint32_t n_pairs,
                                  const float *restrict cos, const float *restrict sin,
                                  size_t stride)
{
    enum {
        T = 64
    };
    const uint32_t step = half ? 1 : 2, apart = half ? half : 1;
    for (uint32_t i = 0; i < n_pairs; i++, cos += stride, sin += stride) {
        float *restrict x = tile + (size_t)i * step * T, *restrict y = x + (size_t)apart * T;
        for (uint32_t t = 0; t < T; t++) {
            const float a = x[t], b = y[t];
            x[t] = a * cos[t] - b * sin[t];
            y[t] = a * sin[t] + b * cos[t];
        }
    }
}

#endif
