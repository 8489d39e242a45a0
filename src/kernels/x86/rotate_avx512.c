/* Rotation for AVX-512: order of operations as in rotate_ref.c.
 *
 * A row of n x 16 values lies in n registers. Butterflies of distance 1, 2, 4, 8 are a shuffle that swaps
 * partners and one fma, partner + (+-1) * x, which rounds once like the sum it is. Rows with an odd part
 * m > 1 are first gathered into m rows of 2^k, one for each b. */
#include <immintrin.h>
#include <math.h>

#include "base/compiler.h"
#include "kernels/dct_table.h"
#include "kernels/kernels.h"

void tkv_rotate_avx512(struct tkv_kernels *k);

/* +1 where bit `h` of the lane number is clear, -1 where it is set. */
TKV_INLINE __m512 butterfly_signs(int h)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 high = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(h));
    return _mm512_mask_blend_ps(high, _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f));
}

TKV_INLINE void hadamard(__m512 *v, int n)
{
    const __m512 sign1 = butterfly_signs(1), sign2 = butterfly_signs(2);
    const __m512 sign4 = butterfly_signs(4), sign8 = butterfly_signs(8);
    for (int i = 0; i < n; i++) {
        __m512 x = v[i];
        x = _mm512_fmadd_ps(x, sign1, _mm512_permute_ps(x, 0xb1));
        x = _mm512_fmadd_ps(x, sign2, _mm512_permute_ps(x, 0x4e));
        x = _mm512_fmadd_ps(x, sign4, _mm512_shuffle_f32x4(x, x, 0xb1));
        v[i] = _mm512_fmadd_ps(x, sign8, _mm512_shuffle_f32x4(x, x, 0x4e));
    }
    for (int h = 1; h < n; h *= 2)
        for (int i = 0; i < n; i++)
            if (!(i & h)) {
                const __m512 u = v[i], w = v[i + h];
                v[i] = _mm512_add_ps(u, w);
                v[i + h] = _mm512_sub_ps(u, w);
            }
}

/* One row of 16 * n: times `before` (NULL: nothing), Hadamard, times scale, times `after`. */
TKV_INLINE void hadamard_row(float *x, int n, float scale, const float *before, const float *after)
{
    __m512 v[32];
    for (int i = 0; i < n; i++) {
        v[i] = _mm512_loadu_ps(x + i * 16);
        if (before)
            v[i] = _mm512_mul_ps(v[i], _mm512_loadu_ps(before + i * 16));
    }
    hadamard(v, n);
    for (int i = 0; i < n; i++) {
        v[i] = _mm512_mul_ps(v[i], _mm512_set1_ps(scale));
        if (after)
            v[i] = _mm512_mul_ps(v[i], _mm512_loadu_ps(after + i * 16));
        _mm512_storeu_ps(x + i * 16, v[i]);
    }
}

static void hadamard_rows(float *x, size_t n_rows, uint32_t even, const float *before, const float *after)
{
    const float scale = 1.0f / sqrtf((float)even);
    for (; n_rows > 0; n_rows--, x += even)
        switch (even) {
        case 16: hadamard_row(x, 1, scale, before, after); break;
        case 32: hadamard_row(x, 2, scale, before, after); break;
        case 64: hadamard_row(x, 4, scale, before, after); break;
        case 128: hadamard_row(x, 8, scale, before, after); break;
        case 256: hadamard_row(x, 16, scale, before, after); break;
        default: hadamard_row(x, 32, scale, before, after); break;
        }
}

/* Sixteen values m apart. */
TKV_INLINE __m512i every(uint32_t m)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)m));
}

/* y[c] = sum_b M[c][b] x[b]; steps as in the reference. */
TKV_INLINE void dct(const __m512 *x, __m512 *y, uint32_t m, uint32_t c_step, uint32_t b_step)
{
    const float *table = tkv_dct_table(m);
    for (uint32_t c = 0; c < m; c++) {
        y[c] = _mm512_mul_ps(_mm512_set1_ps(table[c * c_step]), x[0]);
        for (uint32_t b = 1; b < m; b++)
            y[c] = _mm512_fmadd_ps(_mm512_set1_ps(table[c * c_step + b * b_step]), x[b], y[c]);
    }
}

TKV_INLINE void rotate_odd(float *x, uint32_t even, uint32_t m, const float *sign)
{
    float split[TKV_MAX_HEAD_DIM]; /* [m][even] */
    const __m512i at = every(m);
    for (uint32_t a = 0; a < even; a += 16) {
        __m512 in[7], out[7];
        for (uint32_t b = 0; b < m; b++)
            in[b] = _mm512_mul_ps(_mm512_i32gather_ps(at, x + a * m + b, 4),
                                  _mm512_i32gather_ps(at, sign + a * m + b, 4));
        dct(in, out, m, m, 1);
        for (uint32_t c = 0; c < m; c++)
            _mm512_storeu_ps(split + c * even + a, out[c]);
    }
    hadamard_rows(split, m, even, NULL, NULL);
    for (uint32_t a = 0; a < even; a += 16)
        for (uint32_t c = 0; c < m; c++)
            _mm512_i32scatter_ps(x + a * m + c, at, _mm512_loadu_ps(split + c * even + a), 4);
}

TKV_INLINE void unrotate_odd(float *x, uint32_t even, uint32_t m, const float *sign)
{
    float split[TKV_MAX_HEAD_DIM];
    const __m512i at = every(m);
    for (uint32_t a = 0; a < even; a += 16)
        for (uint32_t c = 0; c < m; c++)
            _mm512_storeu_ps(split + c * even + a, _mm512_i32gather_ps(at, x + a * m + c, 4));
    hadamard_rows(split, m, even, NULL, NULL);
    for (uint32_t a = 0; a < even; a += 16) {
        __m512 in[7], out[7];
        for (uint32_t b = 0; b < m; b++)
            in[b] = _mm512_loadu_ps(split + b * even + a);
        dct(in, out, m, 1, m);
        for (uint32_t c = 0; c < m; c++) {
            const __m512 signs = _mm512_i32gather_ps(at, sign + a * m + c, 4);
            _mm512_i32scatter_ps(x + a * m + c, at, _mm512_mul_ps(out[c], signs), 4);
        }
    }
}

static void rotate_avx512(float *restrict x, size_t n, uint32_t D, const float *restrict sign)
{
    const uint32_t even = D & (0u - D), m = D / even;
    if (m == 1) {
        hadamard_rows(x, n, D, sign, NULL);
        return;
    }
    for (; n > 0; n--, x += D)
        switch (m) {
        case 3: rotate_odd(x, even, 3, sign); break;
        case 5: rotate_odd(x, even, 5, sign); break;
        default: rotate_odd(x, even, 7, sign); break;
        }
}

static void unrotate_avx512(float *restrict x, size_t n, uint32_t D, const float *restrict sign)
{
    const uint32_t even = D & (0u - D), m = D / even;
    if (m == 1) {
        hadamard_rows(x, n, D, NULL, sign);
        return;
    }
    for (; n > 0; n--, x += D)
        switch (m) {
        case 3: unrotate_odd(x, even, 3, sign); break;
        case 5: unrotate_odd(x, even, 5, sign); break;
        default: unrotate_odd(x, even, 7, sign); break;
        }
}

void tkv_rotate_avx512(struct tkv_kernels *k)
{
    k->rotate = rotate_avx512;
    k->unrotate = unrotate_avx512;
}
