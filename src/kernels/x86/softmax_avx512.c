/* Softmax and 8-bit quantisation for AVX-512: a page's 64 tokens are four registers, whose 16 lanes
 * are the 16 partial sums of the reference. */
#include <immintrin.h>
#include <math.h>

#include "kernels/ahead.h"
#include "kernels/x86/exp_avx512.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_softmax_avx512(struct tkv_kernels *k);

static void scale_scores_avx512(const int32_t *restrict si, const float *restrict qscale,
                                const float *restrict kscale, const float *restrict bias,
                                uint32_t n_rows, float *restrict s)
{
    __m512 ks[4];
    for (int b = 0; b < 4; b++)
        ks[b] = _mm512_loadu_ps(kscale + b * 16);
    for (uint32_t r = 0; r < n_rows; r++, si += TOKENS, s += TOKENS) {
        const __m512 qs = _mm512_set1_ps(qscale[r]), add = _mm512_set1_ps(bias[r]);
        for (int b = 0; b < 4; b++) {
            const __m512 x = _mm512_cvtepi32_ps(_mm512_loadu_si512(si + b * 16));
            _mm512_storeu_ps(s + b * 16, _mm512_fmadd_ps(_mm512_mul_ps(x, qs), ks[b], add));
        }
    }
}

/* Lanes folded by 8, 4, 2, 1. */
TKV_INLINE float fold_sum(__m512 x)
{
    const __m256 x8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 x4 = _mm_add_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps(x8, 1));
    const __m128 x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
    return _mm_cvtss_f32(_mm_add_ss(x2, _mm_movehdup_ps(x2)));
}

/* Most pages of a long context hold no new maximum. A compare finds that out, and then the
 * exponentials need not wait for a reduction. _mm512_max_ps gives its second operand where either
 * is a NaN, so NaN logits leave the maximum alone. */
TKV_INLINE void softmax_row(float *restrict s, struct tkv_softmax_row *restrict row)
{
    __m512 x[4], max = _mm512_set1_ps(row->m);
    for (int b = 0; b < 4; b++) {
        x[b] = _mm512_loadu_ps(s + b * 16);
        max = _mm512_max_ps(x[b], max);
    }
    float m = row->m;
    row->fix = 1.0f;
    if (_mm512_cmp_ps_mask(max, _mm512_set1_ps(m), _CMP_GT_OQ)) {
        m = _mm512_reduce_max_ps(max);
        row->fix = _mm512_cvtss_f32(exp_negative(_mm512_set1_ps(row->m - m)));
    }
    const __m512 base = _mm512_set1_ps(m == -INFINITY ? 0.0f : m);
    for (int b = 0; b < 4; b++) {
        x[b] = exp_negative(_mm512_sub_ps(x[b], base));
        _mm512_storeu_ps(s + b * 16, x[b]);
    }
    const float sum = fold_sum(_mm512_add_ps(_mm512_add_ps(_mm512_add_ps(x[0], x[1]), x[2]), x[3]));
    row->l = _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(row->l), _mm_set_ss(row->fix), _mm_set_ss(sum)));
    row->m = m;
}

static void softmax_avx512(float *restrict s, struct tkv_softmax_row *restrict rows,
                           uint32_t n_rows, struct tkv_ahead *ahead)
{
    for (size_t r = 0; r < n_rows; r++) {
        softmax_row(s + r * TOKENS, &rows[r]);
        for (int i = 0; i < TKV_STEPS_OF_ROW; i++)
            tkv_step_ahead(ahead);
    }
}

/* Four registers of integers within 0 .. 255 to 64 bytes, in order. */
TKV_INLINE __m512i pack_unsigned(const __m512i x[4])
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i low = _mm512_packs_epi32(x[0], x[1]), high = _mm512_packs_epi32(x[2], x[3]);
    return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
}

TKV_INLINE float quantize_weights_row(const float *restrict p, const float *restrict vscale,
                                      uint8_t *restrict w)
{
    __m512 x[4], max = _mm512_setzero_ps();
    for (int b = 0; b < 4; b++) {
        x[b] = _mm512_mul_ps(_mm512_loadu_ps(p + b * 16), _mm512_loadu_ps(vscale + b * 16));
        x[b] = _mm512_max_ps(x[b], _mm512_setzero_ps());
        max = _mm512_max_ps(x[b], max);
    }
    const float m = _mm512_reduce_max_ps(max);
    const __m512 inverse = _mm512_set1_ps(m < TKV_TINY ? 0.0f : 255.0f / m);
    __m512i code[4];
    for (int b = 0; b < 4; b++)
        code[b] = _mm512_cvtps_epi32(_mm512_mul_ps(x[b], inverse));
    _mm512_storeu_si512(w, pack_unsigned(code));
    return m < TKV_TINY ? 0.0f : m * (1.0f / 255.0f);
}

static void quantize_weights_avx512(const float *restrict p, const float *restrict vscale,
                                    uint32_t n_rows, uint8_t *restrict w, float *restrict wscale,
                                    struct tkv_ahead *ahead)
{
    for (size_t r = 0; r < n_rows; r++) {
        wscale[r] = quantize_weights_row(p + r * TOKENS, vscale, w + r * TOKENS);
        for (int i = 0; i < TKV_STEPS_OF_ROW; i++)
            tkv_step_ahead(ahead);
    }
}

static float quantize_row_i8_avx512(const float *restrict x, uint32_t D, int8_t *restrict codes,
                                    int32_t *restrict sum)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i max_bits = _mm512_setzero_si512(), total = _mm512_setzero_si512();
    for (uint32_t d = 0; d < D; d += 16) {
        const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(x + d));
        max_bits = _mm512_max_epi32(max_bits, _mm512_and_si512(bits, magnitude));
    }
    const int32_t m_bits = _mm512_reduce_max_epi32(max_bits);
    const float m = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(m_bits)));
    const int codable = m >= TKV_TINY && m_bits < 0x7f800000;
    const __m512 inverse = _mm512_set1_ps(codable ? 127.0f / m : 0.0f);
    const __mmask16 live = codable ? 0xffff : 0;
    for (uint32_t d = 0; d < D; d += 16) {
        const __m512i code =
            _mm512_maskz_cvtps_epi32(live, _mm512_mul_ps(_mm512_loadu_ps(x + d), inverse));
        _mm_storeu_si128((__m128i *)(void *)(codes + d), _mm512_cvtepi32_epi8(code));
        total = _mm512_add_epi32(total, code);
    }
    *sum = _mm512_reduce_add_epi32(total);
    return m < TKV_TINY ? 0.0f : m * (1.0f / 127.0f);
}

void tkv_softmax_avx512(struct tkv_kernels *k)
{
    k->scale_scores = scale_scores_avx512;
    k->softmax = softmax_avx512;
    k->quantize_weights = quantize_weights_avx512;
    k->quantize_row_i8 = quantize_row_i8_avx512;
}
