/* Pages of the polar codecs: spec/polar.md in C.
 *
 * A rotated row of D values is read as four quarters X0..X3 of J = D/4 values. Column j holds
 * X0[j], X1[j], X2[j], X3[j]; columns 4b..4b+3 are block b, the 16 coordinates of one polar tree:
 *
 *   level 1  (X0[j], X1[j]) and (X2[j], X3[j]), the pairs a and b of column j
 *   level 2  the radii of pair a and pair b
 *   level 3  the radii of columns 4b, 4b+1 and of 4b+2, 4b+3
 *   level 4  those two: the block's radius
 *
 * So levels 1 and 2 combine values that lie D/4 apart, and one vector of a tile holds one quarter.
 */
#ifndef TKV_POLAR_H
#define TKV_POLAR_H

#include <stddef.h>
#include <stdint.h>

#include "base/half.h"
#include "tightkv/tightkv.h"

/* The codebooks of the four levels, and what the kernels make of them. */
struct tkv_polar_tables {
    uint32_t bits;         /* of the codes of levels 2, 3 and 4: 2 or 3 */
    uint32_t radius_bytes; /* 2: bf16; 1: logarithm */
    float unit;            /* i8 tile: a token's scale is this times its largest radius */
    float cos_sin[4][2]
                 [8];   /* [level - 1][cos, sin][code]; level 1 in the first quadrant, 4 codes */
    float tan_sq[4][7]; /* squared tangents of the thresholds between the codes */
    uint8_t p[4][64];   /* [column of the block][upper index]: levels 3 and 4, at most 127 */
    int8_t f[4][64];    /* [quarter][leaf index]: levels 1 and 2, within -127..127 */
};

/* The analytic codebooks of (4,2,2,2) and (4,3,3,3). */
extern const struct tkv_polar_tables tkv_polar_222, tkv_polar_333;

/* Byte offsets of a page's planes. Slots, entries and radii are counted as the functions below
 * count them. */
struct tkv_polar_planes {
    size_t c1; /* a byte a slot: level 1 of pair a in the low nibble, of pair b in the high one */
    size_t c2; /* 2 bits a slot: level 2, its low two bits */
    size_t c2_high; /* 3 bits only: 1 bit a slot */
    size_t upper;   /* 6 bits an entry: the upper index; with 3 bits that of columns 0 and 1 */
    size_t upper_b; /* 3 bits only: 3 bits an entry, level 3 of columns 2 and 3 */
    size_t radius;  /* 2 bytes or 1 a block */
    size_t end;
};

static inline struct tkv_polar_planes tkv_polar_planes(uint32_t D, uint32_t bits)
{
    const size_t d = D;
    struct tkv_polar_planes o = {.c1 = 0, .c2 = 16 * d, .c2_high = 20 * d, .upper = 20 * d};
    if (bits == 3)
        o.upper += 2 * d;
    o.upper_b = o.upper + 3 * d;
    o.radius = o.upper_b + (bits == 3 ? d + d / 2 : 0);
    o.end = o.radius + (bits == 3 ? 4 * d : 8 * d);
    return o;
}

/* Entry of token t, block b: [4 groups of 16 tokens][D/16][16 tokens] for K, [16 groups of 4
 * tokens][D/16][4 tokens] for V. */
static inline size_t tkv_polar_entry(tkv_kind kind, uint32_t D, size_t t, size_t b)
{
    const size_t run = kind == TKV_K ? 16 : 4;
    return (t / run * (D / 16) + b) * run + t % run;
}

/* Slot of token t, column j: an entry's four columns follow it in K ([16 tokens][4 columns]), and
 * go round its four tokens in V ([4 columns][4 tokens]). That is the order of the i8 tiles' bytes.
 */
static inline size_t tkv_polar_slot(tkv_kind kind, uint32_t D, size_t t, size_t j)
{
    if (kind == TKV_K)
        return 4 * tkv_polar_entry(kind, D, t, j / 4) + j % 4;
    return (t / 4 * (D / 4) + j) * 4 + t % 4;
}

/* Radius of token t, block b: both kinds as K's entries. */
static inline size_t tkv_polar_radius_index(uint32_t D, size_t t, size_t b)
{
    return tkv_polar_entry(TKV_K, D, t, b);
}

/* Index into tkv_polar_tables.f. Level-1 codes are m | negative first << 2 | negative second << 3.
 */
static inline uint32_t tkv_polar_leaf_index(uint32_t bits, uint32_t quarter, uint32_t c1,
                                            uint32_t c2)
{
    if (bits == 2)
        return c1 | c2 << 4;
    /* Only the sign of its own member matters to a leaf: the other's bit holds the third bit of
     * level 2. */
    const uint32_t low = (c2 & 3) << 4, high = c2 >> 2;
    return quarter & 1 ? (c1 & 11) | high << 2 | low : (c1 & 7) | high << 3 | low;
}

/* --- 8-bit logarithmic radii (spec/polar.md) --- */

#define TKV_POLAR_LOG_LOW  21  /* code of 2^-5, where 16 steps an octave begin */
#define TKV_POLAR_LOG_HIGH 229 /* code of 2^8, where they end */
#define TKV_POLAR_LOG_BIAS (16 * 5 + TKV_POLAR_LOG_LOW)

/* 16 * log2(radius) + TKV_POLAR_LOG_BIAS of a code above 0: 16 steps an octave from 2^-5 to 2^8,
 * two an octave outside, so that every row that f16 can hold has radii. */
static inline int32_t tkv_polar_log_steps(uint32_t code)
{
    const int32_t c = (int32_t)code;
    if (c < TKV_POLAR_LOG_LOW)
        return c - 7 * (TKV_POLAR_LOG_LOW - c);
    return c > TKV_POLAR_LOG_HIGH ? c + 7 * (c - TKV_POLAR_LOG_HIGH) : c;
}

/* The mantissas of 2^(i/16), as f32 bits. */
/* clang-format off */
static const uint32_t tkv_polar_exp2_16[16] = {
    0x000000, 0x05aac3, 0x0b95c2, 0x11c3d3, 0x1837f0, 0x1ef532, 0x25fed7, 0x2d583f,
    0x3504f3, 0x3d08a4, 0x45672a, 0x4e248c, 0x5744fd, 0x60ccdf, 0x6ac0c7, 0x75257d,
};
/* clang-format on */

static inline float tkv_polar_log_radius(uint32_t code)
{
    /* 512 steps more keep the exponent's division positive. */
    const uint32_t steps = (uint32_t)(tkv_polar_log_steps(code) - TKV_POLAR_LOG_BIAS + 512);
    return code ? tkv_bits_f32(((steps >> 4) + 127 - 32) << 23 | tkv_polar_exp2_16[steps & 15])
                : 0.0f;
}

/* Kernels take radii as 8-bit shares of the token's largest, whose own is this, rounded. Not 255:
 * half of that, and of any integer, is a tie somewhere, which 1/x rounds either way. So logarithmic
 * radii need no floats: see the table. */
#define TKV_POLAR_RATIO_ONE 255.25f

/* [d]: round(TKV_POLAR_RATIO_ONE * 2^(-d/16)), the share of a radius d steps below the largest. It
 * is 1 for d of 127 to 143 and 0 from there on. */
/* clang-format off */
static const uint8_t tkv_polar_log_ratio[128] = {
    255, 244, 234, 224, 215, 206, 197, 188, 180, 173, 166, 158, 152, 145, 139, 133,
    128, 122, 117, 112, 107, 103, 98, 94, 90, 86, 83, 79, 76, 73, 70, 67,
    64, 61, 59, 56, 54, 51, 49, 47, 45, 43, 41, 40, 38, 36, 35, 33,
    32, 31, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 17,
    16, 15, 15, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 9, 8,
    8, 8, 7, 7, 7, 6, 6, 6, 6, 5, 5, 5, 5, 5, 4, 4,
    4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2,
    2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1,
};
/* clang-format on */

/* bf16 without sign, non-finite values taken as the largest finite one: any bytes decode. */
static inline float tkv_polar_bf16_radius(const uint8_t *p)
{
    const uint32_t u = (uint32_t)(p[0] | p[1] << 8) & 0x7fffu;
    return tkv_bits_f32((u < 0x7f7fu ? u : 0x7f7fu) << 16);
}

#endif
