/* Selection: of the rows that a query sees, those before the window and after the sinks are scored
 * by their codes, and the best are read (A2ATS, arXiv 2502.12665); all query heads of a KV head read
 * the same. What has no code is always read. */
#include "attn/select.h"
#include "attn/refine.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/parallel.h"
#include "base/status.h"
#include "index/choose.h"

#define T TKV_PAGE_TOKENS

/* Below, reading everything is as quick (docs/results.md, break-even). */
#define LEAST_LIVE 20480

/* A call of more queries is a prompt being read. */
#define MOST_QUERIES 8

/* What mass= reads at least. */
#define LEAST_ROWS 64

/* --- who may be left out --- */

static uint32_t count_bands(const tkv_cache *cache, int32_t q_pos)
{
    return cache->spec.index == TKV_INDEX_A2ATS || q_pos < 0 ? 1
                                                             : tkv_index_band((uint64_t)q_pos) + 1;
}

/* Item = query. */
static void look_at_query(void *arg, size_t i, uint32_t ith)
{
    const struct tkv_selection *s = arg;
    const struct tkv_attend_job *job = s->job;
    const tkv_spec *spec = &s->cache->spec;
    const uint32_t window = spec->tail > TKV_INDEX_NEAR ? spec->tail : TKV_INDEX_NEAR;
    uint64_t *live = s->live + i * job->n_pages, *candidates = s->candidates + i * job->n_pages;
    struct tkv_select_query *q = &s->queries[i];
    (void)ith;
    *q = (struct tkv_select_query){.n_bands = count_bands(s->cache, job->p->q_pos[i])};
    for (size_t j = 0; j < job->n_pages; j++) {
        const struct tkv_page *page = &job->pages[j];
        live[j] = tkv_live_bits(job->p, i, (int64_t)(j * T));
        candidates[j] = page->codes ? live[j] & page->codes->known & ~page->spanned : 0;
        if (candidates[j])
            candidates[j] &=
                tkv_rows_at(page, spec->sink, (int64_t)job->p->q_pos[i] - (int64_t)window + 1);
        q->n_live += tkv_count_bits(live[j]);
        q->n_candidates += tkv_count_bits(candidates[j]);
    }
}

/* --- one query, one KV head --- */

/* Working memory of one thread. */
struct room {
    float *q;         /* [n_bands][D], of one query head */
    float *table;     /* [group][n_bands][n_places] */
    uint32_t *counts; /* [n_bands][n_places] */
    uint64_t *chosen; /* the same in bits */
    uint32_t *left;   /* [n_bands][n_places] */
    void *choose;
};

static size_t lay_out(const struct tkv_selection *s, uint8_t *base, struct room *room)
{
    const size_t n_codes = (size_t)s->n_bands * s->n_places;
    const size_t sizes[] = {
        s->n_bands * (size_t)s->job->layer->head_dim[TKV_K] * sizeof(float),
        s->job->group * n_codes * sizeof(float),
        n_codes * sizeof(uint32_t),
        tkv_index_choice_words((uint32_t)n_codes) * sizeof(uint64_t),
        n_codes * sizeof(uint32_t),
        tkv_index_choose_scratch((uint32_t)n_codes),
    };
    uint8_t *at[sizeof sizes / sizeof sizes[0]];
    size_t used = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        at[i] = base ? base + used : NULL;
        used += tkv_align_up(sizes[i]);
    }
    *room = (struct room){(void *)at[0], (void *)at[1], (void *)at[2],
                          (void *)at[3], (void *)at[4], at[5]};
    return used;
}

/* One query head's query, as before RoPE and then turned for the keys of each band; with a constant
 * distance there is one band. False: it is not finite. */
static bool far_queries(const struct tkv_selection *s, size_t i, uint32_t q_head, float *q)
{
    const struct tkv_attend_job *job = s->job;
    const tkv_attend_params *p = job->p;
    const struct tkv_layer *layer = job->layer;
    const uint32_t D = layer->head_dim[TKV_K], n_bands = s->queries[i].n_bands;
    const uint8_t *at =
        (const uint8_t *)p->q + i * p->q_token_stride + (size_t)q_head * p->q_head_stride;
    const float *from = (const float *)(const void *)at;
    bool finite = true;
    for (uint32_t d = 0; d < D; d++) {
        q[d] = from[d] * p->scale;
        finite = finite && isfinite(q[d]);
    }
    if (s->cache->spec.index == TKV_INDEX_A2ATS) {
        tkv_turn_by(s->cache, layer, (double)layer->index->models[0].far - p->q_pos[i], q, 1);
        return finite;
    }
    tkv_turn_by(s->cache, layer, -p->q_pos[i], q, 1);
    for (uint32_t band = n_bands; band-- > 0;) {
        float *of_band = q + (size_t)band * D;
        if (band > 0)
            memcpy(of_band, q, D * sizeof *q);
        s->cache->ctx->kernels.turn(of_band, 1, D, layer->turns->half, layer->turns->n_pairs,
                                    (const float(*)[2])layer->turns->band[band]);
    }
    return finite;
}

/* Scores of all codes of all bands, for the group. False: a query is not finite. */
static bool make_table(const struct tkv_selection *s, size_t i, uint32_t head,
                       const struct room *room)
{
    const uint32_t group = s->job->group, n_bands = s->queries[i].n_bands;
    for (uint32_t g = 0; g < group; g++) {
        if (!far_queries(s, i, head * group + g, room->q))
            return false;
        tkv_index_table(&s->cache->ctx->kernels, &s->job->layer->index->models[head], room->q,
                        n_bands, room->table + (size_t)g * n_bands * s->n_places);
    }
    return true;
}

/* Those rows of one code, as many of the last as `most` allows. */
static uint64_t last_rows(const uint16_t *code, uint32_t wanted, uint64_t rows, uint64_t *most)
{
    uint64_t bits = 0;
    for (uint32_t t = T; t-- > 0 && *most > 0;)
        if (rows >> t & 1 && code[t] == wanted) {
            bits |= (uint64_t)1 << t;
            --*most;
        }
    return bits;
}

/* Bits of the bands in which some code was chosen or cut. */
static uint64_t chosen_bands(const struct tkv_index_choice *choice, uint32_t n_bands,
                             uint32_t n_places)
{
    uint64_t bands = choice->n_cut ? (uint64_t)1 << choice->cut / n_places : 0;
    for (uint32_t word = 0; word < n_bands * n_places / 64; word++)
        if (choice->codes[word])
            bands |= (uint64_t)1 << word * 64 / n_places;
    return bands;
}

/* The rows of the chosen codes, from the last page to the first: of the code that is cut, the last
 * rows. */
static void pick_rows(const struct tkv_selection *s, size_t i, uint32_t head,
                      const struct tkv_index_choice *choice, uint64_t *picked)
{
    const struct tkv_attend_job *job = s->job;
    const uint64_t *live = s->live + i * job->n_pages,
                   *candidates = s->candidates + i * job->n_pages;
    const uint32_t cut_band = choice->cut / s->n_places, cut_code = choice->cut % s->n_places;
    const uint64_t bands = chosen_bands(choice, s->queries[i].n_bands, s->n_places);
    uint64_t n_cut = choice->n_cut;
    for (size_t j = job->n_pages; j-- > 0;) {
        const uint16_t *code = candidates[j] ? job->pages[j].codes->code + head * T : NULL;
        picked[j] = live[j] & ~candidates[j];
        for (uint64_t rows = candidates[j]; rows;) {
            uint32_t band;
            const uint64_t taken =
                tkv_take_band(s->cache, &job->pages[j], job->p->q_pos[i], &rows, &band);
            if (!(bands >> band & 1))
                continue;
            const uint64_t *chosen = choice->codes + (size_t)band * s->n_places / 64;
            picked[j] |= taken & s->cache->ctx->kernels.index_scan(code, chosen);
            if (n_cut > 0 && band == cut_band)
                picked[j] |= last_rows(code, cut_code, taken, &n_cut);
        }
    }
}

/* Whether keys may be read without their values: not where they may lie on disk, and a page is
 * fetched for either; and mass= goes by codes. */
static bool refines(const struct tkv_selection *s, uint32_t head)
{
    const struct tkv_index_model *m = &s->job->layer->index->models[head];
    return s->cache->spec.index == TKV_INDEX_QVQ && !s->cache->spec.mass &&
           !s->job->layer->block_pool && m->share[TKV_V] < m->share[TKV_K];
}

/* Rows whose keys, or values, a head reads; published, all heads read alike. */
static uint64_t allowed(const struct tkv_selection *s, size_t i, uint32_t head, tkv_kind kind)
{
    const float *share = s->job->layer->index->models[head].share;
    const double keep = (double)s->cache->spec.keep, most = (double)s->queries[i].n_live;
    const double mean = keep < 1 ? keep * most : keep;
    const double rows = s->cache->spec.index == TKV_INDEX_A2ATS ? mean
                        : refines(s, head)
                            ? mean * (double)share[kind]
                            : mean * ((double)share[TKV_K] + (double)share[TKV_V]) / 2;
    return (uint64_t)(rows < most ? rows : most);
}

static struct tkv_index_budget budget_of(const struct tkv_selection *s, size_t i, uint32_t head)
{
    return (struct tkv_index_budget){
        .rows = allowed(s, i, head, TKV_K),
        .mass = s->cache->spec.mass,
        .least = LEAST_ROWS,
    };
}

/* Expected weights of what the choice leaves out, for each head of the group. */
static void weigh_rest(const struct tkv_selection *s, const struct room *room,
                       const struct tkv_index_choice *choice, const uint32_t *counts,
                       uint32_t n_codes, struct tkv_rest *rest)
{
    uint32_t *left = room->left;
    const struct tkv_kernels *k = &s->cache->ctx->kernels;
    memcpy(left, counts, n_codes * sizeof *left);
    for (uint32_t word = 0; word < n_codes / 64; word++)
        for (uint64_t bits = choice->codes[word]; bits; bits &= bits - 1)
            left[word * 64 + tkv_lowest_bit(bits)] = 0;
    if (choice->n_cut)
        left[choice->cut] -= (uint32_t)choice->n_cut;
    for (uint32_t g = 0; g < s->job->group; g++) {
        const float *score = room->table + (size_t)g * n_codes;
        const float most = k->index_best(score, left, n_codes);
        if (isfinite(most))
            rest[g] = (struct tkv_rest){most, k->index_mass(score, left, n_codes, most)};
    }
}

/* What codes pick for one query and KV head. False: everything. */
static bool pick_by_code(const struct tkv_selection *s, size_t i, uint32_t head,
                         const struct room *room, uint64_t *picked, struct tkv_rest *rest)
{
    const struct tkv_index_budget budget = budget_of(s, i, head);
    const uint32_t group = s->job->group, n_codes = s->queries[i].n_bands * s->n_places;
    if ((s->queries[i].n_candidates <= budget.rows && budget.mass <= 0) ||
        !make_table(s, i, head, room))
        return false;
    const uint32_t *counts = tkv_tally_of(s, head);
    if (!counts) {
        tkv_count_candidates(s, i, head, room->counts);
        counts = room->counts;
    }
    struct tkv_index_choice choice = {.codes = room->chosen};
    tkv_index_choose(&s->cache->ctx->kernels, room->table, group, counts, n_codes, &budget,
                     tkv_tally_reach(s, head), room->choose, &choice);
    pick_rows(s, i, head, &choice, picked);
    if (rest)
        weigh_rest(s, room, &choice, counts, n_codes, rest);
    return true;
}

/* Item = (query, KV head). */
static void select_item(void *arg, size_t item, uint32_t ith)
{
    const struct tkv_selection *s = arg;
    const struct tkv_attend_job *job = s->job;
    const uint32_t n_heads = job->layer->shape.n_kv_heads, head = (uint32_t)(item % n_heads);
    const size_t i = item / n_heads, first = item * job->n_pages;
    uint64_t *picked = job->picked + first;
    struct tkv_rest *rest = job->rest ? job->rest + item * job->group : NULL;
    struct room room;
    uint8_t *scratch = s->scratch + ith * s->scratch_bytes;
    const size_t used = lay_out(s, scratch, &room);
    if (s->queries[i].all || !pick_by_code(s, i, head, &room, picked, rest))
        memcpy(picked, s->live + i * job->n_pages, job->n_pages * sizeof *picked);
    if (s->queries[i].all || !refines(s, head))
        return;
    tkv_refine(&(struct tkv_refinement){.job = &s->single,
                                        .query = i,
                                        .head = head,
                                        .candidates = s->candidates + i * job->n_pages,
                                        .n_values = allowed(s, i, head, TKV_V),
                                        .picked = picked,
                                        .asked = job->asked + first,
                                        .rest = rest},
               scratch + used);
}

/* --- the call --- */

static bool is_asked(const struct tkv_attend_job *job)
{
    const tkv_attend_params *p = job->p;
    if (!job->layer->index || !p->q_pos || p->flags & TKV_ATTEND_DENSE)
        return false;
    return p->flags & TKV_ATTEND_SELECT || (p->n_q <= MOST_QUERIES && p->n_kv > LEAST_LIVE);
}

/* Scores of codes know nothing of a softcap, nor of what a mask adds. */
static bool counts_rest(const tkv_cache *cache, const tkv_attend_params *p)
{
    return cache->spec.rest && p->softcap == 0.0f && !p->slopes;
}

tkv_status tkv_select(tkv_cache *cache, struct tkv_attend_job *job, tkv_error *err)
{
    const tkv_attend_params *p = job->p;
    if (!is_asked(job))
        return TKV_OK;
    struct room unused;
    struct tkv_selection s = {.cache = cache,
                              .job = job,
                              .single = *job,
                              .n_places = tkv_index_places(job->layer->index->n_codes)};
    for (size_t i = 0; i < p->n_q; i++) {
        const uint32_t n = count_bands(cache, p->q_pos[i]);
        s.n_bands = n > s.n_bands ? n : s.n_bands;
    }
    bool some_refine = false;
    for (uint32_t head = 0; head < job->layer->shape.n_kv_heads; head++)
        some_refine = some_refine || refines(&s, head);
    s.single.block_queries = 1;
    s.scratch_bytes = lay_out(&s, NULL, &unused) + (some_refine ? tkv_refine_bytes(&s.single) : 0);
    const uint32_t n_threads = tkv_n_threads(&cache->ctx->executor);
    const size_t n_heads = job->layer->shape.n_kv_heads;
    const size_t words = p->n_q * job->n_pages * sizeof(uint64_t);
    const size_t queries = tkv_align_up(p->n_q * sizeof *s.queries);
    const size_t n_rest = p->n_q * n_heads * job->group;
    const size_t rests = tkv_align_up(n_rest * sizeof *job->rest);
    const size_t n_lists = n_heads * (some_refine ? 2 : 1);
    const size_t bytes = words * (n_lists + 2) + queries + rests + n_threads * s.scratch_bytes;
    uint8_t *room = tkv_cache_room(cache, &cache->selection, bytes);
    if (!room)
        return tkv_fail_nomem(err, bytes, "a selection");
    s.queries = (struct tkv_select_query *)(void *)room;
    if (counts_rest(cache, p))
        job->rest = (struct tkv_rest *)(void *)(room + queries);
    for (size_t i = 0; i < n_rest && job->rest; i++)
        job->rest[i] = (struct tkv_rest){-INFINITY, 0};
    s.scratch = room + queries + rests;
    job->picked = (uint64_t *)(void *)(s.scratch + n_threads * s.scratch_bytes);
    job->asked = some_refine ? job->picked + p->n_q * n_heads * job->n_pages : NULL;
    if (job->asked)
        memset(job->asked, 0, words * n_heads);
    s.live = job->picked + p->n_q * n_lists * job->n_pages;
    s.candidates = s.live + p->n_q * job->n_pages;
    tkv_parallel(&cache->ctx->executor, p->n_q, look_at_query, &s);
    uint64_t n_all = 0;
    for (size_t i = 0; i < p->n_q; i++) {
        const bool few = !(p->flags & TKV_ATTEND_SELECT) && s.queries[i].n_live <= LEAST_LIVE;
        s.queries[i].all = few || p->q_pos[i] < 0;
        n_all += s.queries[i].all;
    }
    if (n_all == p->n_q)
        job->picked = job->asked = NULL, job->rest = NULL;
    if (!job->picked)
        return TKV_OK;
    job->windowed = cache->spec.window_rope;
    if (p->n_q == 1)
        tkv_tally_update(cache, &s);
    tkv_parallel(&cache->ctx->executor, p->n_q * n_heads, select_item, &s);
    return TKV_OK;
}
