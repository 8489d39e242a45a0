/* Turbo codes with Advanced SIMD: 16 codes a register, levels from one table lookup. The quantiser
 * counts the thresholds below a value. Bit-exact with the reference. */
#include <arm_neon.h>

#include "format/turbo.h"
#include "kernels/ahead.h"

void tkv_turbo_neon(struct tkv_kernels *k);

/* Entry i: the level of code base + (i >> shift & mask), plus bias. */
static inline uint8x16_t level_table(uint32_t bits, int bias, uint32_t base, uint32_t shift)
{
    const int8_t *level = tkv_turbo_levels(bits);
    const uint32_t mask = bits == 4 ? 15 : 3;
    uint8_t table[16];
    for (uint32_t i = 0; i < 16; i++)
        table[i] = (uint8_t)(level[base + (i >> shift & mask)] + bias);
    return vld1q_u8(table);
}

static inline uint8x16_t low_nibbles(uint8x16_t v)
{
    return vandq_u8(v, vdupq_n_u8(15));
}

TKV_INLINE void unpack4(const uint8_t *restrict codes, struct tkv_turbo_walk walk, int bias,
                        uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    const uint8x16_t table = level_table(4, bias, 0, 0);
    for (size_t r = 0; r < walk.n_runs; r++, tile += walk.run_step) {
        uint8_t *out = tile;
        for (size_t u = 0; u < walk.n_units; u++, codes += 64, out += walk.unit_step)
            for (size_t i = 0; i < 64; i += 16) {
                const uint8x16_t v = vld1q_u8(codes + i);
                tkv_step_ahead(ahead);
                vst1q_u8(out + i, vqtbl1q_u8(table, low_nibbles(v)));
                vst1q_u8(out + walk.group_step + i, vqtbl1q_u8(table, vshrq_n_u8(v, 4)));
            }
    }
}

TKV_INLINE void unpack2(const uint8_t *restrict codes, struct tkv_turbo_walk walk, int bias,
                        uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    const uint8x16_t even = level_table(2, bias, 0, 0), odd = level_table(2, bias, 0, 2);
    const size_t step = walk.group_step;
    for (size_t r = 0; r < walk.n_runs; r++, tile += walk.run_step) {
        uint8_t *out = tile;
        for (size_t u = 0; u < walk.n_units; u++, codes += 64, out += walk.unit_step)
            for (size_t i = 0; i < 64; i += 16) {
                const uint8x16_t v = vld1q_u8(codes + i);
                const uint8x16_t low = low_nibbles(v), high = vshrq_n_u8(v, 4);
                tkv_step_ahead(ahead);
                vst1q_u8(out + i, vqtbl1q_u8(even, low));
                vst1q_u8(out + step + i, vqtbl1q_u8(odd, low));
                vst1q_u8(out + 2 * step + i, vqtbl1q_u8(even, high));
                vst1q_u8(out + 3 * step + i, vqtbl1q_u8(odd, high));
            }
    }
}

/* One, two, four, ... in each half of a register. */
static inline uint8x16_t bit_of_byte(void)
{
    return vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
}

/* The third bit (16 of them at `third`) chooses between the tables of negative and positive levels.
 * */
static inline uint8x16_t lookup3(uint8x16_t negative, uint8x16_t positive, uint8x16_t index,
                                 const uint8_t *third)
{
    const uint8x16_t bits = vcombine_u8(vdup_n_u8(third[0]), vdup_n_u8(third[1]));
    return vbslq_u8(vtstq_u8(bits, bit_of_byte()), vqtbl1q_u8(positive, index),
                    vqtbl1q_u8(negative, index));
}

TKV_INLINE void unpack3(const uint8_t *restrict codes, const uint8_t *restrict third,
                        struct tkv_turbo_walk walk, int bias, uint8_t *restrict tile,
                        struct tkv_ahead *ahead)
{
    const uint8x16_t even0 = level_table(3, bias, 0, 0), odd0 = level_table(3, bias, 0, 2);
    const uint8x16_t even1 = level_table(3, bias, 4, 0), odd1 = level_table(3, bias, 4, 2);
    const size_t step = walk.group_step;
    for (size_t r = 0; r < walk.n_runs; r++, tile += walk.run_step) {
        uint8_t *out = tile;
        for (size_t u = 0; u < walk.n_units; u++, codes += 64, third += 32, out += walk.unit_step)
            for (size_t i = 0; i < 64; i += 16) {
                const uint8x16_t v = vld1q_u8(codes + i);
                const uint8x16_t low = low_nibbles(v), high = vshrq_n_u8(v, 4);
                tkv_step_ahead(ahead);
                const uint8_t *t = third + i / 8;
                vst1q_u8(out + i, lookup3(even0, even1, low, t));
                vst1q_u8(out + step + i, lookup3(odd0, odd1, low, t + 8));
                vst1q_u8(out + 2 * step + i, lookup3(even0, even1, high, t + 16));
                vst1q_u8(out + 3 * step + i, lookup3(odd0, odd1, high, t + 24));
            }
    }
}

TKV_INLINE void unpack(const uint8_t *restrict codes, uint32_t D, tkv_kind kind, uint32_t bits,
                       int bias, uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    const struct tkv_turbo_walk walk = tkv_turbo_walk(kind, D, bits);
    struct tkv_ahead cursor = *ahead;
    if (bits == 4)
        unpack4(codes, walk, bias, tile, &cursor);
    else if (bits == 3)
        unpack3(codes, codes + 16 * (size_t)D, walk, bias, tile, &cursor);
    else
        unpack2(codes, walk, bias, tile, &cursor);
    *ahead = cursor;
}

static void turbo_tile_k_neon(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                              uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    unpack(codes, D, TKV_K, bits, 128, tile, ahead);
}

static void turbo_tile_v_neon(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                              int8_t *restrict tile, struct tkv_ahead *ahead)
{
    unpack(codes, D, TKV_V, bits, 0, (uint8_t *)tile, ahead);
}

static inline uint8x16_t pack_quarter4(const uint8_t *tile, size_t step)
{
    return vsliq_n_u8(vld1q_u8(tile), vld1q_u8(tile + step), 4);
}

static inline uint8x16_t pack_quarter2(const uint8_t *tile, size_t step)
{
    const uint8x16_t low = vandq_u8(vld1q_u8(tile), vdupq_n_u8(3)); /* the rest is shifted out */
    const uint8x16_t two = vsliq_n_u8(low, vandq_u8(vld1q_u8(tile + step), vdupq_n_u8(3)), 2);
    const uint8x16_t three = vsliq_n_u8(two, vandq_u8(vld1q_u8(tile + 2 * step), vdupq_n_u8(3)), 4);
    return vsliq_n_u8(three, vld1q_u8(tile + 3 * step), 6);
}

static void turbo_pack_neon(const uint8_t *restrict tile, uint32_t D, tkv_kind kind, uint32_t bits,
                            uint8_t *restrict codes)
{
    const struct tkv_turbo_walk walk = tkv_turbo_walk(kind, D, bits);
    const size_t step = walk.group_step;
    uint8_t *third = codes + 16 * (size_t)D;
    for (size_t r = 0; r < walk.n_runs; r++)
        for (size_t u = 0; u < walk.n_units; u++, codes += 64) {
            const uint8_t *in = tile + r * walk.run_step + u * walk.unit_step;
            for (size_t i = 0; i < 64; i += 16)
                vst1q_u8(codes + i,
                         bits == 4 ? pack_quarter4(in + i, step) : pack_quarter2(in + i, step));
            for (size_t j = 0; bits == 3 && j < 4; j++)
                for (size_t i = 0; i < 64; i += 16, third += 2) {
                    const uint8x16_t group = vld1q_u8(in + j * step + i);
                    const uint8x16_t set = vandq_u8(vtstq_u8(group, vdupq_n_u8(4)), bit_of_byte());
                    third[0] = vaddv_u8(vget_low_u8(set));
                    third[1] = vaddv_u8(vget_high_u8(set));
                }
        }
}

/* The number of thresholds below each of four values. */
static inline uint32x4_t count_below(float32x4_t y, const float *threshold, uint32_t n)
{
    uint32x4_t code = vdupq_n_u32(0);
    for (uint32_t i = 0; i < n; i++)
        code = vsubq_u32(code, vcgtq_f32(y, vdupq_n_f32(threshold[i])));
    return code;
}

static inline uint8x16_t narrow(const uint32x4_t v[4])
{
    return vcombine_u8(vmovn_u16(vcombine_u16(vmovn_u32(v[0]), vmovn_u32(v[1]))),
                       vmovn_u16(vcombine_u16(vmovn_u32(v[2]), vmovn_u32(v[3]))));
}

static inline void code_rows(const float *restrict x, const float *restrict inv, uint32_t D,
                             uint32_t bits, uint8_t *restrict codes, int32_t *restrict energy)
{
    const uint32_t n = (1u << bits) - 1u;
    float threshold[15];
    int8_t level_of[16] = {0};
    for (uint32_t i = 0; i <= n; i++)
        level_of[i] = tkv_turbo_levels(bits)[i];
    for (uint32_t i = 0; i < n; i++)
        threshold[i] = tkv_turbo_threshold(bits, i);
    const int8x16_t levels = vld1q_s8(level_of);
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        const float32x4_t factor = vdupq_n_f32(inv[t]);
        int32x4_t sum = vdupq_n_s32(0);
        for (size_t d = t * D; d < (t + 1) * D; d += 16) {
            uint32x4_t v[4];
            for (size_t i = 0; i < 4; i++)
                v[i] = count_below(vmulq_f32(vld1q_f32(x + d + 4 * i), factor), threshold, n);
            const uint8x16_t code = narrow(v);
            const int8x16_t level = vqtbl1q_s8(levels, code);
            sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(level), vget_low_s8(level)));
            sum = vpadalq_s16(sum, vmull_s8(vget_high_s8(level), vget_high_s8(level)));
            vst1q_u8(codes + d, code);
        }
        energy[t] = vaddvq_s32(sum);
    }
}

static void turbo_codes_neon(const float *restrict x, const float *restrict inv, uint32_t D,
                             uint32_t bits, uint8_t *restrict codes, int32_t *restrict energy)
{
    if (bits == 4)
        code_rows(x, inv, D, 4, codes, energy);
    else if (bits == 3)
        code_rows(x, inv, D, 3, codes, energy);
    else
        code_rows(x, inv, D, 2, codes, energy);
}

void tkv_turbo_neon(struct tkv_kernels *k)
{
    k->turbo_tile_k = turbo_tile_k_neon;
    k->turbo_tile_v = turbo_tile_v_neon;
    k->turbo_pack = turbo_pack_neon;
    k->turbo_codes = turbo_codes_neon;
}
