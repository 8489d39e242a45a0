/* turbo4, turbo3, turbo2: TurboQuant's MSE quantiser (arXiv 2504.19874) with norm correction.
 *
 * A rotated row is nearly Gaussian, so each value is coded alone by the Lloyd-Max table of a
 * Gaussian with the row's rms; the scale is what makes the decoded norm equal the row's. It is kept
 * in 8 significant bits, so that a row that was decoded, rounded to f16 and coded again finds the
 * same scale.
 *
 * Page: codes in units (format/turbo.h), then 64 scales as f16. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "codec/codec.h"
#include "format/turbo.h"

#define TOKENS TKV_PAGE_TOKENS

/* Below this the scale, a subnormal f16, has too few bits to come back the same: the row becomes
 * zeros. */
#define SCALE_MIN 0x1p-20f
#define SCALE_MAX 65280.0f /* the largest f16 of 8 significant bits */

struct work {
    uint8_t *rows; /* [64][D] codes */
    uint8_t *tile; /* the same in tile order */
};

static bool supports(uint32_t head_dim, tkv_kind kind)
{
    (void)kind;
    return head_dim > 0 && head_dim <= TKV_MAX_HEAD_DIM && head_dim % 16 == 0;
}

static size_t scratch_bytes(uint32_t head_dim)
{
    return 2 * (size_t)TOKENS * head_dim;
}

static struct work split_scratch(void *scratch, uint32_t head_dim)
{
    struct work w = {.rows = scratch};
    w.tile = w.rows + (size_t)TOKENS * head_dim;
    return w;
}

/* Rounds to 8 significant bits, to nearest even. */
static float round_scale(float x)
{
    const uint32_t u = tkv_f32_bits(x);
    return tkv_bits_f32((u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u);
}

/* The stored scale: decoded and true norms agree. `energy` is the sum of the squared levels. */
static uint16_t norm_scale(float sum_sq, int32_t energy, float step)
{
    const float scale = round_scale(sqrtf(sum_sq / ((float)energy * (step * step))));
    if (!(scale >= SCALE_MIN))
        return 0;
    return tkv_f32_to_half(scale > SCALE_MAX ? SCALE_MAX : scale);
}

/* Codes rows into w->rows and their scales; rows too small for a scale get the codes of zeros. */
static void code_rows(const struct tkv_codec_env *env, uint32_t bits, const float *x,
                      struct work *w, uint16_t *scale)
{
    const uint32_t D = env->head_dim;
    float sum_sq[TOKENS], inv[TOKENS];
    int32_t energy[TOKENS];
    env->kernels->row_sum_sq(x, D, sum_sq);
    for (size_t t = 0; t < TOKENS; t++) {
        const float rms = sqrtf(sum_sq[t] / (float)D);
        inv[t] = rms > SCALE_MIN / 16.0f ? 1.0f / rms : 0.0f;
    }
    env->kernels->turbo_codes(x, inv, D, bits, w->rows, energy);
    for (size_t t = 0; t < TOKENS; t++) {
        scale[t] = inv[t] > 0.0f ? norm_scale(sum_sq[t], energy[t], tkv_turbo_step(bits)) : 0;
        if (scale[t] == 0)
            memset(w->rows + t * D, (1 << (bits - 1)) - 1, D);
    }
}

static void encode(const struct tkv_codec_env *env, uint32_t bits, const float *x, uint8_t *page,
                   void *scratch)
{
    struct work w = split_scratch(scratch, env->head_dim);
    uint16_t scale[TOKENS];
    code_rows(env, bits, x, &w, scale);
    env->kernels->rows_to_tile(w.rows, env->head_dim, env->kind, w.tile);
    env->kernels->turbo_pack(w.tile, env->head_dim, env->kind, bits, page);
    memcpy(page + tkv_turbo_code_bytes(bits, env->head_dim), scale, sizeof scale);
}

/* Fills tile and scales (those include the step) from a page. */
static void open_page(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                      uint8_t *tile, float *scale)
{
    const uint32_t D = env->head_dim;
    uint16_t half[TOKENS];
    memcpy(half, page + tkv_turbo_code_bytes(bits, D), sizeof half);
    env->kernels->f16_to_f32(half, scale, TOKENS);
    for (size_t t = 0; t < TOKENS; t++)
        scale[t] *= tkv_turbo_step(bits);
    if (env->kind == TKV_K)
        env->kernels->turbo_tile_k(page, D, bits, tile);
    else
        env->kernels->turbo_tile_v(page, D, bits, (int8_t *)tile);
}

static void decode(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page, float *x)
{
    _Alignas(64) uint8_t tile[TOKENS * TKV_MAX_HEAD_DIM];
    float scale[TOKENS];
    open_page(env, bits, page, tile, scale);
    env->kernels->tile_to_rows(tile, env->head_dim, env->kind, scale, x);
}

static void tile_i8(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                    struct tkv_tile_buf *buf, struct tkv_tile_i8 *out)
{
    open_page(env, bits, page, buf->codes, buf->scale);
    *out = (struct tkv_tile_i8){.codes = buf->codes, .scale = buf->scale, .planes = 1};
}

/* The operations of one width; codec.h gives their meaning. */
#define TURBO(bits, wire_id, text)                                                            \
    static size_t page_bytes_##bits(uint32_t head_dim, tkv_kind kind)                         \
    {                                                                                         \
        (void)kind;                                                                           \
        return tkv_turbo_code_bytes(bits, head_dim) + 2 * TOKENS;                             \
    }                                                                                         \
    static void encode_##bits(const struct tkv_codec_env *env, float *x, uint64_t valid,      \
                              uint8_t *page, void *scratch)                                   \
    {                                                                                         \
        (void)valid;                                                                          \
        encode(env, bits, x, page, scratch);                                                  \
    }                                                                                         \
    static void decode_##bits(const struct tkv_codec_env *env, const uint8_t *page, float *x) \
    {                                                                                         \
        decode(env, bits, page, x);                                                           \
    }                                                                                         \
    static void tile_i8_##bits(const struct tkv_codec_env *env, const uint8_t *page,          \
                               struct tkv_tile_buf *buf, struct tkv_tile_i8 *out)             \
    {                                                                                         \
        tile_i8(env, bits, page, buf, out);                                                   \
    }                                                                                         \
    const struct tkv_codec_ops tkv_codec_turbo##bits = {                                      \
        .name = "turbo" #bits,                                                                \
        .summary = text,                                                                      \
        .id = wire_id,                                                                        \
        .caps = TKV_CAP_ROTATES | TKV_CAP_IDEMPOTENT,                                         \
        .planes = 1,                                                                          \
        .supports = supports,                                                                 \
        .page_bytes = page_bytes_##bits,                                                      \
        .scratch_bytes = scratch_bytes,                                                       \
        .encode = encode_##bits,                                                              \
        .decode = decode_##bits,                                                              \
        .tile_i8 = tile_i8_##bits,                                                            \
    };

TURBO(4, 4, "rotation and Lloyd-Max codes of 4 bits, norms kept")
TURBO(3, 5, "rotation and Lloyd-Max codes of 3 bits, norms kept")
TURBO(2, 6, "rotation and Lloyd-Max codes of 2 bits, norms kept")
