/* Softmax and 8-bit quantisation for Advanced SIMD: the 16 partial sums of the reference are
 * four registers. */
#include <arm_neon.h>
#include <math.h>

#include "kernels/ahead.h"
#include "kernels/exp_poly.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_softmax_neon(struct tkv_kernels *k);

static void scale_scores_neon(const int32_t *restrict si, const float *restrict qscale,
                              const float *restrict kscale, const float *restrict bias,
                              uint32_t n_rows, float *restrict s)
{
    for (uint32_t r = 0; r < n_rows; r++, si += TOKENS, s += TOKENS)
        for (int t = 0; t < TOKENS; t += 4) {
            const float32x4_t x = vmulq_n_f32(vcvtq_f32_s32(vld1q_s32(si + t)), qscale[r]);
            vst1q_f32(s + t, vfmaq_f32(vdupq_n_f32(bias[r]), x, vld1q_f32(kscale + t)));
        }
}

TKV_INLINE float32x4_t exp_negative(float32x4_t x)
{
    const uint32x4_t gone = vcltq_f32(x, vdupq_n_f32(TKV_EXP_MIN));
    const float32x4_t magic = vdupq_n_f32(TKV_EXP_MAGIC), one = vdupq_n_f32(1.0f);
    const float32x4_t t = vfmaq_f32(magic, x, vdupq_n_f32(TKV_EXP_LOG2E));
    const float32x4_t r = vfmaq_f32(x, vsubq_f32(t, magic), vdupq_n_f32(-TKV_EXP_LN2));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(TKV_EXP_C4), vdupq_n_f32(TKV_EXP_C5), r);
    p = vfmaq_f32(vdupq_n_f32(TKV_EXP_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(TKV_EXP_C2), p, r);
    p = vfmaq_f32(one, p, r);
    p = vfmaq_f32(one, p, r);
    const uint32x4_t power = vshlq_n_u32(vreinterpretq_u32_f32(t), 23);
    p = vmulq_f32(p, vreinterpretq_f32_u32(power));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), gone));
}

/* Lanes of four registers folded by 8, 4, 2, 1. */
TKV_INLINE float fold_sum(const float32x4_t x[4])
{
    const float32x4_t x4 = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
    const float32x2_t x2 = vadd_f32(vget_low_f32(x4), vget_high_f32(x4));
    return vget_lane_f32(x2, 0) + vget_lane_f32(x2, 1);
}

TKV_INLINE void softmax_row(float *restrict s, struct tkv_softmax_row *restrict row)
{
    float32x4_t max = vdupq_n_f32(row->m);
    for (int t = 0; t < TOKENS; t += 4)
        max = vmaxnmq_f32(vld1q_f32(s + t), max); /* a NaN leaves the maximum alone */
    float m = row->m;
    row->fix = 1.0f;
    if (vmaxnmvq_f32(max) > m) {
        m = vmaxnmvq_f32(max);
        row->fix = vgetq_lane_f32(exp_negative(vdupq_n_f32(row->m - m)), 0);
    }
    const float32x4_t base = vdupq_n_f32(m == -INFINITY ? 0.0f : m);
    float32x4_t sum[4];
    for (int t = 0; t < TOKENS; t += 16)
        for (int i = 0; i < 4; i++) {
            const float32x4_t x = exp_negative(vsubq_f32(vld1q_f32(s + t + i * 4), base));
            vst1q_f32(s + t + i * 4, x);
            sum[i] = t == 0 ? x : vaddq_f32(sum[i], x);
        }
    row->l = fmaf(row->l, row->fix, fold_sum(sum));
    row->m = m;
}

static void softmax_neon(float *restrict s, struct tkv_softmax_row *restrict rows, uint32_t n_rows,
                         struct tkv_ahead *ahead)
{
    for (size_t r = 0; r < n_rows; r++) {
        softmax_row(s + r * TOKENS, &rows[r]);
        for (int i = 0; i < TKV_STEPS_OF_ROW; i++)
            tkv_step_ahead(ahead);
    }
}

TKV_INLINE float quantize_weights_row(const float *restrict p, const float *restrict vscale,
                                      uint8_t *restrict w)
{
    float32x4_t x[TOKENS / 4], max = vdupq_n_f32(0.0f);
    for (int i = 0; i < TOKENS / 4; i++) {
        x[i] = vmulq_f32(vld1q_f32(p + i * 4), vld1q_f32(vscale + i * 4));
        x[i] = vmaxnmq_f32(x[i], vdupq_n_f32(0.0f));
        max = vmaxnmq_f32(x[i], max);
    }
    const float m = vmaxnmvq_f32(max), inverse = m < TKV_TINY ? 0.0f : 255.0f / m;
    for (int i = 0; i < TOKENS / 4; i += 2) {
        const int16x4_t low = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(x[i], inverse)));
        const int16x4_t high = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(x[i + 1], inverse)));
        vst1_u8(w + i * 4, vreinterpret_u8_s8(vmovn_s16(vcombine_s16(low, high))));
    }
    return m < TKV_TINY ? 0.0f : m * (1.0f / 255.0f);
}

static void quantize_weights_neon(const float *restrict p, const float *restrict vscale,
                                  uint32_t n_rows, uint8_t *restrict w, float *restrict wscale,
                                  struct tkv_ahead *ahead)
{
    for (size_t r = 0; r < n_rows; r++) {
        wscale[r] = quantize_weights_row(p + r * TOKENS, vscale, w + r * TOKENS);
        for (int i = 0; i < TKV_STEPS_OF_ROW; i++)
            tkv_step_ahead(ahead);
    }
}

static float quantize_row_i8_neon(const float *restrict x, uint32_t D, int8_t *restrict codes,
                                  int32_t *restrict sum)
{
    uint32x4_t max_bits = vdupq_n_u32(0);
    for (uint32_t d = 0; d < D; d += 4)
        max_bits = vmaxq_u32(
            max_bits, vbicq_u32(vreinterpretq_u32_f32(vld1q_f32(x + d)), vdupq_n_u32(1u << 31)));
    const uint32_t m_bits = vmaxvq_u32(max_bits);
    const float m = vget_lane_f32(vreinterpret_f32_u32(vdup_n_u32(m_bits)), 0);
    const int codable = m >= TKV_TINY && m_bits < 0x7f800000u;
    const float inverse = codable ? 127.0f / m : 0.0f;
    const int32x4_t live = vdupq_n_s32(codable ? -1 : 0);
    int32x4_t total = vdupq_n_s32(0);
    for (uint32_t d = 0; d < D; d += 8) {
        const int32x4_t low =
            vandq_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + d), inverse)), live);
        const int32x4_t high =
            vandq_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + d + 4), inverse)), live);
        vst1_s8(codes + d, vmovn_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high))));
        total = vaddq_s32(total, vaddq_s32(low, high));
    }
    *sum = vaddvq_s32(total);
    return m < TKV_TINY ? 0.0f : m * (1.0f / 127.0f);
}

void tkv_softmax_neon(struct tkv_kernels *k)
{
    k->scale_scores = scale_scores_neon;
    k->softmax = softmax_neon;
    k->quantize_weights = quantize_weights_neon;
    k->quantize_row_i8 = quantize_row_i8_neon;
}
