/* Polar codes: rows to angle codes, pages to i8 tiles. The reference: it defines every rounding.
 *
 * A leaf is radius * (levels 4, 3) * (levels 2, 1). The tile computes it in integers:
 *
 *   r = round(255.25 * radius / largest radius of the token)
 *   A = (r * p + 64) >> 7         amplitude of a column, at most 253
 *   v = (A * f + 128) >> 8        leaf, within -127..127
 *
 * p and f are 7-bit tables of the products of cosines and sines (format/polar.h). Their rounding
 * adds less than 1% to the error of the angles themselves. */
#include <math.h>

#include "format/polar.h"
#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

/* Below this a token's largest radius is taken for it in the division: no overflow, whatever the
 * page holds. */
#define RADIUS_MIN 0x1p-64f

static uint32_t count_above(const float *tan_sq, uint32_t n, float first_sq, float second_sq)
{
    uint32_t code = 0;
    for (uint32_t i = 0; i < n; i++)
        code += second_sq > tan_sq[i] * first_sq;
    return code;
}

/* Codes one block's levels 3 and 4 from the squared radii of its four columns. */
static uint32_t code_upper(const struct tkv_polar_tables *tables, const float *column_sq,
                           float *sum_sq)
{
    const uint32_t bits = tables->bits, n = (1u << bits) - 1;
    const float a = column_sq[0] + column_sq[1], b = column_sq[2] + column_sq[3];
    *sum_sq = a + b;
    return count_above(tables->tan_sq[2], n, column_sq[0], column_sq[1]) |
           count_above(tables->tan_sq[2], n, column_sq[2], column_sq[3]) << bits |
           count_above(tables->tan_sq[3], n, a, b) << 2 * bits;
}

static uint32_t code_pair(const struct tkv_polar_tables *tables, float x, float y, float *sum_sq)
{
    const float x_sq = x * x, y_sq = y * y;
    *sum_sq = x_sq + y_sq;
    return count_above(tables->tan_sq[0], 3, x_sq, y_sq) | (uint32_t)(x < 0) << 2 |
           (uint32_t)(y < 0) << 3;
}

static void polar_codes_ref(const struct tkv_polar_tables *tables, const float *x, uint32_t D,
                            struct tkv_polar_rows *out)
{
    const size_t J = D / 4, n_blocks = D / 16;
    const uint32_t n2 = (1u << tables->bits) - 1;
    for (size_t t = 0; t < TOKENS; t++) {
        const float *row = x + t * D;
        float column_sq[TKV_MAX_HEAD_DIM / 4];
        for (size_t j = 0; j < J; j++) {
            float a_sq, b_sq;
            const uint32_t a = code_pair(tables, row[j], row[J + j], &a_sq);
            const uint32_t b = code_pair(tables, row[2 * J + j], row[3 * J + j], &b_sq);
            out->c1[t * J + j] = (uint8_t)(a | b << 4);
            out->c2[t * J + j] = (uint8_t)count_above(tables->tan_sq[1], n2, a_sq, b_sq);
            column_sq[j] = a_sq + b_sq;
        }
        for (size_t b = 0; b < n_blocks; b++)
            out->upper[t * n_blocks + b] =
                (uint16_t)code_upper(tables, column_sq + 4 * b, &out->sum_sq[t * n_blocks + b]);
    }
}

/* `bits` bits from bit i * bits of a little-endian stream; bits is 6 or 3, so two bytes always hold
 * them. */
static uint32_t take(const uint8_t *stream, size_t i, uint32_t bits)
{
    const size_t at = i * bits, byte = at / 8;
    uint32_t word = stream[byte];
    if (at % 8 + bits > 8)
        word |= (uint32_t)stream[byte + 1] << 8;
    return word >> at % 8 & ((1u << bits) - 1);
}

/* r of every block of a token; returns the largest radius. */
static float ratios(const struct tkv_polar_tables *tables, const uint8_t *radius, uint32_t D,
                    size_t t, uint32_t *ratio)
{
    float r[TKV_MAX_HEAD_DIM / 16], largest = 0.0f;
    for (size_t b = 0; b < D / 16; b++) {
        const uint8_t *p = radius + tkv_polar_radius_index(D, t, b) * tables->radius_bytes;
        r[b] = tables->radius_bytes == 2 ? tkv_polar_bf16_radius(p) : tkv_polar_log_radius(*p);
        largest = r[b] > largest ? r[b] : largest;
    }
    const float inverse = TKV_POLAR_RATIO_ONE / (largest > RADIUS_MIN ? largest : RADIUS_MIN);
    for (size_t b = 0; b < D / 16; b++)
        ratio[b] = (uint32_t)lrintf(r[b] * inverse);
    return largest;
}

/* Indices into tables->p for columns 0, 1 and for columns 2, 3 of an entry. */
static void upper_indices(const struct tkv_polar_planes *planes, uint32_t bits, const uint8_t *page,
                          size_t entry, uint32_t index[2])
{
    index[0] = index[1] = take(page + planes->upper, entry, 6);
    if (bits == 3)
        index[1] = (index[0] & 0x38) | take(page + planes->upper_b, entry, 3);
}

/* The page as codes in row order, [64][D]. */
static void expand(const struct tkv_polar_tables *tables, tkv_kind kind, const uint8_t *page,
                   uint32_t D, float *scale, int8_t *values)
{
    const struct tkv_polar_planes planes = tkv_polar_planes(D, tables->bits);
    const size_t J = D / 4;
    for (size_t t = 0; t < TOKENS; t++) {
        uint32_t ratio[TKV_MAX_HEAD_DIM / 16];
        scale[t] = tables->unit * ratios(tables, page + planes.radius, D, t, ratio);
        for (size_t j = 0; j < J; j++) {
            uint32_t index[2];
            upper_indices(&planes, tables->bits, page, tkv_polar_entry(kind, D, t, j / 4), index);
            const uint32_t amplitude =
                (ratio[j / 4] * tables->p[j % 4][index[j % 4 >= 2]] + 64) >> 7;
            const size_t slot = tkv_polar_slot(kind, D, t, j);
            uint32_t c2 = page[planes.c2 + slot / 4] >> slot % 4 * 2 & 3;
            if (tables->bits == 3)
                c2 |= (uint32_t)(page[planes.c2_high + slot / 8] >> slot % 8 & 1) << 2;
            for (uint32_t q = 0; q < 4; q++) {
                const uint32_t c1 = page[planes.c1 + slot] >> (q >= 2 ? 4 : 0) & 15;
                const int32_t f = tables->f[q][tkv_polar_leaf_index(tables->bits, q, c1, c2)];
                values[t * D + q * J + j] = (int8_t)(((int32_t)amplitude * f + 128) >> 8);
            }
        }
    }
}

static void polar_tile_k_ref(const struct tkv_polar_tables *tables, const uint8_t *page, uint32_t D,
                             uint8_t *tile, float *scale)
{
    int8_t values[TOKENS * TKV_MAX_HEAD_DIM];
    expand(tables, TKV_K, page, D, scale, values);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t c = 0; c < D; c++)
            tile[(t / 16 * (D / 4) + c / 4) * 64 + t % 16 * 4 + c % 4] =
                (uint8_t)(values[t * D + c] + 128);
}

static void polar_tile_v_ref(const struct tkv_polar_tables *tables, const uint8_t *page, uint32_t D,
                             int8_t *tile, float *scale)
{
    int8_t values[TOKENS * TKV_MAX_HEAD_DIM];
    expand(tables, TKV_V, page, D, scale, values);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t c = 0; c < D; c++)
            tile[(t / 4 * D + c) * 4 + t % 4] = values[t * D + c];
}

void tkv_polar_ref(struct tkv_kernels *k);
void tkv_polar_ref(struct tkv_kernels *k)
{
    k->polar_codes = polar_codes_ref;
    k->polar_tile_k = polar_tile_k_ref;
    k->polar_tile_v = polar_tile_v_ref;
}
