/* Sealing: which pages are due, and coding them on all threads. */
#include <string.h>

#include "base/alloc.h"
#include "base/parallel.h"
#include "base/status.h"
#include "cache/cache.h"

/* Full, no sink row, and every row old enough. */
static bool due(const tkv_cache *cache, const struct tkv_layer *layer, const struct tkv_page *page)
{
    if (page->valid[TKV_K] != UINT64_MAX || page->valid[TKV_V] != UINT64_MAX || page->nonfinite)
        return false;
    const struct tkv_open *info = tkv_open_info(page);
    const struct tkv_stream *stream =
        &layer->streams[(size_t)(page - layer->pages) / layer->pages_per_stream];
    const uint64_t wait = (uint64_t)cache->spec.tail * (stream->n_runs ? stream->n_runs : 1);
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        if (info->pos[t] != TKV_NO_POS && (uint32_t)info->pos[t] < cache->spec.sink)
            return false;
        if (stream->n_writes - info->stamp[t] < wait)
            return false;
    }
    return true;
}

struct sealing {
    const tkv_cache *cache;
    const struct tkv_layer *layer;
    struct tkv_page **pages; /* open pages to code */
    void **records;          /* where to */
    uint8_t *scratch;
    size_t scratch_bytes; /* of one thread */
};

static void seal_item(void *arg, size_t item, uint32_t ith)
{
    const struct sealing *s = arg;
    const size_t per_page = 2 * (size_t)s->layer->shape.n_kv_heads;
    const struct tkv_page *page = s->pages[item / per_page];
    const uint32_t head = (uint32_t)(item % per_page / 2);
    const tkv_kind kind = item % 2 ? TKV_V : TKV_K;
    const uint8_t klass = tkv_page_class(page);
    uint8_t *coded = tkv_sealed_page(s->layer, klass, s->records[item / per_page], kind, head);
    tkv_code_head(s->cache, s->layer, klass, kind, head, page, coded,
                  s->scratch + ith * s->scratch_bytes);
}

/* Collects due pages with a record each. *n counts them; a lack of memory only shortens the list. */
static tkv_status collect(tkv_cache *cache, struct tkv_layer *layer, struct sealing *s, size_t *n,
                          tkv_error *err)
{
    for (size_t i = 0; i < layer->n_open; i++) {
        struct tkv_page *page = &layer->pages[layer->open_pages[i]];
        if (!due(cache, layer, page))
            continue;
        if (!tkv_page_finite(layer, page)) {
            page->nonfinite = 1;
            continue;
        }
        const uint8_t klass = tkv_page_class(page);
        const tkv_status status = tkv_layer_learn(cache, layer, klass, page, err);
        if (status != TKV_OK)
            return status;
        void *record = tkv_pool_take(layer->sealed_pool[klass]);
        if (!record)
            return tkv_fail_nomem(err, layer->sealed_pool[klass]->record_bytes, "a sealed page");
        s->pages[*n] = page;
        s->records[(*n)++] = record;
    }
    return TKV_OK;
}

static void finish(struct tkv_layer *layer, struct tkv_page *page, void *record)
{
    const uint8_t klass = tkv_page_class(page);
    tkv_page_drop(layer, page);
    page->state = TKV_PAGE_SEALED;
    page->klass = klass;
    page->record = record;
}

static size_t count_due(const tkv_cache *cache, const struct tkv_layer *layer)
{
    size_t n = 0;
    for (size_t i = 0; i < layer->n_open; i++)
        n += due(cache, layer, &layer->pages[layer->open_pages[i]]);
    return n;
}

tkv_status tkv_cache_seal(tkv_cache *cache, uint32_t index, tkv_error *err)
{
    if (!cache || index >= cache->n_layers)
        return tkv_fail(err, TKV_ERR_INVALID, "no layer %u", index);
    struct tkv_layer *layer = &cache->layers[index];
    const size_t n_due = count_due(cache, layer);
    if (n_due == 0)
        return TKV_OK;
    const tkv_allocator *a = &cache->ctx->allocator;
    const uint32_t n_threads = tkv_n_threads(&cache->ctx->executor);
    struct sealing s = {
        .cache = cache, .layer = layer, .scratch_bytes = tkv_coding_scratch_bytes(layer)};
    s.pages = tkv_alloc(a, n_due * sizeof(struct tkv_page *));
    s.records = tkv_alloc(a, n_due * sizeof(void *));
    s.scratch = tkv_cache_scratch(cache, n_threads * s.scratch_bytes);
    size_t n = 0;
    tkv_status status = TKV_OK;
    if (!s.pages || !s.records || !s.scratch)
        status = tkv_fail_nomem(err, n_threads * s.scratch_bytes, "sealing");
    else
        status = collect(cache, layer, &s, &n, err);
    tkv_parallel(&cache->ctx->executor, n * 2 * layer->shape.n_kv_heads, seal_item, &s);
    for (size_t i = 0; i < n; i++)
        finish(layer, s.pages[i], s.records[i]);
    tkv_free(a, s.pages, n_due * sizeof(struct tkv_page *));
    tkv_free(a, s.records, n_due * sizeof(void *));
    return status;
}
