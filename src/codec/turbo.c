/* turbo4, turbo3, turbo2: TurboQuant's MSE quantiser (arXiv 2504.19874) with norm correction; and
 * turbo4c, turbo3c: the same after taking out each channel's mean over the page.
 *
 * A rotated row is nearly Gaussian, so each value is coded alone by the Lloyd-Max table of a
 * Gaussian with the row's rms; the scale is what makes the decoded norm equal the row's (keys: norm
 * correction), or the inner product of the decoded row with the row equal the row's square (values:
 * errors of many values average out in a weighted sum, a common shortening would not). It is kept
 * in 8 significant bits, so that a row that was decoded, rounded to f16 and coded again finds the
 * same scale.
 *
 * Some models add a large constant to every key; the error of a code grows with the norm, so the
 * constant drowns the rest. The centred forms code what is left, and keep the constant.
 *
 * Page: codes in units (format/turbo.h), then 64 scales as f16, an eighth of the true ones;
 * centred, then D means as f16. */
#include <math.h>
#include <string.h>

#include "base/bits.h"
#include "base/half.h"
#include "codec/codec.h"
#include "codec/scaled_rows.h"
#include "format/turbo.h"

#define TOKENS TKV_PAGE_TOKENS

/* Below this a stored scale, a subnormal f16, has too few bits to come back the same: the row
 * becomes zeros. */
#define SCALE_MIN 0x1p-20f
#define SCALE_MAX 65280.0f /* the largest f16 of 8 significant bits */

/* Rows of this rms and more keep their norm whatever the kind: a longer row might leave f16's
 * range. */
#define GAIN_MAX 4096.0f

/* Up to here decoding codes once for each block of rows is faster than a tile in memory. */
#define FEW_ROWS 8

/* Settling a row takes two rounds, seldom three. */
#define MAX_ROUNDS 8

static bool supports(uint32_t head_dim, tkv_kind kind)
{
    (void)kind;
    return head_dim > 0 && head_dim <= TKV_MAX_HEAD_DIM && head_dim % 16 == 0;
}

/* Codes as rows, and in tile order. */
static size_t scratch_bytes(uint32_t head_dim)
{
    return 2 * (size_t)TOKENS * head_dim;
}

/* An eighth of a scale, as it is stored; 0 for a row of zeros. */
static uint16_t stored_scale(float x)
{
    const float scale = tkv_round_8_bits(x);
    if (!(scale >= SCALE_MIN))
        return 0;
    return tkv_f32_to_half(scale > SCALE_MAX ? SCALE_MAX : scale);
}

/* The scale that gives the decoded row the true norm. `energy` is the sum of the squared levels. */
static uint16_t norm_scale(float sum_sq, int32_t energy, uint32_t bits)
{
    const float unit = tkv_turbo_step(bits) * TKV_TURBO_SCALE_UNIT;
    return stored_scale(sqrtf(sum_sq / ((float)energy * (unit * unit))));
}

/* The scale that gives the decoded row the true inner product with the row itself. `dot` is the sum
 * of level times value. */
static uint16_t gain_scale(float sum_sq, float dot, uint32_t bits)
{
    return stored_scale(sum_sq / (dot * tkv_turbo_step(bits) * TKV_TURBO_SCALE_UNIT));
}

/* What the encoder knows of the rows of a page. */
struct rows {
    float *x; /* [64][D] */
    uint32_t D, bits;
    tkv_kind kind;
    float tolerance; /* what rounding to f16 may have done, as a share of the rms */
    float rms[TOKENS], low[TOKENS], high[TOKENS]; /* low, high: least and largest magnitude */
    uint8_t *codes;                               /* [64][D] */
    uint16_t scale[TOKENS];                       /* as stored */
};

/* Coding a decoded row again must find the codes it came from. The thresholds are set against its
 * rms, which is that of the first row, so a level comes back as level * sqrt(D / energy), and all
 * is well while that factor moves no level over a threshold. Here is its square's range, for levels
 * that are a little off as well; nearly all rotated rows are within. */
static bool is_stable(uint32_t D, uint32_t bits, int32_t energy)
{
    static const float range[3][2] = {{0.436f, 4.63f}, {0.668f, 1.671f}, {0.81f, 1.272f}};
    const float unit = tkv_turbo_step(bits);
    const float factor = (float)D / ((float)energy * (unit * unit));
    return factor > range[bits - 2][0] && factor < range[bits - 2][1];
}

/* Whether row t is its codes at this stored scale but for what rounding to f16 does. Fills codes.
 * */
static bool matches(const struct rows *r, size_t t, uint16_t stored, uint8_t *codes)
{
    const int8_t *level = tkv_turbo_levels(r->bits);
    const float unit = tkv_half_to_f32(stored) * (TKV_TURBO_SCALE_UNIT * tkv_turbo_step(r->bits));
    const float common = r->rms[t] * r->tolerance + 0x1p-23f;
    for (size_t d = 0; d < r->D; d++) {
        const float x = r->x[t * r->D + d], y = 2.0f * x / unit;
        uint8_t code = 0;
        while (code < (1 << r->bits) - 1 && y > (float)(level[code] + level[code + 1]))
            code++;
        const float tolerance = common + fabsf(x) * (0.5f * r->tolerance);
        if (fabsf(x - (float)level[code] * unit) > tolerance)
            return false;
        codes[d] = code;
    }
    return true;
}

/* Looks for codes and a scale that give row t as it is: its largest value is some level times the
 * scale. Fills both when there are. */
static bool find_exact(struct rows *r, size_t t, uint8_t *codes)
{
    const int8_t *level = tkv_turbo_levels(r->bits);
    for (size_t code = (1u << r->bits) - 1; code >= 1u << (r->bits - 1); code--) {
        const float top = (float)level[code] * tkv_turbo_step(r->bits);
        const uint16_t stored = stored_scale(r->high[t] / (top * TKV_TURBO_SCALE_UNIT));
        if (stored != 0 && matches(r, t, stored, codes)) {
            r->scale[t] = stored;
            memcpy(r->codes + t * r->D, codes, r->D);
            return true;
        }
    }
    return false;
}

/* Whether row t, just coded, needs the care that settle() takes. A decoded row has no value much
 * smaller than the least level would be were all others the largest; of random rows few are so. */
static bool is_irregular(struct rows *r, size_t t, bool stable)
{
    const int8_t *level = tkv_turbo_levels(r->bits);
    const float least = (float)level[1u << (r->bits - 1)] / (float)level[(1u << r->bits) - 1];
    uint8_t codes[TKV_MAX_HEAD_DIM];
    if (r->low[t] < 0.6f * least * r->rms[t])
        return !stable;
    if (stable && matches(r, t, r->scale[t], codes))
        return false;
    return find_exact(r, t, codes) || !stable;
}

/* Codes every row of r->x. Returns the rows that need settling. */
static uint64_t code_rows(const struct tkv_kernels *k, struct rows *r)
{
    uint64_t irregular = 0;
    float sum_sq[TOKENS], inv[TOKENS], dot[TOKENS];
    int32_t energy[TOKENS];
    k->row_sum_sq(r->x, r->D, sum_sq);
    k->row_range(r->x, r->D, r->low, r->high);
    for (size_t t = 0; t < TOKENS; t++) {
        r->rms[t] = sqrtf(sum_sq[t] / (float)r->D);
        inv[t] = r->rms[t] > SCALE_MIN / 16.0f ? 1.0f / r->rms[t] : 0.0f;
    }
    k->turbo_codes(r->x, inv, r->D, r->bits, r->codes, energy);
    if (r->kind == TKV_V)
        k->turbo_dots(r->x, r->codes, r->D, r->bits, dot);
    for (size_t t = 0; t < TOKENS; t++) {
        r->scale[t] = 0;
        if (inv[t] > 0.0f)
            r->scale[t] = r->kind == TKV_V && r->rms[t] < GAIN_MAX
                              ? gain_scale(sum_sq[t], dot[t], r->bits)
                              : norm_scale(sum_sq[t], energy[t], r->bits);
        if (r->scale[t] == 0) /* too small for a scale: the codes of zeros */
            memset(r->codes + t * r->D, (1 << (r->bits - 1)) - 1, r->D);
        else if (is_irregular(r, t, is_stable(r->D, r->bits, energy[t])))
            irregular |= 1ull << t;
    }
    return irregular;
}

/* Replaces these rows by what their codes stand for. Returns whether that changed any. */
static bool settle(struct rows *r, uint64_t which)
{
    const int8_t *level = tkv_turbo_levels(r->bits);
    bool changed = false;
    for (size_t t = 0; t < TOKENS; t++) {
        const float unit =
            tkv_half_to_f32(r->scale[t]) * (TKV_TURBO_SCALE_UNIT * tkv_turbo_step(r->bits));
        for (size_t d = t * r->D; which >> t & 1 && d < (t + 1) * r->D; d++) {
            const float y = (float)level[r->codes[d]] * unit;
            changed |= y != r->x[d];
            r->x[d] = y;
        }
    }
    return changed;
}

static size_t scales_at(uint32_t bits, uint32_t head_dim)
{
    return tkv_turbo_code_bytes(bits, head_dim);
}

static size_t means_at(uint32_t bits, uint32_t head_dim)
{
    return scales_at(bits, head_dim) + 2 * TOKENS;
}

/* Rows that are not like rotated ones (a few large values, or few distinct ones) are coded again
 * from what they decode to until that stands: a page that is decoded and coded again keeps its
 * bytes. Those rounds are more tolerant, so that no choice is left that a rounding to f16 could
 * turn. */
static void encode(const struct tkv_codec_env *env, uint32_t bits, float *x, uint8_t *page,
                   void *scratch)
{
    const uint32_t D = env->head_dim;
    uint8_t *tile = (uint8_t *)scratch + (size_t)TOKENS * D;
    struct rows r = {
        .x = x, .D = D, .bits = bits, .kind = env->kind, .tolerance = 0x1p-9f, .codes = scratch};
    for (int round = 0; round < MAX_ROUNDS && settle(&r, code_rows(env->kernels, &r)); round++)
        r.tolerance = 0x1.8p-9f;
    env->kernels->rows_to_tile(r.codes, D, env->kind, tile);
    env->kernels->turbo_pack(tile, D, env->kind, bits, page);
    memcpy(page + scales_at(bits, D), r.scale, sizeof r.scale);
}

/* The scales, times the step. */
static void read_scales(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                        float *scale)
{
    env->kernels->f16_to_f32(page + scales_at(bits, env->head_dim), scale, TOKENS);
    for (size_t t = 0; t < TOKENS; t++)
        scale[t] *= tkv_turbo_step(bits) * TKV_TURBO_SCALE_UNIT;
}

static void read_tile(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                      uint8_t *tile, struct tkv_ahead *ahead)
{
    if (env->kind == TKV_K)
        env->kernels->turbo_tile_k(page, env->head_dim, bits, tile, ahead);
    else
        env->kernels->turbo_tile_v(page, env->head_dim, bits, (int8_t *)tile, ahead);
}

static void decode(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page, float *x)
{
    _Alignas(64) uint8_t tile[TOKENS * TKV_MAX_HEAD_DIM];
    float scale[TOKENS];
    read_scales(env, bits, page, scale);
    read_tile(env, bits, page, tile, &(struct tkv_ahead){.at = (uintptr_t)page});
    env->kernels->tile_to_rows(tile, env->head_dim, env->kind, scale, x);
}

static void read_means(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                       float *mean)
{
    env->kernels->f16_to_f32(page + means_at(bits, env->head_dim), mean, env->head_dim);
}

static void sum_rows(const float *restrict x, uint32_t D, float *restrict sum)
{
    memset(sum, 0, D * sizeof *sum);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = 0; d < D; d++)
            sum[d] += x[t * D + d];
}

/* The stored mean is not the mean taken out but the one that gives the decoded rows the channel
 * means of the true ones: it is more exact, and coding a decoded page again does not let it drift.
 * */
static void encode_centred(const struct tkv_codec_env *env, uint32_t bits, float *x, uint64_t valid,
                           uint8_t *page, void *scratch)
{
    const uint32_t D = env->head_dim, n = tkv_count_bits(valid);
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
    read_scales(env, bits, page, buf->scale);
    *out = (struct tkv_tile_i8){.codes = page, .scale = buf->scale, .planes = 1};
    if (buf->n_rows <= FEW_ROWS && env->kernels->turbo_score) {
        out->turbo_bits = bits;
        return;
    }
    read_tile(env, bits, page, buf->codes, buf->ahead);
    out->codes = buf->codes;
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
    static void to_rows_##bits(const struct tkv_codec_env *env, const uint8_t *page,               \
                               uint8_t *rows, size_t stride)                                       \
    {                                                                                              \
        tkv_scaled_to_rows(env, bits, page, rows, stride);                                         \
    }                                                                                              \
    static void from_rows_##bits(const struct tkv_codec_env *env, const uint8_t *const *rows,      \
                                 uint8_t *page)                                                    \
    {                                                                                              \
        tkv_scaled_from_rows(env, bits, rows, page);                                               \
    }                                                                                              \
    const struct tkv_codec_ops tkv_codec_turbo##bits = {                                           \
        .name = "turbo" #bits,                                                                     \
        .summary = "rotation and Lloyd-Max codes of " #bits " bits, norms kept",                   \
        .id = wire_id,                                                                             \
        .caps = TKV_CAP_ROTATES | TKV_CAP_IDEMPOTENT,                                              \
        .planes = 1,                                                                               \
        .code_bits = 16 * bits,                                                                    \
        .supports = supports,                                                                      \
        .page_bytes = page_bytes_##bits,                                                           \
        .scratch_bytes = scratch_bytes,                                                            \
        .encode = encode_##bits,                                                                   \
        .decode = decode_##bits,                                                                   \
        .tile_i8 = tile_i8_##bits,                                                                 \
        .to_rows = to_rows_##bits,                                                                 \
        .from_rows = from_rows_##bits,                                                             \
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
        .summary = "turbo" #bits " after taking out each channel's mean over the page",            \
        .id = wire_id,                                                                             \
        .caps = TKV_CAP_ROTATES | TKV_CAP_WHOLE_PAGE | TKV_CAP_BALANCES,                           \
        .planes = 1,                                                                               \
        .code_bits = 16 * bits,                                                                    \
        .supports = supports,                                                                      \
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
