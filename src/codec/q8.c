/* q8: one scale a row, signed 8-bit codes, kept in the order of an i8 tile: the attention reads the
 * page's own bytes.
 *
 * Page: codes as a tile of the kind (kernels.h), then 64 scales as f16, each 4 times the step of
 * its row: rotation may carry a row's largest value to 65504 * sqrt(D), and its step still fits. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "codec/codec.h"
#include "codec/scaled_rows.h"

#define TOKENS TKV_PAGE_TOKENS

#define SCALE_UNIT 4.0f
/* Below this a stored scale has too few bits to come back the same: the row becomes zeros. */
#define SCALE_MIN 0x1p-19f
/* The largest value of a row is at most this many steps, so that its code is 127 both when it is
 * first coded and, a little off after a rounding to f16, when it is coded again. */
#define TOP 127.25f

static bool supports(uint32_t head_dim, tkv_kind kind)
{
    (void)kind;
    return head_dim > 0 && head_dim <= TKV_MAX_HEAD_DIM && head_dim % 16 == 0;
}

static size_t page_bytes(uint32_t head_dim, tkv_kind kind)
{
    (void)kind;
    return (size_t)TOKENS * head_dim + 2 * TOKENS;
}

static size_t scratch_bytes(uint32_t head_dim)
{
    return (size_t)TOKENS * head_dim;
}

/* Scales lie on a grid: 8 significant bits, and multiples of 2^-24 where f16 is subnormal. */
static float grid_up(float x)
{
    if (x < 0x1p-17f)
        return ceilf(x * 0x1p24f) * 0x1p-24f;
    return tkv_bits_f32((tkv_f32_bits(x) + 0xffffu) & 0xffff0000u);
}

static float grid_below(float scale)
{
    if (scale <= 0x1p-17f)
        return scale - 0x1p-24f;
    return tkv_bits_f32(tkv_f32_bits(scale) - 0x10000u);
}

/* The stored scale of a row, 0 for a row of zeros. Where the largest code would be so small that
 * the decoded row fits a smaller scale, that one is taken at once, and the largest code clamped to
 * 127: the decoded row has the same scale again. */
static float row_scale(float absmax)
{
    float scale = grid_up(absmax * (SCALE_UNIT / TOP));
    if (scale < SCALE_MIN)
        return 0.0f;
    const float below = grid_below(scale);
    if (rintf(absmax * SCALE_UNIT / scale) * scale <= TOP * below)
        scale = below;
    return scale < SCALE_MIN ? 0.0f : scale;
}

static void encode(const struct tkv_codec_env *env, float *x, uint64_t valid, uint8_t *page,
                   void *scratch)
{
    (void)valid;
    const uint32_t D = env->head_dim;
    const size_t n = (size_t)TOKENS * D;
    float low[TOKENS], row[TOKENS];
    uint16_t half[TOKENS];
    env->kernels->row_range(x, D, low, row);
    for (size_t t = 0; t < TOKENS; t++) {
        const float scale = row_scale(row[t]);
        half[t] = tkv_f32_to_half(scale);
        row[t] = scale > 0.0f ? SCALE_UNIT / scale : 0.0f;
    }
    env->kernels->quantize_rows_i8(x, row, D, scratch);
    env->kernels->rows_to_tile(scratch, D, env->kind, page);
    if (env->kind == TKV_K)
        for (size_t i = 0; i < n; i++)
            page[i] ^= 0x80;
    memcpy(page + n, half, sizeof half);
}

static void read_scales(const struct tkv_codec_env *env, const uint8_t *page, float *scale)
{
    env->kernels->f16_to_f32(page + (size_t)TOKENS * env->head_dim, scale, TOKENS);
    for (size_t t = 0; t < TOKENS; t++)
        scale[t] *= 1.0f / SCALE_UNIT;
}

static void decode(const struct tkv_codec_env *env, const uint8_t *page, float *x)
{
    float scale[TOKENS];
    read_scales(env, page, scale);
    env->kernels->tile_to_rows(page, env->head_dim, env->kind, scale, x);
}

static void tile_i8(const struct tkv_codec_env *env, const uint8_t *page, struct tkv_tile_buf *buf,
                    struct tkv_tile_i8 *out)
{
    *out = (struct tkv_tile_i8){.codes = page, .scale = buf->scale, .planes = 2};
    if ((uintptr_t)page % 64 != 0) { /* tiles are aligned, pages need not be */
        memcpy(buf->codes, page, (size_t)TOKENS * env->head_dim);
        out->codes = buf->codes;
    }
    read_scales(env, page, buf->scale);
}

static void to_rows(const struct tkv_codec_env *env, const uint8_t *page, uint8_t *rows,
                    size_t stride)
{
    tkv_scaled_to_rows(env, 8, page, rows, stride);
}

static void from_rows(const struct tkv_codec_env *env, const uint8_t *const *rows, uint8_t *page)
{
    tkv_scaled_from_rows(env, 8, rows, page);
}

const struct tkv_codec_ops tkv_codec_q8 = {
    .name = "q8",
    .summary = "rotation and 8-bit codes, one scale a row",
    .id = 3,
    .caps = TKV_CAP_ROTATES | TKV_CAP_IDEMPOTENT,
    .planes = 2,
    .supports = supports,
    .code_bits = 16 * 8,
    .page_bytes = page_bytes,
    .scratch_bytes = scratch_bytes,
    .encode = encode,
    .decode = decode,
    .tile_i8 = tile_i8,
    .to_rows = to_rows,
    .from_rows = from_rows,
};
