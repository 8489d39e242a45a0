/* Codes of keys for the retrieval index: made when a key is written, kept while it is there. */
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/half.h"
#include "base/parallel.h"
#include "base/status.h"
#include "cache/cache.h"

#define T TKV_PAGE_TOKENS

/* Keys that are coded in one go. */
#define BLOCK 16

static bool is_dense(const tkv_spec *spec, uint32_t layer)
{
    return layer < TKV_SPEC_LAYERS && spec->dense[layer / 64] >> layer % 64 & 1;
}

size_t tkv_codes_bytes(const struct tkv_layer *layer)
{
    return sizeof(struct tkv_codes) + (size_t)layer->shape.n_kv_heads * T * sizeof(uint16_t);
}

static size_t value_bytes(const struct tkv_layer *layer)
{
    return (size_t)layer->shape.n_kv_heads * layer->head_dim[TKV_V] * sizeof(double);
}

void tkv_codes_release(tkv_cache *cache, struct tkv_layer *layer)
{
    const tkv_allocator *a = &cache->ctx->allocator;
    struct tkv_layer_index *index = layer->index;
    if (!index)
        return;
    tkv_free(a, index->tally.room.at, index->tally.room.bytes);
    tkv_free(a, index->value_sum, value_bytes(layer));
    tkv_free(a, index->models, layer->shape.n_kv_heads * sizeof *index->models);
    tkv_free(a, index->room, index->room_bytes);
    tkv_free(a, index, sizeof *index);
    layer->index = NULL;
}

static tkv_status bind_memory(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err)
{
    const tkv_allocator *a = &cache->ctx->allocator;
    const tkv_layer_params *shape = &layer->shape;
    struct tkv_layer_index *index = layer->index;
    index->room = tkv_alloc(a, index->room_bytes);
    index->models = tkv_alloc_zero(a, shape->n_kv_heads * sizeof *index->models);
    index->value_sum = tkv_alloc_zero(a, value_bytes(layer));
    if (!index->room || !index->models || !index->value_sum)
        return tkv_fail_nomem(err, index->room_bytes, "an index");
    const tkv_status status =
        tkv_index_bind(&cache->book->file, shape->model_layer, shape->n_kv_heads,
                       layer->head_dim[TKV_K], index->room, index->models, err);
    if (status != TKV_OK)
        return status;
    index->n_codes = index->models[0].n_codes;
    return TKV_OK;
}

tkv_status tkv_codes_bind(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err)
{
    const uint32_t number = layer->shape.model_layer;
    if (!cache->spec.index || is_dense(&cache->spec, number))
        return TKV_OK;
    if (layer->shape.n_axes > 1)
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "index=qvq knows one position a token, layer %u has M-RoPE: name it in "
                        "dense=, or leave index= out",
                        number);
    const size_t bytes =
        cache->book ? tkv_index_model_bytes(&cache->book->file, number, layer->shape.n_kv_heads,
                                            layer->head_dim[TKV_K])
                    : 0;
    if (bytes == 0)
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "index=qvq finds no index for layer %u in %s: run tightkv calibrate "
                        "--index, or leave index= out",
                        number, cache->book ? "its book" : "a book, for there is none");
    if (!layer->turns)
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "index=qvq needs the model's RoPE, which the book does not name: run "
                        "tightkv calibrate --index again");
    layer->index = tkv_alloc_zero(&cache->ctx->allocator, sizeof *layer->index);
    if (!layer->index)
        return tkv_fail_nomem(err, sizeof *layer->index, "an index");
    layer->index->room_bytes = bytes;
    return bind_memory(cache, layer, err);
}

tkv_status tkv_codes_open(struct tkv_layer *layer, struct tkv_page *page, tkv_error *err)
{
    if (page->codes)
        return TKV_OK;
    page->codes = tkv_pool_take(layer->index->pool);
    if (!page->codes)
        return tkv_fail_nomem(err, layer->index->pool->record_bytes, "an index");
    memset(page->codes, 0, tkv_codes_bytes(layer)); /* codes that are none must be in range too */
    return TKV_OK;
}

void tkv_codes_forget(struct tkv_layer *layer, struct tkv_page *page, uint64_t rows)
{
    if (!page->codes)
        return;
    layer->index->n_lost += tkv_count_bits(page->codes->known & rows);
    page->codes->known &= ~rows;
}

void tkv_codes_drop(struct tkv_layer *layer, struct tkv_page *page)
{
    if (!page->codes)
        return;
    tkv_codes_forget(layer, page, UINT64_MAX);
    tkv_pool_give(layer->index->pool, page->codes);
    page->codes = NULL;
}

void tkv_codes_copy(struct tkv_layer *layer, struct tkv_page *dst, const struct tkv_page *src)
{
    if (!src->codes)
        return;
    memcpy(dst->codes, src->codes, tkv_codes_bytes(layer));
    dst->codes->known &= ~src->spanned;
}

/* Keys on their way to codes. */
struct batch {
    const tkv_cache *cache;
    struct tkv_layer *layer;
    const int64_t *slots;
    size_t n, n_blocks;
};

/* A row that is to have a code: its position is known, and it is no visual row of a span to be. */
static bool is_codable(const struct tkv_layer *layer, const struct tkv_page *page, uint32_t t)
{
    return tkv_open_info(page)->pos[t] >= 0 && !(tkv_page_waiting(layer, page) >> t & 1);
}

/* Item = (head, block of rows). */
static void code_block(void *arg, size_t item, uint32_t ith)
{
    const struct batch *b = arg;
    const uint32_t D = b->layer->head_dim[TKV_K], head = (uint32_t)(item / b->n_blocks);
    const size_t first = item % b->n_blocks * BLOCK;
    const size_t end = first + BLOCK < b->n ? first + BLOCK : b->n;
    float keys[BLOCK * TKV_MAX_HEAD_DIM];
    uint16_t codes[BLOCK], *out[BLOCK];
    size_t n = 0;
    (void)ith;
    for (size_t i = first; i < end; i++) {
        uint32_t t, stream;
        const struct tkv_page *page = tkv_page_of(b->layer, b->slots[i], &t, &stream);
        if (!is_codable(b->layer, page, t))
            continue;
        float *key = keys + n * D;
        b->cache->ctx->kernels.f16_to_f32(
            tkv_open_rows(b->layer, page, TKV_K, head) + (size_t)t * D, key, D);
        tkv_turn_back(b->cache, b->layer, tkv_open_info(page)->pos[t], key);
        out[n++] = page->codes->code + head * T + t;
    }
    if (n == 0)
        return;
    tkv_index_encode(&b->cache->ctx->kernels, &b->layer->index->models[head], keys, n, codes);
    for (size_t i = 0; i < n; i++)
        *out[i] = codes[i];
}

void tkv_codes_write(const tkv_cache *cache, struct tkv_layer *layer, size_t n,
                     const int64_t *slots)
{
    uint32_t t, stream;
    struct batch b = {cache, layer, slots, n, (n + BLOCK - 1) / BLOCK};
    for (size_t i = 0; i < n; i++) { /* what the rows held before */
        struct tkv_page *page = tkv_page_of(layer, slots[i], &t, &stream);
        tkv_codes_forget(layer, page, (uint64_t)1 << t);
    }
    const size_t n_items = b.n_blocks * layer->shape.n_kv_heads;
    if (b.n_blocks > 1)
        tkv_parallel(&cache->ctx->executor, n_items, code_block, &b);
    for (size_t item = 0; b.n_blocks == 1 && item < n_items; item++)
        code_block(&b, item, 0); /* less work than waking threads */
    for (size_t i = 0; i < n; i++) {
        struct tkv_page *page = tkv_page_of(layer, slots[i], &t, &stream);
        if (is_codable(layer, page, t))
            page->codes->known |= (uint64_t)1 << t;
    }
}

/* Rows that are written over or forgotten stay in the mean until it has seen twice as many as there
 * are; then all count half. */
static void fade(struct tkv_layer *layer)
{
    struct tkv_layer_index *index = layer->index;
    const size_t n = (size_t)layer->shape.n_kv_heads * layer->head_dim[TKV_V];
    if (index->n_values <= 2 * (double)layer->n_rows[TKV_V])
        return;
    for (size_t i = 0; i < n; i++)
        index->value_sum[i] /= 2;
    index->n_values /= 2;
}

void tkv_codes_mean(const tkv_cache *cache, struct tkv_layer *layer, size_t n, const int64_t *slots)
{
    const uint32_t D = layer->head_dim[TKV_V];
    float value[TKV_MAX_HEAD_DIM];
    for (size_t i = 0; i < n; i++) {
        uint32_t t, stream;
        const struct tkv_page *page = tkv_page_of(layer, slots[i], &t, &stream);
        for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++) {
            double *sum = layer->index->value_sum + (size_t)head * D;
            const uint16_t *row = tkv_open_rows(layer, page, TKV_V, head) + (size_t)t * D;
            if (!tkv_halves_finite(row, D))
                continue;
            cache->ctx->kernels.f16_to_f32(row, value, D);
            for (uint32_t d = 0; d < D; d++)
                sum[d] += (double)value[d];
        }
        layer->index->n_values++;
        fade(layer);
    }
}
