/* f16 <-> f32 with the conversion instructions of the base architecture, tails in plain C;
 * transpose by blocks of 8 tokens x 8 columns. */
#include <arm_neon.h>

#include "base/compiler.h"
#include "base/half.h"
#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_convert_neon(struct tkv_kernels *k);

TKV_INLINE float32x4_t widen(uint16x4_t h)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

static void f16_to_f32_neon(const void *restrict halves, float *restrict y, size_t n)
{
    const uint8_t *x = halves;
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, widen(vreinterpret_u16_u8(vld1_u8(x + 2 * i))));
    for (; i < n; i++)
        y[i] = tkv_half_to_f32(tkv_load_half(x + 2 * i));
}

static void f32_to_f16_neon(const float *restrict x, uint16_t *restrict y, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    for (; i < n; i++)
        y[i] = tkv_f32_to_half(x[i]);
}

/* Three rounds of transposing 2x2 blocks of 1, 2 and 4 halves. */
static void transpose_8x8(const uint16_t *restrict x, size_t x_stride, float *restrict y)
{
    uint32x4_t a[8];
    uint64x2_t b[8];
    for (size_t i = 0; i < 8; i += 2) {
        const uint16x8_t even = vld1q_u16(x + i * x_stride),
                         odd = vld1q_u16(x + (i + 1) * x_stride);
        a[i] = vreinterpretq_u32_u16(vtrn1q_u16(even, odd));
        a[i + 1] = vreinterpretq_u32_u16(vtrn2q_u16(even, odd));
    }
    for (size_t i = 0; i < 8; i++) {
        const size_t low = i & ~(size_t)2, high = i | 2;
        const uint32x4_t pairs = i & 2 ? vtrn2q_u32(a[low], a[high]) : vtrn1q_u32(a[low], a[high]);
        b[i] = vreinterpretq_u64_u32(pairs);
    }
    for (size_t i = 0; i < 8; i++) {
        const size_t low = i & 3, high = low + 4;
        const uint64x2_t quads = i & 4 ? vtrn2q_u64(b[low], b[high]) : vtrn1q_u64(b[low], b[high]);
        const uint16x8_t column = vreinterpretq_u16_u64(quads);
        vst1q_f32(y + i * TOKENS, widen(vget_low_u16(column)));
        vst1q_f32(y + i * TOKENS + 4, widen(vget_high_u16(column)));
    }
}

static void transpose_f16_neon(const uint16_t *restrict x, size_t x_stride, uint32_t D,
                               float *restrict y)
{
    for (size_t c = 0; c < D; c += 8)
        for (size_t t = 0; t < TOKENS; t += 8)
            transpose_8x8(x + t * x_stride + c, x_stride, y + c * TOKENS + t);
}

void tkv_convert_neon(struct tkv_kernels *k)
{
    k->f16_to_f32 = f16_to_f32_neon;
    k->f32_to_f16 = f32_to_f16_neon;
    k->transpose_f16 = transpose_f16_neon;
}
