/* kivi4, kivi2: asymmetric codes after KIVI (arXiv 2402.02750), without rotation: keys per channel
 * in groups of 32 tokens, values per token in groups of 32 channels, the last one shorter where the
 * head size asks for it. A value is min + code * delta, both f16.
 *
 * Page: for K the groups of channel 0 (tokens 0..31, 32..63), of channel 1, ...; for V those of
 * token 0, of token 1, ...: first all codes, then every group's min, then every group's delta. The
 * codes of a group of n values take b = n * bits / 8 bytes: value i is in byte i % b, at bit i / b
 * * bits. */
#include <string.h>

#include "codec/codec.h"
#include "codec/groups.h"

#define TOKENS     TKV_PAGE_TOKENS
#define GROUP      TKV_GROUP
#define MAX_GROUPS (TOKENS * TKV_MAX_HEAD_DIM / GROUP)

/* How a page falls into groups: lines (channels of K, tokens of V) of equal groups. */
struct shape {
    uint32_t bits;
    size_t n_lines, line_values, line_groups, line_bytes;
};

static struct shape page_shape(uint32_t bits, uint32_t head_dim, tkv_kind kind)
{
    const size_t n = kind == TKV_K ? TOKENS : head_dim;
    return (struct shape){
        .bits = bits,
        .n_lines = kind == TKV_K ? head_dim : TOKENS,
        .line_values = n,
        .line_groups = (n + GROUP - 1) / GROUP,
        .line_bytes = n * bits / 8,
    };
}

static bool supports(uint32_t head_dim, tkv_kind kind)
{
    (void)kind;
    return head_dim > 0 && head_dim <= TKV_MAX_HEAD_DIM && head_dim % 16 == 0;
}

static size_t page_bytes(uint32_t bits, uint32_t head_dim, tkv_kind kind)
{
    const struct shape s = page_shape(bits, head_dim, kind);
    return s.n_lines * (s.line_bytes + 4 * s.line_groups);
}

/* Gives values that do not exist that of one that does, so that they change no range. */
static void fill_absent(float *x, size_t n, uint32_t valid)
{
    size_t first = 0;
    while (first < n && !(valid >> first & 1))
        first++;
    for (size_t i = 0; i < n; i++)
        if (!(valid >> i & 1))
            x[i] = first < n ? x[first] : 0.0f;
}

/* Codes n values; bit i of `valid` says that value i exists, the others get code 0. Destroys x. */
static void encode_group(float *x, size_t n, uint32_t valid, uint32_t bits, uint8_t *codes,
                         uint8_t *min_at, uint8_t *delta_at)
{
    const float top = (float)((1u << bits) - 1u);
    float low, high;
    uint8_t code[GROUP];
    if (valid != 0xffffffffu)
        fill_absent(x, n, valid);
    tkv_group_range(x, n, &low, &high);
    tkv_put_half(min_at, tkv_f32_to_half(low));
    low = tkv_get_half(min_at);
    tkv_put_half(delta_at, high > low ? tkv_f32_to_half((high - low) / top) : 0);
    const float delta = tkv_get_half(delta_at), inverse = delta > 0.0f ? 1.0f / delta : 0.0f;

    for (size_t i = 0; i < n; i++) {
        const float q = (x[i] - low) * inverse;
        code[i] = (uint8_t)((q > top ? top : q > 0.0f ? q : 0.0f) + 0.5f);
    }
    for (size_t i = 0; valid != 0xffffffffu && i < n; i++)
        code[i] = valid >> i & 1 ? code[i] : 0;
    tkv_group_pack(code, n, bits, codes);
}

/* One line: codes at `codes`, parameters at min_at and delta_at. */
struct line {
    uint8_t *codes, *min_at, *delta_at;
};

static struct line line_at(const struct shape *s, uint8_t *page, size_t l)
{
    uint8_t *params = page + s->n_lines * s->line_bytes;
    return (struct line){
        .codes = page + l * s->line_bytes,
        .min_at = params + 2 * s->line_groups * l,
        .delta_at = params + 2 * s->line_groups * (s->n_lines + l),
    };
}

static void encode(const struct tkv_codec_env *env, uint32_t bits, const float *x, uint64_t valid,
                   uint8_t *page)
{
    const size_t D = env->head_dim;
    const struct shape s = page_shape(bits, env->head_dim, env->kind);
    for (size_t l = 0; l < s.n_lines; l++) {
        struct line line = line_at(&s, page, l);
        for (size_t i = 0; i < s.line_values; i += GROUP) {
            const size_t n = s.line_values - i < GROUP ? s.line_values - i : GROUP;
            float group[GROUP] = {0};
            for (size_t j = 0; j < n; j++)
                group[j] = env->kind == TKV_K ? x[(i + j) * D + l] : x[l * D + i + j];
            const uint64_t live = env->kind == TKV_K ? valid >> i : 0 - (valid >> l & 1);
            encode_group(group, n, (uint32_t)live, bits, line.codes, line.min_at, line.delta_at);
            line.codes += n * bits / 8, line.min_at += 2, line.delta_at += 2;
        }
    }
}

/* The parameters of every group of a page. */
struct params {
    float least[MAX_GROUPS], delta[MAX_GROUPS];
};

static void read_params(const struct tkv_codec_env *env, const struct shape *s, const uint8_t *page,
                        struct params *params)
{
    const size_t n = s->n_lines * s->line_groups;
    uint16_t half[2 * MAX_GROUPS];
    memcpy(half, page + s->n_lines * s->line_bytes, 4 * n);
    env->kernels->f16_to_f32(half, params->least, n);
    env->kernels->f16_to_f32(half + n, params->delta, n);
}

static void decode_line(const struct tkv_codec_env *env, const struct shape *s, const uint8_t *page,
                        const struct params *params, size_t l, float *x)
{
    const size_t full = s->line_values / GROUP, first = l * s->line_groups;
    const uint8_t *codes = page + l * s->line_bytes;
    env->kernels->kivi_groups(codes, params->least + first, params->delta + first, full, s->bits,
                              x);
    if (full == s->line_groups)
        return;
    tkv_group_values(codes + full * GROUP * s->bits / 8, s->line_values - full * GROUP, s->bits,
                     params->least[first + full], params->delta[first + full], x + full * GROUP);
}

/* Lines one after another: the f32 tile of both kinds. */
static void tile_f32(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                     float *tile)
{
    const struct shape s = page_shape(bits, env->head_dim, env->kind);
    struct params params;
    read_params(env, &s, page, &params);
    for (size_t l = 0; l < s.n_lines; l++)
        decode_line(env, &s, page, &params, l, tile + l * s.line_values);
}

static void decode(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page, float *x)
{
    if (env->kind == TKV_V) {
        tile_f32(env, bits, page, x);
        return;
    }
    const struct shape s = page_shape(bits, env->head_dim, env->kind);
    struct params params;
    read_params(env, &s, page, &params);
    for (size_t l = 0; l < s.n_lines; l++) {
        float line[TOKENS];
        decode_line(env, &s, page, &params, l, line);
        for (size_t t = 0; t < TOKENS; t++)
            x[t * env->head_dim + l] = line[t];
    }
}

/* Operations that know only the page: one set for each width. */
#define KIVI(bits, wire_id)                                                                        \
    static size_t page_bytes_##bits(uint32_t head_dim, tkv_kind kind)                              \
    {                                                                                              \
        return page_bytes(bits, head_dim, kind);                                                   \
    }                                                                                              \
    static void encode_##bits(const struct tkv_codec_env *env, float *x, uint64_t valid,           \
                              uint8_t *page, void *scratch)                                        \
    {                                                                                              \
        (void)scratch;                                                                             \
        encode(env, bits, x, valid, page);                                                         \
    }                                                                                              \
    static void decode_##bits(const struct tkv_codec_env *env, const uint8_t *page, float *x)      \
    {                                                                                              \
        decode(env, bits, page, x);                                                                \
    }                                                                                              \
    static void tile_f32_##bits(const struct tkv_codec_env *env, const uint8_t *page, float *tile) \
    {                                                                                              \
        tile_f32(env, bits, page, tile);                                                           \
    }                                                                                              \
    const struct tkv_codec_ops tkv_codec_kivi##bits = {                                            \
        .name = "kivi" #bits,                                                                      \
        .summary = "keys per channel, values per token, groups of 32 in " #bits " bits",           \
        .id = wire_id,                                                                             \
        .caps = TKV_CAP_WHOLE_PAGE,                                                                \
        .code_bits = 16 * bits,                                                                    \
        .supports = supports,                                                                      \
        .page_bytes = page_bytes_##bits,                                                           \
        .encode = encode_##bits,                                                                   \
        .decode = decode_##bits,                                                                   \
        .tile_f32 = tile_f32_##bits,                                                               \
    }

KIVI(4, 10);
KIVI(2, 11);
