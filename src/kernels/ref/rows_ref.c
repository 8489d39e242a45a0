/* The 64 rows of a page on their way to codes and back: statistics, rounding, and the order of
 * bytes in a tile. */
#include <math.h>

#include "base/half.h"
#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_rows_ref(struct tkv_kernels *k);

static void row_sum_sq_ref(const float *restrict x, uint32_t D, float *restrict sum_sq)
{
    for (size_t t = 0; t < TOKENS; t++) {
        float lane[16] = {0};
        for (size_t d = 0; d < D; d++)
            lane[d % 16] += x[t * D + d] * x[t * D + d];
        for (size_t half = 8; half > 0; half /= 2)
            for (size_t i = 0; i < half; i++)
                lane[i] += lane[i + half];
        sum_sq[t] = lane[0];
    }
}

static void row_range_ref(const float *restrict x, uint32_t D, float *restrict low,
                          float *restrict high)
{
    for (size_t t = 0; t < TOKENS; t++) {
        low[t] = high[t] = fabsf(x[t * D]);
        for (size_t d = t * D; d < (t + 1) * D; d++) {
            const float a = fabsf(x[d]);
            low[t] = a < low[t] ? a : low[t];
            high[t] = a > high[t] ? a : high[t];
        }
    }
}

static void quantize_rows_i8_ref(const float *restrict x, const float *restrict inv, uint32_t D,
                                 int8_t *restrict codes)
{
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = t * D; d < (t + 1) * D; d++) {
            float y = x[d] * inv[t];
            y = y > 127.0f ? 127.0f : y < -127.0f ? -127.0f : y;
            /* adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits */
            codes[d] = (int8_t)((int32_t)tkv_f32_bits(y + 12582912.0f) - 0x4b400000);
        }
}

/* Where the byte of (token, dim) lies in a tile. */
static size_t tile_index(tkv_kind kind, size_t D, size_t t, size_t d)
{
    if (kind == TKV_K)
        return t / 16 * 16 * D + d / 4 * 64 + t % 16 * 4 + d % 4;
    return t / 4 * 4 * D + d * 4 + t % 4;
}

static void rows_to_tile_ref(const uint8_t *restrict rows, uint32_t D, tkv_kind kind,
                             uint8_t *restrict tile)
{
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = 0; d < D; d++)
            tile[tile_index(kind, D, t, d)] = rows[t * D + d];
}

static void tile_to_rows_ref(const uint8_t *restrict tile, uint32_t D, tkv_kind kind,
                             const float *restrict scale, float *restrict x)
{
    const uint8_t flip = kind == TKV_K ? 0x80 : 0; /* codes + 128 to two's complement */
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = 0; d < D; d++)
            x[t * D + d] = (float)(int8_t)(tile[tile_index(kind, D, t, d)] ^ flip) * scale[t];
}

static void tile_k_to_f32_ref(const uint8_t *restrict tile, uint32_t D, const float *restrict scale,
                              float *restrict out)
{
    for (size_t d = 0; d < D; d++)
        for (size_t t = 0; t < TOKENS; t++)
            out[d * TOKENS + t] = (float)(tile[tile_index(TKV_K, D, t, d)] - 128) * scale[t];
}

void tkv_rows_ref(struct tkv_kernels *k)
{
    k->row_sum_sq = row_sum_sq_ref;
    k->row_range = row_range_ref;
    k->quantize_rows_i8 = quantize_rows_i8_ref;
    k->rows_to_tile = rows_to_tile_ref;
    k->tile_to_rows = tile_to_rows_ref;
    k->tile_k_to_f32 = tile_k_to_f32_ref;
}
