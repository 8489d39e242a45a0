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

/* The 8 bits of a byte, each times 4. */
static inline uint8x8_t third_bits(uint8_t byte)
{
    static const uint8_t bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    return vand_u8(vtst_u8(vdup_n_u8(byte), vld1_u8(bit)), vdup_n_u8(4));
}

static void kivi_groups_neon(const uint8_t *restrict codes, const float *restrict least,
                             const float *restrict delta, size_t n, uint32_t bits,
                             float *restrict x)
{
    const size_t width = bits == 4 ? 4 : 2;
    const uint8x8_t mask = vdup_n_u8((uint8_t)((1u << width) - 1u));
    for (size_t g = 0; g < n; g++, codes += 4 * bits)
        for (size_t i = 0; i < 32; i += 8, x += 8) {
            const int8_t shift = (int8_t)(i / (4 * width) * width);
            const uint8x8_t v =
                vshl_u8(vld1_u8(codes + i % (4 * width)), vdup_n_s8((int8_t)-shift));
            uint8x8_t code = vand_u8(v, mask);
            if (bits == 3)
                code = vorr_u8(code, third_bits(codes[8 + i / 8]));
            const uint16x8_t wide = vmovl_u8(code);
            store4(x, vget_low_u16(wide), delta[g], least[g]);
            store4(x + 4, vget_high_u16(wide), delta[g], least[g]);
        }
}

void tkv_kivi_neon(struct tkv_kernels *k)
{
    k->kivi_groups = kivi_groups_neon;
}
