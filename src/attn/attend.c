/* tkv_attend: cutting a call into items, running them, merging what they found. */
#include <math.h>
#include <string.h>

#include "attn/attn.h"
#include "attn/gather.h"
#include "attn/rounds.h"
#include "attn/select.h"
#include "base/alloc.h"
#include "base/bits.h"
#include "base/parallel.h"
#include "base/status.h"

void tkv_attend_params_default(tkv_attend_params *p)
{
    *p = (tkv_attend_params){.struct_size = sizeof *p, .scale = 1.0f};
}

/* --- one item --- */

/* A partial result of one row: maximum, sum, weighted values. */
struct part {
    float m, l, o[];
};

static size_t part_floats(const struct tkv_attend_job *job)
{
    return 2 + (size_t)job->layer->head_dim[TKV_V];
}

static void start_rows(struct tkv_worker *w)
{
    const size_t D = w->job->layer->head_dim[TKV_V];
    for (uint32_t r = 0; r < w->n_rows; r++)
        w->state[r] = (struct tkv_softmax_row){.m = -INFINITY, .fix = 1.0f};
    for (int i = 0; i < TKV_N_ACC; i++) {
        if (w->acc[i])
            memset(w->acc[i], 0, w->n_rows * D * sizeof(float));
        w->acc_used[i] = false;
    }
}

static int64_t column_of(size_t i_page)
{
    return (int64_t)(i_page * TKV_PAGE_TOKENS);
}

/* Slots of a page that query i of the item reads, rows in spans apart. */
static uint64_t picked_bits(const struct tkv_worker *w, size_t i_page, uint32_t i)
{
    const struct tkv_attend_job *job = w->job;
    const size_t list = (w->first_query + i) * job->layer->shape.n_kv_heads + w->head;
    const uint64_t picked = job->picked ? job->picked[list * job->n_pages + i_page] : UINT64_MAX;
    return picked & ~job->pages[i_page].spanned;
}

static bool is_read(const struct tkv_worker *w, size_t i_page)
{
    uint64_t bits = 0;
    for (uint32_t i = 0; i < w->n_queries; i++)
        bits |= picked_bits(w, i_page, i);
    return bits != 0;
}

/* Strict: exact rows where sink and tail allow, coded ones elsewhere. */
static void strict_page(struct tkv_worker *w, size_t i_page, const struct tkv_coding *shadow)
{
    const struct tkv_attend_job *job = w->job;
    uint64_t exact[TKV_BLOCK_ROWS], coded[TKV_BLOCK_ROWS];
    for (uint32_t i = 0; i < w->n_queries; i++) {
        const uint64_t bits =
            tkv_exact_bits(job->cache, job->layer, shadow->page, job->p->q_pos, w->first_query + i);
        const uint64_t picked = picked_bits(w, i_page, i);
        exact[i] = bits & picked;
        coded[i] = ~bits & picked;
    }
    if (tkv_worker_mask(w, column_of(i_page), exact))
        tkv_worker_page(w, &(struct tkv_view){.page = shadow->page});
    if (tkv_worker_mask(w, column_of(i_page), coded))
        tkv_worker_page(
            w, &(struct tkv_view){.page = shadow->page,
                                  .block = tkv_record_block(job->layer, shadow->record, w->head),
                                  .places = shadow->places,
                                  .turn = shadow->turn});
}

static void any_page(struct tkv_worker *w, size_t i_page, struct tkv_page *page)
{
    const struct tkv_layer *layer = w->job->layer;
    const bool sealed = page->state == TKV_PAGE_SEALED;
    uint64_t allow[TKV_BLOCK_ROWS];
    const bool some = page->spanned || w->job->picked;
    for (uint32_t i = 0; some && i < w->n_queries; i++)
        allow[i] = picked_bits(w, i_page, i);
    if (tkv_worker_mask(w, column_of(i_page), some ? allow : NULL))
        tkv_worker_page(
            w, &(struct tkv_view){.page = page,
                                  .block = sealed ? tkv_page_block(layer, page, w->head) : NULL,
                                  .places = page->places,
                                  .turn = sealed ? page->turn : 0});
}

/* acc[PLAIN] += what was summed up in the learned basis of a class. */
static void leave_basis(struct tkv_worker *w, uint8_t klass)
{
    const struct tkv_layer *layer = w->job->layer;
    const struct tkv_codec_env env = tkv_layer_env(w->job->cache, layer, klass, TKV_V, w->head);
    const uint32_t D = env.head_dim, rows = TKV_PAGE_TOKENS;
    struct tkv_basis basis;
    layer->codec[klass][TKV_V].ops->basis(&env, &basis);
    for (uint32_t r = 0; r < w->n_rows; r += rows) {
        const uint32_t n = w->n_rows - r < rows ? w->n_rows - r : rows;
        float *sum = w->acc[TKV_ACC_PLAIN] + (size_t)r * D;
        env.kernels->basis(w->acc[TKV_ACC_LEARNED + klass] + (size_t)r * D, n, D, basis.back,
                           w->decoded);
        for (size_t i = 0; i < (size_t)n * D; i++)
            sum[i] += w->decoded[i];
    }
}

/* The first page from i on that is read; end: none is. */
static size_t next_read(const struct tkv_worker *w, size_t i, size_t end)
{
    while (i < end && w->job->picked && !is_read(w, i))
        i++;
    return i < end ? i : end;
}

static void read_page(struct tkv_worker *w, size_t i, struct tkv_page *next)
{
    const struct tkv_attend_job *job = w->job;
    tkv_worker_look_ahead(w, &job->pages[i], next);
    if (job->shadows && job->shadows[i].record)
        strict_page(w, i, &job->shadows[i]);
    else
        any_page(w, i, &job->pages[i]);
}

static void gather_pages(struct tkv_worker *w, size_t first, size_t end)
{
    const struct tkv_attend_job *job = w->job;
    const size_t list = w->first_query * job->layer->shape.n_kv_heads + w->head;
    const uint64_t *picked = job->picked + list * job->n_pages;
    tkv_gather_attend(w);
    for (size_t i = first; i < end; i++) {
        if (picked[i] == 0)
            continue;
        if (job->pages[i].state == TKV_PAGE_SEALED)
            tkv_gather_page(w, i, picked[i] & ~job->pages[i].spanned);
        else
            read_page(w, i, NULL);
    }
    tkv_gather_end(w);
}

static void run_pages(struct tkv_worker *w, size_t chunk)
{
    const struct tkv_attend_job *job = w->job;
    const size_t first = chunk * job->chunk_pages;
    const size_t end =
        first + job->chunk_pages < job->n_pages ? first + job->chunk_pages : job->n_pages;
    const size_t known = job->in_order ? job->n_pages : end; /* this thread goes on up to there */
    if (job->gathers) {
        gather_pages(w, first, end);
        return;
    }
    for (size_t i = next_read(w, first, end), next; i < end; i = next) {
        next = next_read(w, i + 1, known);
        read_page(w, i, next < known ? &job->pages[next] : NULL);
    }
}

static void run_chunk(struct tkv_worker *w, size_t chunk)
{
    const struct tkv_attend_job *job = w->job;
    start_rows(w);
    if (chunk < job->n_chunks)
        run_pages(w, chunk);
    else
        tkv_worker_span(w, job->layer->spans[job->first_span + chunk - job->n_chunks]);
    if (w->acc_used[TKV_ACC_ROTATED])
        job->cache->ctx->kernels.unrotate(w->acc[TKV_ACC_ROTATED], w->n_rows,
                                          job->layer->head_dim[TKV_V], job->cache->ctx->sign);
    for (uint8_t klass = 0; klass < TKV_N_CLASSES; klass++)
        if (w->acc_used[TKV_ACC_LEARNED + klass])
            leave_basis(w, klass);
}

/* into += from, both relative to their own maxima. */
static void merge(struct part *into, float m, float l, const float *a, const float *b, uint32_t D)
{
    if (m == -INFINITY)
        return;
    const float most = into->m > m ? into->m : m;
    const float keep = into->m == -INFINITY ? 0.0f : expf(into->m - most), add = expf(m - most);
    for (uint32_t c = 0; c < D; c++)
        into->o[c] = into->o[c] * keep + (a[c] + (b ? b[c] : 0.0f)) * add;
    into->l = into->l * keep + l * add;
    into->m = most;
}

/* The row's result, with its sink logit, to the caller's memory. */
static void finish_row(const struct tkv_attend_job *job, size_t query, uint32_t q_head,
                       const struct part *part)
{
    const tkv_attend_params *p = job->p;
    float *out = (float *)(void *)((uint8_t *)p->out + query * p->out_token_stride +
                                   q_head * p->out_head_stride);
    float l = part->l, factor = 1.0f;
    if (p->sinks && part->m != -INFINITY) {
        const float sink = p->sinks[q_head], most = sink > part->m ? sink : part->m;
        factor = expf(part->m - most);
        l = l * factor + expf(sink - most);
    }
    const float scale = l > 0.0f ? factor / l : 0.0f;
    for (uint32_t c = 0; c < job->layer->head_dim[TKV_V]; c++)
        out[c] = part->o[c] * scale;
}

static struct part *part_at(const struct tkv_attend_job *job, float *parts, size_t i)
{
    return (struct part *)(void *)(parts + i * part_floats(job));
}

static void clear_part(const struct tkv_attend_job *job, struct part *part)
{
    memset(part, 0, part_floats(job) * sizeof(float));
    part->m = -INFINITY;
}

static void merge_chunk(struct tkv_worker *w, float *parts)
{
    const uint32_t D = w->job->layer->head_dim[TKV_V];
    for (uint32_t r = 0; r < w->n_rows; r++)
        merge(part_at(w->job, parts, r), w->state[r].m, w->state[r].l,
              w->acc[TKV_ACC_PLAIN] + (size_t)r * D,
              w->acc_used[TKV_ACC_ROTATED] ? w->acc[TKV_ACC_ROTATED] + (size_t)r * D : NULL, D);
}

/* What a row does not read, with the mean value. */
static void add_rest(const struct tkv_attend_job *job, size_t query, uint32_t q_head,
                     struct part *part)
{
    const struct tkv_layer_index *index = job->layer->index;
    const uint32_t D = job->layer->head_dim[TKV_V];
    const struct tkv_rest *rest = &job->rest[query * job->p->n_q_heads + q_head];
    const double *sum = index->value_sum + (size_t)(q_head / job->group) * D;
    float values[TKV_MAX_HEAD_DIM];
    if (rest->sum <= 0.0f || part->m == -INFINITY || index->n_values < 1)
        return;
    for (uint32_t c = 0; c < D; c++)
        values[c] = rest->sum * (float)(sum[c] / index->n_values);
    merge(part, rest->most, rest->sum, values, NULL, D);
}

static void finish_block(const struct tkv_attend_job *job, uint32_t head, size_t first_query,
                         uint32_t n_rows, float *parts)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        const size_t query = first_query + r / job->group;
        const uint32_t q_head = head * job->group + r % job->group;
        struct part *part = part_at(job, parts, r);
        if (job->rest)
            add_rest(job, query, q_head, part);
        finish_row(job, query, q_head, part);
    }
}

static size_t block_part_floats(const struct tkv_attend_job *job)
{
    return (size_t)job->block_queries * job->group * part_floats(job);
}

static size_t count_chunks(const struct tkv_attend_job *job)
{
    return job->n_chunks + job->n_spans;
}

/* Partial i of those that are kept for a block. */
static float *kept_at(const struct tkv_attend_job *job, size_t head, size_t block, size_t i)
{
    return job->partials +
           ((head * job->n_blocks + block) * job->n_kept + i) * block_part_floats(job);
}

static void clear_parts(const struct tkv_worker *w, float *parts)
{
    for (uint32_t r = 0; r < w->n_rows; r++)
        clear_part(w->job, part_at(w->job, parts, r));
}

/* Item = (head, block): those of its chunks that are units at hand, in order. Where none is kept,
 * these are all, and the thread's partials stand behind its worker's memory. */
static void block_item(void *arg, size_t item, uint32_t ith)
{
    const struct tkv_attend_job *job = arg;
    const size_t n_chunks = count_chunks(job), block = item % job->n_blocks;
    const size_t head = job->first_unit / n_chunks + item / job->n_blocks;
    struct tkv_worker w;
    uint8_t *scratch = job->scratch + ith * job->scratch_bytes;
    tkv_worker_init(&w, job, scratch);
    float *parts = job->n_kept ? kept_at(job, head, block, 0)
                               : (float *)(void *)(scratch + tkv_worker_bytes(job));
    tkv_worker_queries(&w, (uint32_t)head, block * job->block_queries);
    if (job->first_unit <= head * n_chunks)
        clear_parts(&w, parts);
    for (size_t chunk = 0; chunk < n_chunks; chunk++) {
        const size_t unit = head * n_chunks + chunk;
        if (unit < job->first_unit || unit >= job->end_unit)
            continue;
        run_chunk(&w, chunk);
        merge_chunk(&w, parts);
    }
    if (!job->n_kept)
        finish_block(job, w.head, w.first_query, w.n_rows, parts);
}

/* Item = (unit, block): one chunk into its own partials. */
static void chunk_item(void *arg, size_t item, uint32_t ith)
{
    const struct tkv_attend_job *job = arg;
    const size_t n_chunks = count_chunks(job), unit = job->first_unit + item / job->n_blocks;
    const size_t head = unit / n_chunks, chunk = unit % n_chunks, block = item % job->n_blocks;
    struct tkv_worker w;
    tkv_worker_init(&w, job, job->scratch + ith * job->scratch_bytes);
    tkv_worker_queries(&w, (uint32_t)head, block * job->block_queries);
    float *parts = kept_at(job, head, block, chunk);
    clear_parts(&w, parts);
    run_chunk(&w, chunk);
    merge_chunk(&w, parts);
}

/* The units at hand. */
static void compute(struct tkv_attend_job *job)
{
    const size_t n_chunks = count_chunks(job);
    const size_t n_heads = (job->end_unit - 1) / n_chunks - job->first_unit / n_chunks + 1;
    if (job->split)
        tkv_parallel(&job->cache->ctx->executor, (job->end_unit - job->first_unit) * job->n_blocks,
                     chunk_item, job);
    else
        tkv_parallel(&job->cache->ctx->executor, n_heads * job->n_blocks, block_item, job);
}

/* What was kept of every block, in order. */
static void merge_kept(const struct tkv_attend_job *job)
{
    const uint32_t D = job->layer->head_dim[TKV_V];
    for (size_t block = 0; block < job->layer->shape.n_kv_heads * job->n_blocks; block++) {
        const size_t first_query = block % job->n_blocks * job->block_queries,
                     left = job->p->n_q - first_query;
        const uint32_t n_queries = left < job->block_queries ? (uint32_t)left : job->block_queries;
        float *total = kept_at(job, 0, block, 0);
        for (size_t i = 1; i < job->n_kept; i++)
            for (uint32_t r = 0; r < n_queries * job->group; r++) {
                const struct part *part = part_at(job, kept_at(job, 0, block, i), r);
                merge(part_at(job, total, r), part->m, part->l, part->o, NULL, D);
            }
        finish_block(job, (uint32_t)(block / job->n_blocks), first_query, n_queries * job->group,
                     total);
    }
}

/* --- the call --- */

static tkv_status check(const tkv_cache *cache, const tkv_attend_params *p, bool fractions,
                        tkv_error *err)
{
    if (!cache || !p || p->struct_size != sizeof *p || p->layer >= cache->n_layers)
        return tkv_fail(err, TKV_ERR_INVALID,
                        "attend params are not set, or name a layer that is not there");
    const struct tkv_layer *layer = &cache->layers[p->layer];
    if (!fractions && p->n_q && (!p->q || !p->out))
        return tkv_fail(err, TKV_ERR_INVALID, "q and out must not be NULL");
    if (p->n_q_heads == 0 || p->n_q_heads % layer->shape.n_kv_heads != 0)
        return tkv_fail(err, TKV_ERR_INVALID, "%u query heads are not a multiple of %u KV heads",
                        p->n_q_heads, layer->shape.n_kv_heads);
    const int64_t n_slots = layer->shape.n_slots;
    if (!tkv_slots_valid(layer, p->first_slot, p->n_kv) ||
        p->first_slot % n_slots + (int64_t)p->n_kv > n_slots)
        return tkv_fail(err, TKV_ERR_RANGE, "slots %lld to %lld do not lie in one stream",
                        (long long)p->first_slot,
                        (long long)p->first_slot + (long long)p->n_kv - 1);
    if (p->first_slot % n_slots % TKV_PAGE_TOKENS != 0)
        return tkv_fail(err, TKV_ERR_INVALID, "first_slot %lld is not the first of a page",
                        (long long)p->first_slot);
    return TKV_OK;
}

/* The spans that begin before the last column and end after the first. */
static void plan_spans(struct tkv_attend_job *job)
{
    const struct tkv_layer *layer = job->layer;
    const int64_t first = job->p->first_slot, end = first + (int64_t)job->p->n_kv;
    while (job->first_span < layer->n_spans &&
           layer->spans[job->first_span]->first + layer->spans[job->first_span]->n_rows <= first)
        job->first_span++;
    while (job->first_span + job->n_spans < layer->n_spans &&
           layer->spans[job->first_span + job->n_spans]->first < end)
        job->n_spans++;
}

static void plan(struct tkv_attend_job *job)
{
    const tkv_attend_params *p = job->p;
    const struct tkv_layer *layer = job->layer;
    const size_t n_slots = layer->shape.n_slots, stream = (size_t)p->first_slot / n_slots;
    job->group = p->n_q_heads / layer->shape.n_kv_heads;
    job->pages = layer->pages + stream * layer->pages_per_stream +
                 (size_t)p->first_slot % n_slots / TKV_PAGE_TOKENS;
    job->n_pages = (p->n_kv + TKV_PAGE_TOKENS - 1) / TKV_PAGE_TOKENS;
    plan_spans(job);
}

/* Into items, once it is known what is read. */
static void cut(struct tkv_attend_job *job)
{
    const uint32_t n_q = job->p->n_q, n_threads = tkv_n_threads(&job->cache->ctx->executor);
    job->gathers = tkv_gathers(job);
    job->block_queries =
        job->gathers || job->group >= TKV_BLOCK_ROWS ? 1 : TKV_BLOCK_ROWS / job->group;
    if (job->block_queries > n_q)
        job->block_queries = n_q;
    job->n_blocks = (n_q + job->block_queries - 1) / job->block_queries;
    job->chunk_pages = job->gathers ? TKV_GATHER_PAGES : TKV_CHUNK_PAGES;
    job->n_chunks = (job->n_pages + job->chunk_pages - 1) / job->chunk_pages;
    job->split = job->layer->shape.n_kv_heads * job->n_blocks < 4 * n_threads;
    job->in_order = !job->split || (n_threads == 1 && job->n_blocks == 1);
}

/* Query statistics for the key balance, until the layer's first page is coded. Only of as many
 * tokens as have come by then whatever the batch size, so that the balance does not depend on it.
 * */
static void watch_queries(const tkv_spec *spec, struct tkv_layer *layer, const tkv_attend_params *p,
                          uint32_t group)
{
    const uint32_t D = layer->head_dim[TKV_K], exact = spec->sink + spec->tail;
    const uint64_t wanted = exact > TKV_PAGE_TOKENS ? exact : TKV_PAGE_TOKENS;
    for (size_t i = 0; i < p->n_q && layer->q_count < wanted * group; i++) {
        for (uint32_t h = 0; h < p->n_q_heads; h++) {
            const uint8_t *at =
                (const uint8_t *)p->q + i * p->q_token_stride + h * p->q_head_stride;
            const float *q = (const float *)(const void *)at;
            float *sum = layer->q_square + (size_t)(h / group) * D;
            for (uint32_t c = 0; c < D; c++)
                sum[c] += q[c] * q[c];
        }
        layer->q_count += group;
    }
}

/* Whether some query may have to read some row of an open page coded. */
static bool needs_shadow(const struct tkv_attend_job *job, const struct tkv_page *page)
{
    if (page->state != TKV_PAGE_OPEN)
        return false;
    for (size_t i = 0; i < job->p->n_q; i++)
        if (tkv_exact_bits(job->cache, job->layer, page, job->p->q_pos, i) != UINT64_MAX)
            return true;
    return false;
}

/* Strict: codes every open page that is read beyond sink and tail, whether it is due or not. */
static tkv_status make_shadows(tkv_cache *cache, struct tkv_layer *layer,
                               struct tkv_attend_job *job, tkv_error *err)
{
    const size_t bytes = job->n_pages * sizeof *job->shadows;
    job->shadows = tkv_alloc_zero(&cache->ctx->allocator, bytes);
    if (!job->shadows)
        return tkv_fail_nomem(err, bytes, "strict's pages");
    for (size_t i = 0; i < job->n_pages; i++) {
        if (!needs_shadow(job, &job->pages[i]))
            continue;
        const tkv_status status =
            tkv_coding_begin(cache, layer, &job->pages[i], &job->shadows[i], err);
        if (status != TKV_OK)
            return status;
    }
    return tkv_code_pages(cache, layer, job->shadows, job->n_pages, err);
}

static void drop_shadows(tkv_cache *cache, struct tkv_layer *layer, struct tkv_attend_job *job)
{
    for (size_t i = 0; job->shadows && i < job->n_pages; i++)
        tkv_coding_drop(cache, layer, &job->shadows[i]);
    tkv_free(&cache->ctx->allocator, job->shadows, job->n_pages * sizeof *job->shadows);
}

static tkv_status run(tkv_cache *cache, struct tkv_attend_job *job, tkv_error *err)
{
    const uint32_t n_threads = tkv_n_threads(&cache->ctx->executor);
    const size_t n_blocks = job->layer->shape.n_kv_heads * job->n_blocks,
                 part_bytes = block_part_floats(job) * sizeof(float),
                 rounds_bytes = tkv_rounds_bytes(job);
    const size_t own = tkv_worker_bytes(job);
    job->n_kept = job->split ? count_chunks(job) : rounds_bytes > 0;
    job->scratch_bytes = own + (job->n_kept ? 0 : tkv_align_up(part_bytes));
    size_t threads_bytes, partial_bytes;
    const bool fits = tkv_mul(n_threads, job->scratch_bytes, &threads_bytes) &&
                      tkv_mul(n_blocks * job->n_kept, part_bytes, &partial_bytes);
    const size_t bytes = fits ? threads_bytes + rounds_bytes + partial_bytes : SIZE_MAX;
    job->scratch = fits ? tkv_cache_scratch(cache, bytes) : NULL;
    if (!job->scratch)
        return tkv_fail_nomem(err, bytes, "attention scratch");
    uint8_t *rounds = job->scratch + threads_bytes;
    job->partials = (float *)(void *)(rounds + rounds_bytes);
    const tkv_status status = tkv_run_rounds(cache, job, compute, rounds, err);
    if (status == TKV_OK && job->n_kept)
        merge_kept(job);
    return status;
}

/* No slots at all: every row gives zeros. */
static void all_zero(const tkv_attend_params *p, uint32_t D)
{
    for (size_t i = 0; i < p->n_q; i++)
        for (uint32_t h = 0; h < p->n_q_heads; h++)
            memset((uint8_t *)p->out + i * p->out_token_stride + h * p->out_head_stride, 0,
                   D * sizeof(float));
}

tkv_status tkv_attend(tkv_cache *cache, const tkv_attend_params *p, tkv_error *err)
{
    tkv_status status = check(cache, p, false, err);
    if (status != TKV_OK || p->n_q == 0)
        return status;
    struct tkv_layer *layer = &cache->layers[p->layer];
    if (p->n_kv == 0) {
        all_zero(p, layer->head_dim[TKV_V]);
        return TKV_OK;
    }
    struct tkv_attend_job job = {.cache = cache, .layer = layer, .p = p};
    plan(&job);
    if (layer->q_square)
        watch_queries(&cache->spec, layer, p, job.group);
    status = tkv_select(cache, &job, err);
    cut(&job);
    if (status == TKV_OK && cache->spec.strict)
        status = make_shadows(cache, layer, &job, err);
    if (status == TKV_OK)
        status = run(cache, &job, err);
    drop_shadows(cache, layer, &job);
    return status;
}

/* Whether the index can be asked for what a call would read. */
static tkv_status plan_reading(tkv_cache *cache, const tkv_attend_params *p,
                               struct tkv_attend_job *job, tkv_error *err)
{
    *job = (struct tkv_attend_job){.cache = cache, .layer = &cache->layers[p->layer], .p = p};
    if (p->n_q == 0 || p->n_kv == 0)
        return TKV_OK;
    plan(job);
    return p->q ? tkv_select(cache, job, err) : TKV_OK;
}

/* What one query sees of a page, and what all KV heads together read of that: exactly, at all, and
 * the keys only. */
struct reading {
    uint64_t live, exact, read, asked;
};

static void add_reading(const struct tkv_attend_job *job, size_t query, size_t i_page,
                        struct reading *sum)
{
    const struct tkv_page *page = &job->pages[i_page];
    const uint64_t live = tkv_live_bits(job->p, query, column_of(i_page));
    uint64_t exact = 0;
    if (page->state == TKV_PAGE_OPEN)
        exact = ~page->spanned &
                (job->cache->spec.strict
                     ? tkv_exact_bits(job->cache, job->layer, page, job->p->q_pos, query)
                     : UINT64_MAX);
    const size_t n_heads = job->layer->shape.n_kv_heads;
    const uint64_t *picked = job->picked;
    for (size_t head = 0; head < n_heads; head++) {
        const uint64_t of_page =
            picked ? picked[(query * n_heads + head) * job->n_pages + i_page] : UINT64_MAX;
        const uint64_t read = live & (of_page | page->spanned);
        sum->live += tkv_count_bits(live);
        sum->exact += tkv_count_bits(read & exact);
        sum->read += tkv_count_bits(read);
        if (job->asked)
            sum->asked +=
                tkv_count_bits(live & job->asked[(query * n_heads + head) * job->n_pages + i_page]);
    }
}

tkv_status tkv_attend_fractions(tkv_cache *cache, const tkv_attend_params *p,
                                double *exact_fraction, double *read_fraction, tkv_error *err)
{
    tkv_status status = check(cache, p, true, err);
    if (status != TKV_OK || !exact_fraction || !read_fraction)
        return status != TKV_OK ? status
                                : tkv_fail(err, TKV_ERR_INVALID, "nowhere to put the fractions");
    struct tkv_attend_job job;
    status = plan_reading(cache, p, &job, err);
    if (status != TKV_OK)
        return status;
    double exact = 0, read = 0;
    size_t n = 0;
    for (size_t i = 0; i < p->n_q; i++) {
        struct reading sum = {0};
        for (size_t j = 0; j < job.n_pages; j++)
            add_reading(&job, i, j, &sum);
        if (sum.live == 0)
            continue;
        exact += (double)sum.exact / (double)sum.live;
        read += ((double)sum.read + (double)sum.asked / 2) / (double)sum.live;
        n++;
    }
    *exact_fraction = n ? exact / (double)n : 1;
    *read_fraction = n ? read / (double)n : 1;
    return TKV_OK;
}

tkv_status tkv_attend_select(tkv_cache *cache, const tkv_attend_params *p, uint64_t *bits,
                             uint64_t *keys, tkv_error *err)
{
    tkv_status status = check(cache, p, true, err);
    if (status == TKV_OK && (!bits || !p->q))
        status = tkv_fail(err, TKV_ERR_INVALID, "q and bits must not be NULL");
    struct tkv_attend_job job;
    if (status == TKV_OK)
        status = plan_reading(cache, p, &job, err);
    if (status != TKV_OK)
        return status;
    const size_t n_heads = job.layer->shape.n_kv_heads, n_lists = p->n_q * n_heads;
    for (size_t list = 0; list < n_lists; list++)
        for (size_t j = 0; j < job.n_pages; j++) {
            const uint64_t live = tkv_live_bits(p, list / n_heads, column_of(j));
            const uint64_t picked =
                job.picked ? job.picked[list * job.n_pages + j] | job.pages[j].spanned : live;
            bits[list * job.n_pages + j] = live & picked;
            if (keys)
                keys[list * job.n_pages + j] =
                    job.asked ? live & job.asked[list * job.n_pages + j] : 0;
        }
    return TKV_OK;
}
