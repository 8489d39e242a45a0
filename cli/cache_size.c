/* The size of a coded cache. The library itself says how much a page, a table and an open page
 * take: a cache of one and of two heads, and two lengths of it, are filled; the bytes are linear
 * in both beyond that. Codecs that cannot code without a book have pages of a known size all the
 * same: others stand in for them. */
#include "cache_size.h"

#include <stdlib.h>

#include "cli.h"

enum {
    BATCH = 512,         /* tokens between two calls of seal, as llama.cpp's micro-batch */
    LEAST_TOKENS = 2048, /* beyond sink and tail: from here on a page more is a sealed page more */
    LENGTH_STEP = 1024
};

bool cache_can_code(const tkv_spec *spec, uint32_t k_head_dim, uint32_t v_head_dim)
{
    return tkv_page_bytes(spec->k, TKV_K, k_head_dim) != 0 &&
           tkv_page_bytes(spec->v, TKV_V, v_head_dim) != 0;
}

static bool needs_book(tkv_codec codec)
{
    tkv_codec_info info = {.struct_size = sizeof(info)};
    for (uint32_t i = 0; tkv_codec_describe(i, &info) == TKV_OK; i++)
        if (info.id == codec.id)
            return info.needs_book;
    return false;
}

/* Puts q8 in a codec's place; returns by how much a page of it is too large. */
static double stand_in(tkv_codec *codec, tkv_kind kind, uint32_t head_dim)
{
    if (!needs_book(*codec))
        return 0;
    const double real = (double)tkv_page_bytes(*codec, kind, head_dim);
    tkv_error err;
    if (tkv_codec_find("q8", codec, &err) != TKV_OK)
        return 0;
    return (double)tkv_page_bytes(*codec, kind, head_dim) - real;
}

static tkv_status write_batch(tkv_cache *cache, const struct cache_shape *s, const float *rows,
                              uint32_t first, uint32_t n, tkv_error *err)
{
    int64_t slots[BATCH];
    int32_t pos[BATCH];
    for (uint32_t i = 0; i < n; i++) {
        slots[i] = (first + i) % s->n_slots;
        pos[i] = (int32_t)(first + i);
    }
    tkv_rows k = {rows, TKV_F32, s->n_kv_heads * s->k_head_dim * sizeof(float)};
    tkv_rows v = {rows, TKV_F32, s->n_kv_heads * s->v_head_dim * sizeof(float)};
    tkv_status status = tkv_cache_write(cache, 0, n, slots, pos, NULL, k, v, err);
    return status == TKV_OK ? tkv_cache_seal(cache, 0, err) : status;
}

/* too_large: bytes by which a page of keys and one of values are so. */
static tkv_status fill(tkv_cache *cache, const struct cache_shape *s, double too_large,
                       double *n_bytes, tkv_error *err)
{
    tkv_layer_params layer = {.struct_size = sizeof(layer),
                              .n_kv_heads = s->n_kv_heads,
                              .k_head_dim = s->k_head_dim,
                              .v_head_dim = s->v_head_dim,
                              .n_slots = s->n_slots,
                              .n_streams = 1};
    uint32_t index;
    tkv_status status = tkv_cache_add_layer(cache, &layer, &index, err);
    uint32_t widest = s->k_head_dim > s->v_head_dim ? s->k_head_dim : s->v_head_dim;
    float *rows = cli_alloc((size_t)BATCH * s->n_kv_heads * widest, sizeof(*rows));
    for (size_t i = 0; i < (size_t)BATCH * s->n_kv_heads * widest; i++)
        rows[i] = (float)(i * 37 % 101) - 50;
    for (uint32_t at = 0; at < s->n_tokens && status == TKV_OK; at += BATCH)
        status = write_batch(cache, s, rows, at,
                             s->n_tokens - at < BATCH ? s->n_tokens - at : BATCH, err);
    free(rows);
    tkv_cache_stats stats = {.struct_size = sizeof(stats)};
    if (status == TKV_OK)
        status = tkv_cache_get_stats(cache, &stats);
    if (status == TKV_OK)
        *n_bytes = (double)(stats.sealed_bytes + stats.open_bytes + stats.meta_bytes) -
                   (double)stats.n_pages_sealed * s->n_kv_heads * too_large;
    return status;
}

static tkv_status size_of_filled(tkv_context *ctx, const tkv_spec *spec, struct cache_shape shape,
                                 double *n_bytes, tkv_error *err)
{
    tkv_spec filled = *spec;
    filled.ram = 0; /* what is in a file counts too */
    filled.spill[0] = '\0';
    const double too_large =
        stand_in(&filled.k, TKV_K, shape.k_head_dim) + stand_in(&filled.v, TKV_V, shape.v_head_dim);
    tkv_cache *cache = NULL;
    tkv_status status = tkv_cache_create(ctx, &filled, &cache, err);
    if (status == TKV_OK)
        status = fill(cache, &shape, too_large, n_bytes, err);
    tkv_cache_destroy(cache);
    return status;
}

/* From one head and two to all. */
static tkv_status size_of_heads(tkv_context *ctx, const tkv_spec *spec, struct cache_shape shape,
                                double *n_bytes, tkv_error *err)
{
    double one, two, n_heads = shape.n_kv_heads;
    shape.n_kv_heads = 1;
    tkv_status status = size_of_filled(ctx, spec, shape, &one, err);
    shape.n_kv_heads = 2;
    if (status == TKV_OK)
        status = size_of_filled(ctx, spec, shape, &two, err);
    if (status == TKV_OK)
        *n_bytes = one + (n_heads - 1) * (two - one);
    return status;
}

tkv_status cache_size(tkv_context *ctx, const tkv_spec *spec, const struct cache_shape *shape,
                      double *n_bytes, tkv_error *err)
{
    struct cache_shape s = *shape;
    /* Around a ring again the next lap leaves what the last one left. */
    if (s.n_tokens > 2 * (uint64_t)s.n_slots)
        s.n_tokens = s.n_slots + s.n_tokens % s.n_slots;
    uint64_t least = (uint64_t)spec->sink + spec->tail + LEAST_TOKENS + LENGTH_STEP;
    if (s.n_tokens > s.n_slots || s.n_tokens < least + LENGTH_STEP)
        return size_of_heads(ctx, spec, s, n_bytes, err);

    uint32_t n_left_out = (uint32_t)(s.n_tokens - least) / LENGTH_STEP;
    s.n_tokens -= n_left_out * LENGTH_STEP;
    s.n_slots -= n_left_out * LENGTH_STEP;
    double longer, shorter;
    tkv_status status = size_of_heads(ctx, spec, s, &longer, err);
    s.n_tokens -= LENGTH_STEP;
    s.n_slots -= LENGTH_STEP;
    if (status == TKV_OK)
        status = size_of_heads(ctx, spec, s, &shorter, err);
    if (status == TKV_OK)
        *n_bytes = longer + n_left_out * (longer - shorter);
    return status;
}
