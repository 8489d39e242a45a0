/* Forgetting and copying slots. */
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/status.h"
#include "cache/cache.h"

static void forget_rows(const struct tkv_layer *layer, struct tkv_page *page, uint32_t first,
                        uint32_t n)
{
    struct tkv_open *info = tkv_open_info(page);
    const uint64_t mask = tkv_first_bits(n) << first;
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        const size_t D = layer->head_dim[kind];
        for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++)
            memset(tkv_open_rows(layer, page, (tkv_kind)kind, head) + first * D, 0,
                   n * D * sizeof(uint16_t));
        page->valid[kind] &= ~mask;
    }
    for (uint32_t t = first; t < first + n; t++) {
        info->pos[t] = info->beside[0][t] = info->beside[1][t] = TKV_NO_POS;
        info->stamp[t] = 0;
    }
    page->visual &= ~mask;
}

static uint64_t rows_in(const struct tkv_page *page, tkv_kind kind)
{
    return tkv_count_bits(page->valid[kind]);
}

/* Forgets rows [first, first + n) of one page. */
static tkv_status forget_in_page(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page,
                                 uint32_t first, uint32_t n, tkv_error *err)
{
    const uint64_t mask = tkv_first_bits(n) << first;
    tkv_spans_forget(cache, layer, page, first, n);
    if (page->state == TKV_PAGE_EMPTY ||
        (n < TKV_PAGE_TOKENS && !((page->valid[TKV_K] | page->valid[TKV_V]) & mask)))
        return TKV_OK;
    uint64_t before[2], after[2] = {0, 0};
    if (n < TKV_PAGE_TOKENS) {
        const tkv_status status = tkv_page_open(cache, layer, page, err);
        if (status != TKV_OK)
            return status;
    }
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        before[kind] = rows_in(page, (tkv_kind)kind);
    if (n < TKV_PAGE_TOKENS) {
        forget_rows(layer, page, first, n);
        tkv_codes_forget(layer, page, mask);
        for (int kind = TKV_K; kind <= TKV_V; kind++)
            after[kind] = rows_in(page, (tkv_kind)kind);
    }
    if (!after[TKV_K] && !after[TKV_V])
        tkv_page_drop(cache, layer, page);
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        layer->n_rows[kind] -= before[kind] - after[kind];
    return TKV_OK;
}

tkv_status tkv_cache_forget(tkv_cache *cache, uint32_t index, int64_t first, size_t n,
                            tkv_error *err)
{
    if (!cache || index >= cache->n_layers)
        return tkv_fail(err, TKV_ERR_INVALID, "no layer %u", index);
    struct tkv_layer *layer = &cache->layers[index];
    if (!tkv_slots_valid(layer, first, n))
        return tkv_fail(err, TKV_ERR_RANGE, "slots %lld to %lld are out of range", (long long)first,
                        (long long)first + (long long)n - 1);
    while (n) {
        uint32_t row, stream;
        struct tkv_page *page = tkv_page_of(layer, first, &row, &stream);
        const size_t in_stream = (size_t)first % layer->shape.n_slots;
        size_t here = TKV_PAGE_TOKENS - row;
        here = here < n ? here : n;
        const size_t left =
            layer->shape.n_slots - in_stream; /* a stream's last page may be short */
        const bool whole = row == 0 && here >= left;
        here = here < left ? here : left;
        const tkv_status status =
            forget_in_page(cache, layer, page, row, whole ? TKV_PAGE_TOKENS : (uint32_t)here, err);
        if (status != TKV_OK)
            return status;
        first += (int64_t)here;
        n -= here;
    }
    return TKV_OK;
}

tkv_status tkv_cache_truncate(tkv_cache *cache, uint32_t stream, size_t n_slots, tkv_error *err)
{
    if (!cache)
        return tkv_fail(err, TKV_ERR_INVALID, "cache is NULL");
    for (uint32_t i = 0; i < cache->n_layers; i++) {
        const struct tkv_layer *layer = &cache->layers[i];
        if (stream >= layer->shape.n_streams)
            return tkv_fail(err, TKV_ERR_RANGE, "stream %u is out of range: layer %u has %u",
                            stream, i, layer->shape.n_streams);
        if (n_slots >= layer->shape.n_slots)
            continue;
        const int64_t first = (int64_t)stream * layer->shape.n_slots + (int64_t)n_slots;
        const tkv_status status =
            tkv_cache_forget(cache, i, first, layer->shape.n_slots - n_slots, err);
        if (status != TKV_OK)
            return status;
    }
    return TKV_OK;
}

/* Slots [src, src + n) go to dst. */
struct range {
    int64_t dst, src;
    size_t n;
};

/* A copy of a whole page, coded bytes or exact rows as they are, but for rows in spans. */
static tkv_status copy_page(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *dst,
                            const struct tkv_page *src, tkv_error *err)
{
    tkv_status status = forget_in_page(cache, layer, dst, 0, TKV_PAGE_TOKENS, err);
    if (status != TKV_OK || src->state == TKV_PAGE_EMPTY)
        return status;
    if (src->codes)
        status = tkv_codes_open(layer, dst, err);
    if (status != TKV_OK)
        return status;
    if (src->state == TKV_PAGE_SEALED) {
        void *record;
        status = tkv_sealed_copy(cache, layer, src, &record, err);
        if (status != TKV_OK)
            return status;
        struct tkv_codes *codes = dst->codes;
        *dst = *src;
        dst->record = record;
        dst->spanned = 0;
        dst->codes = codes;
        tkv_places_hold(dst->places);
    } else {
        status = tkv_page_open(cache, layer, dst, err);
        if (status != TKV_OK)
            return status;
        memcpy(dst->record, src->record, layer->open_pool->record_bytes);
        memcpy(dst->valid, src->valid, sizeof dst->valid);
        dst->visual = src->visual;
        dst->nonfinite = src->nonfinite;
        struct tkv_stream *stream =
            &layer->streams[(size_t)(dst - layer->pages) / layer->pages_per_stream];
        struct tkv_open *info = tkv_open_info(dst);
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) /* as if written here just now, in order */
            info->stamp[t] = info->stamp[t] ? ++stream->n_writes : 0;
    }
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        layer->n_rows[kind] += rows_in(dst, (tkv_kind)kind);
    tkv_codes_copy(layer, dst, src);
    return TKV_OK;
}

static void row_positions(const struct tkv_layer *layer, int64_t slot, int32_t pos[TKV_N_AXES])
{
    uint32_t row, stream, in_span;
    const struct tkv_page *page = tkv_page_of(layer, slot, &row, &stream);
    const struct tkv_span *span = tkv_span_of(layer, slot, &in_span);
    if (span) {
        tkv_span_positions(span, in_span, pos);
        return;
    }
    const bool open = page->state == TKV_PAGE_OPEN;
    for (uint32_t axis = 0; axis < TKV_N_AXES; axis++) {
        if (open)
            pos[axis] =
                axis ? tkv_open_info(page)->beside[axis - 1][row] : tkv_open_info(page)->pos[row];
        else if (page->places)
            pos[axis] = tkv_place(page->places, axis, row);
    }
}

/* Row by row, for ranges whose pages do not line up. Missing rows stay missing. */
static tkv_status copy_row(tkv_cache *cache, uint32_t index, int64_t dst, int64_t src,
                           tkv_error *err)
{
    struct tkv_layer *layer = &cache->layers[index];
    uint32_t row, stream;
    const struct tkv_page *page = tkv_page_of(layer, src, &row, &stream);
    const bool spanned = page->spanned >> row & 1;
    if (!spanned && !((page->valid[TKV_K] | page->valid[TKV_V]) >> row & 1))
        return tkv_cache_forget(cache, index, dst, 1, err);
    int32_t pos[TKV_N_AXES] = {TKV_NO_POS, TKV_NO_POS, TKV_NO_POS};
    row_positions(layer, src, pos);
    const uint8_t klass =
        (page->visual | page->spanned) >> row & 1 ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
    bool held[2];
    size_t bytes[2];
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        held[kind] = spanned || (page->valid[kind] >> row & 1);
        bytes[kind] = (size_t)layer->shape.n_kv_heads * layer->head_dim[kind] * 2;
    }
    uint8_t *rows = tkv_alloc(&cache->ctx->allocator, bytes[0] + bytes[1]);
    if (!rows)
        return tkv_fail_nomem(err, bytes[0] + bytes[1], "a row");
    tkv_status status = tkv_cache_read(cache, index, TKV_K, 1, &src, rows, TKV_F16, bytes[0], err);
    if (status == TKV_OK)
        status =
            tkv_cache_read(cache, index, TKV_V, 1, &src, rows + bytes[0], TKV_F16, bytes[1], err);
    if (status == TKV_OK && !(held[TKV_K] && held[TKV_V]))
        status = tkv_cache_forget(cache, index, dst, 1, err);
    if (status == TKV_OK)
        status = tkv_cache_write(
            cache, index, 1, &dst, pos, &klass,
            (tkv_rows){held[TKV_K] ? rows : NULL, TKV_F16, bytes[0]},
            (tkv_rows){held[TKV_V] ? rows + bytes[0] : NULL, TKV_F16, bytes[1]}, err);
    tkv_free(&cache->ctx->allocator, rows, bytes[0] + bytes[1]);
    return status;
}

/* A row, unless its span goes along as a whole. */
static tkv_status copy_slot(tkv_cache *cache, uint32_t index, const struct range *r, int64_t slot,
                            tkv_error *err)
{
    const struct tkv_layer *layer = &cache->layers[index];
    uint32_t row;
    const struct tkv_span *span = tkv_span_of(layer, slot, &row);
    const int64_t to = slot - r->src + r->dst;
    return span && tkv_span_moves(layer, span, r->dst, r->src, r->n)
               ? tkv_cache_forget(cache, index, to, 1, err)
               : copy_row(cache, index, to, slot, err);
}

/* A page, and row by row what is in spans that do not go along. */
static tkv_status copy_whole(tkv_cache *cache, uint32_t index, const struct range *r, int64_t slot,
                             tkv_error *err)
{
    struct tkv_layer *layer = &cache->layers[index];
    uint32_t row, stream;
    struct tkv_page *from = tkv_page_of(layer, slot, &row, &stream),
                    *to = tkv_page_of(layer, slot - r->src + r->dst, &row, &stream);
    const uint64_t spanned = from->spanned;
    tkv_status status = copy_page(cache, layer, to, from, err);
    for (uint32_t t = 0; spanned && t < TKV_PAGE_TOKENS && status == TKV_OK; t++)
        if (spanned >> t & 1)
            status = copy_slot(cache, index, r, slot + t, err);
    return status;
}

tkv_status tkv_cache_copy(tkv_cache *cache, uint32_t index, int64_t dst, int64_t src, size_t n,
                          tkv_error *err)
{
    if (!cache || index >= cache->n_layers)
        return tkv_fail(err, TKV_ERR_INVALID, "no layer %u", index);
    struct tkv_layer *layer = &cache->layers[index];
    if (!tkv_slots_valid(layer, dst, n) || !tkv_slots_valid(layer, src, n))
        return tkv_fail(err, TKV_ERR_RANGE, "copying %zu slots from %lld to %lld leaves the layer",
                        n, (long long)src, (long long)dst);
    if (n && src < dst + (int64_t)n && dst < src + (int64_t)n)
        return tkv_fail(err, TKV_ERR_INVALID, "the ranges to copy overlap");
    const struct range all = {dst, src, n};
    const size_t n_slots = layer->shape.n_slots;
    while (n) {
        const size_t src_at = (size_t)src % n_slots, dst_at = (size_t)dst % n_slots;
        const size_t left = n_slots - src_at;
        const size_t whole = left < TKV_PAGE_TOKENS ? left : TKV_PAGE_TOKENS;
        const bool aligned = src_at % TKV_PAGE_TOKENS == 0 && dst_at % TKV_PAGE_TOKENS == 0 &&
                             n >= whole && src_at == dst_at;
        const size_t step = aligned ? whole : 1;
        const tkv_status status = aligned ? copy_whole(cache, index, &all, src, err)
                                          : copy_slot(cache, index, &all, src, err);
        if (status != TKV_OK)
            return status;
        src += (int64_t)step, dst += (int64_t)step, n -= step;
    }
    return tkv_spans_copy(cache, layer, all.dst, all.src, all.n, err);
}
