#include "attn/refine.h"

#include <math.h>
#include <string.h>

#include "attn/gather.h"
#include "base/alloc.h"
#include "base/bits.h"

#define T       TKV_PAGE_TOKENS
#define NOWHERE UINT32_MAX

/* Logits of all rows whose keys are read, 64 at a time. */
struct table {
    float *logits;    /* [n][group][64] then weights; of hidden places -INFINITY */
    float *copy;      /* [group][64] */
    float *weight;    /* [n][64] of all query heads; below 0: read anyway, or hidden */
    uint32_t *column; /* [n][64], or NOWHERE */
    size_t n;
    struct tkv_softmax_row *state; /* [group] */
};

struct look {
    const struct tkv_refinement *r;
    struct tkv_worker worker;
    struct table table;
};

/* Pages that are read whole, and one that is not full of gathered rows. */
static size_t most_tiles(const struct tkv_attend_job *job)
{
    return job->n_pages + 1;
}

static size_t lay_out(const struct tkv_attend_job *job, uint8_t *base, struct table *t)
{
    const size_t n = most_tiles(job), tile = (size_t)job->group * T;
    const size_t sizes[] = {n * tile * sizeof(float), tile * sizeof(float), n * T * sizeof(float),
                            n * T * sizeof(uint32_t), job->group * sizeof *t->state};
    uint8_t *at[sizeof sizes / sizeof sizes[0]];
    size_t used = tkv_worker_bytes(job);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        at[i] = base ? base + used : NULL;
        used += tkv_align_up(sizes[i]);
    }
    *t = (struct table){(void *)at[0], (void *)at[1], (void *)at[2], (void *)at[3], 0,
                        (void *)at[4]};
    return used;
}

size_t tkv_refine_bytes(const struct tkv_attend_job *job)
{
    struct table unused;
    return lay_out(job, NULL, &unused);
}

/* ---- scoring ---------------------------------------------------------------------------------- */

/* Takes the worker's logits of 64 rows, of which some are listed. */
static void add_tile(struct look *look, const uint64_t listed, const size_t *columns)
{
    const uint32_t group = look->r->job->group;
    struct table *t = &look->table;
    float *logits = t->logits + t->n * group * T;
    memcpy(logits, look->worker.s, (size_t)group * T * sizeof *logits);
    for (uint32_t i = 0; i < T; i++) {
        const bool hidden = !(listed >> i & 1);
        t->column[t->n * T + i] = hidden ? NOWHERE : (uint32_t)columns[i];
        for (uint32_t g = 0; g < group && hidden; g++)
            logits[g * T + i] = -INFINITY;
    }
    memcpy(t->copy, logits, (size_t)group * T * sizeof *logits);
    look->r->job->cache->ctx->kernels.softmax(t->copy, t->state, group, &look->worker.ahead);
    t->n++;
}

static void score_gathered(struct tkv_worker *w, void *arg, const uint8_t *const *rows,
                           const size_t *columns, uint32_t n)
{
    tkv_worker_scores(w, &(struct tkv_view){.rows = rows});
    add_tile(arg, n < T ? ((uint64_t)1 << n) - 1 : UINT64_MAX, columns);
}

static void score_page(struct look *look, size_t j, uint64_t listed)
{
    const struct tkv_attend_job *job = look->r->job;
    struct tkv_page *page = &job->pages[j];
    const bool sealed = page->state == TKV_PAGE_SEALED;
    size_t columns[T];
    for (size_t i = 0; i < T; i++)
        columns[i] = j * T + i;
    tkv_worker_look_ahead(&look->worker, page, NULL);
    tkv_worker_scores(
        &look->worker,
        &(struct tkv_view){.page = page,
                           .block =
                               sealed ? tkv_page_block(job->layer, page, look->worker.head) : NULL,
                           .places = page->places,
                           .turn = sealed ? page->turn : 0});
    add_tile(look, listed, columns);
}

static void score(struct look *look)
{
    const struct tkv_refinement *r = look->r;
    struct tkv_worker *w = &look->worker;
    const bool gathers = tkv_in_rows(r->job->layer) && !(r->job->p->flags & TKV_ATTEND_EXACT);
    for (uint32_t g = 0; g < r->job->group; g++)
        look->table.state[g] = (struct tkv_softmax_row){.m = -INFINITY, .fix = 1.0f};
    tkv_gather_for(w, score_gathered, look, r->job->layer->row_bytes[TKV_K]);
    for (size_t j = 0; j < r->job->n_pages; j++) {
        const uint64_t listed = r->picked[j] & ~r->job->pages[j].spanned;
        if (listed && gathers && r->job->pages[j].state == TKV_PAGE_SEALED)
            tkv_gather_page(w, j, listed);
        else if (listed)
            score_page(look, j, listed);
    }
    tkv_gather_end(w);
}

/* ---- choosing --------------------------------------------------------------------------------- */

/* Each head's maximum becomes the logarithm of all that it weighs. False: it is no number. */
static bool normalize(const struct look *look)
{
    const struct tkv_refinement *r = look->r;
    for (uint32_t g = 0; g < r->job->group; g++) {
        struct tkv_softmax_row *s = &look->table.state[g];
        float most = s->m, sum = s->l;
        if (r->rest && r->rest[g].sum > 0) {
            const float other = r->rest[g].most, top = most > other ? most : other;
            sum = sum * expf(most - top) + r->rest[g].sum * expf(other - top);
            most = top;
        }
        s->m = most + logf(sum);
        s->l = 0;
        if (!isfinite(s->m))
            return false;
    }
    return true;
}

static bool is_candidate(const struct tkv_refinement *r, uint32_t column)
{
    return column != NOWHERE && r->candidates[column / T] >> column % T & 1;
}

/* Logits become weights. */
static void weigh(struct look *look)
{
    const uint32_t group = look->r->job->group;
    const struct table *t = &look->table;
    for (size_t tile = 0; tile < t->n; tile++) {
        float *weights = t->logits + tile * group * T, *sum = t->weight + tile * T;
        look->r->job->cache->ctx->kernels.softmax(weights, t->state, group, &look->worker.ahead);
        memcpy(sum, weights, T * sizeof *sum);
        for (uint32_t g = 1; g < group; g++)
            for (uint32_t i = 0; i < T; i++)
                sum[i] += weights[g * T + i];
        for (uint32_t i = 0; i < T; i++)
            sum[i] = is_candidate(look->r, t->column[tile * T + i]) ? sum[i] : -1;
    }
}

/* The bits of the n-th largest weight, and how many of those equal to it are among the n. Weights
 * that count are at least 0, so their bits rise with them. */
static uint32_t nth_weight(const struct table *t, uint64_t n, uint64_t *n_equal)
{
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint64_t held[256] = {0};
        for (size_t i = 0; i < t->n * T; i++) {
            uint32_t bits;
            memcpy(&bits, &t->weight[i], sizeof bits);
            if (!(bits >> 31) && (uint64_t)bits >> (shift + 8) == (uint64_t)prefix >> (shift + 8))
                held[bits >> shift & 255]++;
        }
        uint32_t digit = 255;
        while (digit > 0 && held[digit] < n)
            n -= held[digit--];
        prefix |= digit << shift;
    }
    *n_equal = n;
    return prefix;
}

/* Takes a row out of what is read whole; what it weighs goes to the rest. */
static void leave_out(const struct look *look, size_t tile, uint32_t i)
{
    const struct tkv_refinement *r = look->r;
    const uint32_t column = look->table.column[tile * T + i], group = r->job->group;
    const uint64_t bit = (uint64_t)1 << column % T;
    r->picked[column / T] &= ~bit;
    r->asked[column / T] |= bit;
    for (uint32_t g = 0; g < group && r->rest; g++)
        r->rest[g].sum += look->table.logits[(tile * group + g) * T + i];
}

static void choose(const struct look *look)
{
    const struct tkv_refinement *r = look->r;
    const struct table *t = &look->table;
    uint64_t n_equal;
    const uint32_t least = nth_weight(t, r->n_values, &n_equal);
    for (uint32_t g = 0; g < r->job->group && r->rest; g++)
        r->rest[g] = (struct tkv_rest){t->state[g].m,
                                       r->rest[g].sum * expf(r->rest[g].most - t->state[g].m)};
    for (size_t tile = t->n; tile-- > 0;)
        for (uint32_t i = T; i-- > 0;) {
            uint32_t bits;
            memcpy(&bits, &t->weight[tile * T + i], sizeof bits);
            if (bits >> 31)
                continue;
            const bool equal = bits == least && n_equal > 0;
            n_equal -= equal;
            if (bits <= least && !equal)
                leave_out(look, tile, i);
        }
}

static uint64_t count_proposed(const struct tkv_refinement *r)
{
    uint64_t n = 0;
    for (size_t j = 0; j < r->job->n_pages; j++)
        n += tkv_count_bits(r->picked[j] & r->candidates[j]);
    return n;
}

void tkv_refine(const struct tkv_refinement *r, uint8_t *scratch)
{
    struct look look = {.r = r};
    if (count_proposed(r) <= r->n_values)
        return;
    lay_out(r->job, scratch, &look.table);
    tkv_worker_init(&look.worker, r->job, scratch);
    tkv_worker_queries(&look.worker, r->head, r->query);
    score(&look);
    if (!normalize(&look))
        return;
    weigh(&look);
    choose(&look);
}
