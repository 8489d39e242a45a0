/* Sealing: which pages are due, and coding them on all threads. */
#include <string.h>

#include "base/alloc.h"
#include "base/parallel.h"
#include "base/status.h"
#include "cache/cache.h"

/* Full but for rows in spans, no row that waits for its span or is a sink, every row old enough. */
static bool due(const tkv_cache *cache, const struct tkv_layer *layer, const struct tkv_page *page)
{
    const uint64_t rows = ~page->spanned;
    if (page->valid[TKV_K] != rows || page->valid[TKV_V] != rows || page->nonfinite ||
        tkv_page_waiting(layer, page))
        return false;
    if (page->spanned && !tkv_layer_learned(layer, TKV_SPAN_TEXT))
        return false; /* only whole pages are learned from */
    const struct tkv_open *info = tkv_open_info(page);
    const struct tkv_stream *stream =
        &layer->streams[(size_t)(page - layer->pages) / layer->pages_per_stream];
    const uint64_t wait = (uint64_t)cache->spec.tail * (stream->n_runs ? stream->n_runs : 1);
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        if (!(rows >> t & 1))
            continue;
        if (info->pos[t] != TKV_NO_POS && (uint32_t)info->pos[t] < cache->spec.sink)
            return false;
        if (stream->n_writes - info->stamp[t] < wait)
            return false;
    }
    return true;
}

struct batch {
    const tkv_cache *cache;
    const struct tkv_layer *layer;
    const struct tkv_coding *list;
    uint8_t *scratch;
    size_t scratch_bytes; /* of one thread */
};

/* Item = (page, head, kind). */
static void code_item(void *arg, size_t item, uint32_t ith)
{
    const struct batch *b = arg;
    const size_t per_page = 2 * (size_t)b->layer->shape.n_kv_heads;
    const struct tkv_coding *coding = &b->list[item / per_page];
    if (!coding->record)
        return;
    const uint32_t head = (uint32_t)(item % per_page / 2);
    const tkv_kind kind = item % 2 ? TKV_V : TKV_K;
    const struct tkv_coded coded = {
        .page =
            tkv_block_page(b->layer, tkv_record_block(b->layer, coding->record, head), kind, head),
        .places = coding->places,
        .turn = coding->turn,
        .klass = TKV_SPAN_TEXT,
        .kind = kind,
        .head = head,
    };
    tkv_code_rows(b->cache, b->layer, &coded, tkv_open_rows(b->layer, coding->page, kind, head),
                  coding->page->valid[kind] & ~tkv_page_waiting(b->layer, coding->page),
                  b->scratch + ith * b->scratch_bytes);
}

tkv_status tkv_code_pages(tkv_cache *cache, const struct tkv_layer *layer,
                          const struct tkv_coding *list, size_t n, tkv_error *err)
{
    const uint32_t n_threads = tkv_n_threads(&cache->ctx->executor);
    struct batch b = {.cache = cache, .layer = layer, .list = list};
    b.scratch_bytes = tkv_coding_scratch_bytes(layer);
    b.scratch = tkv_cache_scratch(cache, n_threads * b.scratch_bytes);
    if (!b.scratch)
        return tkv_fail_nomem(err, n_threads * b.scratch_bytes, "coding pages");
    tkv_parallel(&cache->ctx->executor, n * 2 * layer->shape.n_kv_heads, code_item, &b);
    return TKV_OK;
}

tkv_status tkv_coding_begin(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page,
                            struct tkv_coding *out, tkv_error *err)
{
    *out = (struct tkv_coding){.page = page, .turn = tkv_turn_of(layer, page)};
    if (!tkv_page_finite(layer, page)) {
        page->nonfinite = 1;
        return TKV_OK;
    }
    const tkv_status status = tkv_layer_learn(cache, layer, TKV_SPAN_TEXT, page, err);
    if (status != TKV_OK)
        return status;
    out->record = tkv_pool_take(layer->sealed_pool);
    if (!out->record)
        return tkv_fail_nomem(err, layer->sealed_pool->record_bytes, "a coded page");
    if (!layer->keeps_places)
        return TKV_OK;
    out->places = tkv_places_take(cache, page);
    if (out->places)
        return TKV_OK;
    tkv_coding_drop(cache, layer, out);
    out->record = NULL;
    return tkv_fail_nomem(err, TKV_N_AXES * sizeof(int32_t) * TKV_PAGE_TOKENS, "positions");
}

void tkv_coding_drop(tkv_cache *cache, struct tkv_layer *layer, const struct tkv_coding *coding)
{
    if (coding->record)
        tkv_pool_give(layer->sealed_pool, coding->record);
    tkv_places_drop(cache, coding->places);
}

static void finish(tkv_cache *cache, struct tkv_layer *layer, const struct tkv_coding *coding)
{
    struct tkv_page *page = coding->page;
    const struct tkv_page open = *page;
    page->codes = NULL; /* they stay */
    tkv_page_drop(cache, layer, page);
    page->codes = open.codes;
    page->state = TKV_PAGE_SEALED;
    page->valid[TKV_K] = page->valid[TKV_V] = open.valid[TKV_K];
    page->visual = open.visual;
    page->record = coding->record;
    page->turn = coding->turn;
    page->places = coding->places;
}

static size_t count_due(const tkv_cache *cache, const struct tkv_layer *layer)
{
    size_t n = 0;
    for (size_t i = 0; i < layer->n_open; i++)
        n += due(cache, layer, &layer->pages[layer->open_pages[i]]);
    return n;
}

/* Begins the due pages; a lack of memory only shortens the list. */
static tkv_status begin_due(tkv_cache *cache, struct tkv_layer *layer, struct tkv_coding *list,
                            size_t *n, tkv_error *err)
{
    for (size_t i = 0; i < layer->n_open; i++) {
        struct tkv_page *page = &layer->pages[layer->open_pages[i]];
        if (!due(cache, layer, page))
            continue;
        const tkv_status status = tkv_coding_begin(cache, layer, page, &list[*n], err);
        if (status != TKV_OK)
            return status;
        *n += list[*n].record != NULL;
    }
    return TKV_OK;
}

tkv_status tkv_cache_seal(tkv_cache *cache, uint32_t index, tkv_error *err)
{
    if (!cache || index >= cache->n_layers)
        return tkv_fail(err, TKV_ERR_INVALID, "no layer %u", index);
    struct tkv_layer *layer = &cache->layers[index];
    const tkv_status spans = tkv_spans_seal(cache, layer, err);
    const size_t n_due = count_due(cache, layer);
    if (n_due == 0 || spans != TKV_OK)
        return spans;
    struct tkv_coding *list = tkv_alloc(&cache->ctx->allocator, n_due * sizeof *list);
    if (!list)
        return tkv_fail_nomem(err, n_due * sizeof *list, "sealing");
    size_t n = 0;
    const tkv_status begun = begin_due(cache, layer, list, &n, err);
    tkv_status coded = tkv_code_pages(cache, layer, list, n, err);
    if (coded == TKV_OK)
        coded = tkv_sealed_keep(cache, layer, list, n, err);
    for (size_t i = 0; i < n; i++) {
        if (coded == TKV_OK)
            finish(cache, layer, &list[i]);
        else
            tkv_coding_drop(cache, layer, &list[i]);
    }
    tkv_free(&cache->ctx->allocator, list, n_due * sizeof *list);
    return begun != TKV_OK ? begun : coded;
}
