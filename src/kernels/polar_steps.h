/* Steps of the polar kernels that need no vectors of their own: compilers make what they can of
 * these loops. Used by the AVX2 and NEON files; bit-exact with the reference. */
#ifndef TKV_POLAR_STEPS_H
#define TKV_POLAR_STEPS_H

#include <stdbool.h>
#include <string.h>

#include "format/polar.h"
#include "kernels/kernels.h"

/* Below this a token's largest radius is taken for it in the division. */
#define TKV_POLAR_RADIUS_MIN 0x1p-64f

static inline uint32_t tkv_polar_count_above(const float *tan_sq, uint32_t n, float first_sq,
                                             float second_sq)
{
    uint32_t code = 0;
    for (uint32_t i = 0; i < n; i++)
        code += second_sq > tan_sq[i] * first_sq;
    return code;
}

/* Levels 3 and 4 of one row, from the squared radii of its columns. */
static inline void tkv_polar_code_upper(const struct tkv_polar_tables *tables, uint32_t bits,
                                        const float *column_sq, size_t n_blocks, uint16_t *upper,
                                        float *sum_sq)
{
    const uint32_t n = (1u << bits) - 1;
    for (size_t b = 0; b < n_blocks; b++, column_sq += 4) {
        const float left = column_sq[0] + column_sq[1], right = column_sq[2] + column_sq[3];
        upper[b] =
            (uint16_t)(tkv_polar_count_above(tables->tan_sq[2], n, column_sq[0], column_sq[1]) |
                       tkv_polar_count_above(tables->tan_sq[2], n, column_sq[2], column_sq[3])
                           << bits |
                       tkv_polar_count_above(tables->tan_sq[3], n, left, right) << 2 * bits);
        sum_sq[b] = left + right;
    }
}

/* Radii of 16 tokens of one block. */
static inline void tkv_polar_radii(const uint8_t *plane, uint32_t radius_bytes, float r[16])
{
    for (size_t i = 0; i < 16; i++)
        r[i] = radius_bytes == 2 ? tkv_polar_bf16_radius(plane + 2 * i)
                                 : tkv_polar_log_radius(plane[i]);
}

/* Shares of logarithmic radii by their differences from the largest codes, where all but 0 are
 * steps of 1/16 octave; false where some are not. */
static inline bool tkv_polar_log_ratios(const uint8_t *plane, const uint8_t largest[16],
                                        size_t n_blocks, uint8_t *ratio)
{
    uint8_t outside = 0;
    for (size_t b = 0; b < n_blocks; b++)
        for (size_t i = 0; i < 16; i++) {
            const uint8_t c = plane[16 * b + i];
            outside |= (uint8_t)((c > TKV_POLAR_LOG_HIGH) | ((c < TKV_POLAR_LOG_LOW) & (c > 0)));
        }
    if (outside)
        return false;
    for (size_t b = 0; b < n_blocks; b++)
        for (size_t i = 0; i < 16; i++) {
            const uint8_t c = plane[16 * b + i], steps = (uint8_t)(largest[i] - c);
            const uint8_t share = tkv_polar_log_ratio[steps < 127 ? steps : 127];
            ratio[16 * b + i] = (uint8_t)(((c > 0) & (steps < 144)) * share);
        }
    return true;
}

/* Shares of 16 tokens' radii, [D/16][16 tokens], and their scales. */
static inline void tkv_polar_group_ratios(const struct tkv_polar_tables *tables,
                                          uint32_t radius_bytes, const uint8_t *plane,
                                          size_t n_blocks, uint8_t *ratio, float *scale)
{
    const size_t step = 16 * (size_t)radius_bytes;
    uint8_t code[16] = {0};
    float largest[16] = {0}, r[16];
    for (size_t b = 0; radius_bytes == 1 && b < n_blocks; b++)
        for (size_t i = 0; i < 16; i++)
            code[i] = plane[16 * b + i] > code[i] ? plane[16 * b + i] : code[i];
    if (radius_bytes == 1)
        tkv_polar_radii(code, 1, largest);
    for (size_t b = 0; radius_bytes == 2 && b < n_blocks; b++) {
        tkv_polar_radii(plane + step * b, 2, r);
        for (size_t i = 0; i < 16; i++)
            largest[i] = r[i] > largest[i] ? r[i] : largest[i];
    }
    for (size_t i = 0; i < 16; i++)
        scale[i] = tables->unit * largest[i];
    if (radius_bytes == 1 && tkv_polar_log_ratios(plane, code, n_blocks, ratio))
        return;
    for (size_t i = 0; i < 16; i++)
        largest[i] = TKV_POLAR_RATIO_ONE /
                     (largest[i] > TKV_POLAR_RADIUS_MIN ? largest[i] : TKV_POLAR_RADIUS_MIN);
    for (size_t b = 0; b < n_blocks; b++) {
        tkv_polar_radii(plane + step * b, radius_bytes, r);
        for (size_t i = 0; i < 16;
             i++) /* adding 1.5 * 2^23 rounds to nearest even into the low bits */
            ratio[16 * b + i] = (uint8_t)tkv_f32_bits(r[i] * largest[i] + 0x1.8p23f);
    }
}

/* The same for a page, in the order of the kind's entries. */
static inline void tkv_polar_ratios(const struct tkv_polar_tables *tables, tkv_kind kind,
                                    uint32_t radius_bytes, const uint8_t *plane, size_t n_blocks,
                                    uint8_t *ratio, float *scale)
{
    uint8_t group[TKV_MAX_HEAD_DIM];
    for (size_t g = 0; g < 4;
         g++, ratio += 16 * n_blocks, plane += 16 * n_blocks * radius_bytes, scale += 16) {
        tkv_polar_group_ratios(tables, radius_bytes, plane, n_blocks, kind == TKV_K ? ratio : group,
                               scale);
        for (size_t b = 0; kind == TKV_V && b < n_blocks; b++)
            for (size_t i = 0; i < 4; i++)
                memcpy(ratio + 4 * (i * n_blocks + b), group + 16 * b + 4 * i, 4);
    }
}

#endif
