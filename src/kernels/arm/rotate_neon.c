/* Rotation for Advanced SIMD: order of operations as in rotate_ref.c.
 *
 * Pieces of up to 64 values go through their butterflies in registers (distances 1, 2 by a
 * shuffle and one fma, partner + (+-1) * x), longer distances through memory. Rows with an odd
 * part m > 1 are first split into m rows of 2^k, one for each b. */
#include <arm_neon.h>
#include <math.h>

#include "base/compiler.h"
#include "kernels/dct_table.h"
#include "kernels/kernels.h"

void tkv_rotate_neon(struct tkv_kernels *k);

/* 4 * n values, n a power of two up to 16. */
TKV_INLINE void hadamard_piece(float *x, int n)
{
    static const float signs[2][4] = {{1, -1, 1, -1}, {1, 1, -1, -1}};
    const float32x4_t sign1 = vld1q_f32(signs[0]), sign2 = vld1q_f32(signs[1]);
    float32x4_t v[16];
    for (int i = 0; i < n; i++) {
        float32x4_t y = vld1q_f32(x + i * 4);
        y = vfmaq_f32(vrev64q_f32(y), y, sign1);
        v[i] = vfmaq_f32(vextq_f32(y, y, 2), y, sign2);
    }
    for (int h = 1; h < n; h *= 2)
        for (int i = 0; i < n; i++)
            if (!(i & h)) {
                const float32x4_t u = v[i], w = v[i + h];
                v[i] = vaddq_f32(u, w);
                v[i + h] = vsubq_f32(u, w);
            }
    for (int i = 0; i < n; i++)
        vst1q_f32(x + i * 4, v[i]);
}

/* Hadamard of `even` values (16 to 512), then times scale. */
static void hadamard(float *x, uint32_t even, float scale)
{
    if (even == 16)
        hadamard_piece(x, 4);
    else if (even == 32)
        hadamard_piece(x, 8);
    else
        for (uint32_t i = 0; i < even; i += 64)
            hadamard_piece(x + i, 16);
    for (uint32_t h = 64; h < even; h *= 2)
        for (uint32_t i = 0; i < even; i += 4)
            if (!(i & h)) {
                const float32x4_t u = vld1q_f32(x + i), w = vld1q_f32(x + i + h);
                vst1q_f32(x + i, vaddq_f32(u, w));
                vst1q_f32(x + i + h, vsubq_f32(u, w));
            }
    for (uint32_t i = 0; i < even; i += 4)
        vst1q_f32(x + i, vmulq_n_f32(vld1q_f32(x + i), scale));
}

static void multiply(float *restrict x, const float *restrict sign, uint32_t D)
{
    for (uint32_t i = 0; i < D; i += 4)
        vst1q_f32(x + i, vmulq_f32(vld1q_f32(x + i), vld1q_f32(sign + i)));
}

/* x [even][m] to split [m][even] and back. */
static void split_columns(const float *restrict x, float *restrict split, uint32_t even, uint32_t m)
{
    for (uint32_t b = 0; b < m; b++)
        for (uint32_t a = 0; a < even; a++)
            split[b * even + a] = x[a * m + b];
}

static void merge_columns(const float *restrict split, float *restrict x, uint32_t even, uint32_t m)
{
    for (uint32_t a = 0; a < even; a++)
        for (uint32_t b = 0; b < m; b++)
            x[a * m + b] = split[b * even + a];
}

/* split[c][a] = sum_b M[c][b] split[b][a]; steps as in the reference. */
static void dct_columns(float *split, uint32_t even, uint32_t m, uint32_t c_step, uint32_t b_step)
{
    const float *table = tkv_dct_table(m);
    for (uint32_t a = 0; a < even; a += 4) {
        float32x4_t y[7];
        for (uint32_t c = 0; c < m; c++) {
            const float *row = table + c * c_step;
            y[c] = vmulq_n_f32(vld1q_f32(split + a), row[0]);
            for (uint32_t b = 1; b < m; b++)
                y[c] = vfmaq_n_f32(y[c], vld1q_f32(split + b * even + a), row[b * b_step]);
        }
        for (uint32_t c = 0; c < m; c++)
            vst1q_f32(split + c * even + a, y[c]);
    }
}

static void rotate_neon(float *restrict x, size_t n, uint32_t D, const float *restrict sign)
{
    const uint32_t even = D & (0u - D), m = D / even;
    const float scale = 1.0f / sqrtf((float)even);
    float split[TKV_MAX_HEAD_DIM];
    for (; n > 0; n--, x += D) {
        multiply(x, sign, D);
        if (m == 1) {
            hadamard(x, D, scale);
            continue;
        }
        split_columns(x, split, even, m);
        dct_columns(split, even, m, m, 1);
        for (uint32_t c = 0; c < m; c++)
            hadamard(split + c * even, even, scale);
        merge_columns(split, x, even, m);
    }
}

static void unrotate_neon(float *restrict x, size_t n, uint32_t D, const float *restrict sign)
{
    const uint32_t even = D & (0u - D), m = D / even;
    const float scale = 1.0f / sqrtf((float)even);
    float split[TKV_MAX_HEAD_DIM];
    for (; n > 0; n--, x += D) {
        if (m == 1) {
            hadamard(x, D, scale);
        } else {
            split_columns(x, split, even, m);
            for (uint32_t c = 0; c < m; c++)
                hadamard(split + c * even, even, scale);
            dct_columns(split, even, m, 1, m);
            merge_columns(split, x, even, m);
        }
        multiply(x, sign, D);
    }
}

void tkv_rotate_neon(struct tkv_kernels *k)
{
    k->rotate = rotate_neon;
    k->unrotate = unrotate_neon;
}
