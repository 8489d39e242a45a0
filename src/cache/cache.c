/* Creating caches and layers, and what they hold. */
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/status.h"
#include "cache/cache.h"

void *tkv_cache_room(tkv_cache *cache, struct tkv_room *room, size_t bytes)
{
    if (bytes <= room->bytes)
        return room->at;
    void *grown = tkv_alloc(&cache->ctx->allocator, bytes);
    if (!grown)
        return NULL;
    tkv_free(&cache->ctx->allocator, room->at, room->bytes);
    *room = (struct tkv_room){grown, bytes};
    return grown;
}

tkv_status tkv_cache_create(tkv_context *ctx, const tkv_spec *spec, tkv_cache **out, tkv_error *err)
{
    if (!ctx || !spec || !out)
        return tkv_fail(err, TKV_ERR_INVALID, "ctx, spec and out must not be NULL");
    if (spec->struct_size != sizeof *spec || !tkv_codec_by_id(spec->k.id) ||
        !tkv_codec_by_id(spec->v.id))
        return tkv_fail(err, TKV_ERR_INVALID, "not a spec: make it with tkv_spec_parse()");
    tkv_cache *cache = tkv_alloc_zero(&ctx->allocator, sizeof *cache);
    if (!cache)
        return tkv_fail_nomem(err, sizeof *cache, "a cache");
    cache->ctx = ctx;
    cache->spec = *spec;
    const tkv_status status = tkv_tiers_open(cache, err);
    if (status != TKV_OK) {
        tkv_free(&ctx->allocator, cache, sizeof *cache);
        return status;
    }
    *out = cache;
    return TKV_OK;
}

/* Bytes of page_at, and of side_at. */
static size_t places_bytes(const struct tkv_layer *layer)
{
    return (2 * (size_t)layer->shape.n_kv_heads + 1) * sizeof(size_t);
}

static void layer_release(tkv_cache *cache, struct tkv_layer *layer)
{
    const tkv_allocator *a = &cache->ctx->allocator;
    const size_t balance_bytes =
        (size_t)layer->shape.n_kv_heads * layer->head_dim[TKV_K] * sizeof(float);
    tkv_free(a, layer->pages,
             layer->shape.n_streams * layer->pages_per_stream * sizeof *layer->pages);
    tkv_free(a, layer->streams, layer->shape.n_streams * sizeof *layer->streams);
    tkv_free(a, layer->open_pages, layer->open_capacity * sizeof *layer->open_pages);
    tkv_free(a, layer->recent, TKV_RECENT * sizeof *layer->recent);
    tkv_free(a, layer->balance, balance_bytes);
    tkv_free(a, layer->q_square, balance_bytes);
    tkv_spans_release(cache, layer);
    tkv_codes_release(cache, layer);
    tkv_free(a, layer->side_at, places_bytes(layer));
    for (int klass = 0; klass < TKV_N_CLASSES; klass++) {
        tkv_free(a, layer->page_at[klass], places_bytes(layer));
        for (int kind = TKV_K; kind <= TKV_V; kind++) {
            struct tkv_layer_codec *codec = &layer->codec[klass][kind];
            tkv_free(a, codec->models, layer->shape.n_kv_heads * codec->model_bytes);
        }
    }
}

void tkv_cache_destroy(tkv_cache *cache)
{
    if (!cache)
        return;
    const tkv_allocator *a = &cache->ctx->allocator;
    tkv_tier_destroy(cache->tier);
    for (uint32_t i = 0; i < cache->n_layers; i++)
        layer_release(cache, &cache->layers[i]);
    for (uint32_t i = 0; i < cache->n_pools; i++) {
        tkv_pool_destroy(cache->pools[i]);
        tkv_free(a, cache->pools[i], sizeof *cache->pools[i]);
    }
    tkv_turns_release(cache);
    tkv_places_release(cache);
    tkv_free(a, cache->layers, cache->layer_capacity * sizeof *cache->layers);
    tkv_free(a, cache->pools, cache->pool_capacity * sizeof(struct tkv_pool *));
    tkv_free(a, cache->scratch.at, cache->scratch.bytes);
    tkv_free(a, cache->selection.at, cache->selection.bytes);
    tkv_free(a, cache, sizeof *cache);
}

/* Doubles an array of the cache's when it is full. */
static bool grow(tkv_cache *cache, void **array, uint32_t n, uint32_t *capacity, size_t item_bytes)
{
    if (n < *capacity)
        return true;
    const uint32_t wanted = *capacity ? 2 * *capacity : 8;
    void *grown = tkv_alloc_zero(&cache->ctx->allocator, wanted * item_bytes);
    if (!grown)
        return false;
    if (n)
        memcpy(grown, *array, n * item_bytes);
    tkv_free(&cache->ctx->allocator, *array, *capacity * item_bytes);
    *array = grown;
    *capacity = wanted;
    return true;
}

/* The pool of a record size; layers of the same shape share it. */
static struct tkv_pool *pool_for(tkv_cache *cache, size_t record_bytes)
{
    const size_t rounded = tkv_align_up(record_bytes);
    for (uint32_t i = 0; i < cache->n_pools; i++)
        if (cache->pools[i]->record_bytes == rounded)
            return cache->pools[i];
    void *pools = cache->pools;
    if (!grow(cache, &pools, cache->n_pools, &cache->pool_capacity, sizeof(struct tkv_pool *)))
        return NULL;
    cache->pools = pools;
    struct tkv_pool *pool = tkv_alloc(&cache->ctx->allocator, sizeof *pool);
    if (!pool)
        return NULL;
    tkv_pool_init(pool, &cache->ctx->allocator, rounded);
    cache->pools[cache->n_pools++] = pool;
    return pool;
}

static bool same_codec(tkv_codec a, tkv_codec b)
{
    return a.id == b.id && a.flags == b.flags;
}

static tkv_status choose_codec(struct tkv_layer *layer, uint8_t klass, tkv_kind kind,
                               tkv_codec chosen, tkv_error *err)
{
    const struct tkv_codec_ops *ops = tkv_codec_by_id(chosen.id);
    const uint32_t D = layer->head_dim[kind];
    if (kind == TKV_V && ops->caps & TKV_CAP_KEYS_ONLY)
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "%s codes keys only: give values a codec of their own, such as turbo4",
                        ops->name);
    if (!ops->supports(D, kind))
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "%s cannot code %s of head size %u: a multiple of %d up to %d is needed; "
                        "keep this layer exact",
                        ops->name, kind == TKV_K ? "keys" : "values", D,
                        ops->supports(16, kind) ? 16 : 32, TKV_MAX_HEAD_DIM);
    const bool models = ops->caps & (TKV_CAP_LEARNS | TKV_CAP_BOOK);
    layer->codec[klass][kind] = (struct tkv_layer_codec){
        .ops = ops,
        .flags = chosen.flags,
        .rotates = (ops->caps & TKV_CAP_ROTATES) && !(chosen.flags & TKV_CODEC_NO_ROTATION),
        .turns = kind == TKV_K && (ops->caps & TKV_CAP_TURNS),
        .unrotates = kind == TKV_K && (ops->caps & TKV_CAP_UNROTATES),
        .learned = ops->basis != NULL,
        .model_bytes = models ? tkv_align_up(ops->model_bytes(D)) : 0,
    };
    return TKV_OK;
}

/* Bytes that stand once a span, for place i of page_at. */
static size_t once_bytes(const struct tkv_layer *layer, uint32_t i)
{
    const tkv_kind kind = i % 2 ? TKV_V : TKV_K;
    const struct tkv_codec_ops *ops = layer->codec[TKV_SPAN_VISUAL][kind].ops;
    return ops->span_bytes ? ops->span_bytes(layer->head_dim[kind], kind) : 0;
}

/* Where the pages of a class's heads lie; models from a book decide how long they are. */
static tkv_status lay_out_pages(const tkv_cache *cache, struct tkv_layer *layer, uint8_t klass,
                                tkv_error *err)
{
    const uint32_t n_heads = layer->shape.n_kv_heads;
    size_t at = 0, *page_at = tkv_alloc(&cache->ctx->allocator, places_bytes(layer));
    if (!page_at)
        return tkv_fail_nomem(err, places_bytes(layer), "a layer");
    for (uint32_t i = 0; i < 2 * n_heads; i++) {
        const tkv_kind kind = i % 2 ? TKV_V : TKV_K;
        const struct tkv_codec_ops *ops = layer->codec[klass][kind].ops;
        const struct tkv_codec_env env = tkv_layer_env(cache, layer, klass, kind, i / 2);
        size_t bytes = ops->page_bytes(env.head_dim, kind);
        size_t code_bytes = (size_t)TKV_PAGE_TOKENS * env.head_dim / 16 * ops->code_bits / 8;
        if (ops->bound_bytes)
            bytes = ops->bound_bytes(&env, &code_bytes);
        page_at[i] = at;
        at += tkv_align_up(bytes - (klass == TKV_SPAN_VISUAL ? once_bytes(layer, i) : 0));
        layer->code_bytes[klass] += code_bytes;
    }
    page_at[2 * n_heads] = at;
    layer->page_at[klass] = page_at;
    return TKV_OK;
}

static tkv_status lay_out_sides(const tkv_cache *cache, struct tkv_layer *layer, tkv_error *err)
{
    const uint32_t n = 2 * layer->shape.n_kv_heads;
    layer->side_at = tkv_alloc(&cache->ctx->allocator, places_bytes(layer));
    if (!layer->side_at)
        return tkv_fail_nomem(err, places_bytes(layer), "a layer");
    layer->side_at[0] = 0;
    for (uint32_t i = 0; i < n; i++)
        layer->side_at[i + 1] = layer->side_at[i] + tkv_align_up(once_bytes(layer, i));
    return TKV_OK;
}

static bool has_cap(const struct tkv_layer *layer, uint16_t cap)
{
    return (layer->codec[TKV_SPAN_TEXT][TKV_K].ops->caps |
            layer->codec[TKV_SPAN_VISUAL][TKV_K].ops->caps) &
           cap;
}

static tkv_status layer_codecs(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err)
{
    const tkv_spec *spec = &cache->spec;
    const tkv_codec chosen[TKV_N_CLASSES][2] = {
        {spec->k, spec->v},
        {spec->visual_k.id ? spec->visual_k : spec->k,
         spec->visual_v.id ? spec->visual_v : spec->v},
    };
    tkv_status status = TKV_OK;
    for (uint8_t klass = 0; klass < TKV_N_CLASSES && status == TKV_OK; klass++)
        for (int kind = TKV_K; kind <= TKV_V && status == TKV_OK; kind++)
            status = choose_codec(layer, klass, (tkv_kind)kind, chosen[klass][kind], err);
    if (status == TKV_OK)
        status = tkv_layer_bind(cache, layer, err);
    for (uint8_t klass = 0; klass < TKV_N_CLASSES && status == TKV_OK; klass++)
        status = lay_out_pages(cache, layer, klass, err);
    if (status == TKV_OK)
        status = lay_out_sides(cache, layer, err);
    if (status == TKV_OK &&
        (cache->spec.index || has_cap(layer, TKV_CAP_TURNS | TKV_CAP_UNROTATES)))
        status = tkv_turns_find(cache, layer, err);
    if (status == TKV_OK)
        status = tkv_codes_bind(cache, layer, err);
    if (layer->index)
        tkv_layer_use_rows(layer);
    layer->keeps_places = layer->turns && (layer->index || has_cap(layer, TKV_CAP_UNROTATES));
    if (status != TKV_OK)
        return status;
    layer->splits = !same_codec(chosen[TKV_SPAN_TEXT][TKV_K], chosen[TKV_SPAN_VISUAL][TKV_K]) ||
                    !same_codec(chosen[TKV_SPAN_TEXT][TKV_V], chosen[TKV_SPAN_VISUAL][TKV_V]);
    return TKV_OK;
}

static tkv_status layer_memory(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err)
{
    const tkv_allocator *a = &cache->ctx->allocator;
    const size_t n_pages = layer->shape.n_streams * layer->pages_per_stream;
    layer->pages = tkv_alloc_zero(a, n_pages * sizeof *layer->pages);
    layer->streams = tkv_alloc_zero(a, layer->shape.n_streams * sizeof *layer->streams);
    layer->open_pool = pool_for(cache, tkv_open_bytes(layer));
    layer->sealed_pool =
        pool_for(cache, layer->page_at[TKV_SPAN_TEXT][2 * layer->shape.n_kv_heads]);
    bool complete = layer->pages && layer->streams && layer->open_pool && layer->sealed_pool;
    if (cache->tier) {
        layer->block_pool = pool_for(cache, layer->shape.n_kv_heads * sizeof(struct tkv_block));
        layer->recent = tkv_alloc(a, TKV_RECENT * sizeof *layer->recent);
        complete = complete && layer->block_pool && layer->recent;
    }
    if (layer->index) {
        layer->index->pool = pool_for(cache, tkv_codes_bytes(layer));
        complete = complete && layer->index->pool;
    }
    if (has_cap(layer, TKV_CAP_BALANCES)) {
        layer->q_square = tkv_alloc_zero(a, (size_t)layer->shape.n_kv_heads *
                                                layer->head_dim[TKV_K] * sizeof(float));
        complete = complete && layer->q_square;
    }
    return complete ? TKV_OK
                    : tkv_fail_nomem(err, n_pages * sizeof *layer->pages, "a layer's page table");
}

static bool shape_valid(const tkv_layer_params *p)
{
    size_t total;
    return p->struct_size == sizeof *p && p->n_kv_heads && p->k_head_dim && p->v_head_dim &&
           p->n_slots && p->n_streams && (p->n_axes <= 1 || p->n_axes == TKV_N_AXES) &&
           tkv_mul(p->n_slots, p->n_streams, &total) && total <= INT64_MAX / 2;
}

tkv_status tkv_cache_add_layer(tkv_cache *cache, const tkv_layer_params *params, uint32_t *index,
                               tkv_error *err)
{
    if (!cache || !params || !index || !shape_valid(params))
        return tkv_fail(err, TKV_ERR_INVALID, "layer params must be set and above zero");
    struct tkv_layer layer = {.shape = *params,
                              .head_dim = {params->k_head_dim, params->v_head_dim}};
    layer.pages_per_stream = ((size_t)params->n_slots + TKV_PAGE_TOKENS - 1) / TKV_PAGE_TOKENS;
    void *layers = cache->layers;
    if (!grow(cache, &layers, cache->n_layers, &cache->layer_capacity, sizeof layer))
        return tkv_fail_nomem(err, sizeof layer, "a layer");
    cache->layers = layers;
    tkv_status status = layer_codecs(cache, &layer, err);
    if (status == TKV_OK)
        status = tkv_tiers_check(cache, &layer, err);
    if (status == TKV_OK)
        status = layer_memory(cache, &layer, err);
    if (status != TKV_OK) {
        layer_release(cache, &layer);
        return status;
    }
    *index = cache->n_layers;
    cache->layers[cache->n_layers++] = layer;
    return TKV_OK;
}

static bool from_book(const struct tkv_layer_codec *codec)
{
    return codec->ops->caps & TKV_CAP_BOOK;
}

static uint64_t layer_model_bytes(const struct tkv_layer *layer, int klass, int kind)
{
    const struct tkv_layer_codec *codec = &layer->codec[klass][kind];
    return codec->models ? layer->shape.n_kv_heads * codec->model_bytes : 0;
}

static uint64_t layer_meta_bytes(const struct tkv_layer *layer)
{
    const uint64_t per_head = layer->head_dim[TKV_K] * sizeof(float);
    uint64_t bytes = sizeof *layer + layer->shape.n_streams * (uint64_t)sizeof *layer->streams;
    bytes += layer->shape.n_streams * (uint64_t)layer->pages_per_stream * sizeof *layer->pages;
    bytes += layer->open_capacity * sizeof *layer->open_pages;
    bytes += (TKV_N_CLASSES + 1) * (uint64_t)places_bytes(layer);
    bytes += layer->span_capacity * sizeof *layer->spans;
    bytes += layer->recent ? TKV_RECENT * sizeof *layer->recent : 0;
    bytes += layer->balance ? layer->shape.n_kv_heads * per_head : 0;
    for (int klass = 0; klass < TKV_N_CLASSES; klass++)
        for (int kind = TKV_K; kind <= TKV_V; kind++)
            if (!from_book(&layer->codec[klass][kind]))
                bytes += layer_model_bytes(layer, klass, kind);
    return bytes;
}

static uint64_t layer_book_bytes(const struct tkv_layer *layer)
{
    uint64_t bytes = 0;
    for (int klass = 0; klass < TKV_N_CLASSES; klass++)
        for (int kind = TKV_K; kind <= TKV_V; kind++)
            if (from_book(&layer->codec[klass][kind]))
                bytes += layer_model_bytes(layer, klass, kind);
    return bytes + (layer->index ? layer->index->room_bytes : 0);
}

static uint64_t row_values(const struct tkv_layer *layer)
{
    return layer->shape.n_kv_heads * ((uint64_t)layer->head_dim[TKV_K] + layer->head_dim[TKV_V]);
}

/* Visual rows of a page count with their share of what all of its rows take. */
static void add_visual_stats(const struct tkv_layer *layer, const struct tkv_page *page,
                             tkv_cache_stats *s)
{
    const uint64_t n = tkv_count_bits(page->visual & page->valid[TKV_K]);
    const struct tkv_pool *pool =
        page->state == TKV_PAGE_SEALED ? layer->sealed_pool : layer->open_pool;
    s->visual_values += n * row_values(layer);
    s->visual_bytes += n ? pool->record_bytes * n / tkv_count_bits(page->valid[TKV_K]) : 0;
}

static void add_span_stats(const struct tkv_layer *layer, const struct tkv_span *span,
                           tkv_cache_stats *s)
{
    s->visual_values += span->n_live * row_values(layer);
    s->visual_bytes += span->record_bytes;
    s->sealed_bytes += span->record_bytes;
    s->side_bytes += span->record_bytes - span->n_pages * layer->code_bytes[TKV_SPAN_VISUAL];
    s->meta_bytes += sizeof *span + span->n_pages * sizeof span->pages[0];
    s->pool_bytes += span->record_bytes;
    s->n_pages_sealed += span->n_pages;
}

static uint64_t layer_index_bytes(const struct tkv_layer *layer)
{
    if (!layer->index)
        return 0;
    const uint64_t n_streams = layer->shape.n_streams;
    uint64_t bytes = sizeof *layer->index + layer->index->tally.room.bytes;
    for (size_t i = 0; i < n_streams * layer->pages_per_stream; i++)
        bytes += layer->pages[i].codes ? layer->index->pool->record_bytes : 0;
    return bytes;
}

static void add_layer_stats(const struct tkv_layer *layer, tkv_cache_stats *s)
{
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        const uint64_t values =
            layer->n_rows[kind] * layer->shape.n_kv_heads * layer->head_dim[kind];
        s->n_values += values;
        s->f16_bytes += 2 * values;
    }
    s->index_bytes += layer_index_bytes(layer);
    s->meta_bytes += layer_meta_bytes(layer) + layer_index_bytes(layer);
    s->book_bytes += layer_book_bytes(layer);
    s->n_pages_open += layer->n_open;
    s->open_bytes += layer->n_open * layer->open_pool->record_bytes;
    for (size_t i = 0; i < layer->n_open; i++)
        s->n_pages_unsealable += layer->pages[layer->open_pages[i]].nonfinite;
    for (size_t i = 0; i < layer->shape.n_streams * layer->pages_per_stream; i++) {
        const struct tkv_page *page = &layer->pages[i];
        add_visual_stats(layer, page, s);
        if (page->state != TKV_PAGE_SEALED)
            continue;
        s->n_pages_sealed++;
        s->meta_bytes += layer->block_pool ? layer->block_pool->record_bytes : 0;
        s->sealed_bytes += layer->sealed_pool->record_bytes;
        s->side_bytes += layer->sealed_pool->record_bytes - layer->code_bytes[TKV_SPAN_TEXT];
    }
    for (size_t i = 0; i < layer->n_spans; i++)
        add_span_stats(layer, layer->spans[i], s);
}

tkv_status tkv_cache_get_stats(const tkv_cache *cache, tkv_cache_stats *out)
{
    if (!cache || !out || out->struct_size != sizeof *out)
        return TKV_ERR_INVALID;
    tkv_cache_stats s = {.struct_size = sizeof s};
    for (uint32_t i = 0; i < cache->n_layers; i++)
        add_layer_stats(&cache->layers[i], &s);
    for (uint32_t i = 0; i < cache->n_pools; i++)
        s.pool_bytes += cache->pools[i]->slab_bytes;
    if (cache->tier)
        s.pool_bytes += cache->tier->resident_bytes;
    s.meta_bytes += cache->places.bytes + cache->places.n_buckets * sizeof(struct tkv_places *);
    *out = s;
    return TKV_OK;
}
