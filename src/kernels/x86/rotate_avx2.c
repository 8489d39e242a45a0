/* Rotation for AVX2: order of operations as in rotate_ref.c.
 *
 * Pieces of up to 64 values go through their butterflies in registers (distances 1, 2, 4 by a
 * shuffle and one fma, partner + (+-1) * x), longer distances through memory. Rows with an odd
 * part m > 1 are first gathered into m rows of 2^k, one for each b. */
#include <immintrin.h>
#include <math.h>

#include "base/compiler.h"
#include "kernels/dct_table.h"
#include "kernels/kernels.h"

void tkv_rotate_avx2(struct tkv_kernels *k);

/* 8 * n values, n a power of two up to 8. */
TKV_INLINE void hadamard_piece(float *x, int n)
{
    const __m256 sign1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const __m256 sign2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 sign4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    __m256 v[8];
    for (int i = 0; i < n; i++) {
        __m256 y = _mm256_loadu_ps(x + i * 8);
        y = _mm256_fmadd_ps(y, sign1, _mm256_permute_ps(y, 0xb1));
        y = _mm256_fmadd_ps(y, sign2, _mm256_permute_ps(y, 0x4e));
        v[i] = _mm256_fmadd_ps(y, sign4, _mm256_permute2f128_ps(y, y, 1));
    }
    for (int h = 1; h < n; h *= 2)
        for (int i = 0; i < n; i++)
            if (!(i & h)) {
                const __m256 u = v[i], w = v[i + h];
                v[i] = _mm256_add_ps(u, w);
                v[i + h] = _mm256_sub_ps(u, w);
            }
    for (int i = 0; i < n; i++)
        _mm256_storeu_ps(x + i * 8, v[i]);
}

/* Hadamard of `even` values (16 to 512), then times scale. */
static void hadamard(float *x, uint32_t even, float scale)
{
    if (even == 16)
        hadamard_piece(x, 2);
    else if (even == 32)
        hadamard_piece(x, 4);
    else
        for (uint32_t i = 0; i < even; i += 64)
            hadamard_piece(x + i, 8);
    for (uint32_t h = 64; h < even; h *= 2)
        for (uint32_t i = 0; i < even; i += 8)
            if (!(i & h)) {
                const __m256 u = _mm256_loadu_ps(x + i), w = _mm256_loadu_ps(x + i + h);
                _mm256_storeu_ps(x + i, _mm256_add_ps(u, w));
                _mm256_storeu_ps(x + i + h, _mm256_sub_ps(u, w));
            }
    for (uint32_t i = 0; i < even; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(scale)));
}

static void multiply(float *restrict x, const float *restrict sign, uint32_t D)
{
    for (uint32_t i = 0; i < D; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(sign + i)));
}

/* x [even][m] to split [m][even] and back. */
static void split_columns(const float *restrict x, float *restrict split, uint32_t even, uint32_t m)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i at = _mm256_mullo_epi32(lane, _mm256_set1_epi32((int)m));
    for (uint32_t b = 0; b < m; b++)
        for (uint32_t a = 0; a < even; a += 8)
            _mm256_storeu_ps(split + b * even + a, _mm256_i32gather_ps(x + a * m + b, at, 4));
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
    for (uint32_t a = 0; a < even; a += 8) {
        __m256 y[7];
        for (uint32_t c = 0; c < m; c++) {
            const float *row = table + c * c_step;
            y[c] = _mm256_mul_ps(_mm256_set1_ps(row[0]), _mm256_loadu_ps(split + a));
            for (uint32_t b = 1; b < m; b++) {
                const __m256 x = _mm256_loadu_ps(split + b * even + a);
                y[c] = _mm256_fmadd_ps(_mm256_set1_ps(row[b * b_step]), x, y[c]);
            }
        }
        for (uint32_t c = 0; c < m; c++)
            _mm256_storeu_ps(split + c * even + a, y[c]);
    }
}

static void rotate_avx2(float *restrict x, size_t n, uint32_t D, const float *restrict sign)
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

static void unrotate_avx2(float *restrict x, size_t n, uint32_t D, const float *restrict sign)
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

void tkv_rotate_avx2(struct tkv_kernels *k)
{
    k->rotate = rotate_avx2;
    k->unrotate = unrotate_avx2;
}
