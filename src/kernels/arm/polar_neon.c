/* Polar codes with Advanced SIMD, 16 slots at a time: a 64-byte table is one lookup here, and
 * narrowing shifts round. As polar_avx512.c otherwise. Bit-exact with the reference, which defines
 * r, A and v. */
#include <arm_neon.h>
#include <string.h>

#include "base/compiler.h"
#include "format/polar.h"
#include "kernels/kernels.h"
#include "kernels/polar_steps.h"

void tkv_polar_neon(struct tkv_kernels *k);

#define TOKENS TKV_PAGE_TOKENS

struct work {
    uint8_t ratio[4 * TKV_MAX_HEAD_DIM];
    uint8_t amplitude[16 * TKV_MAX_HEAD_DIM];
};

/* --- columns --- */

/* 16 fields of 6 bits from 12 bytes: 4 in 3 bytes, moved to the bytes of a dword. */
static inline uint8x16_t take_6(const uint8_t *stream)
{
    static const uint8_t place[16] = {0, 1, 2, 255, 3, 4, 5, 255, 6, 7, 8, 255, 9, 10, 11, 255};
    uint8_t bytes[16] = {0};
    memcpy(bytes, stream, 12);
    const uint32x4_t w = vreinterpretq_u32_u8(vqtbl1q_u8(vld1q_u8(bytes), vld1q_u8(place)));
    const uint32x4_t a = vandq_u32(w, vdupq_n_u32(0x3f)),
                     b = vandq_u32(vshlq_n_u32(w, 2), vdupq_n_u32(0x3f00));
    const uint32x4_t c = vandq_u32(vshlq_n_u32(w, 4), vdupq_n_u32(0x3f0000));
    const uint32x4_t d = vandq_u32(vshlq_n_u32(w, 6), vdupq_n_u32(0x3f000000));
    return vreinterpretq_u8_u32(vorrq_u32(vorrq_u32(a, b), vorrq_u32(c, d)));
}

/* 16 fields of 3 bits from 6 bytes: 4 in 12 bits, the second four of 8 begin at bit 4 of a byte. */
static inline uint8x16_t take_3(const uint8_t *stream)
{
    static const uint8_t place[16] = {0, 1, 255, 255, 1, 2, 255, 255,
                                      3, 4, 255, 255, 4, 5, 255, 255};
    static const int32_t shift[4] = {0, -4, 0, -4};
    uint8_t bytes[16] = {0};
    memcpy(bytes, stream, 6);
    const uint32x4_t at = vreinterpretq_u32_u8(vqtbl1q_u8(vld1q_u8(bytes), vld1q_u8(place)));
    const uint32x4_t w = vshlq_u32(at, vld1q_s32(shift));
    const uint32x4_t a = vandq_u32(w, vdupq_n_u32(7)),
                     b = vandq_u32(vshlq_n_u32(w, 5), vdupq_n_u32(0x700));
    const uint32x4_t c = vandq_u32(vshlq_n_u32(w, 10), vdupq_n_u32(0x70000));
    const uint32x4_t d = vandq_u32(vshlq_n_u32(w, 15), vdupq_n_u32(0x7000000));
    return vreinterpretq_u8_u32(vorrq_u32(vorrq_u32(a, b), vorrq_u32(c, d)));
}

/* A of the 64 slots of 16 entries. */
TKV_INLINE void make_amplitudes(tkv_kind kind, const uint8x16_t p[4], const uint8_t *ratio,
                                uint8_t *amplitude)
{
    static const uint8_t each[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    static const uint8_t round[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    uint8_t slots[64];
    if (kind == TKV_K) {
        vst4q_u8(slots, ((uint8x16x4_t){{p[0], p[1], p[2], p[3]}}));
    } else {
        uint32_t dwords[16];
        vst4q_u32(dwords,
                  ((uint32x4x4_t){{vreinterpretq_u32_u8(p[0]), vreinterpretq_u32_u8(p[1]),
                                   vreinterpretq_u32_u8(p[2]), vreinterpretq_u32_u8(p[3])}}));
        memcpy(slots, dwords, sizeof slots);
    }
    const uint8x16_t all = vld1q_u8(ratio), place = vld1q_u8(kind == TKV_K ? each : round);
    for (uint8_t k = 0; k < 4; k++) {
        const uint8x16_t r = vqtbl1q_u8(all, vaddq_u8(place, vdupq_n_u8((uint8_t)(4 * k))));
        const uint8x16_t s = vld1q_u8(slots + 16 * k);
        const uint16x8_t low = vmull_u8(vget_low_u8(r), vget_low_u8(s)), high = vmull_high_u8(r, s);
        vst1q_u8(amplitude + 16 * k, vrshrn_high_n_u16(vrshrn_n_u16(low, 7), high, 7));
    }
}

TKV_INLINE void make_columns(const struct tkv_polar_tables *tables, tkv_kind kind, uint32_t bits,
                             const uint8_t *page, uint32_t D, struct work *w)
{
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    uint8x16x4_t table[4];
    for (size_t n = 0; n < 4; n++)
        table[n] = vld1q_u8_x4(tables->p[n]);
    for (size_t e = 0; e < 4 * (size_t)D; e += 16) {
        const uint8x16_t left = take_6(page + planes.upper + e / 8 * 6);
        uint8x16_t right = left, p[4];
        if (bits == 3)
            right = vbslq_u8(vdupq_n_u8(7), take_3(page + planes.upper_b + e / 8 * 3), left);
        for (size_t n = 0; n < 4; n++)
            p[n] = vqtbl4q_u8(table[n], n < 2 ? left : right);
        make_amplitudes(kind, p, w->ratio + e, w->amplitude + 4 * e);
    }
}

/* --- leaves --- */

/* Level 2 of 16 slots: its low two bits in bits 4 and 5, its third, if any, in bits 2 and 3. */
TKV_INLINE uint8x16_t level_2(uint32_t bits, const uint8_t *low, const uint8_t *high)
{
    static const uint8_t fours[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    static const uint8_t eights[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    static const int8_t shift[16] = {4, 2, 0, -2, 4, 2, 0, -2, 4, 2, 0, -2, 4, 2, 0, -2};
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint32_t word;
    uint16_t third;
    memcpy(&word, low, 4);
    const uint8x16_t x = vqtbl1q_u8(vreinterpretq_u8_u32(vdupq_n_u32(word)), vld1q_u8(fours));
    const uint8x16_t two = vandq_u8(vshlq_u8(x, vld1q_s8(shift)), vdupq_n_u8(0x30));
    if (bits == 2)
        return two;
    memcpy(&third, high, 2);
    const uint8x16_t y = vqtbl1q_u8(vreinterpretq_u8_u16(vdupq_n_u16(third)), vld1q_u8(eights));
    return vorrq_u8(two, vandq_u8(vtstq_u8(y, vld1q_u8(bit)), vdupq_n_u8(0x0c)));
}

/* The four quarters of 16 slots; quarters are `step` bytes apart in the tile. */
TKV_INLINE void leaves(const uint8x16x4_t f[4], tkv_kind kind, uint32_t bits,
                       const struct tkv_polar_planes *planes, const uint8_t *page,
                       const struct work *w, size_t slot, uint8_t *tile, size_t step)
{
    const uint8x16_t c1 = vld1q_u8(page + planes->c1 + slot), a = vld1q_u8(w->amplitude + slot);
    const uint8x16_t c2 =
        level_2(bits, page + planes->c2 + slot / 4, page + planes->c2_high + slot / 8);
    const uint8x16_t cosine_mask = vdupq_n_u8(bits == 3 ? 7 : 15),
                     sine_mask = vdupq_n_u8(bits == 3 ? 11 : 15);
    const int16x8_t a_low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a)));
    const int16x8_t a_high = vreinterpretq_s16_u16(vmovl_high_u8(a));
    for (size_t q = 0; q < 4; q++) {
        const uint8x16_t code = q < 2 ? c1 : vshrq_n_u8(c1, 4);
        const uint8x16_t index = vbslq_u8(q & 1 ? sine_mask : cosine_mask, code, c2);
        const int8x16_t value = vreinterpretq_s8_u8(vqtbl4q_u8(f[q], index));
        const int16x8_t low = vmulq_s16(a_low, vmovl_s8(vget_low_s8(value)));
        const int16x8_t high = vmulq_s16(a_high, vmovl_high_s8(value));
        const uint8x16_t v = vreinterpretq_u8_s8(vrshrn_high_n_s16(vrshrn_n_s16(low, 8), high, 8));
        vst1q_u8(tile + q * step, kind == TKV_K ? veorq_u8(v, vdupq_n_u8(128)) : v);
    }
}

TKV_INLINE void tile_k(const struct tkv_polar_tables *tables, uint32_t bits, const uint8_t *page,
                       uint32_t D, uint8_t *tile, float *scale)
{
    struct work w;
    uint8x16x4_t f[4];
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    const size_t n_blocks = D / 16;
    tkv_polar_ratios(tables, TKV_K, bits == 3 ? 1 : 2, page + planes.radius, n_blocks, w.ratio,
                     scale);
    make_columns(tables, TKV_K, bits, page, D, &w);
    for (size_t q = 0; q < 4; q++)
        f[q] = vld1q_u8_x4((const uint8_t *)tables->f[q]);
    for (size_t group = 0; group < 4; group++)
        for (size_t i = 0; i < 4 * n_blocks; i++)
            leaves(f, TKV_K, bits, &planes, page, &w, (4 * group * n_blocks + i) * 16,
                   tile + (16 * group * n_blocks + i) * 16, n_blocks * 64);
}

TKV_INLINE void tile_v(const struct tkv_polar_tables *tables, uint32_t bits, const uint8_t *page,
                       uint32_t D, uint8_t *tile, float *scale)
{
    struct work w;
    uint8x16x4_t f[4];
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    tkv_polar_ratios(tables, TKV_V, bits == 3 ? 1 : 2, page + planes.radius, D / 16, w.ratio,
                     scale);
    make_columns(tables, TKV_V, bits, page, D, &w);
    for (size_t q = 0; q < 4; q++)
        f[q] = vld1q_u8_x4((const uint8_t *)tables->f[q]);
    for (size_t group = 0; group < 16; group++)
        for (size_t i = 0; i < D; i += 16)
            leaves(f, TKV_V, bits, &planes, page, &w, group * D + i, tile + group * 4 * D + i, D);
}

static void polar_tile_k_neon(const struct tkv_polar_tables *tables, const uint8_t *page,
                              uint32_t D, uint8_t *tile, float *scale)
{
    if (tables->bits == 2)
        tile_k(tables, 2, page, D, tile, scale);
    else
        tile_k(tables, 3, page, D, tile, scale);
}

static void polar_tile_v_neon(const struct tkv_polar_tables *tables, const uint8_t *page,
                              uint32_t D, int8_t *tile, float *scale)
{
    if (tables->bits == 2)
        tile_v(tables, 2, page, D, (uint8_t *)tile, scale);
    else
        tile_v(tables, 3, page, D, (uint8_t *)tile, scale);
}

/* --- rows to codes --- */

TKV_INLINE uint32x4_t count_above(const float *tan_sq, size_t n, float32x4_t first,
                                  float32x4_t second)
{
    uint32x4_t code = vdupq_n_u32(0);
    for (size_t i = 0; i < n; i++)
        code = vsubq_u32(code, vcgtq_f32(second, vmulq_n_f32(first, tan_sq[i])));
    return code;
}

TKV_INLINE uint32x4_t code_pair(const struct tkv_polar_tables *tables, float32x4_t x, float32x4_t y,
                                float32x4_t *sum_sq)
{
    const float32x4_t x_sq = vmulq_f32(x, x), y_sq = vmulq_f32(y, y);
    const uint32x4_t signs = vorrq_u32(vandq_u32(vcltzq_f32(x), vdupq_n_u32(4)),
                                       vandq_u32(vcltzq_f32(y), vdupq_n_u32(8)));
    *sum_sq = vaddq_f32(x_sq, y_sq);
    return vorrq_u32(count_above(tables->tan_sq[0], 3, x_sq, y_sq), signs);
}

/* The low bytes of 4 dwords. */
static inline void store_bytes(uint8_t *to, uint32x4_t x)
{
    const uint16x4_t words = vmovn_u32(x);
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
    memcpy(to, &four, 4);
}

TKV_INLINE void code_rows(const struct tkv_polar_tables *tables, uint32_t bits, const float *x,
                          uint32_t D, struct tkv_polar_rows *out)
{
    const size_t J = D / 4;
    for (size_t t = 0; t < TOKENS; t++, x += D) {
        float column_sq[TKV_MAX_HEAD_DIM / 4];
        for (size_t j = 0; j < J; j += 4) {
            float32x4_t v[4], a_sq, b_sq;
            for (size_t q = 0; q < 4; q++)
                v[q] = vld1q_f32(x + q * J + j);
            const uint32x4_t a = code_pair(tables, v[0], v[1], &a_sq),
                             b = code_pair(tables, v[2], v[3], &b_sq);
            store_bytes(out->c1 + t * J + j, vorrq_u32(a, vshlq_n_u32(b, 4)));
            store_bytes(out->c2 + t * J + j,
                        count_above(tables->tan_sq[1], (1u << bits) - 1, a_sq, b_sq));
            vst1q_f32(column_sq + j, vaddq_f32(a_sq, b_sq));
        }
        tkv_polar_code_upper(tables, bits, column_sq, D / 16, out->upper + t * (D / 16),
                             out->sum_sq + t * (D / 16));
    }
}

static void polar_codes_neon(const struct tkv_polar_tables *tables, const float *x, uint32_t D,
                             struct tkv_polar_rows *out)
{
    if (tables->bits == 2)
        code_rows(tables, 2, x, D, out);
    else
        code_rows(tables, 3, x, D, out);
}

void tkv_polar_neon(struct tkv_kernels *k)
{
    k->polar_codes = polar_codes_neon;
    k->polar_tile_k = polar_tile_k_neon;
    k->polar_tile_v = polar_tile_v_neon;
}
