/* Dot products of f32 rows for Advanced SIMD: four registers hold the 16 lanes of the reference. */
#include <arm_neon.h>

#include "kernels/kernels.h"

void tkv_dot_neon(struct tkv_kernels *k);

static void dot_neon(const float *restrict a, const float *restrict q, size_t q_stride,
                     uint32_t n_rows, uint32_t D, float *restrict out)
{
    for (uint32_t r = 0; r < n_rows; r++, q += q_stride) {
        float32x4_t sum[4];
        for (int i = 0; i < 4; i++)
            sum[i] = vdupq_n_f32(0.0f);
        for (uint32_t c = 0; c < D; c += 16)
            for (uint32_t i = 0; i < 4; i++)
                sum[i] = vfmaq_f32(sum[i], vld1q_f32(a + c + 4 * i), vld1q_f32(q + c + 4 * i));
        /* lanes folded by 8, 4, 2, 1 */
        const float32x4_t x4 = vaddq_f32(vaddq_f32(sum[0], sum[2]), vaddq_f32(sum[1], sum[3]));
        const float32x2_t x2 = vadd_f32(vget_low_f32(x4), vget_high_f32(x4));
        out[r] = vget_lane_f32(x2, 0) + vget_lane_f32(x2, 1);
    }
}

void tkv_dot_neon(struct tkv_kernels *k)
{
    k->dot = dot_neon;
}
