/* Groups of asymmetric codes with Advanced SIMD: 8 codes at a time. A product and a sum, not an
 * fma, as in the reference: bit-exact. */
#include <arm_neon.h>

#include "kernels/kernels.h"

void tkv_kivi_neon(struct tkv_kernels *k);

static inline void store4(float *x, uint16x4_t codes, float delta, float least)
{
    const float32x4_t v = vmulq_n_f32(vcvtq_f32_u32(vmovl_u16(codes)), delta);
    vst1q_f32(x, vaddq_f32(v, vdupq_n_f32(least)));
}

static void kivi_groups_neon(const uint8_t *restrict codes, const float *restrict least,
                             const float *restrict delta, size_t n, uint32_t bits,
                             float *restrict x)
{
    const uint8x8_t mask = vdup_n_u8((uint8_t)((1u << bits) - 1u));
    for (size_t g = 0; g < n; g++, codes += 4 * bits)
        for (int shift = 0; shift < 8; shift += (int)bits)
            for (size_t i = 0; i < 4 * bits; i += 8, x += 8) {
                const uint8x8_t v = vshl_u8(vld1_u8(codes + i), vdup_n_s8((int8_t)-shift));
                const uint16x8_t code = vmovl_u8(vand_u8(v, mask));
                store4(x, vget_low_u16(code), delta[g], least[g]);
                store4(x + 4, vget_high_u16(code), delta[g], least[g]);
            }
}

void tkv_kivi_neon(struct tkv_kernels *k)
{
    k->kivi_groups = kivi_groups_neon;
}
