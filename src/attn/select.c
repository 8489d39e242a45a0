/* Selection: of the rows that a query sees, those before the window and after the sinks are scored
 * by their codes, and the best are read (A2ATS, arXiv 2502.12665); all query heads of a KV head read
 * the same. What has no code is always read. */
#include "attn/select.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/parallel.h"
#include "base/status.h"
#include "index/choose.h"

#define T TKV_PAGE_TOKENS

/* Far scores are meant for keys at least this far from the query. */
#define WINDOW 64

/* Below, reading everything is as quick (docs/results.md, break-even). */
#define LEAST_LIVE 4096

/* A call of more queries is a prompt being read. */
#define MOST_QUERIES 8

/* What mass= reads at least. */
#define LEAST_ROWS 64

struct query {
    uint64_t n_live, n_candidates;
    bool all; /* reads everything */
};

struct selection {
    const tkv_cache *cache;
    const struct tkv_attend_job *job;
    struct query *queries; /* [n_q] */
    uint64_t *live;        /* [n_q][n_pages] */
    uint64_t *candidates;  /* [n_q][n_pages] */
    uint8_t *scratch;
    size_t scratch_bytes; /* of one thread */
};

/* --- who may be left out --- */

static uint64_t rows_from(int64_t first)
{
    return first <= 0 ? UINT64_MAX : first >= T ? 0 : UINT64_MAX << first;
}

/* Rows of a page at positions [from, to). */
static uint64_t rows_at(const struct tkv_page *page, int64_t from, int64_t to)
{
    if (page->state == TKV_PAGE_SEALED && page->places && page->places->consecutive) {
        const int64_t first = page->places->pos[0];
        return rows_from(from - first) & ~rows_from(to - first);
    }
    uint64_t bits = 0;
    for (uint32_t t = 0; t < T; t++) {
        const int64_t pos = tkv_page_pos(page, t);
        bits |= (uint64_t)(pos >= from && pos < to) << t;
    }
    return bits;
}

/* Item = query. */
static void look_at_query(void *arg, size_t i, uint32_t ith)
{
    const struct selection *s = arg;
    const struct tkv_attend_job *job = s->job;
    const tkv_spec *spec = &s->cache->spec;
    const uint32_t window = spec->tail > WINDOW ? spec->tail : WINDOW;
    uint64_t *live = s->live + i * job->n_pages, *candidates = s->candidates + i * job->n_pages;
    struct query *q = &s->queries[i];
    (void)ith;
    *q = (struct query){0};
    for (size_t j = 0; j < job->n_pages; j++) {
        const struct tkv_page *page = &job->pages[j];
        live[j] = tkv_live_bits(job->p, i, (int64_t)(j * T));
        candidates[j] = page->codes ? live[j] & page->codes->known & ~page->spanned : 0;
        if (candidates[j])
            candidates[j] &=
                rows_at(page, spec->sink, (int64_t)job->p->q_pos[i] - (int64_t)window + 1);
        q->n_live += tkv_count_bits(live[j]);
        q->n_candidates += tkv_count_bits(candidates[j]);
    }
}

/* --- one query, one KV head --- */

/* Working memory of one thread. */
struct room {
    float *q;         /* [group][D] */
    float *table;     /* [group][n_codes] */
    uint32_t *counts; /* [n_codes] */
    uint64_t *chosen;
    void *choose;
};

static size_t lay_out(const struct tkv_attend_job *job, uint8_t *base, struct room *room)
{
    const size_t n_codes = job->layer->index->n_codes;
    const size_t sizes[] = {
        job->group * (size_t)job->layer->head_dim[TKV_K] * sizeof(float),
        job->group * n_codes * sizeof(float),
        n_codes * sizeof(uint32_t),
        tkv_index_choice_words((uint32_t)n_codes) * sizeof(uint64_t),
        tkv_index_choose_scratch((uint32_t)n_codes),
    };
    uint8_t *at[sizeof sizes / sizeof sizes[0]];
    size_t used = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        at[i] = base ? base + used : NULL;
        used += tkv_align_up(sizes[i]);
    }
    *room = (struct room){(void *)at[0], (void *)at[1], (void *)at[2], (void *)at[3], at[4]};
    return used;
}

/* The group's queries as if they stood far behind every key. False: not all are finite. */
static bool far_queries(const struct selection *s, size_t i, uint32_t head, float *q)
{
    const struct tkv_attend_job *job = s->job;
    const tkv_attend_params *p = job->p;
    const uint32_t D = job->layer->head_dim[TKV_K];
    bool finite = true;
    for (uint32_t g = 0; g < job->group; g++) {
        const uint8_t *at = (const uint8_t *)p->q + i * p->q_token_stride +
                            ((size_t)head * job->group + g) * p->q_head_stride;
        const float *from = (const float *)(const void *)at;
        for (uint32_t d = 0; d < D; d++) {
            q[g * D + d] = from[d] * p->scale;
            finite = finite && isfinite(q[g * D + d]);
        }
    }
    const double far = (double)job->layer->index->models[head].far;
    tkv_turn_by(s->cache, job->layer, far - p->q_pos[i], q, job->group);
    return finite;
}

static void count_rows(const uint16_t *code, uint64_t rows, uint32_t sign, uint32_t *counts)
{
    for (; rows; rows &= rows - 1)
        counts[code[tkv_lowest_bit(rows)]] += sign;
}

/* How many candidates have each code: the layer's counts less what is none, or the candidates
 * themselves where these are fewer. */
static void count_candidates(const struct selection *s, size_t i, uint32_t head, uint32_t *counts)
{
    const struct tkv_attend_job *job = s->job;
    const struct tkv_layer *layer = job->layer;
    const struct tkv_layer_index *index = layer->index;
    const uint64_t *candidates = s->candidates + i * job->n_pages;
    const size_t stream = (size_t)(job->pages - layer->pages) / layer->pages_per_stream;
    const struct tkv_page *first = layer->pages + stream * layer->pages_per_stream;
    const bool less =
        index->n_known[stream] - s->queries[i].n_candidates < s->queries[i].n_candidates;
    if (less)
        memcpy(counts, tkv_code_counts(layer, stream, head), index->n_codes * sizeof *counts);
    else
        memset(counts, 0, index->n_codes * sizeof *counts);
    for (size_t j = 0; j < layer->pages_per_stream; j++) {
        const struct tkv_page *page = &first[j];
        const bool seen = page >= job->pages && page < job->pages + job->n_pages;
        const uint64_t is = seen ? candidates[page - job->pages] : 0;
        if (page->codes)
            count_rows(page->codes->code + head * T, less ? page->codes->known & ~is : is,
                       less ? UINT32_MAX : 1, counts);
    }
}

/* The rows of the chosen codes, from the last page to the first: of the code that is cut, the last
 * rows. */
static void pick_rows(const struct selection *s, size_t i, uint32_t head,
                      const struct tkv_index_choice *choice, uint64_t *picked)
{
    const struct tkv_attend_job *job = s->job;
    const uint64_t *live = s->live + i * job->n_pages,
                   *candidates = s->candidates + i * job->n_pages;
    uint64_t n_cut = choice->n_cut;
    for (size_t j = job->n_pages; j-- > 0;) {
        picked[j] = live[j] & ~candidates[j];
        if (!candidates[j])
            continue;
        const uint16_t *code = job->pages[j].codes->code + head * T;
        picked[j] |= candidates[j] & s->cache->ctx->kernels.index_scan(code, choice->codes);
        if (n_cut == 0)
            continue;
        for (uint32_t t = T; t-- > 0 && n_cut > 0;)
            if (candidates[j] >> t & 1 && code[t] == choice->cut) {
                picked[j] |= (uint64_t)1 << t;
                n_cut--;
            }
    }
}

static struct tkv_index_budget budget_of(const tkv_spec *spec, const struct query *q)
{
    const double keep = (double)spec->keep;
    return (struct tkv_index_budget){
        .rows = (uint64_t)(keep < 1 ? keep * (double)q->n_live : keep),
        .mass = spec->mass,
        .least = LEAST_ROWS,
    };
}

/* Item = (query, KV head). */
static void select_item(void *arg, size_t item, uint32_t ith)
{
    const struct selection *s = arg;
    const struct tkv_attend_job *job = s->job;
    const uint32_t n_heads = job->layer->shape.n_kv_heads, head = (uint32_t)(item % n_heads);
    const size_t i = item / n_heads;
    const struct tkv_index_model *model = &job->layer->index->models[head];
    const struct tkv_index_budget budget = budget_of(&s->cache->spec, &s->queries[i]);
    uint64_t *picked = job->picked + item * job->n_pages;
    struct room room;
    lay_out(job, s->scratch + ith * s->scratch_bytes, &room);
    if (s->queries[i].all || (s->queries[i].n_candidates <= budget.rows && budget.mass <= 0) ||
        !far_queries(s, i, head, room.q)) {
        memcpy(picked, s->live + i * job->n_pages, job->n_pages * sizeof *picked);
        return;
    }
    tkv_index_table(&s->cache->ctx->kernels, model, room.q, job->group, room.table);
    count_candidates(s, i, head, room.counts);
    struct tkv_index_choice choice = {.codes = room.chosen};
    tkv_index_choose(room.table, job->group, room.counts, model->n_codes, &budget, room.choose,
                     &choice);
    pick_rows(s, i, head, &choice, picked);
}

/* --- the call --- */

static bool is_asked(const struct tkv_attend_job *job)
{
    const tkv_attend_params *p = job->p;
    if (!job->layer->index || !p->q_pos || p->flags & TKV_ATTEND_DENSE)
        return false;
    return p->flags & TKV_ATTEND_SELECT || (p->n_q <= MOST_QUERIES && p->n_kv > LEAST_LIVE);
}

tkv_status tkv_select(tkv_cache *cache, struct tkv_attend_job *job, tkv_error *err)
{
    const tkv_attend_params *p = job->p;
    if (!is_asked(job))
        return TKV_OK;
    struct room unused;
    struct selection s = {.cache = cache, .job = job, .scratch_bytes = lay_out(job, NULL, &unused)};
    const uint32_t n_threads = tkv_n_threads(&cache->ctx->executor);
    const size_t n_heads = job->layer->shape.n_kv_heads;
    const size_t words = p->n_q * job->n_pages * sizeof(uint64_t);
    const size_t queries = tkv_align_up(p->n_q * sizeof *s.queries);
    const size_t bytes = words * (n_heads + 2) + queries + n_threads * s.scratch_bytes;
    uint8_t *room = tkv_cache_room(cache, &cache->selection, bytes);
    if (!room)
        return tkv_fail_nomem(err, bytes, "a selection");
    s.queries = (struct query *)(void *)room;
    s.scratch = room + queries;
    job->picked = (uint64_t *)(void *)(s.scratch + n_threads * s.scratch_bytes);
    s.live = job->picked + p->n_q * n_heads * job->n_pages;
    s.candidates = s.live + p->n_q * job->n_pages;
    tkv_parallel(&cache->ctx->executor, p->n_q, look_at_query, &s);
    uint64_t n_all = 0;
    for (size_t i = 0; i < p->n_q; i++) {
        const bool few = !(p->flags & TKV_ATTEND_SELECT) && s.queries[i].n_live <= LEAST_LIVE;
        s.queries[i].all = few || p->q_pos[i] < 0;
        n_all += s.queries[i].all;
    }
    if (n_all == p->n_q)
        job->picked = NULL;
    else
        tkv_parallel(&cache->ctx->executor, p->n_q * n_heads, select_item, &s);
    return TKV_OK;
}
