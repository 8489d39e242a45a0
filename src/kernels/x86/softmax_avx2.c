/* Softmax and 8-bit quantisation for AVX2: the 16 partial sums of the reference are two
 * registers. */
#include <immintrin.h>
#include <math.h>

#include "kernels/ahead.h"
#include "kernels/exp_poly.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_softmax_avx2(struct tkv_kernels *k);

static void scale_scores_avx2(const int32_t *restrict si, const float *restrict qscale,
                              const float *restrict kscale, const float *restrict bias,
                              uint32_t n_rows, float *restrict s)
{
    for (uint32_t r = 0; r < n_rows; r++, si += TOKENS, s += TOKENS) {
        const __m256 qs = _mm256_set1_ps(qscale[r]), add = _mm256_set1_ps(bias[r]);
        for (int t = 0; t < TOKENS; t += 8) {
            const __m256 x =
                _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(const void *)(si + t)));
            _mm256_storeu_ps(
                s + t, _mm256_fmadd_ps(_mm256_mul_ps(x, qs), _mm256_loadu_ps(kscale + t), add));
        }
    }
}

TKV_INLINE __m256 exp_negative(__m256 x)
{
    const __m256 live = _mm256_cmp_ps(x, _mm256_set1_ps(TKV_EXP_MIN), _CMP_NLT_UQ);
    const __m256 magic = _mm256_set1_ps(TKV_EXP_MAGIC);
    const __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(TKV_EXP_LOG2E), magic);
    const __m256 r = _mm256_fmadd_ps(_mm256_sub_ps(t, magic), _mm256_set1_ps(-TKV_EXP_LN2), x);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(TKV_EXP_C5), r, _mm256_set1_ps(TKV_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(TKV_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(TKV_EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i power = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_and_ps(live, _mm256_mul_ps(p, _mm256_castsi256_ps(power)));
}

/* Lanes of two registers folded by 8, 4, 2, 1. */
TKV_INLINE float fold_sum(__m256 low, __m256 high)
{
    const __m256 x8 = _mm256_add_ps(low, high);
    const __m128 x4 = _mm_add_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps(x8, 1));
    const __m128 x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
    return _mm_cvtss_f32(_mm_add_ss(x2, _mm_movehdup_ps(x2)));
}

TKV_INLINE float fold_max(__m256 x)
{
    __m128 x4 = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    x4 = _mm_max_ps(x4, _mm_movehl_ps(x4, x4));
    return _mm_cvtss_f32(_mm_max_ss(x4, _mm_movehdup_ps(x4)));
}

/* _mm256_max_ps gives its second operand where either is a NaN, so NaN logits leave the maximum
 * alone. */
TKV_INLINE void softmax_row(float *restrict s, struct tkv_softmax_row *restrict row)
{
    __m256 max = _mm256_set1_ps(row->m);
    for (int t = 0; t < TOKENS; t += 8)
        max = _mm256_max_ps(_mm256_loadu_ps(s + t), max);
    float m = row->m;
    row->fix = 1.0f;
    if (_mm256_movemask_ps(_mm256_cmp_ps(max, _mm256_set1_ps(m), _CMP_GT_OQ))) {
        m = fold_max(max);
        row->fix = _mm256_cvtss_f32(exp_negative(_mm256_set1_ps(row->m - m)));
    }
    const __m256 base = _mm256_set1_ps(m == -INFINITY ? 0.0f : m);
    __m256 sum[2];
    for (int t = 0; t < TOKENS; t += 16)
        for (int h = 0; h < 2; h++) {
            const __m256 x = exp_negative(_mm256_sub_ps(_mm256_loadu_ps(s + t + h * 8), base));
            _mm256_storeu_ps(s + t + h * 8, x);
            sum[h] = t == 0 ? x : _mm256_add_ps(sum[h], x);
        }
    const __m128 l = _mm_fmadd_ss(_mm_set_ss(row->l), _mm_set_ss(row->fix),
                                  _mm_set_ss(fold_sum(sum[0], sum[1])));
    row->l = _mm_cvtss_f32(l);
    row->m = m;
}

static void softmax_avx2(float *restrict s, struct tkv_softmax_row *restrict rows, uint32_t n_rows,
                         struct tkv_ahead *ahead)
{
    for (size_t r = 0; r < n_rows; r++) {
        softmax_row(s + r * TOKENS, &rows[r]);
        for (int i = 0; i < TKV_STEPS_OF_ROW; i++)
            tkv_step_ahead(ahead);
    }
}

/* Four registers of integers to 32 bytes, in order; `x` holds values of 8 bits. */
TKV_INLINE __m256i pack_signed(const __m256i x[4])
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i low = _mm256_packs_epi32(x[0], x[1]), high = _mm256_packs_epi32(x[2], x[3]);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
}

TKV_INLINE __m256i pack_unsigned(const __m256i x[4])
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i low = _mm256_packs_epi32(x[0], x[1]), high = _mm256_packs_epi32(x[2], x[3]);
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
}

TKV_INLINE float quantize_weights_row(const float *restrict p, const float *restrict vscale,
                                      uint8_t *restrict w)
{
    __m256 x[TOKENS / 8], max = _mm256_setzero_ps();
    for (int i = 0; i < TOKENS / 8; i++) {
        x[i] = _mm256_mul_ps(_mm256_loadu_ps(p + i * 8), _mm256_loadu_ps(vscale + i * 8));
        x[i] = _mm256_max_ps(x[i], _mm256_setzero_ps());
        max = _mm256_max_ps(x[i], max);
    }
    const float m = fold_max(max);
    const __m256 inverse = _mm256_set1_ps(m < TKV_TINY ? 0.0f : 255.0f / m);
    for (int i = 0; i < TOKENS / 8; i += 4) {
        __m256i code[4];
        for (int j = 0; j < 4; j++)
            code[j] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i + j], inverse));
        _mm256_storeu_si256((__m256i *)(void *)(w + i * 8), pack_unsigned(code));
    }
    return m < TKV_TINY ? 0.0f : m * (1.0f / 255.0f);
}

static void quantize_weights_avx2(const float *restrict p, const float *restrict vscale,
                                  uint32_t n_rows, uint8_t *restrict w, float *restrict wscale,
                                  struct tkv_ahead *ahead)
{
    for (size_t r = 0; r < n_rows; r++) {
        wscale[r] = quantize_weights_row(p + r * TOKENS, vscale, w + r * TOKENS);
        for (int i = 0; i < TKV_STEPS_OF_ROW; i++)
            tkv_step_ahead(ahead);
    }
}

TKV_INLINE __m256i fold_max_epi32(__m256i x)
{
    x = _mm256_max_epi32(x, _mm256_permute2x128_si256(x, x, 1));
    x = _mm256_max_epi32(x, _mm256_shuffle_epi32(x, 0x4e));
    return _mm256_max_epi32(x, _mm256_shuffle_epi32(x, 0xb1));
}

static float quantize_row_i8_avx2(const float *restrict x, uint32_t D, int8_t *restrict codes,
                                  int32_t *restrict sum)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i max_bits = _mm256_setzero_si256(), total = _mm256_setzero_si256();
    for (uint32_t d = 0; d < D; d += 8) {
        const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + d));
        max_bits = _mm256_max_epi32(max_bits, _mm256_and_si256(bits, magnitude));
    }
    max_bits = fold_max_epi32(max_bits);
    const float m = _mm256_cvtss_f32(_mm256_castsi256_ps(max_bits));
    const int codable = m >= TKV_TINY && _mm256_cvtsi256_si32(max_bits) < 0x7f800000;
    const __m256 inverse = _mm256_set1_ps(codable ? 127.0f / m : 0.0f);
    const __m256i live = _mm256_set1_epi32(codable ? -1 : 0);
    for (uint32_t d = 0; d < D; d += 16) {
        __m256i code[4] = {_mm256_setzero_si256()};
        for (uint32_t j = 0; j < 2; j++) {
            code[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + d + 8 * j), inverse));
            code[j] = _mm256_and_si256(code[j], live);
            total = _mm256_add_epi32(total, code[j]);
        }
        code[2] = code[3] = code[0];
        _mm_storeu_si128((__m128i *)(void *)(codes + d), _mm256_castsi256_si128(pack_signed(code)));
    }
    total = _mm256_hadd_epi32(total, total);
    total = _mm256_hadd_epi32(total, total);
    *sum = _mm256_extract_epi32(total, 0) + _mm256_extract_epi32(total, 4);
    return m < TKV_TINY ? 0.0f : m * (1.0f / 127.0f);
}

void tkv_softmax_avx2(struct tkv_kernels *k)
{
    k->scale_scores = scale_scores_avx2;
    k->softmax = softmax_avx2;
    k->quantize_weights = quantize_weights_avx2;
    k->quantize_row_i8 = quantize_row_i8_avx2;
}
