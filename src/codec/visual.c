/* visual1, visual2, visual4: spans of visual tokens, after arXiv 2502.14882 (FORMAT.md, visual).
 *
 * Every channel has a range of its own, of keys and of values alike, over all rows of a span. A value
 * is low + code * step. At 1 bit the range is less than what the values take: a share of the least
 * and the greatest value, or quantiles.
 *
 * A span keeps its ranges once. A page alone is a span of its own, with the ranges in front. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "codec/codec.h"
#include "format/visual.h"

#define T TKV_PAGE_TOKENS

struct width {
    uint32_t bits;
    float shrink[2]; /* by kind: of the least and the greatest value */
    double outside;  /* share of the values on each side of a range between quantiles: where the
                      * best evenly spaced levels of a Gaussian end */
};

static const struct width width1 = {1, {0.5f, 0.3f}, 0.2125}, width2 = {2, {1, 1}, 0.0676},
                          width4 = {4, {1, 1}, 0.006};

static bool supports(uint32_t D, tkv_kind kind)
{
    (void)kind;
    return D > 0 && D <= TKV_MAX_HEAD_DIM && D % 16 == 0;
}

/* ---- ranges: [D] low, [D] high, f16 --------------------------------------------------------- */

static size_t span_bytes(uint32_t D, tkv_kind kind)
{
    (void)kind;
    return 4 * (size_t)D;
}

static void put_half(uint8_t *at, float x)
{
    const uint16_t h = tkv_f32_to_half(x);
    at[0] = (uint8_t)h;
    at[1] = (uint8_t)(h >> 8);
}

static float get_half(const uint8_t *at)
{
    return tkv_half_to_f32((uint16_t)(at[0] | at[1] << 8));
}

static void read_ranges(const uint8_t *ranges, uint32_t D, uint32_t bits, float *low, float *step)
{
    const float n_steps = (float)((1u << bits) - 1);
    for (uint32_t d = 0; d < D; d++) {
        low[d] = get_half(ranges + 2 * d);
        step[d] = (get_half(ranges + 2 * (D + d)) - low[d]) / n_steps;
    }
}

/* f16 in an order that counts up with the values. */
static uint32_t key_of(uint16_t h)
{
    return h == 0x8000u ? 0x8000u : h & 0x8000u ? 0xffffu & ~(uint32_t)h : h | 0x8000u;
}

static float value_of(uint32_t key)
{
    return tkv_half_to_f32((uint16_t)(key & 0x8000u ? key & 0x7fffu : ~key));
}

/* The values of a channel. */
struct channel {
    const uint16_t *rows; /* of its first row */
    size_t n, D;
};

/* The bucket that holds the rank-th value; the rank within it. */
static uint32_t find_bucket(const size_t *count, size_t *rank)
{
    uint32_t bucket = 0;
    for (; bucket < 255 && *rank >= count[bucket]; bucket++)
        *rank -= count[bucket];
    return bucket;
}

/* The value that `rank` others are below. */
static float value_at(const struct channel *c, size_t rank)
{
    size_t upper[256] = {0}, lower[256] = {0};
    for (size_t i = 0; i < c->n; i++)
        upper[key_of(c->rows[i * c->D]) >> 8]++;
    const uint32_t high = find_bucket(upper, &rank);
    for (size_t i = 0; i < c->n; i++)
        if (key_of(c->rows[i * c->D]) >> 8 == high)
            lower[key_of(c->rows[i * c->D]) & 255]++;
    return value_of(high << 8 | find_bucket(lower, &rank));
}

/* Whether the values are levels of this range already, as rows that were decoded are. Their range
 * must stand: taking a share of it again and again would wear them down. */
static bool are_levels(const struct channel *c, uint32_t bits, float low, float high)
{
    const float n_steps = (float)((1u << bits) - 1), step = (high - low) / n_steps;
    for (size_t i = 0; i < c->n; i++) {
        const float x = tkv_half_to_f32(c->rows[i * c->D]);
        const float code = step > 0 ? rintf((x - low) / step) : 0;
        if (tkv_half_to_f32(tkv_f32_to_half(low + code * step)) != x)
            return false;
    }
    return true;
}

static void fit_channel(const struct channel *c, const struct width *w, tkv_kind kind,
                        bool quantiles, float *low, float *high)
{
    if (c->n == 0 || are_levels(c, w->bits, *low, *high))
        return;
    if (quantiles) {
        const size_t rank = (size_t)(w->outside * (double)(c->n - 1) + 0.5);
        *low = value_at(c, rank);
        *high = value_at(c, c->n - 1 - rank);
    } else {
        *low *= w->shrink[kind];
        *high *= w->shrink[kind];
    }
}

static void fit(const struct tkv_codec_env *env, const struct width *w, const uint16_t *rows,
                size_t n, uint8_t *ranges)
{
    const uint32_t D = env->head_dim;
    const bool quantiles = env->flags & TKV_CODEC_QUANTILES;
    uint32_t least[TKV_MAX_HEAD_DIM], greatest[TKV_MAX_HEAD_DIM];
    for (uint32_t d = 0; d < D; d++)
        least[d] = greatest[d] = n ? key_of(rows[d]) : key_of(0);
    for (size_t i = 1; i < n; i++)
        for (uint32_t d = 0; d < D; d++) {
            const uint32_t key = key_of(rows[i * D + d]);
            least[d] = key < least[d] ? key : least[d];
            greatest[d] = key > greatest[d] ? key : greatest[d];
        }
    for (uint32_t d = 0; d < D; d++) {
        float low = value_of(least[d]), high = value_of(greatest[d]);
        fit_channel(&(struct channel){rows + d, n, D}, w, env->kind, quantiles, &low, &high);
        put_half(ranges + 2 * d, low);
        put_half(ranges + 2 * (D + d), high);
    }
}

/* ---- pages ---------------------------------------------------------------------------------- */

/* Rows that exist, one after the other, as f16. */
struct scratch {
    uint16_t rows[T * TKV_MAX_HEAD_DIM];
};

static size_t scratch_bytes(uint32_t D)
{
    (void)D;
    return sizeof(struct scratch);
}

static void fit_page(const struct tkv_codec_env *env, const struct width *w, const float *x,
                     uint64_t valid, uint8_t *ranges, struct scratch *s)
{
    const size_t D = env->head_dim;
    size_t n = 0;
    for (size_t t = 0; t < T; t++)
        if (valid >> t & 1)
            env->kernels->f32_to_f16(x + t * D, s->rows + n++ * D, D);
    fit(env, w, s->rows, n, ranges);
}

/* Rounds a value from 0 to 15 to nearest even, as rintf would, in a way that becomes vectors. */
static uint8_t nearest(float x)
{
    const float big = 12582912.0f; /* 1.5 * 2^23 */
    return (uint8_t)(int32_t)((x + big) - big);
}

static void quantize(const float *x, const float *low, const float *step, uint32_t D, uint32_t bits,
                     uint8_t *codes)
{
    const float most = (float)((1u << bits) - 1);
    float inverse[TKV_MAX_HEAD_DIM];
    for (uint32_t d = 0; d < D; d++)
        inverse[d] = step[d] > 0 ? 1.0f / step[d] : 0.0f;
    for (size_t t = 0; t < T; t++)
        for (uint32_t d = 0; d < D; d++) {
            const float code = (x[t * D + d] - low[d]) * inverse[d];
            codes[t * D + d] = nearest(code < most ? (code > 0 ? code : 0) : most);
        }
}

static void pack(const uint8_t *codes, tkv_kind kind, uint32_t D, uint32_t bits, uint8_t *out)
{
    const uint32_t per_unit = 8 / bits;
    memset(out, 0, tkv_visual_code_bytes(bits, D));
    for (size_t g = 0; g < D; g++) {
        uint8_t *unit = out + g / per_unit * TKV_VISUAL_UNIT;
        const uint32_t shift = (uint32_t)(g % per_unit) * bits;
        for (size_t i = 0; i < TKV_VISUAL_UNIT; i++)
            unit[i] = (uint8_t)(unit[i] | codes[tkv_visual_place(kind, D, g, i)] << shift);
    }
}

static void encode(const struct tkv_codec_env *env, const struct width *w, float *x, uint64_t valid,
                   uint8_t *page, void *scratch)
{
    const uint32_t D = env->head_dim;
    const uint8_t *ranges = env->span;
    float low[TKV_MAX_HEAD_DIM], step[TKV_MAX_HEAD_DIM];
    if (!ranges) {
        fit_page(env, w, x, valid, page, scratch);
        ranges = page;
        page += span_bytes(D, env->kind);
    }
    read_ranges(ranges, D, w->bits, low, step);
    uint8_t *codes = scratch;
    quantize(x, low, step, D, w->bits, codes);
    for (size_t t = 0; t < T; t++)
        if (!(valid >> t & 1))
            memset(codes + t * D, 0, D);
    pack(codes, env->kind, D, w->bits, page);
}

static void decode(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page, float *x)
{
    const uint32_t D = env->head_dim, per_unit = 8 / bits, mask = (1u << bits) - 1;
    float low[TKV_MAX_HEAD_DIM], step[TKV_MAX_HEAD_DIM];
    read_ranges(env->span ? env->span : page, D, bits, low, step);
    if (!env->span)
        page += span_bytes(D, env->kind);
    for (size_t g = 0; g < D; g++) {
        const uint8_t *unit = page + g / per_unit * TKV_VISUAL_UNIT;
        for (size_t i = 0; i < TKV_VISUAL_UNIT; i++) {
            const size_t at = tkv_visual_place(env->kind, D, g, i), d = at % D;
            const uint32_t code = (uint32_t)unit[i] >> (g % per_unit * bits) & mask;
            x[at] = low[d] + (float)(int32_t)code * step[d];
        }
    }
}

#define VISUAL(n, wire_id, less, what)                                                             \
    static size_t page_bytes_##n(uint32_t D, tkv_kind kind)                                        \
    {                                                                                              \
        return span_bytes(D, kind) + tkv_visual_code_bytes(n, D);                                  \
    }                                                                                              \
    static void encode_##n(const struct tkv_codec_env *env, float *x, uint64_t valid,              \
                           uint8_t *page, void *scratch)                                           \
    {                                                                                              \
        encode(env, &width##n, x, valid, page, scratch);                                           \
    }                                                                                              \
    static void decode_##n(const struct tkv_codec_env *env, const uint8_t *page, float *x)         \
    {                                                                                              \
        decode(env, n, page, x);                                                                   \
    }                                                                                              \
    static void fit_##n(const struct tkv_codec_env *env, const uint16_t *rows, size_t n_rows,      \
                        void *span)                                                                \
    {                                                                                              \
        fit(env, &width##n, rows, n_rows, span);                                                   \
    }                                                                                              \
    static void ranges_##n(const struct tkv_codec_env *env, float *low, float *step)               \
    {                                                                                              \
        read_ranges(env->span, env->head_dim, n, low, step);                                       \
    }                                                                                              \
    const struct tkv_codec_ops tkv_codec_visual##n = {                                             \
        .name = "visual" #n,                                                                       \
        .summary = what,                                                                           \
        .id = wire_id,                                                                             \
        .caps = TKV_CAP_WHOLE_PAGE,                                                                \
        .planes = 1,                                                                               \
        .code_bits = 16 * n,                                                                       \
        .supports = supports,                                                                      \
        .page_bytes = page_bytes_##n,                                                              \
        .scratch_bytes = scratch_bytes,                                                            \
        .encode = encode_##n,                                                                      \
        .decode = decode_##n,                                                                      \
        .span_bytes = span_bytes,                                                                  \
        .fit = fit_##n,                                                                            \
        .ranges = ranges_##n,                                                                      \
        .narrows = less,                                                                           \
    }

VISUAL(4, 35, 0, "visual spans: a range a channel, 4 bits a value");
VISUAL(2, 34, 3, "visual spans: a range a channel, 2 bits a value, logits calibrated");
VISUAL(1, 33, 3, "visual spans: a range a channel, 1 bit a value, logits calibrated");
