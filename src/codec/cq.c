/* cq: coupled quantisation, 4 or 8 neighbouring channels to one code of 8 bits (arXiv 2405.03917;
 * FORMAT.md, cq).
 *
 * Every group of every head has centroids of its own, 256 of 8-bit values about a base. Nothing else
 * is stored, no scale either: a row is its codes. Keys are coded as before RoPE, where neighbouring
 * channels depend on each other. The search is in integers. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "codec/book_tensor.h"
#include "codec/codec.h"
#include "format/cq.h"

#define T     TKV_PAGE_TOKENS
#define CODES TKV_CQ_CODES

/* Of a head; the tables follow. */
struct model {
    uint32_t dim;                 /* channels of a group */
    float step[TKV_MAX_HEAD_DIM]; /* a channel's value = code * step + base */
    float fine[TKV_MAX_HEAD_DIM]; /* TKV_CQ_FINE / step */
    float base[TKV_MAX_HEAD_DIM];
};

static size_t tables_at(void)
{
    return (sizeof(struct model) + 63) / 64 * 64;
}

/* [D][256]: what a code means for a channel. */
static int8_t *values(const struct model *m)
{
    return (int8_t *)(uintptr_t)m + tables_at();
}

/* [group][256][dim], times 256: for the search. */
static int16_t *centroids(const struct model *m, uint32_t D)
{
    return (int16_t *)(void *)(values(m) + (size_t)D * CODES);
}

/* [group][256]: tkv_kernels.cq_nearest */
static int32_t *offsets(const struct model *m, uint32_t D)
{
    return (int32_t *)(void *)(centroids(m, D) + (size_t)D * CODES);
}

static size_t model_bytes(uint32_t D)
{
    return tables_at() + (size_t)D * CODES * (1 + 2) + (size_t)D / 4 * CODES * 4;
}

static bool supports(uint32_t D, tkv_kind kind)
{
    (void)kind;
    return D > 0 && D <= TKV_MAX_HEAD_DIM && D % 16 == 0;
}

/* ---- binding ------------------------------------------------------------------------------- */

/* "cq4.blk.3.attn_k.<what>" and its like. */
static tkv_status find(const char *codec, const struct tkv_codec_env *env,
                       const struct tkv_gguf *book, const struct tkv_place *place, const char *what,
                       enum tkv_gguf_type type, size_t n_values, struct tkv_gguf_tensor *out,
                       tkv_error *err)
{
    char prefix[8], name[TKV_BOOK_NAME];
    snprintf(prefix, sizeof prefix, "%s.", codec);
    if (!tkv_book_tensor_of(book, prefix, env->kind, place, what, name, out))
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "%s: the book has no %s: run tightkv calibrate MODEL --train cq", codec,
                        name);
    if (out->type != type || out->n_values != n_values * place->n_heads)
        return tkv_fail(err, TKV_ERR_CORRUPT, "%s: a book whose %s is not of %zu values a head",
                        codec, name, n_values);
    return TKV_OK;
}

static tkv_status read_floats(const char *codec, const struct tkv_codec_env *env,
                              const struct tkv_gguf *book, const struct tkv_place *place,
                              const char *what, size_t n, float least, float *out, tkv_error *err)
{
    struct tkv_gguf_tensor t;
    const tkv_status status = find(codec, env, book, place, what, TKV_GGUF_F32, n, &t, err);
    if (status != TKV_OK)
        return status;
    tkv_gguf_read_f32(&t, place->head * n, n, out);
    for (size_t i = 0; i < n; i++)
        if (!(out[i] >= least && out[i] <= 65504.0f))
            return tkv_fail(err, TKV_ERR_CORRUPT, "%s: a book whose %s holds %g", codec, what,
                            (double)out[i]);
    return TKV_OK;
}

/* codes: [group][256][dim] as the book has them. */
static void fill_tables(struct model *m, uint32_t D, const int8_t *codes)
{
    const uint32_t dim = m->dim;
    for (uint32_t g = 0; g < D / dim; g++)
        for (uint32_t i = 0; i < CODES; i++) {
            const size_t at = (size_t)g * CODES + i;
            int32_t square = 0;
            for (uint32_t j = 0; j < dim; j++) {
                const int8_t c = codes[at * dim + j];
                values(m)[(size_t)(g * dim + j) * CODES + i] = c;
                centroids(m, D)[at * dim + j] = (int16_t)(c * 256);
                square += c * c;
            }
            offsets(m, D)[at] = -(square * TKV_CQ_FINE / 2 * 256) + (int32_t)(CODES - 1 - i);
        }
}

static tkv_status bind(const char *codec, uint32_t dim, const struct tkv_codec_env *env,
                       const struct tkv_gguf *book, const struct tkv_place *place, void *model,
                       tkv_error *err)
{
    struct model *m = model;
    const uint32_t D = env->head_dim, n_steps = env->kind == TKV_K ? D / dim : 1;
    const size_t n_codes = (size_t)D * CODES;
    struct tkv_gguf_tensor codes;
    float step[TKV_MAX_HEAD_DIM];
    tkv_status status = find(codec, env, book, place, "codes", TKV_GGUF_I8, n_codes, &codes, err);
    if (status == TKV_OK)
        status = read_floats(codec, env, book, place, "step", n_steps, 0x1p-40f, step, err);
    if (status == TKV_OK)
        status = read_floats(codec, env, book, place, "base", D, -65504.0f, m->base, err);
    if (status != TKV_OK)
        return status;
    m->dim = dim;
    for (uint32_t d = 0; d < D; d++) {
        m->step[d] = step[d * n_steps / D];
        m->fine[d] = (float)TKV_CQ_FINE / m->step[d];
    }
    fill_tables(m, D, (const int8_t *)codes.data + place->head * n_codes);
    return TKV_OK;
}

/* ---- coding -------------------------------------------------------------------------------- */

/* Rounded to the nearest, halves up; what is out of reach stays at its edge. */
static int16_t to_fine(float x)
{
    const float most = TKV_CQ_MOST;
    const float cut = x > most ? most : x < -most ? -most : x;
    return (int16_t)((int32_t)(cut + most + 0.5f) - TKV_CQ_MOST);
}

static void encode(const struct tkv_codec_env *env, float *x, uint64_t valid, uint8_t *page,
                   void *scratch)
{
    (void)valid;
    (void)scratch;
    const struct model *m = env->model;
    const uint32_t D = env->head_dim, dim = m->dim;
    int16_t fine[8 * T]; /* [dim / 2][64][2] */
    for (uint32_t g = 0; g < D / dim; g++) {
        for (uint32_t j = 0; j < dim; j++) {
            const uint32_t d = g * dim + j;
            for (uint32_t t = 0; t < T; t++)
                fine[(j / 2 * T + t) * 2 + j % 2] =
                    to_fine((x[(size_t)t * D + d] - m->base[d]) * m->fine[d]);
        }
        env->kernels->cq_nearest(fine, centroids(m, D) + (size_t)g * CODES * dim,
                                 offsets(m, D) + (size_t)g * CODES, dim, page + (size_t)g * T);
    }
}

static void decode(const struct tkv_codec_env *env, const uint8_t *page, float *x)
{
    const struct model *m = env->model;
    const uint32_t D = env->head_dim;
    for (uint32_t d = 0; d < D; d++) {
        const uint8_t *codes = page + (size_t)(d / m->dim) * T;
        const int8_t *value = values(m) + (size_t)d * CODES;
        for (uint32_t t = 0; t < T; t++)
            x[(size_t)t * D + d] = (float)value[codes[t]] * m->step[d] + m->base[d];
    }
}

static void tile_f32(const struct tkv_codec_env *env, const uint8_t *page, float *tile)
{
    const struct model *m = env->model;
    if (env->kind == TKV_K)
        env->kernels->cq_tile_k(page, values(m), m->step, m->base, env->head_dim, m->dim, tile);
    else
        decode(env, page, tile);
}

/* Of values, which have one step a head. */
static void tile_i8(const struct tkv_codec_env *env, const uint8_t *page, struct tkv_tile_buf *buf,
                    struct tkv_tile_i8 *out)
{
    const struct model *m = env->model;
    env->kernels->cq_tile_v(page, values(m), env->head_dim, m->dim, (int8_t *)buf->codes);
    for (uint32_t t = 0; t < T; t++)
        buf->scale[t] = m->step[0];
    memcpy(buf->mean, m->base, env->head_dim * sizeof(float));
    *out = (struct tkv_tile_i8){buf->codes, 0, buf->scale, buf->mean, 1};
}

#define CQ(channels, wire_id, bits, what)                                                          \
    static size_t page_bytes_##channels(uint32_t D, tkv_kind kind)                                 \
    {                                                                                              \
        (void)kind;                                                                                \
        return (size_t)T * D / channels;                                                           \
    }                                                                                              \
    static tkv_status bind_##channels(const struct tkv_codec_env *env,                             \
                                      const struct tkv_gguf *book, const struct tkv_place *place,  \
                                      void *model, tkv_error *err)                                 \
    {                                                                                              \
        return bind("cq" #channels, channels, env, book, place, model, err);                       \
    }                                                                                              \
    const struct tkv_codec_ops tkv_codec_cq##channels = {                                          \
        .name = "cq" #channels,                                                                    \
        .summary = what,                                                                           \
        .id = wire_id,                                                                             \
        .caps = TKV_CAP_BOOK | TKV_CAP_UNROTATES,                                                  \
        .planes = 1,                                                                               \
        .code_bits = bits,                                                                         \
        .supports = supports,                                                                      \
        .page_bytes = page_bytes_##channels,                                                       \
        .encode = encode,                                                                          \
        .decode = decode,                                                                          \
        .tile_f32 = tile_f32,                                                                      \
        .tile_i8 = tile_i8,                                                                        \
        .trainer = "cq",                                                                           \
        .bind = bind_##channels,                                                                   \
        .model_bytes = model_bytes,                                                                \
    };

/* Codes of 16 values. */
CQ(4, 31, 32, "coupled channels, 4 to 8 bits; codebooks of a book")
CQ(8, 32, 16, "coupled channels, 8 to 8 bits; codebooks of a book")
