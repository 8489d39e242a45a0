/* kvarn4, kvarn3, kvarn2: variance-normalised codes after KVarN (arXiv 2606.03458), on rotated rows:
 * asymmetric codes, keys per channel, values per token, after the other axis was divided by scales
 * that even out the deviations of rows and columns alike.
 *
 * Those scales come from an iteration after Sinkhorn: tokens and channels are divided in turn by
 * their deviations, up to 16 times. As published a tile has 128 tokens, here it is a page, 64; and
 * the state of least imbalance stands, here the last one: coding a decoded page again then finds
 * nearly the same scales, and the rest is up to find_grid().
 *
 * Page: as *lines*, for K the channels, for V the tokens: all codes in groups of 32 (codec/groups.h),
 * then every line's least value, every line's delta, then the scales of what lies across the lines
 * (K: 64 tokens, V: D channels), all f16. A value is (code * delta + least) * scale. */
#include <math.h>
#include <string.h>

#include "base/bits.h"
#include "codec/codec.h"
#include "codec/groups.h"
#include "codec/kvarn_balance.h"

#define TOKENS     TKV_PAGE_TOKENS
#define MAX_LINES  TKV_MAX_HEAD_DIM
#define MAX_ACROSS TKV_MAX_HEAD_DIM
#define MAX_GROUPS (TKV_MAX_HEAD_DIM / TKV_GROUP)
#define LANES      TKV_BALANCE_LANES

/* Finding the grid of a decoded page: what rounding takes from it, at most, of what it takes from
 * any other, and the rounds of the search. */
#define GRID_LOSS   0.85f
#define GRID_ROUNDS 4

struct shape {
    uint32_t bits;
    size_t n_lines, n_across; /* lines, and values of a line */
    size_t line_bytes, params_at, scales_at, bytes;
};

static struct shape page_shape(uint32_t bits, uint32_t head_dim, tkv_kind kind)
{
    struct shape s = {.bits = bits};
    s.n_lines = kind == TKV_K ? head_dim : TOKENS;
    s.n_across = kind == TKV_K ? TOKENS : head_dim;
    s.line_bytes = s.n_across * bits / 8;
    s.params_at = s.n_lines * s.line_bytes;
    s.scales_at = s.params_at + 4 * s.n_lines;
    s.bytes = s.scales_at + 2 * s.n_across;
    return s;
}

static bool supports(uint32_t head_dim, tkv_kind kind)
{
    (void)kind;
    return head_dim > 0 && head_dim <= TKV_MAX_HEAD_DIM && head_dim % 16 == 0;
}

/* What the encoder makes of a page, line by line. */
struct lines {
    struct shape shape;
    size_t n_there; /* lines that exist: tokens may not */
    float unit;     /* what the page was divided by */
    float *v;       /* [n_lines][n_across] */
    uint8_t *code;  /* the same */
    float least[MAX_LINES], delta[MAX_LINES];
    float scale[MAX_ACROSS];  /* 0: nothing there */
    float factor[MAX_ACROSS]; /* unit / scale */
};

/* A value as the f16 that stands for it. */
static float as_half(float x)
{
    return tkv_half_to_f32(tkv_f32_to_half(x > 65504.0f    ? 65504.0f
                                           : x < -65504.0f ? -65504.0f
                                                           : x));
}

/* Takes over scales, as f16. One factor is free, lines may take it up: the first scale becomes a
 * power of two, so that a page that was decoded finds its other scales exactly. */
static void set_scales(struct lines *p, const float *scale, bool rounded)
{
    const size_t n = p->shape.n_across;
    size_t first = 0;
    int exponent;
    while (first + 1 < n && !(scale[first] > 0.0f))
        first++;
    const float part = frexpf(scale[first], &exponent);
    const float common = ldexpf(part < 0.707106781f ? 0.5f : 1.0f, exponent) / scale[first];
    for (size_t i = 0; i < n; i++) {
        p->scale[i] = rounded ? as_half(scale[i] * common) : scale[i] * common;
        p->factor[i] = p->scale[i] > 0.0f ? p->unit / p->scale[i] : 0.0f;
    }
}

/* The root of the mean square of the page: the iteration's bounds are meant for values near 1. */
static float magnitude(const struct tkv_codec_env *env, const float *x, float n_valid)
{
    float sum_sq[TOKENS], sum = 0.0f;
    env->kernels->row_sum_sq(x, env->head_dim, sum_sq);
    for (size_t t = 0; t < TOKENS; t++)
        sum += sum_sq[t];
    return sqrtf(sum / (n_valid * (float)env->head_dim));
}

static void load_lines(struct lines *p, const float *x, size_t D, tkv_kind kind)
{
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = 0; d < D; d++)
            p->v[kind == TKV_K ? d * TOKENS + t : t * D + d] = x[t * D + d];
}

/* Line l, scaled. Where there is nothing stands a value that is there, so that it changes no range.
 */
static void scaled_line(const struct lines *p, size_t l, float *y)
{
    const size_t n = p->shape.n_across;
    size_t there = 0;
    while (there + 1 < n && !(p->factor[there] > 0.0f))
        there++;
    for (size_t i = 0; i < n; i++) {
        const size_t from = p->factor[i] > 0.0f ? i : there;
        y[i] = p->v[l * n + from] * p->factor[from];
    }
}

/* Codes line l, least and delta given. Returns the sum of squares of what rounding took, in steps. */
static float code_line(struct lines *p, size_t l, const float *y)
{
    const float top = (float)((1u << p->shape.bits) - 1u);
    const float inverse = p->delta[l] > 0.0f ? 1.0f / p->delta[l] : 0.0f;
    uint8_t *code = p->code + l * p->shape.n_across;
    float lane[LANES] = {0};
    for (size_t i = 0; i < p->shape.n_across; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            const float at = (y[i + j] - p->least[l]) * inverse;
            const float q = at > top ? top : at > 0.0f ? at : 0.0f;
            const int32_t c = (int32_t)(q + 0.5f);
            lane[j] += (q - (float)c) * (q - (float)c);
            code[i + j] = (uint8_t)c;
        }
    return tkv_sum_lanes(lane);
}

/* The same over the line's range. */
static float code_range(struct lines *p, size_t l)
{
    float y[MAX_ACROSS], low, high;
    scaled_line(p, l, y);
    tkv_group_range(y, p->shape.n_across, &low, &high);
    p->least[l] = low = as_half(low);
    p->delta[l] = high > low ? as_half((high - low) / (float)((1u << p->shape.bits) - 1u)) : 0.0f;
    return code_line(p, l, y);
}

/* Scales by least squares, the codes and lines given. */
static void fit_scales(struct lines *p, bool rounded)
{
    const size_t n = p->shape.n_across;
    float vy[MAX_ACROSS] = {0}, yy[MAX_ACROSS] = {0}, scale[MAX_ACROSS];
    for (size_t l = 0; l < p->shape.n_lines; l++)
        for (size_t i = 0; i < n; i++) {
            const float y = p->least[l] + (float)p->code[l * n + i] * p->delta[l];
            vy[i] += p->v[l * n + i] * y;
            yy[i] += y * y;
        }
    for (size_t i = 0; i < n; i++)
        scale[i] = p->scale[i] > 0.0f && vy[i] > 0.0f ? p->unit * (vy[i] / yy[i]) : p->scale[i];
    set_scales(p, scale, rounded);
}

/* A line's least value and delta by least squares, the codes and scales given. */
static void fit_line(struct lines *p, size_t l, bool rounded)
{
    const size_t n = p->shape.n_across;
    float lane[5][LANES] = {{0}}, sum[5];
    for (size_t i = 0; i < n; i++) {
        const float w = p->factor[i] > 0.0f ? 1.0f : 0.0f, c = w * (float)p->code[l * n + i];
        const float y = p->least[l] + c * p->delta[l];
        const float off = w * (p->v[l * n + i] * p->factor[i] - y);
        const float term[5] = {w, c, c * c, off, off * c};
        for (size_t j = 0; j < 5; j++)
            lane[j][i % LANES] += term[j];
    }
    for (size_t j = 0; j < 5; j++)
        sum[j] = tkv_sum_lanes(lane[j]);
    const float determinant = sum[0] * sum[2] - sum[1] * sum[1];
    if (!(determinant > 0.0f))
        return;
    const float delta = (sum[0] * sum[4] - sum[1] * sum[3]) / determinant;
    const float least = (sum[3] - delta * sum[1]) / sum[0];
    p->least[l] += least;
    p->delta[l] += delta;
    if (rounded)
        p->least[l] = as_half(p->least[l]), p->delta[l] = as_half(p->delta[l]);
}

/* Rounding takes a twelfth of a squared step from values anywhere, and nothing from the two ends of
 * a line. A page that was decoded before loses less: it lies on a grid, only the iteration found it
 * a little off. The grid itself is then in reach by least squares, and decoding and coding again
 * does not add up to a drift. */
static void find_grid(struct lines *p, float lost)
{
    if (lost > GRID_LOSS / 12.0f * (float)(p->n_there * (p->shape.n_across - 2)))
        return;
    for (int round = 0; round < GRID_ROUNDS; round++) {
        const bool last = round == GRID_ROUNDS - 1;
        fit_scales(p, last);
        for (size_t l = 0; l < p->shape.n_lines; l++)
            fit_line(p, l, last);
        for (size_t l = 0; l < p->shape.n_lines && !last; l++) {
            float y[MAX_ACROSS];
            scaled_line(p, l, y);
            code_line(p, l, y);
        }
    }
}

static void write_page(const struct lines *p, uint8_t *page)
{
    const struct shape *s = &p->shape;
    uint8_t *params = page + s->params_at, *scales = page + s->scales_at;
    for (size_t l = 0; l < s->n_lines; l++) {
        tkv_put_half(params + 2 * l, tkv_f32_to_half(p->least[l]));
        tkv_put_half(params + 2 * (s->n_lines + l), tkv_f32_to_half(p->delta[l]));
        for (size_t i = 0; i < s->n_across; i += TKV_GROUP) {
            const size_t left = s->n_across - i, n = left < TKV_GROUP ? left : TKV_GROUP;
            tkv_group_pack(p->code + l * s->n_across + i, n, s->bits,
                           page + l * s->line_bytes + i * s->bits / 8);
        }
    }
    for (size_t i = 0; i < s->n_across; i++)
        tkv_put_half(scales + 2 * i, tkv_f32_to_half(p->scale[i]));
}

struct work {
    struct tkv_balance balance;
    struct lines lines;
};

/* The above, then values and codes in lines. */
static size_t scratch_bytes(uint32_t head_dim)
{
    return sizeof(struct work) + (sizeof(float) + 1) * TOKENS * head_dim;
}

static void encode(const struct tkv_codec_env *env, uint32_t bits, float *x, uint64_t valid,
                   uint8_t *page, void *scratch)
{
    struct work *w = scratch;
    struct tkv_balance *b = &w->balance;
    struct lines *p = &w->lines;
    const size_t D = env->head_dim;
    float scale[MAX_ACROSS], lost = 0.0f;
    b->x = x, b->D = D, b->valid = valid, b->n_valid = (float)tkv_count_bits(valid);
    p->shape = page_shape(bits, env->head_dim, env->kind);
    p->unit = valid ? magnitude(env, x, b->n_valid) : 0.0f;
    p->n_there = env->kind == TKV_K ? D : tkv_count_bits(valid);
    p->v = (float *)(w + 1);
    p->code = (uint8_t *)(p->v + TOKENS * D);
    memset(page, 0, p->shape.bytes);
    if (!(p->unit > 0.0f))
        return;

    for (size_t i = 0; i < TOKENS * D; i++)
        x[i] /= p->unit;
    load_lines(p, x, D, env->kind);
    tkv_balance_page(b, env->kind, scale);
    for (size_t i = 0; i < p->shape.n_across; i++)
        scale[i] = scale[i] > 0.0f ? p->unit / scale[i] : 0.0f;
    set_scales(p, scale, true);
    for (size_t l = 0; l < p->shape.n_lines; l++)
        lost += code_range(p, l);
    find_grid(p, lost);
    write_page(p, page);
}

/* Line l into x[n_across]. */
static void decode_line(const struct tkv_codec_env *env, const struct shape *s, const uint8_t *page,
                        const float *scale, size_t l, float *x)
{
    const size_t full = s->n_across / TKV_GROUP;
    const uint8_t *codes = page + l * s->line_bytes, *params = page + s->params_at + 2 * l;
    float least[MAX_GROUPS], delta[MAX_GROUPS]; /* the same for every group of the line */
    least[0] = tkv_get_half(params);
    delta[0] = tkv_get_half(params + 2 * s->n_lines);
    for (size_t g = 1; g < full; g++)
        least[g] = least[0], delta[g] = delta[0];
    env->kernels->kivi_groups(codes, least, delta, full, s->bits, x);
    if (full * TKV_GROUP < s->n_across)
        tkv_group_values(codes + full * TKV_GROUP * s->bits / 8, s->n_across - full * TKV_GROUP,
                         s->bits, least[0], delta[0], x + full * TKV_GROUP);
    for (size_t i = 0; i < s->n_across; i++)
        x[i] *= scale[i];
}

/* Lines one after another: the f32 tile of both kinds. */
static void tile_f32(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                     float *tile)
{
    const struct shape s = page_shape(bits, env->head_dim, env->kind);
    float scale[MAX_ACROSS];
    env->kernels->f16_to_f32(page + s.scales_at, scale, s.n_across);
    for (size_t l = 0; l < s.n_lines; l++)
        decode_line(env, &s, page, scale, l, tile + l * s.n_across);
}

static void decode(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page, float *x)
{
    if (env->kind == TKV_V) {
        tile_f32(env, bits, page, x);
        return;
    }
    const struct shape s = page_shape(bits, env->head_dim, env->kind);
    float scale[MAX_ACROSS], line[TOKENS];
    env->kernels->f16_to_f32(page + s.scales_at, scale, s.n_across);
    for (size_t l = 0; l < s.n_lines; l++) {
        decode_line(env, &s, page, scale, l, line);
        for (size_t t = 0; t < TOKENS; t++)
            x[t * env->head_dim + l] = line[t];
    }
}

/* Operations that know only the page: one set for each width. */
#define KVARN(bits, wire_id)                                                                       \
    static size_t page_bytes_##bits(uint32_t head_dim, tkv_kind kind)                              \
    {                                                                                              \
        return page_shape(bits, head_dim, kind).bytes;                                             \
    }                                                                                              \
    static void encode_##bits(const struct tkv_codec_env *env, float *x, uint64_t valid,           \
                              uint8_t *page, void *scratch)                                        \
    {                                                                                              \
        encode(env, bits, x, valid, page, scratch);                                                \
    }                                                                                              \
    static void decode_##bits(const struct tkv_codec_env *env, const uint8_t *page, float *x)      \
    {                                                                                              \
        decode(env, bits, page, x);                                                                \
    }                                                                                              \
    static void tile_f32_##bits(const struct tkv_codec_env *env, const uint8_t *page, float *tile) \
    {                                                                                              \
        tile_f32(env, bits, page, tile);                                                           \
    }                                                                                              \
    const struct tkv_codec_ops tkv_codec_kvarn##bits = {                                           \
        .name = "kvarn" #bits,                                                                     \
        .summary = "rotation, both axes of a page evened out, codes of " #bits " bits",            \
        .id = wire_id,                                                                             \
        .caps = TKV_CAP_ROTATES | TKV_CAP_WHOLE_PAGE,                                              \
        .code_bits = 16 * (bits),                                                                  \
        .supports = supports,                                                                      \
        .page_bytes = page_bytes_##bits,                                                           \
        .scratch_bytes = scratch_bytes,                                                            \
        .encode = encode_##bits,                                                                   \
        .decode = decode_##bits,                                                                   \
        .tile_f32 = tile_f32_##bits,                                                               \
    }

KVARN(4, 14);
KVARN(3, 15);
KVARN(2, 16);
