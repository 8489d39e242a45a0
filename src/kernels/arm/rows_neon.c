/* Rows of a page to codes and back, Advanced SIMD: 16 values in four registers, so that sums keep
 * the lanes and the tree of the reference; tiles by transposing 4 rows of 16 bytes. Bit-exact. */
#include <arm_neon.h>

#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_rows_neon(struct tkv_kernels *k);

static void row_sum_sq_neon(const float *restrict x, uint32_t D, float *restrict sum_sq)
{
    for (size_t t = 0; t < TOKENS; t++) {
        float32x4_t lanes[4];
        for (size_t i = 0; i < 4; i++)
            lanes[i] = vdupq_n_f32(0.0f);
        for (size_t d = t * D; d < (t + 1) * D; d += 16)
            for (size_t i = 0; i < 4; i++) {
                const float32x4_t v = vld1q_f32(x + d + 4 * i);
                lanes[i] = vaddq_f32(lanes[i], vmulq_f32(v, v));
            }
        const float32x4_t four =
            vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3]));
        const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        sum_sq[t] = vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
    }
}

static void row_range_neon(const float *restrict x, uint32_t D, float *restrict low,
                           float *restrict high)
{
    for (size_t t = 0; t < TOKENS; t++) {
        float32x4_t least = vabsq_f32(vld1q_f32(x + t * D)), most = least;
        for (size_t d = t * D + 4; d < (t + 1) * D; d += 4) {
            const float32x4_t a = vabsq_f32(vld1q_f32(x + d));
            least = vminq_f32(least, a);
            most = vmaxq_f32(most, a);
        }
        low[t] = vminvq_f32(least);
        high[t] = vmaxvq_f32(most);
    }
}

static inline int16x4_t quantize4(const float *x, float32x4_t factor)
{
    const float32x4_t y = vmulq_f32(vld1q_f32(x), factor);
    return vmovn_s32(
        vcvtnq_s32_f32(vmaxq_f32(vminq_f32(y, vdupq_n_f32(127.0f)), vdupq_n_f32(-127.0f))));
}

static void quantize_rows_i8_neon(const float *restrict x, const float *restrict inv, uint32_t D,
                                  int8_t *restrict codes)
{
    for (size_t t = 0; t < TOKENS; t++) {
        const float32x4_t factor = vdupq_n_f32(inv[t]);
        for (size_t d = t * D; d < (t + 1) * D; d += 8)
            vst1_s8(codes + d, vmovn_s16(vcombine_s16(quantize4(x + d, factor),
                                                      quantize4(x + d + 4, factor))));
    }
}

/* Transposes 4 x 4 cells of 32 bits. Its own inverse. */
static inline void transpose_cells(uint8x16_t v[4])
{
    const uint32x4x2_t ab = vtrnq_u32(vreinterpretq_u32_u8(v[0]), vreinterpretq_u32_u8(v[1]));
    const uint32x4x2_t cd = vtrnq_u32(vreinterpretq_u32_u8(v[2]), vreinterpretq_u32_u8(v[3]));
    for (size_t i = 0; i < 2; i++) {
        v[i] = vreinterpretq_u8_u32(vcombine_u32(vget_low_u32(ab.val[i]), vget_low_u32(cd.val[i])));
        v[i + 2] =
            vreinterpretq_u8_u32(vcombine_u32(vget_high_u32(ab.val[i]), vget_high_u32(cd.val[i])));
    }
}

static void rows_to_tile_neon(const uint8_t *restrict rows, uint32_t D, tkv_kind kind,
                              uint8_t *restrict tile)
{
    for (size_t t = 0; t < TOKENS; t += 4)
        for (size_t d = 0; d < D; d += 16) {
            uint8x16x4_t v;
            for (size_t i = 0; i < 4; i++)
                v.val[i] = vld1q_u8(rows + (t + i) * D + d);
            if (kind == TKV_V) {
                vst4q_u8(tile + t * D + d * 4, v);
                continue;
            }
            transpose_cells(v.val);
            for (size_t i = 0; i < 4; i++)
                vst1q_u8(tile + t / 16 * 16 * D + (d + 4 * i) * 16 + t % 16 * 4, v.val[i]);
        }
}

/* 16 codes to f32, times scale. */
static inline void store_row(float *x, int8x16_t codes, float scale)
{
    const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_s8(vget_high_s8(codes));
    const int32x4_t wide[4] = {vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                               vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))};
    for (size_t i = 0; i < 4; i++)
        vst1q_f32(x + 4 * i, vmulq_n_f32(vcvtq_f32_s32(wide[i]), scale));
}

static void tile_to_rows_neon(const uint8_t *restrict tile, uint32_t D, tkv_kind kind,
                              const float *restrict scale, float *restrict x)
{
    for (size_t t = 0; t < TOKENS; t += 4)
        for (size_t d = 0; d < D; d += 16) {
            uint8x16x4_t v;
            if (kind == TKV_V) {
                v = vld4q_u8(tile + t * D + d * 4);
            } else {
                for (size_t i = 0; i < 4; i++) {
                    const uint8_t *cell = tile + t / 16 * 16 * D + (d + 4 * i) * 16 + t % 16 * 4;
                    v.val[i] = veorq_u8(vld1q_u8(cell), vdupq_n_u8(0x80));
                }
                transpose_cells(v.val);
            }
            for (size_t i = 0; i < 4; i++)
                store_row(x + (t + i) * D + d, vreinterpretq_s8_u8(v.val[i]), scale[t + i]);
        }
}

void tkv_rows_neon(struct tkv_kernels *k)
{
    k->row_sum_sq = row_sum_sq_neon;
    k->row_range = row_range_neon;
    k->quantize_rows_i8 = quantize_rows_i8_neon;
    k->rows_to_tile = rows_to_tile_neon;
    k->tile_to_rows = tile_to_rows_neon;
}
