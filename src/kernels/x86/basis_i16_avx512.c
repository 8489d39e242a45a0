/* Rows into a learned basis, in integers, for AVX-512 with VNNI: vpdpwssd multiplies two inputs of
 * 16 outputs. A block is 4 rows x 64 outputs: 16 accumulators, 4 registers of the basis, and every
 * pair of inputs broadcast once. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/exp_poly.h"
#include "kernels/kernels.h"

#define ROWS 4

void tkv_basis_i16_avx512(struct tkv_kernels *k);

/* Codes of a row; returns the value of one. */
static float row_codes(const float *x, uint32_t D, int16_t *codes)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i max_bits = _mm512_setzero_si512();
    for (uint32_t d = 0; d < D; d += 16) {
        const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(x + d));
        max_bits = _mm512_max_epi32(max_bits, _mm512_and_si512(bits, magnitude));
    }
    const int32_t bits = _mm512_reduce_max_epi32(max_bits);
    const float max = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
    const int codable = max >= TKV_TINY && bits < 0x7f800000;
    const __m512 inverse = _mm512_set1_ps(codable ? TKV_BASIS_MOST / max : 0.0f);
    const __mmask16 live = codable ? 0xffff : 0;
    for (uint32_t d = 0; d < D; d += 16) {
        const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x + d), inverse);
        _mm256_storeu_si256((__m256i *)(void *)(codes + d),
                            _mm512_cvtepi32_epi16(_mm512_maskz_cvtps_epi32(live, scaled)));
    }
    return max < TKV_TINY ? 0.0f : max * (1.0f / TKV_BASIS_MOST);
}

TKV_INLINE __m512i broadcast_pair(const int16_t *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}

/* `rows` x (16 * cols) outputs from j on. */
TKV_INLINE void block(const int16_t (*codes)[TKV_MAX_HEAD_DIM], const float *unit, uint32_t D,
                      const struct tkv_basis_i16 *m, uint32_t j, float *y, int rows, int cols)
{
    __m512i sum[ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            sum[r][c] = _mm512_setzero_si512();
    const int16_t *at = m->codes + (size_t)j * 2;
    for (uint32_t i = 0; i < D; i += 2, at += (size_t)D * 2) {
        __m512i x[4];
        for (int c = 0; c < cols; c++) {
            x[c] = _mm512_loadu_si512(at + c * 32);
            TKV_HOLD(x[c]);
        }
        for (int r = 0; r < rows; r++) {
            const __m512i pair = broadcast_pair(&codes[r][i]);
            for (int c = 0; c < cols; c++)
                __asm__("vpdpwssd %2, %1, %0" : "+v"(sum[r][c]) : "v"(pair), "v"(x[c]));
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) {
            const __m512 scale = _mm512_loadu_ps(m->scale + j + c * 16);
            _mm512_storeu_ps(y + (size_t)r * D + j + c * 16,
                             _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][c]),
                                           _mm512_mul_ps(scale, _mm512_set1_ps(unit[r]))));
        }
}

TKV_INLINE void some_rows(const float *x, uint32_t D, const struct tkv_basis_i16 *m, float *y,
                          int rows)
{
    int16_t codes[ROWS][TKV_MAX_HEAD_DIM] __attribute__((aligned(64)));
    float unit[ROWS];
    for (int r = 0; r < rows; r++)
        unit[r] = row_codes(x + (size_t)r * D, D, codes[r]);
    uint32_t j = 0;
    for (; j + 64 <= D; j += 64)
        block(codes, unit, D, m, j, y, rows, 4);
    for (; j < D; j += 16)
        block(codes, unit, D, m, j, y, rows, 1);
}

static void basis_i16_avx512(const float *x, size_t n, uint32_t D, const struct tkv_basis_i16 *m,
                             float *y)
{
    size_t r = 0;
    for (; r + ROWS <= n; r += ROWS)
        some_rows(x + r * D, D, m, y + r * D, ROWS);
    for (; r < n; r++)
        some_rows(x + r * D, D, m, y + r * D, 1);
}

void tkv_basis_i16_avx512(struct tkv_kernels *k)
{
    k->basis_i16 = basis_i16_avx512;
}
