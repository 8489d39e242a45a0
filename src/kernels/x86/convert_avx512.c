/* f16 <-> f32 for AVX-512: vcvtph2ps and vcvtps2ph are exact and to nearest even; tails by mask.
 *
 * Transpose: 8 columns x 32 tokens at a time. Four rows of 8 halves, 8 tokens apart, fill the four
 * 128-bit parts of a register; three rounds of unpacking turn eight such registers (32 rows) into
 * eight columns of 32 tokens. */
#include <immintrin.h>

#include "base/compiler.h"
#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_convert_avx512(struct tkv_kernels *k);

static void f16_to_f32_avx512(const void *restrict halves, float *restrict y, size_t n)
{
    const uint8_t *x = halves;
    for (; n >= 16; n -= 16, x += 32, y += 16)
        _mm512_storeu_ps(y, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)x)));
    const __mmask16 live = (__mmask16)((1u << n) - 1);
    _mm512_mask_storeu_ps(y, live, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(live, x)));
}

static void f32_to_f16_avx512(const float *restrict x, uint16_t *restrict y, size_t n)
{
    enum { mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    for (; n >= 16; n -= 16, x += 16, y += 16) {
        /* masked by all ones: the plain intrinsic warns in unoptimised builds of gcc 12 */
        const __m256i h = _mm512_maskz_cvtps_ph(0xffff, _mm512_loadu_ps(x), mode);
        _mm256_storeu_si256((__m256i *)(void *)y, h);
    }
    const __mmask16 live = (__mmask16)((1u << n) - 1);
    const __m256i h = _mm512_maskz_cvtps_ph(live, _mm512_maskz_loadu_ps(live, x), mode);
    _mm256_mask_storeu_epi16(y, live, h);
}

/* Rows r, r + 8, r + 16, r + 24, eight halves of each. */
TKV_INLINE __m512i load_rows(const uint16_t *x, size_t x_stride)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)x));
#define INSERT(i)                                                                                  \
    v = _mm512_inserti32x4(                                                                        \
        v, _mm_loadu_si128((const __m128i *)(const void *)(x + i * 8 * x_stride)), i)
    INSERT(1), INSERT(2), INSERT(3);
#undef INSERT
    return v;
}

static void transpose_8x32(const uint16_t *restrict x, size_t x_stride, float *restrict y)
{
    __m512i row[8], pair[8], quad[8];
    for (size_t i = 0; i < 8; i++)
        row[i] = load_rows(x + i * x_stride, x_stride);
    for (int i = 0; i < 4; i++) { /* pair[2i + h]: columns 4h .. 4h + 3 of tokens 2i, 2i + 1 */
        pair[2 * i] = _mm512_unpacklo_epi16(row[2 * i], row[2 * i + 1]);
        pair[2 * i + 1] = _mm512_unpackhi_epi16(row[2 * i], row[2 * i + 1]);
    }
    for (int j = 0; j < 2; j++) /* quad[4j + c / 2]: columns c, c + 1 of tokens 4j .. 4j + 3 */
        for (int h = 0; h < 2; h++) {
            quad[4 * j + 2 * h] = _mm512_unpacklo_epi32(pair[4 * j + h], pair[4 * j + 2 + h]);
            quad[4 * j + 2 * h + 1] = _mm512_unpackhi_epi32(pair[4 * j + h], pair[4 * j + 2 + h]);
        }
    for (size_t c = 0; c < 8; c++) {
        const __m512i column = c % 2 ? _mm512_unpackhi_epi64(quad[c / 2], quad[4 + c / 2])
                                     : _mm512_unpacklo_epi64(quad[c / 2], quad[4 + c / 2]);
        _mm512_storeu_ps(y + c * TOKENS, _mm512_cvtph_ps(_mm512_castsi512_si256(column)));
        _mm512_storeu_ps(y + c * TOKENS + 16,
                         _mm512_cvtph_ps(_mm512_extracti64x4_epi64(column, 1)));
    }
}

static void transpose_f16_avx512(const uint16_t *restrict x, size_t x_stride, uint32_t D,
                                 float *restrict y)
{
    for (size_t c = 0; c < D; c += 8)
        for (size_t t = 0; t < TOKENS; t += 32)
            transpose_8x32(x + t * x_stride + c, x_stride, y + c * TOKENS + t);
}

void tkv_convert_avx512(struct tkv_kernels *k)
{
    k->f16_to_f32 = f16_to_f32_avx512;
    k->f32_to_f16 = f32_to_f16_avx512;
    k->transpose_f16 = transpose_f16_avx512;
}
