/* Spans of visual rows: coded as a whole, apart from the pages of the cache, and found there. */
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/parallel.h"
#include "base/status.h"
#include "cache/cache.h"

#define T TKV_PAGE_TOKENS

/* ---- where things are ----------------------------------------------------------------------- */

struct tkv_span *tkv_span_of(const struct tkv_layer *layer, int64_t slot, uint32_t *row)
{
    for (size_t i = 0; i < layer->n_spans && layer->spans[i]->first <= slot; i++) {
        struct tkv_span *span = layer->spans[i];
        const uint64_t at = (uint64_t)(slot - span->first);
        if (at < span->n_rows && span->pages[at / T].live >> at % T & 1) {
            *row = (uint32_t)at;
            return span;
        }
    }
    return NULL;
}

/* Place i of page_at. */
static uint8_t *share_at(const struct tkv_layer *layer, const struct tkv_span *span, uint32_t i)
{
    return span->record + layer->side_at[i] + span->n_pages * layer->page_at[TKV_SPAN_VISUAL][i];
}

static size_t side_bytes(const struct tkv_layer *layer, uint32_t i)
{
    return layer->side_at[i + 1] - layer->side_at[i];
}

const uint8_t *tkv_span_side(const struct tkv_layer *layer, const struct tkv_span *span,
                             tkv_kind kind, uint32_t head)
{
    const uint32_t i = 2 * head + (kind == TKV_V);
    return side_bytes(layer, i) ? share_at(layer, span, i) : NULL;
}

uint8_t *tkv_span_page(const struct tkv_layer *layer, const struct tkv_span *span, tkv_kind kind,
                       uint32_t head, uint32_t i_page)
{
    const uint32_t i = 2 * head + (kind == TKV_V);
    const size_t *at = layer->page_at[TKV_SPAN_VISUAL] + i;
    return share_at(layer, span, i) + side_bytes(layer, i) + i_page * (at[1] - at[0]);
}

static struct tkv_coded coded_page(const struct tkv_layer *layer, const struct tkv_span *span,
                                   tkv_kind kind, uint32_t head, uint32_t i_page)
{
    return (struct tkv_coded){
        .page = tkv_span_page(layer, span, kind, head, i_page),
        .span = tkv_span_side(layer, span, kind, head),
        .places = span->pages[i_page].places,
        .turn = span->pages[i_page].turn,
        .klass = TKV_SPAN_VISUAL,
        .kind = kind,
        .head = head,
    };
}

void tkv_decode_span_page(const tkv_cache *cache, const struct tkv_layer *layer,
                          const struct tkv_span *span, tkv_kind kind, uint32_t head,
                          uint32_t i_page, float *rows)
{
    const struct tkv_coded coded = coded_page(layer, span, kind, head, i_page);
    tkv_decode_rows(cache, layer, &coded, rows);
}

/* ---- the list of spans ---------------------------------------------------------------------- */

static size_t struct_bytes(const struct tkv_span *span)
{
    return sizeof *span + span->n_pages * sizeof span->pages[0];
}

static void free_span(tkv_cache *cache, struct tkv_span *span)
{
    for (uint32_t p = 0; p < span->n_pages; p++)
        tkv_places_drop(cache, span->pages[p].places);
    tkv_free(&cache->ctx->allocator, span->record, span->record_bytes);
    tkv_free(&cache->ctx->allocator, span, struct_bytes(span));
}

/* A span with its record, in no list yet, and room for it in the layer's. */
static tkv_status make_span(tkv_cache *cache, struct tkv_layer *layer, int64_t first,
                            uint32_t n_rows, struct tkv_span **out, tkv_error *err)
{
    const tkv_allocator *a = &cache->ctx->allocator;
    const uint32_t n_pages = (n_rows + T - 1) / T, n_places = 2 * layer->shape.n_kv_heads;
    if (layer->n_spans == layer->span_capacity) {
        const size_t capacity = layer->span_capacity ? 2 * layer->span_capacity : 4;
        struct tkv_span **grown = tkv_alloc(a, capacity * sizeof(struct tkv_span *));
        if (!grown)
            return tkv_fail_nomem(err, capacity * sizeof(struct tkv_span *), "the list of spans");
        if (layer->n_spans)
            memcpy(grown, layer->spans, layer->n_spans * sizeof(struct tkv_span *));
        tkv_free(a, layer->spans, layer->span_capacity * sizeof(struct tkv_span *));
        layer->spans = grown;
        layer->span_capacity = capacity;
    }
    const struct tkv_span shape = {
        .first = first,
        .n_rows = n_rows,
        .n_live = n_rows,
        .n_pages = n_pages,
        .record_bytes =
            layer->side_at[n_places] + n_pages * layer->page_at[TKV_SPAN_VISUAL][n_places],
    };
    struct tkv_span *span = tkv_alloc_zero(a, struct_bytes(&shape));
    uint8_t *record = tkv_alloc_zero(a, shape.record_bytes);
    if (!span || !record) {
        tkv_free(a, span, struct_bytes(&shape));
        tkv_free(a, record, shape.record_bytes);
        return tkv_fail_nomem(err, struct_bytes(&shape) + shape.record_bytes, "a visual span");
    }
    *span = shape;
    span->record = record;
    *out = span;
    return TKV_OK;
}

static void list_span(struct tkv_layer *layer, struct tkv_span *span)
{
    size_t i = layer->n_spans++;
    for (; i > 0 && layer->spans[i - 1]->first > span->first; i--)
        layer->spans[i] = layer->spans[i - 1];
    layer->spans[i] = span;
}

static void drop_span(tkv_cache *cache, struct tkv_layer *layer, struct tkv_span *span)
{
    size_t i = 0;
    while (layer->spans[i] != span)
        i++;
    layer->n_spans--;
    for (; i < layer->n_spans; i++)
        layer->spans[i] = layer->spans[i + 1];
    free_span(cache, span);
}

void tkv_spans_release(tkv_cache *cache, struct tkv_layer *layer)
{
    for (size_t i = 0; i < layer->n_spans; i++)
        free_span(cache, layer->spans[i]);
    tkv_free(&cache->ctx->allocator, layer->spans,
             layer->span_capacity * sizeof(struct tkv_span *));
}

/* ---- coding --------------------------------------------------------------------------------- */

struct batch {
    const tkv_cache *cache;
    const struct tkv_layer *layer;
    const struct tkv_span *span;
    uint8_t *scratch;
    size_t scratch_bytes, rows_bytes; /* of one thread; of which the rows come first */
};

/* The span's rows of one head, one after the other, and zeros to the end of the last page. */
static void gather(const struct batch *b, tkv_kind kind, uint32_t head, uint16_t *rows)
{
    const size_t D = b->layer->head_dim[kind];
    memset(rows, 0, b->rows_bytes);
    for (uint32_t i = 0; i < b->span->n_rows; i++, rows += D) {
        uint32_t row, stream;
        const struct tkv_page *page = tkv_page_of(b->layer, b->span->first + i, &row, &stream);
        memcpy(rows, tkv_open_rows(b->layer, page, kind, head) + row * D, D * sizeof *rows);
    }
}

/* Item = (head, kind). */
static void code_item(void *arg, size_t item, uint32_t ith)
{
    const struct batch *b = arg;
    const tkv_kind kind = item % 2 ? TKV_V : TKV_K;
    const uint32_t head = (uint32_t)(item / 2);
    const struct tkv_codec_ops *ops = b->layer->codec[TKV_SPAN_VISUAL][kind].ops;
    uint16_t *rows = (uint16_t *)(void *)(b->scratch + ith * b->scratch_bytes);
    gather(b, kind, head, rows);
    if (ops->fit) {
        const struct tkv_codec_env env =
            tkv_layer_env(b->cache, b->layer, TKV_SPAN_VISUAL, kind, head);
        ops->fit(&env, rows, b->span->n_rows, share_at(b->layer, b->span, (uint32_t)item));
    }
    for (uint32_t p = 0; p < b->span->n_pages; p++) {
        const struct tkv_coded coded = coded_page(b->layer, b->span, kind, head, p);
        tkv_code_rows(b->cache, b->layer, &coded, rows + (size_t)p * T * b->layer->head_dim[kind],
                      b->span->pages[p].live, b->scratch + ith * b->scratch_bytes + b->rows_bytes);
    }
}

static tkv_status code_span(const tkv_cache *cache, const struct tkv_layer *layer,
                            const struct tkv_span *span, tkv_error *err)
{
    const tkv_executor *executor = &cache->ctx->executor;
    const uint32_t *dims = layer->head_dim, D = dims[0] > dims[1] ? dims[0] : dims[1];
    struct batch b = {.cache = cache, .layer = layer, .span = span};
    b.rows_bytes = tkv_align_up((size_t)span->n_pages * T * D * sizeof(uint16_t));
    b.scratch_bytes = b.rows_bytes + tkv_coding_scratch_bytes(layer);
    const size_t bytes = tkv_n_threads(executor) * b.scratch_bytes;
    b.scratch = tkv_alloc(&cache->ctx->allocator, bytes);
    if (!b.scratch)
        return tkv_fail_nomem(err, bytes, "coding a visual span");
    tkv_parallel(executor, 2 * (size_t)layer->shape.n_kv_heads, code_item, &b);
    tkv_free(&cache->ctx->allocator, b.scratch, bytes);
    return TKV_OK;
}

/* ---- sealing -------------------------------------------------------------------------------- */

/* A run of waiting rows. */
struct run {
    int64_t first;
    uint32_t n;
    bool complete; /* keys and values are all there */
};

static struct tkv_page *page_at(const struct tkv_layer *layer, int64_t slot, uint32_t *row)
{
    uint32_t stream;
    return tkv_page_of(layer, slot, row, &stream);
}

/* What a page of the span would know of its rows, were they an open page. */
static void gather_info(const struct tkv_layer *layer, const struct tkv_span *span, uint32_t i_page,
                        struct tkv_page *page)
{
    struct tkv_open *info = tkv_open_info(page);
    *info = (struct tkv_open){0};
    for (uint32_t t = 0, row; t < T; t++) {
        const uint32_t i = i_page * T + t;
        info->pos[t] = info->beside[0][t] = info->beside[1][t] = TKV_NO_POS;
        if (i >= span->n_rows)
            continue;
        const struct tkv_open *from = tkv_open_info(page_at(layer, span->first + i, &row));
        page->valid[TKV_K] |= (uint64_t)1 << t;
        info->pos[t] = from->pos[row];
        info->beside[0][t] = from->beside[0][row];
        info->beside[1][t] = from->beside[1][row];
        info->turn = t ? info->turn : from->turn;
    }
}

static tkv_status set_pages(tkv_cache *cache, const struct tkv_layer *layer, struct tkv_span *span,
                            tkv_error *err)
{
    for (uint32_t p = 0; p < span->n_pages; p++) {
        struct tkv_open info;
        struct tkv_page page = {.record = &info};
        gather_info(layer, span, p, &page);
        span->pages[p].live = page.valid[TKV_K];
        span->pages[p].turn = tkv_turn_of(layer, &page);
        if (!layer->keeps_places)
            continue;
        span->pages[p].places = tkv_places_take(cache, &page);
        if (!span->pages[p].places)
            return tkv_fail_nomem(err, TKV_N_AXES * sizeof(int32_t) * T, "positions");
    }
    return TKV_OK;
}

/* Of one page: rows that are in the span now. */
static void leave_page(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page,
                       uint64_t rows)
{
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        page->valid[kind] &= ~rows;
        for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++)
            for (uint32_t t = 0; t < T; t++)
                if (rows >> t & 1)
                    memset(tkv_open_rows(layer, page, (tkv_kind)kind, head) +
                               (size_t)t * layer->head_dim[kind],
                           0, layer->head_dim[kind] * sizeof(uint16_t));
    }
    page->visual &= ~rows;
    page->spanned |= rows;
    if (!page->valid[TKV_K] && !page->valid[TKV_V])
        tkv_page_drop(cache, layer, page);
}

/* The page of a slot; its rows from there to `end`, and the slot after them. */
static struct tkv_page *next_page(const struct tkv_layer *layer, int64_t *slot, int64_t end,
                                  uint64_t *rows)
{
    uint32_t row;
    struct tkv_page *page = page_at(layer, *slot, &row);
    const uint32_t n = end - *slot < T - row ? (uint32_t)(end - *slot) : T - row;
    *rows = tkv_first_bits(n) << row;
    *slot += n;
    return page;
}

/* Whether a run may be coded: finite, and what its codecs learn is known. */
static tkv_status is_ready(tkv_cache *cache, struct tkv_layer *layer, const struct run *run,
                           bool *ready, tkv_error *err)
{
    uint64_t rows;
    *ready = true;
    for (int64_t slot = run->first; slot < run->first + run->n;) {
        struct tkv_page *page = next_page(layer, &slot, run->first + run->n, &rows);
        page->nonfinite = !tkv_page_finite(layer, page);
        *ready = *ready && !page->nonfinite;
        const tkv_status status =
            page->nonfinite ? TKV_OK : tkv_layer_learn(cache, layer, TKV_SPAN_VISUAL, page, err);
        if (status != TKV_OK)
            return status;
    }
    *ready = *ready && tkv_layer_learned(layer, TKV_SPAN_VISUAL);
    return TKV_OK;
}

static tkv_status seal_run(tkv_cache *cache, struct tkv_layer *layer, const struct run *run,
                           tkv_error *err)
{
    bool ready;
    struct tkv_span *span;
    tkv_status status = is_ready(cache, layer, run, &ready, err);
    if (status != TKV_OK || !ready)
        return status;
    status = make_span(cache, layer, run->first, run->n, &span, err);
    if (status != TKV_OK)
        return status;
    status = set_pages(cache, layer, span, err);
    if (status == TKV_OK)
        status = code_span(cache, layer, span, err);
    if (status != TKV_OK) {
        free_span(cache, span);
        return status;
    }
    list_span(layer, span);
    for (int64_t slot = run->first; slot < run->first + run->n;) {
        uint64_t rows;
        struct tkv_page *page = next_page(layer, &slot, run->first + run->n, &rows);
        leave_page(cache, layer, page, rows);
    }
    return TKV_OK;
}

static tkv_status seal_stream(tkv_cache *cache, struct tkv_layer *layer, uint32_t stream,
                              tkv_error *err)
{
    struct run run = {0};
    const int64_t first = (int64_t)stream * layer->shape.n_slots;
    for (uint32_t i = 0; i <= layer->shape.n_slots; i++) {
        struct tkv_page *page = &layer->pages[stream * layer->pages_per_stream + i / T];
        const bool inside = i < layer->shape.n_slots;
        const bool open = inside && page->state == TKV_PAGE_OPEN;
        if (open && page->visual >> i % T & 1) {
            if (run.n++ == 0)
                run = (struct run){first + i, 1, true};
            run.complete = run.complete && !page->nonfinite &&
                           (page->valid[TKV_K] & page->valid[TKV_V]) >> i % T & 1;
            continue;
        }
        const tkv_status status = run.complete ? seal_run(cache, layer, &run, err) : TKV_OK;
        if (status != TKV_OK)
            return status;
        run = (struct run){0};
        if (inside && i % T == 0 && !(open && page->visual))
            i += T - 1; /* nothing waits here */
    }
    return TKV_OK;
}

tkv_status tkv_spans_seal(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err)
{
    uint64_t waiting = 0;
    for (size_t i = 0; i < layer->n_open; i++)
        waiting |= tkv_page_waiting(layer, &layer->pages[layer->open_pages[i]]);
    for (uint32_t s = 0; waiting && s < layer->shape.n_streams; s++) {
        if (layer->streams[s].in_span)
            continue;
        const tkv_status status = seal_stream(cache, layer, s, err);
        if (status != TKV_OK)
            return status;
    }
    return TKV_OK;
}

/* ---- leaving a span ------------------------------------------------------------------------- */

void tkv_span_positions(const struct tkv_span *span, uint32_t row, int32_t pos[TKV_N_AXES])
{
    const struct tkv_span_page *page = &span->pages[row / T];
    const int32_t near =
        page->turn ? (int32_t)(page->turn * TKV_TURN_STEP + row % T) - T / 2 : TKV_NO_POS;
    for (uint32_t axis = 0; axis < TKV_N_AXES; axis++)
        pos[axis] = page->places ? tkv_place(page->places, axis, row % T) : near;
}

static void lift_row(struct tkv_layer *layer, struct tkv_span *span, uint32_t i)
{
    uint32_t row;
    struct tkv_page *page = page_at(layer, span->first + i, &row);
    struct tkv_open *info = tkv_open_info(page);
    const uint64_t bit = (uint64_t)1 << row;
    page->valid[TKV_K] |= bit;
    page->valid[TKV_V] |= bit;
    page->visual |= bit;
    page->spanned &= ~bit;
    int32_t pos[TKV_N_AXES];
    tkv_span_positions(span, i, pos);
    info->pos[row] = pos[0];
    info->beside[0][row] = pos[1];
    info->beside[1][row] = pos[2];
    info->stamp[row] = 0;
    span->pages[i / T].live &= ~((uint64_t)1 << i % T);
    span->n_live--;
}

/* The rows of one page of a span to their pages, which are open. */
static void decode_rows(tkv_cache *cache, const struct tkv_layer *layer,
                        const struct tkv_span *span, uint32_t i_page, uint64_t rows, float *decoded)
{
    for (uint32_t i = 0; i < 2 * layer->shape.n_kv_heads; i++) {
        const tkv_kind kind = i % 2 ? TKV_V : TKV_K;
        const size_t D = layer->head_dim[kind];
        tkv_decode_span_page(cache, layer, span, kind, i / 2, i_page, decoded);
        for (uint32_t t = 0, row; t < T; t++) {
            if (!(rows >> t & 1))
                continue;
            const struct tkv_page *page = page_at(layer, span->first + i_page * T + t, &row);
            cache->ctx->kernels.f32_to_f16(decoded + t * D,
                                           tkv_open_rows(layer, page, kind, i / 2) + row * D, D);
        }
    }
}

/* Rows [first, end) of a span, those that are live. */
static tkv_status lift(tkv_cache *cache, struct tkv_layer *layer, struct tkv_span *span,
                       uint32_t first, uint32_t end, tkv_error *err)
{
    for (uint32_t i = first, row; i < end; i++) {
        const tkv_status status =
            tkv_page_open(cache, layer, page_at(layer, span->first + i, &row), err);
        if (status != TKV_OK)
            return status;
    }
    const size_t bytes = sizeof(float) * T * TKV_MAX_HEAD_DIM;
    float *decoded = tkv_cache_scratch(cache, bytes);
    if (!decoded)
        return tkv_fail_nomem(err, bytes, "scratch");
    for (uint32_t i = first, next; i < end; i = next) {
        next = (i / T + 1) * T < end ? (i / T + 1) * T : end;
        const uint64_t rows = span->pages[i / T].live & tkv_first_bits(next - i) << i % T;
        decode_rows(cache, layer, span, i / T, rows, decoded);
        for (uint32_t t = 0; t < T; t++)
            if (rows >> t & 1)
                lift_row(layer, span, i / T * T + t);
    }
    if (span->n_live == 0)
        drop_span(cache, layer, span);
    return TKV_OK;
}

tkv_status tkv_spans_lift(tkv_cache *cache, struct tkv_layer *layer, size_t n, const int64_t *slots,
                          const uint8_t *klass, bool keys, tkv_error *err)
{
    for (size_t i = 0; i < n && layer->n_spans; i++) {
        uint32_t row;
        struct tkv_span *span = tkv_span_of(layer, slots[i], &row);
        if (!span)
            continue;
        const bool stays = klass ? klass[i] == TKV_SPAN_VISUAL : !keys;
        const tkv_status status = stays ? lift(cache, layer, span, 0, span->n_rows, err)
                                        : lift(cache, layer, span, row, row + 1, err);
        if (status != TKV_OK)
            return status;
    }
    return TKV_OK;
}

void tkv_spans_forget(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page,
                      uint32_t first, uint32_t n)
{
    const size_t i_page = (size_t)(page - layer->pages), stream = i_page / layer->pages_per_stream;
    const int64_t slot =
        (int64_t)(stream * layer->shape.n_slots + i_page % layer->pages_per_stream * T);
    uint64_t rows = page->spanned & tkv_first_bits(n) << first;
    page->spanned &= ~rows;
    for (uint32_t t = first, row = 0; rows && t < first + n; t++) {
        if (!(rows >> t & 1))
            continue;
        struct tkv_span *span = tkv_span_of(layer, slot + t, &row);
        span->pages[row / T].live &= ~((uint64_t)1 << row % T);
        span->n_live--;
        layer->n_rows[TKV_K]--, layer->n_rows[TKV_V]--;
        if (span->n_live == 0)
            drop_span(cache, layer, span);
    }
}

/* ---- copying -------------------------------------------------------------------------------- */

bool tkv_span_moves(const struct tkv_layer *layer, const struct tkv_span *span, int64_t dst,
                    int64_t src, size_t n)
{
    const int64_t first = span->first - src + dst, last = first + span->n_rows - 1;
    return span->first >= src && span->first + span->n_rows <= src + (int64_t)n &&
           first / layer->shape.n_slots == last / layer->shape.n_slots;
}

static tkv_status copy_span(tkv_cache *cache, struct tkv_layer *layer, const struct tkv_span *span,
                            int64_t first, tkv_error *err)
{
    struct tkv_span *copy;
    const tkv_status status = make_span(cache, layer, first, span->n_rows, &copy, err);
    if (status != TKV_OK)
        return status;
    memcpy(copy->record, span->record, span->record_bytes);
    memcpy(copy->pages, span->pages, span->n_pages * sizeof span->pages[0]);
    for (uint32_t p = 0; p < span->n_pages; p++)
        tkv_places_hold(span->pages[p].places);
    copy->n_live = span->n_live;
    for (uint32_t i = 0, row; i < copy->n_rows; i++) {
        struct tkv_page *page = page_at(layer, first + i, &row);
        page->spanned |= (copy->pages[i / T].live >> i % T & 1) << row;
    }
    layer->n_rows[TKV_K] += copy->n_live;
    layer->n_rows[TKV_V] += copy->n_live;
    list_span(layer, copy);
    return TKV_OK;
}

tkv_status tkv_spans_copy(tkv_cache *cache, struct tkv_layer *layer, int64_t dst, int64_t src,
                          size_t n, tkv_error *err)
{
    for (int64_t slot = src; slot < src + (int64_t)n;) {
        size_t i = 0; /* the next span from `slot` on: the list changes below */
        while (i < layer->n_spans && layer->spans[i]->first < slot)
            i++;
        if (i == layer->n_spans)
            break;
        const struct tkv_span *span = layer->spans[i];
        slot = span->first + 1;
        if (!tkv_span_moves(layer, span, dst, src, n))
            continue;
        const tkv_status status = copy_span(cache, layer, span, span->first - src + dst, err);
        if (status != TKV_OK)
            return status;
    }
    return TKV_OK;
}
