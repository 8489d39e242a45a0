/* Writing and reading rows at slots. */
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "cache/cache.h"

static struct tkv_layer *find_layer(tkv_cache *cache, uint32_t index)
{
    return cache && index < cache->n_layers ? &cache->layers[index] : NULL;
}

static tkv_status check_slots(const struct tkv_layer *layer, size_t n, const int64_t *slots,
                              tkv_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!tkv_slots_valid(layer, slots[i], 1))
            return tkv_fail(err, TKV_ERR_RANGE,
                            "slot %lld of row %zu is out of range: the layer has %u x %u slots",
                            (long long)slots[i], i, layer->shape.n_streams, layer->shape.n_slots);
    return TKV_OK;
}

/* Sequences interleaved in each stream: runs of consecutive positions in this batch. */
static void count_runs(struct tkv_layer *layer, size_t n, const int64_t *slots, const int32_t *pos)
{
    const uint64_t n_slots = layer->shape.n_slots;
    for (size_t i = 0; i < n; i++)
        layer->streams[(uint64_t)slots[i] / n_slots].n_runs = 0;
    for (size_t i = 0; i < n; i++) {
        struct tkv_stream *stream = &layer->streams[(uint64_t)slots[i] / n_slots];
        const bool same = i > 0 && (uint64_t)slots[i - 1] / n_slots == (uint64_t)slots[i] / n_slots;
        if (!same || (pos && pos[i] != pos[i - 1] + 1))
            stream->n_runs++;
    }
}

static void store_row(const tkv_cache *cache, const struct tkv_layer *layer,
                      const struct tkv_page *page, uint32_t row, tkv_kind kind, const uint8_t *src,
                      tkv_type type)
{
    const uint32_t D = layer->head_dim[kind];
    for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++) {
        uint16_t *dst = tkv_open_rows(layer, page, kind, head) + (size_t)row * D;
        if (type == TKV_F16)
            memcpy(dst, src + (size_t)head * D * 2, (size_t)D * 2);
        else
            cache->ctx->kernels.f32_to_f16(
                (const float *)(const void *)(src + (size_t)head * D * 4), dst, D);
    }
}

struct write {
    const int64_t *slots;
    const int32_t *pos; /* [n_axes][n] */
    size_t n;
    const uint8_t *klass;
    tkv_rows rows[2];
};

static void write_row(tkv_cache *cache, struct tkv_layer *layer, const struct write *w, size_t i)
{
    uint32_t row, stream;
    struct tkv_page *page = tkv_page_of(layer, w->slots[i], &row, &stream);
    struct tkv_open *info = tkv_open_info(page);
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        const tkv_rows *rows = &w->rows[kind];
        if (!rows->data)
            continue;
        store_row(cache, layer, page, row, (tkv_kind)kind,
                  (const uint8_t *)rows->data + i * rows->stride, rows->type);
        if (!(page->valid[kind] >> row & 1))
            layer->n_rows[kind]++;
        page->valid[kind] |= (uint64_t)1 << row;
    }
    page->nonfinite = 0; /* looked at again when the page would seal */
    const uint64_t bit = (uint64_t)1 << row;
    if (w->klass || w->rows[TKV_K].data) {
        const bool visual = w->klass && w->klass[i] == TKV_SPAN_VISUAL;
        page->visual = visual ? page->visual | bit : page->visual & ~bit;
    }
    layer->streams[stream].in_span = page->visual & bit;
    if (w->rows[TKV_K].data) {
        const size_t next_axis = layer->shape.n_axes == TKV_N_AXES ? w->n : 0;
        info->pos[row] = w->pos ? w->pos[i] : TKV_NO_POS;
        info->beside[0][row] = w->pos ? w->pos[next_axis + i] : TKV_NO_POS;
        info->beside[1][row] = w->pos ? w->pos[2 * next_axis + i] : TKV_NO_POS;
        info->stamp[row] = ++layer->streams[stream].n_writes;
    }
}

tkv_status tkv_cache_write(tkv_cache *cache, uint32_t index, size_t n_rows, const int64_t *slots,
                           const int32_t *pos, const uint8_t *klass, tkv_rows k, tkv_rows v,
                           tkv_error *err)
{
    struct tkv_layer *layer = find_layer(cache, index);
    if (!layer || (n_rows && !slots))
        return tkv_fail(err, TKV_ERR_INVALID, "no layer %u, or no slots", index);
    tkv_status status = check_slots(layer, n_rows, slots, err);
    if (status == TKV_OK)
        status = tkv_spans_lift(cache, layer, n_rows, slots, klass, k.data != NULL, err);
    for (size_t i = 0; i < n_rows && status == TKV_OK; i++) {
        uint32_t row, stream;
        struct tkv_page *page = tkv_page_of(layer, slots[i], &row, &stream);
        status = tkv_page_open(cache, layer, page, err);
        if (status == TKV_OK && layer->index && k.data)
            status = tkv_codes_open(layer, page, err);
    }
    const size_t n_pos = n_rows * (layer->shape.n_axes == TKV_N_AXES ? TKV_N_AXES : 1);
    for (size_t i = 0; layer->turns && pos && i < n_pos && status == TKV_OK; i++)
        if (pos[i] > 0)
            status = tkv_turns_reach(cache, layer->turns, pos[i], err);
    if (status != TKV_OK)
        return status;
    if (k.data)
        count_runs(layer, n_rows, slots, pos);
    const struct write w = {slots, pos, n_rows, klass, {k, v}};
    for (size_t i = 0; i < n_rows; i++)
        write_row(cache, layer, &w, i);
    if (layer->index && k.data)
        tkv_codes_write(cache, layer, n_rows, slots);
    if (layer->index && v.data)
        tkv_codes_mean(cache, layer, n_rows, slots);
    /* Without memory the span stays as it is, and is tried again when the layer seals. */
    (void)!tkv_spans_seal(cache, layer, NULL);
    return TKV_OK;
}

struct read {
    tkv_kind kind;
    const int64_t *slots;
    uint8_t *rows;
    tkv_type type;
    size_t stride;
};

static uint8_t *row_out(const struct read *r, size_t i, uint32_t head, uint32_t D)
{
    return r->rows + i * r->stride + (size_t)head * D * (r->type == TKV_F16 ? 2 : 4);
}

static void read_open(const tkv_cache *cache, const struct tkv_layer *layer,
                      const struct tkv_page *page, const struct read *r, size_t i, uint32_t row)
{
    const uint32_t D = layer->head_dim[r->kind];
    for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++) {
        const uint16_t *src = tkv_open_rows(layer, page, r->kind, head) + (size_t)row * D;
        if (r->type == TKV_F16)
            memcpy(row_out(r, i, head, D), src, (size_t)D * 2);
        else
            cache->ctx->kernels.f16_to_f32(src, (float *)(void *)row_out(r, i, head, D), D);
    }
}

static void put_decoded(const tkv_cache *cache, const struct tkv_layer *layer, const struct read *r,
                        size_t i, uint32_t head, const float *decoded)
{
    const uint32_t D = layer->head_dim[r->kind];
    if (r->type == TKV_F16)
        cache->ctx->kernels.f32_to_f16(decoded, (uint16_t *)(void *)row_out(r, i, head, D), D);
    else
        memcpy(row_out(r, i, head, D), decoded, (size_t)D * 4);
}

/* The page of the cache, or of a span, that a row is coded in. */
struct coded_in {
    const struct tkv_page *page;
    const struct tkv_span *span;
    uint32_t i_page; /* of the span */
};

/* Where slot `slot` is coded; its row there. False: nowhere. */
static bool find_coded(const struct tkv_layer *layer, int64_t slot, struct coded_in *in,
                       uint32_t *row)
{
    uint32_t stream;
    const struct tkv_page *page = tkv_page_of(layer, slot, row, &stream);
    *in = (struct coded_in){0};
    if (page->spanned >> *row & 1) {
        in->span = tkv_span_of(layer, slot, row);
        in->i_page = *row / TKV_PAGE_TOKENS;
        *row %= TKV_PAGE_TOKENS;
        return true;
    }
    in->page = page;
    return page->state == TKV_PAGE_SEALED && page->valid[TKV_K] >> *row & 1;
}

static void decode_in(const tkv_cache *cache, const struct tkv_layer *layer,
                      const struct coded_in *in, tkv_kind kind, uint32_t head, float *decoded)
{
    if (in->span) {
        tkv_decode_span_page(cache, layer, in->span, kind, head, in->i_page, decoded);
        return;
    }
    const struct tkv_coded coded = {
        .page = tkv_block_page(layer, tkv_page_block(layer, in->page, head), kind, head),
        .places = in->page->places,
        .turn = in->page->turn,
        .klass = TKV_SPAN_TEXT,
        .kind = kind,
        .head = head,
    };
    tkv_decode_rows(cache, layer, &coded, decoded);
}

/* The rows from *first on that are coded in one page, decoded once a head; *first moves to their
 * end. */
static tkv_status read_coded(tkv_cache *cache, const struct tkv_layer *layer, const struct read *r,
                             size_t *first, size_t n_rows, float *decoded, tkv_error *err)
{
    const uint32_t D = layer->head_dim[r->kind];
    struct coded_in in, next;
    uint32_t row;
    size_t end = *first + 1;
    find_coded(layer, r->slots[*first], &in, &row);
    while (end < n_rows && find_coded(layer, r->slots[end], &next, &row) && next.page == in.page &&
           next.span == in.span && next.i_page == in.i_page)
        end++;
    if (in.page) {
        tkv_page_ahead(cache, layer, in.page, (n_rows - *first) / TKV_PAGE_TOKENS);
        const tkv_status status = tkv_page_hold(cache, layer, in.page, err);
        if (status != TKV_OK)
            return status;
    }
    for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++) {
        decode_in(cache, layer, &in, r->kind, head, decoded);
        for (size_t i = *first; i < end; i++) {
            find_coded(layer, r->slots[i], &next, &row);
            put_decoded(cache, layer, r, i, head, decoded + (size_t)row * D);
        }
    }
    if (in.page)
        tkv_page_let(cache, layer, in.page);
    *first = end;
    return TKV_OK;
}

static void read_zeros(const struct tkv_layer *layer, const struct read *r, size_t i)
{
    const size_t bytes =
        (size_t)layer->shape.n_kv_heads * layer->head_dim[r->kind] * (r->type == TKV_F16 ? 2 : 4);
    memset(r->rows + i * r->stride, 0, bytes);
}

tkv_status tkv_cache_read(tkv_cache *cache, uint32_t index, tkv_kind kind, size_t n_rows,
                          const int64_t *slots, void *rows, tkv_type type, size_t stride,
                          tkv_error *err)
{
    const struct tkv_layer *layer = find_layer(cache, index);
    if (!layer || (n_rows && (!slots || !rows)))
        return tkv_fail(err, TKV_ERR_INVALID, "no layer %u, no slots, or nowhere to read to",
                        index);
    tkv_status status = check_slots(layer, n_rows, slots, err);
    if (status != TKV_OK)
        return status;
    const size_t bytes = tkv_decode_scratch_bytes(layer);
    float *decoded = tkv_cache_scratch(cache, bytes);
    if (!decoded)
        return tkv_fail_nomem(err, bytes, "scratch");
    const struct read r = {kind, slots, rows, type, stride};
    for (size_t i = 0; i < n_rows && status == TKV_OK;) {
        uint32_t row, stream;
        struct coded_in in;
        if (find_coded(layer, slots[i], &in, &row)) {
            status = read_coded(cache, layer, &r, &i, n_rows, decoded, err);
            continue;
        }
        const struct tkv_page *page = tkv_page_of(layer, slots[i], &row, &stream);
        if (page->state == TKV_PAGE_OPEN)
            read_open(cache, layer, page, &r, i, row);
        else
            read_zeros(layer, &r, i);
        i++;
    }
    return status;
}
