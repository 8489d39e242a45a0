/* turbo4, turbo3, turbo2: TurboQuant's MSE quantiser (arXiv 2504.19874) with norm correction; and
 * turbo4c, turbo3c: the same for keys after taking out each channel's mean.
 *
 * A rotated row is nearly Gaussian, so each value is coded alone by the Lloyd-Max table of a
 * Gaussian with the row's rms; the scale is what makes the decoded norm equal the row's. It is kept
 * in 8 significant bits, so that a row that was decoded, rounded to f16 and coded again finds the
 * same scale.
 *
 * Some models add a large constant to every key; the error of a code grows with the norm, so the
 * constant drowns the rest. The centred forms code what is left, and keep the constant.
 *
 * Page: codes in units (format/turbo.h), then 64 scales as f16, an eighth of the true ones; centred,
 * then D means as f16. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "codec/codec.h"
#include "format/turbo.h"

#define TOKENS TKV_PAGE_TOKENS

/* Below this a stored scale, a subnormal f16, has too few bits to come back the same: the row
 * becomes zeros. */
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
    const float unit = step * TKV_TURBO_SCALE_UNIT;
    const float scale = round_scale(sqrtf(sum_sq / ((float)energy * (unit * unit))));
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

static size_t scales_at(uint32_t bits, uint32_t head_dim)
{
    return tkv_turbo_code_bytes(bits, head_dim);
}

static size_t means_at(uint32_t bits, uint32_t head_dim)
{
    return scales_at(bits, head_dim) + 2 * TOKENS;
}

static void encode(const struct tkv_codec_env *env, uint32_t bits, const float *x, uint8_t *page,
                   void *scratch)
{
    struct work w = split_scratch(scratch, env->head_dim);
    uint16_t scale[TOKENS];
    code_rows(env, bits, x, &w, scale);
    env->kernels->rows_to_tile(w.rows, env->head_dim, env->kind, w.tile);
    env->kernels->turbo_pack(w.tile, env->head_dim, env->kind, bits, page);
    memcpy(page + scales_at(bits, env->head_dim), scale, sizeof scale);
}

/* Fills tile and scales (those include the step) from a page. */
static void open_page(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                      uint8_t *tile, float *scale)
{
    const uint32_t D = env->head_dim;
    uint16_t half[TOKENS];
    memcpy(half, page + scales_at(bits, D), sizeof half);
    env->kernels->f16_to_f32(half, scale, TOKENS);
    for (size_t t = 0; t < TOKENS; t++)
        scale[t] *= tkv_turbo_step(bits) * TKV_TURBO_SCALE_UNIT;
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

static void read_means(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                       float *mean)
{
    uint16_t half[TKV_MAX_HEAD_DIM];
    memcpy(half, page + means_at(bits, env->head_dim), 2 * (size_t)env->head_dim);
    env->kernels->f16_to_f32(half, mean, env->head_dim);
}

static void sum_rows(const float *restrict x, uint32_t D, float *restrict sum)
{
    memset(sum, 0, D * sizeof *sum);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = 0; d < D; d++)
            sum[d] += x[t * D + d];
}

static uint32_t count_bits(uint64_t x)
{
    uint32_t n = 0;
    for (; x != 0; x &= x - 1)
        n++;
    return n;
}

/* The stored mean is not the mean taken out but the one that gives the decoded rows the channel means
 * of the true ones: it is more exact, and coding a decoded page again does not let it drift. */
static void encode_centred(const struct tkv_codec_env *env, uint32_t bits, float *x, uint64_t valid,
                           uint8_t *page, void *scratch)
{
    const uint32_t D = env->head_dim, n = count_bits(valid);
    const float share = n > 0 ? 1.0f / (float)n : 0.0f;
    float mean[TKV_MAX_HEAD_DIM], coded[TKV_MAX_HEAD_DIM];
    uint16_t half[TKV_MAX_HEAD_DIM];
    sum_rows(x, D, mean);
    for (size_t d = 0; d < D; d++)
        mean[d] *= share;
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = 0; valid >> t & 1 && d < D; d++)
            x[t * D + d] -= mean[d];
    encode(env, bits, x, page, scratch);

    decode(env, bits, page, x);
    sum_rows(x, D, coded);
    for (size_t d = 0; d < D; d++) {
        const float m = mean[d] - coded[d] * share;
        half[d] = tkv_f32_to_half(m > 65504.0f ? 65504.0f : m < -65504.0f ? -65504.0f : m);
    }
    memcpy(page + means_at(bits, D), half, 2 * (size_t)D);
}

static void decode_centred(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                           float *x)
{
    float mean[TKV_MAX_HEAD_DIM];
    decode(env, bits, page, x);
    read_means(env, bits, page, mean);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = 0; d < env->head_dim; d++)
            x[t * env->head_dim + d] += mean[d];
}

static void tile_i8(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                    struct tkv_tile_buf *buf, struct tkv_tile_i8 *out)
{
    open_page(env, bits, page, buf->codes, buf->scale);
    *out = (struct tkv_tile_i8){.codes = buf->codes, .scale = buf->scale, .planes = 1};
}

static bool supports_centred(uint32_t head_dim, tkv_kind kind)
{
    return kind == TKV_K && supports(head_dim, kind);
}

/* Operations that know only the page: one set for each width, plain and centred. */
#define TURBO(bits, wire_id)                                                                       \
    static size_t page_bytes_##bits(uint32_t head_dim, tkv_kind kind)                              \
    {                                                                                              \
        (void)kind;                                                                                \
        return means_at(bits, head_dim);                                                           \
    }                                                                                              \
    static void encode_##bits(const struct tkv_codec_env *env, float *x, uint64_t valid,           \
                              uint8_t *page, void *scratch)                                        \
    {                                                                                              \
        (void)valid;                                                                               \
        encode(env, bits, x, page, scratch);                                                       \
    }                                                                                              \
    static void decode_##bits(const struct tkv_codec_env *env, const uint8_t *page, float *x)      \
    {                                                                                              \
        decode(env, bits, page, x);                                                                \
    }                                                                                              \
    static void tile_i8_##bits(const struct tkv_codec_env *env, const uint8_t *page,               \
                               struct tkv_tile_buf *buf, struct tkv_tile_i8 *out)                  \
    {                                                                                              \
        tile_i8(env, bits, page, buf, out);                                                        \
    }                                                                                              \
    const struct tkv_codec_ops tkv_codec_turbo##bits = {                                           \
        .name = "turbo" #bits,                                                                     \
        .summary = "rotation and Lloyd-Max codes of " #bits " bits, norms kept",                   \
        .id = wire_id,                                                                             \
        .caps = TKV_CAP_ROTATES | TKV_CAP_IDEMPOTENT,                                              \
        .planes = 1,                                                                               \
        .supports = supports,                                                                      \
        .page_bytes = page_bytes_##bits,                                                           \
        .scratch_bytes = scratch_bytes,                                                            \
        .encode = encode_##bits,                                                                   \
        .decode = decode_##bits,                                                                   \
        .tile_i8 = tile_i8_##bits,                                                                 \
    }

#define TURBO_CENTRED(bits, wire_id)                                                               \
    static size_t page_bytes_##bits##c(uint32_t head_dim, tkv_kind kind)                           \
    {                                                                                              \
        (void)kind;                                                                                \
        return means_at(bits, head_dim) + 2 * (size_t)head_dim;                                    \
    }                                                                                              \
    static void encode_##bits##c(const struct tkv_codec_env *env, float *x, uint64_t valid,        \
                                 uint8_t *page, void *scratch)                                     \
    {                                                                                              \
        encode_centred(env, bits, x, valid, page, scratch);                                        \
    }                                                                                              \
    static void decode_##bits##c(const struct tkv_codec_env *env, const uint8_t *page, float *x)   \
    {                                                                                              \
        decode_centred(env, bits, page, x);                                                        \
    }                                                                                              \
    static void tile_i8_##bits##c(const struct tkv_codec_env *env, const uint8_t *page,            \
                                  struct tkv_tile_buf *buf, struct tkv_tile_i8 *out)               \
    {                                                                                              \
        tile_i8(env, bits, page, buf, out);                                                        \
        read_means(env, bits, page, buf->mean);                                                    \
        out->mean = buf->mean;                                                                     \
    }                                                                                              \
    const struct tkv_codec_ops tkv_codec_turbo##bits##c = {                                        \
        .name = "turbo" #bits "c",                                                                 \
        .summary = "turbo" #bits " of keys less each channel's mean over the page",                \
        .id = wire_id,                                                                             \
        .caps = TKV_CAP_ROTATES | TKV_CAP_WHOLE_PAGE | TKV_CAP_BALANCES,                           \
        .planes = 1,                                                                               \
        .supports = supports_centred,                                                              \
        .page_bytes = page_bytes_##bits##c,                                                        \
        .scratch_bytes = scratch_bytes,                                                            \
        .encode = encode_##bits##c,                                                                \
        .decode = decode_##bits##c,                                                                \
        .tile_i8 = tile_i8_##bits##c,                                                              \
    }

TURBO(4, 4);
TURBO(3, 5);
TURBO(2, 6);
TURBO_CENTRED(4, 12);
TURBO_CENTRED(3, 13);
