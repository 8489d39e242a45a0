/* Rows into a learned basis, in integers, for AVX2: vpmaddwd multiplies two inputs of 8 outputs. A
 * block is 2 rows x 32 outputs. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/exp_poly.h"
#include "kernels/kernels.h"

#define ROWS 2

void tkv_basis_i16_avx2(struct tkv_kernels *k);

static int32_t largest_bits(const float *x, uint32_t D)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    for (uint32_t d = 0; d < D; d += 8) {
        const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + d));
        most = _mm256_max_epi32(most, _mm256_and_si256(bits, magnitude));
    }
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return _mm_cvtsi128_si32(half);
}

/* Codes of a row; returns the value of one. */
static float row_codes(const float *x, uint32_t D, int16_t *codes)
{
    const int32_t bits = largest_bits(x, D);
    const float max = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
    const int codable = max >= TKV_TINY && bits < 0x7f800000;
    const __m256 inverse = _mm256_set1_ps(codable ? TKV_BASIS_MOST / max : 0.0f);
    const __m256i live = _mm256_set1_epi32(codable ? -1 : 0);
    for (uint32_t d = 0; d < D; d += 16) {
        const __m256 low = _mm256_mul_ps(_mm256_loadu_ps(x + d), inverse);
        const __m256 high = _mm256_mul_ps(_mm256_loadu_ps(x + d + 8), inverse);
        const __m256i words = _mm256_packs_epi32(_mm256_and_si256(_mm256_cvtps_epi32(low), live),
                                                 _mm256_and_si256(_mm256_cvtps_epi32(high), live));
        _mm256_storeu_si256((__m256i *)(void *)(codes + d), _mm256_permute4x64_epi64(words, 0xd8));
    }
    return max < TKV_TINY ? 0.0f : max * (1.0f / TKV_BASIS_MOST);
}

TKV_INLINE __m256i broadcast_pair(const int16_t *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

/* `rows` x (8 * cols) outputs from j on. */
TKV_INLINE void block(const int16_t (*codes)[TKV_MAX_HEAD_DIM], const float *unit, uint32_t D,
                      const struct tkv_basis_i16 *m, uint32_t j, float *y, int rows, int cols)
{
    __m256i sum[ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            sum[r][c] = _mm256_setzero_si256();
    const int16_t *at = m->codes + (size_t)j * 2;
    for (uint32_t i = 0; i < D; i += 2, at += (size_t)D * 2)
        for (int c = 0; c < cols; c++) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(at + c * 16));
            for (int r = 0; r < rows; r++)
                sum[r][c] =
                    _mm256_add_epi32(sum[r][c], _mm256_madd_epi16(broadcast_pair(&codes[r][i]), x));
        }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) {
            const __m256 scale = _mm256_loadu_ps(m->scale + j + c * 8);
            _mm256_storeu_ps(y + (size_t)r * D + j + c * 8,
                             _mm256_mul_ps(_mm256_cvtepi32_ps(sum[r][c]),
                                           _mm256_mul_ps(scale, _mm256_set1_ps(unit[r]))));
        }
}

TKV_INLINE void some_rows(const float *x, uint32_t D, const struct tkv_basis_i16 *m, float *y,
                          int rows)
{
    int16_t codes[ROWS][TKV_MAX_HEAD_DIM] __attribute__((aligned(32)));
    float unit[ROWS];
    for (int r = 0; r < rows; r++)
        unit[r] = row_codes(x + (size_t)r * D, D, codes[r]);
    uint32_t j = 0;
    for (; j + 32 <= D; j += 32)
        block(codes, unit, D, m, j, y, rows, 4);
    for (; j < D; j += 16)
        block(codes, unit, D, m, j, y, rows, 2);
}

static void basis_i16_avx2(const float *x, size_t n, uint32_t D, const struct tkv_basis_i16 *m,
                           float *y)
{
    size_t r = 0;
    for (; r + ROWS <= n; r += ROWS)
        some_rows(x + r * D, D, m, y + r * D, ROWS);
    for (; r < n; r++)
        some_rows(x + r * D, D, m, y + r * D, 1);
}

void tkv_basis_i16_avx2(struct tkv_kernels *k)
{
    k->basis_i16 = basis_i16_avx2;
}
