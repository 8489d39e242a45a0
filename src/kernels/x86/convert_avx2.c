/* f16 <-> f32 with F16C, tails in plain C; transpose by blocks of 8 tokens x 8 columns. */
#include <immintrin.h>

#include "base/compiler.h"
#include "base/half.h"
#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_convert_avx2(struct tkv_kernels *k);

TKV_INLINE __m128i load128(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

static void f16_to_f32_avx2(const void *restrict halves, float *restrict y, size_t n)
{
    const uint8_t *x = halves;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(load128(x + 2 * i)));
    for (; i < n; i++)
        y[i] = tkv_half_to_f32(tkv_load_half(x + 2 * i));
}

static void f32_to_f16_avx2(const float *restrict x, uint16_t *restrict y, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(y + i), h);
    }
    for (; i < n; i++)
        y[i] = tkv_f32_to_half(x[i]);
}

static void transpose_8x8(const uint16_t *restrict x, size_t x_stride, float *restrict y)
{
    __m128i pair[8], quad[8];
    for (size_t i = 0; i < 4; i++) { /* pair[2i + h]: columns 4h .. 4h + 3 of tokens 2i, 2i + 1 */
        const __m128i even = load128(x + 2 * i * x_stride),
                      odd = load128(x + (2 * i + 1) * x_stride);
        pair[2 * i] = _mm_unpacklo_epi16(even, odd);
        pair[2 * i + 1] = _mm_unpackhi_epi16(even, odd);
    }
    for (int j = 0; j < 2; j++) /* quad[4j + c / 2]: columns c, c + 1 of tokens 4j .. 4j + 3 */
        for (int h = 0; h < 2; h++) {
            quad[4 * j + 2 * h] = _mm_unpacklo_epi32(pair[4 * j + h], pair[4 * j + 2 + h]);
            quad[4 * j + 2 * h + 1] = _mm_unpackhi_epi32(pair[4 * j + h], pair[4 * j + 2 + h]);
        }
    for (size_t c = 0; c < 8; c++) {
        const __m128i column = c % 2 ? _mm_unpackhi_epi64(quad[c / 2], quad[4 + c / 2])
                                     : _mm_unpacklo_epi64(quad[c / 2], quad[4 + c / 2]);
        _mm256_storeu_ps(y + c * TOKENS, _mm256_cvtph_ps(column));
    }
}

static void transpose_f16_avx2(const uint16_t *restrict x, size_t x_stride, uint32_t D,
                               float *restrict y)
{
    for (size_t c = 0; c < D; c += 8)
        for (size_t t = 0; t < TOKENS; t += 8)
            transpose_8x8(x + t * x_stride + c, x_stride, y + c * TOKENS + t);
}

void tkv_convert_avx2(struct tkv_kernels *k)
{
    k->f16_to_f32 = f16_to_f32_avx2;
    k->f32_to_f16 = f32_to_f16_avx2;
    k->transpose_f16 = transpose_f16_avx2;
}
