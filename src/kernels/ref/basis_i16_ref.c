/* Rows into a learned basis, in integers. */
#include <math.h>

#include "base/half.h"
#include "kernels/exp_poly.h"
#include "kernels/kernels.h"

void tkv_basis_i16_ref(struct tkv_kernels *k);

/* Magnitudes order like their bits, NaN above infinity. */
static float largest(const float *x, uint32_t D)
{
    uint32_t bits = 0;
    for (uint32_t d = 0; d < D; d++) {
        const uint32_t magnitude = tkv_f32_bits(x[d]) & 0x7fffffffu;
        bits = magnitude > bits ? magnitude : bits;
    }
    return tkv_bits_f32(bits);
}

static void basis_row(const float *x, uint32_t D, const struct tkv_basis_i16 *m, float *y)
{
    const float max = largest(x, D);
    const int codable = max >= TKV_TINY && max < INFINITY;
    const float inverse = codable ? TKV_BASIS_MOST / max : 0.0f;
    const float unit = max < TKV_TINY ? 0.0f : max * (1.0f / TKV_BASIS_MOST);
    int32_t codes[TKV_MAX_HEAD_DIM];
    for (uint32_t i = 0; i < D; i++)
        codes[i] = codable ? (int32_t)rintf(x[i] * inverse) : 0;
    for (uint32_t j = 0; j < D; j++) {
        int32_t sum = 0;
        for (uint32_t i = 0; i < D; i++)
            sum += codes[i] * m->codes[((size_t)(i / 2) * D + j) * 2 + i % 2];
        y[j] = (float)sum * (m->scale[j] * unit);
    }
}

static void basis_i16_ref(const float *x, size_t n, uint32_t D, const struct tkv_basis_i16 *m,
                          float *y)
{
    for (size_t r = 0; r < n; r++)
        basis_row(x + r * D, D, m, y + r * D);
}

void tkv_basis_i16_ref(struct tkv_kernels *k)
{
    k->basis_i16 = basis_i16_ref;
}
