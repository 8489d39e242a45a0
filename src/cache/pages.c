/* Where a page's bytes are, and its way between empty, open and sealed. */
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "cache/cache.h"

static size_t open_rows_bytes(const struct tkv_layer *layer, tkv_kind kind)
{
    return (size_t)TKV_PAGE_TOKENS * layer->head_dim[kind] * sizeof(uint16_t);
}

size_t tkv_open_bytes(const struct tkv_layer *layer)
{
    return tkv_align_up(sizeof(struct tkv_open)) +
           layer->shape.n_kv_heads *
               (open_rows_bytes(layer, TKV_K) + open_rows_bytes(layer, TKV_V));
}

uint16_t *tkv_open_rows(const struct tkv_layer *layer, const struct tkv_page *page, tkv_kind kind,
                        uint32_t head)
{
    uint8_t *at = (uint8_t *)page->record + tkv_align_up(sizeof(struct tkv_open));
    if (kind == TKV_V)
        at += layer->shape.n_kv_heads * open_rows_bytes(layer, TKV_K);
    return (uint16_t *)(void *)(at + head * open_rows_bytes(layer, kind));
}

uint8_t *tkv_record_block(const struct tkv_layer *layer, void *record, uint32_t head)
{
    return (uint8_t *)record + layer->page_at[TKV_SPAN_TEXT][2 * (size_t)head];
}

uint8_t *tkv_page_block(const struct tkv_layer *layer, const struct tkv_page *page, uint32_t head)
{
    return layer->block_pool ? tkv_tier_block_of(page, head)->frame
                             : tkv_record_block(layer, page->record, head);
}

size_t tkv_block_bytes(const struct tkv_layer *layer, uint32_t head)
{
    const size_t *at = layer->page_at[TKV_SPAN_TEXT] + 2 * (size_t)head;
    return at[2] - at[0];
}

uint8_t *tkv_block_page(const struct tkv_layer *layer, uint8_t *block, tkv_kind kind, uint32_t head)
{
    const size_t *at = layer->page_at[TKV_SPAN_TEXT] + 2 * (size_t)head;
    const size_t v_at = tkv_in_rows(layer) ? layer->row_bytes[TKV_K] : at[1] - at[0];
    return block + (kind == TKV_V ? v_at : 0);
}

struct tkv_page *tkv_page_of(const struct tkv_layer *layer, int64_t slot, uint32_t *row,
                             uint32_t *stream)
{
    const size_t in_stream = (size_t)slot % layer->shape.n_slots;
    *stream = (uint32_t)((size_t)slot / layer->shape.n_slots);
    *row = (uint32_t)(in_stream % TKV_PAGE_TOKENS);
    return &layer->pages[*stream * layer->pages_per_stream + in_stream / TKV_PAGE_TOKENS];
}

bool tkv_slots_valid(const struct tkv_layer *layer, int64_t first, size_t n)
{
    const uint64_t total = (uint64_t)layer->shape.n_slots * layer->shape.n_streams;
    return first >= 0 && (uint64_t)first <= total && n <= total - (uint64_t)first;
}

static tkv_status list_open(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page,
                            tkv_error *err)
{
    if (layer->n_open == layer->open_capacity) {
        const size_t capacity = layer->open_capacity ? 2 * layer->open_capacity : 16;
        size_t *grown = tkv_alloc(&cache->ctx->allocator, capacity * sizeof *grown);
        if (!grown)
            return tkv_fail_nomem(err, capacity * sizeof *grown, "the list of open pages");
        if (layer->n_open)
            memcpy(grown, layer->open_pages, layer->n_open * sizeof *grown);
        tkv_free(&cache->ctx->allocator, layer->open_pages, layer->open_capacity * sizeof *grown);
        layer->open_pages = grown;
        layer->open_capacity = capacity;
    }
    page->i_open = (uint32_t)layer->n_open;
    layer->open_pages[layer->n_open++] = (size_t)(page - layer->pages);
    return TKV_OK;
}

static void unlist_open(struct tkv_layer *layer, const struct tkv_page *page)
{
    const size_t last = layer->open_pages[--layer->n_open];
    layer->open_pages[page->i_open] = last;
    layer->pages[last].i_open = page->i_open;
}

/* Decoded rows of one head into an open record. */
static void decode_head_into(const tkv_cache *cache, const struct tkv_layer *layer,
                             const struct tkv_page *sealed, const struct tkv_page *open,
                             tkv_kind kind, uint32_t head, float *rows)
{
    const size_t D = layer->head_dim[kind];
    uint16_t *out = tkv_open_rows(layer, open, kind, head);
    const struct tkv_coded coded = {
        .page = tkv_block_page(layer, tkv_page_block(layer, sealed, head), kind, head),
        .places = sealed->places,
        .turn = sealed->turn,
        .klass = TKV_SPAN_TEXT,
        .kind = kind,
        .head = head,
    };
    tkv_decode_rows(cache, layer, &coded, rows);
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
        if (sealed->valid[kind] >> t & 1)
            cache->ctx->kernels.f32_to_f16(rows + t * D, out + t * D, D);
}

/* Decoded rows of every head into a fresh open record. */
static tkv_status decode_into(tkv_cache *cache, const struct tkv_layer *layer,
                              const struct tkv_page *sealed, const struct tkv_page *open,
                              tkv_error *err)
{
    const size_t bytes = tkv_decode_scratch_bytes(layer);
    float *rows = tkv_cache_scratch(cache, bytes);
    if (!rows)
        return tkv_fail_nomem(err, bytes, "scratch");
    for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++)
        for (int kind = TKV_K; kind <= TKV_V; kind++)
            decode_head_into(cache, layer, sealed, open, (tkv_kind)kind, head, rows);
    tkv_open_info(open)->turn = sealed->turn;
    if (sealed->places)
        tkv_places_restore(sealed->places, tkv_open_info(open));
    return TKV_OK;
}

static tkv_status reopen(tkv_cache *cache, const struct tkv_layer *layer,
                         const struct tkv_page *sealed, const struct tkv_page *open, tkv_error *err)
{
    tkv_status status = tkv_page_hold(cache, layer, sealed, err);
    if (status != TKV_OK)
        return status;
    status = decode_into(cache, layer, sealed, open, err);
    tkv_page_let(cache, layer, sealed);
    return status;
}

static void init_open(const struct tkv_layer *layer, struct tkv_page *open)
{
    memset(open->record, 0, tkv_open_bytes(layer));
    struct tkv_open *info = tkv_open_info(open);
    for (uint32_t i = 0; i < TKV_PAGE_TOKENS; i++)
        info->pos[i] = info->beside[0][i] = info->beside[1][i] = TKV_NO_POS;
}

tkv_status tkv_page_open(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page,
                         tkv_error *err)
{
    if (page->state == TKV_PAGE_OPEN)
        return TKV_OK;
    struct tkv_page open = {
        .state = TKV_PAGE_OPEN,
        .record = tkv_pool_take(layer->open_pool),
        .valid = {page->valid[TKV_K], page->valid[TKV_V]},
        .visual = page->visual,
        .spanned = page->spanned,
        .codes = page->codes,
    };
    if (!open.record)
        return tkv_fail_nomem(err, layer->open_pool->record_bytes, "an open page");
    init_open(layer, &open);
    tkv_status status = TKV_OK;
    if (page->state == TKV_PAGE_SEALED)
        status = reopen(cache, layer, page, &open, err);
    if (status == TKV_OK)
        status = list_open(cache, layer, page, err);
    if (status != TKV_OK) {
        tkv_pool_give(layer->open_pool, open.record);
        return status;
    }
    if (page->state == TKV_PAGE_SEALED)
        tkv_sealed_drop(cache, layer, page->record);
    tkv_places_drop(cache, page->places);
    open.i_open = page->i_open;
    *page = open;
    return TKV_OK;
}

void tkv_page_drop(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page)
{
    tkv_places_drop(cache, page->places);
    tkv_codes_drop(layer, page);
    if (page->state == TKV_PAGE_OPEN) {
        unlist_open(layer, page);
        tkv_pool_give(layer->open_pool, page->record);
    } else if (page->state == TKV_PAGE_SEALED) {
        tkv_sealed_drop(cache, layer, page->record);
    }
    *page = (struct tkv_page){.state = TKV_PAGE_EMPTY, .spanned = page->spanned};
}
