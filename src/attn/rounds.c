/* Rounds over the blocks of a layer whose pages are in tiers. */
#include "attn/rounds.h"

#include <string.h>

#include "base/alloc.h"

/* Blocks of a round: some chunks, even where rows are gathered, for threads to share. Of the next
 * round's, as many are read ahead as there is room for in the queue. */
#define ROUND_BLOCKS (4 * TKV_GATHER_PAGES)

_Static_assert(TKV_ROUND_PAGES >= TKV_CHUNK_PAGES, "a chunk has to fit into a round");

struct round {
    size_t first, end; /* units */
    struct tkv_block **blocks;
    uint32_t *where; /* the same as numbers: see block_at */
    size_t n;
};

struct rounds {
    const struct tkv_attend_job *job;
    const uint64_t
        *live; /* a bit a page: some query sees it; where the index picks, not looked at */
    uint64_t most_bytes;
    size_t n_units, capacity; /* blocks of a round */
    struct round now, next;
};

static size_t count_chunks(const struct tkv_attend_job *job)
{
    return job->n_chunks + job->n_spans;
}

static size_t live_words(const struct tkv_attend_job *job)
{
    return (job->n_pages + 63) / 64;
}

static size_t most_blocks(const struct tkv_attend_job *job)
{
    const size_t all = job->layer->shape.n_kv_heads * job->n_pages;
    return all < ROUND_BLOCKS ? all : ROUND_BLOCKS;
}

size_t tkv_rounds_bytes(const struct tkv_attend_job *job)
{
    if (!job->layer->block_pool)
        return 0;
    return tkv_align_up(live_words(job) * sizeof(uint64_t)) +
           2 * tkv_align_up(most_blocks(job) * sizeof(struct tkv_block *)) +
           2 * tkv_align_up(most_blocks(job) * sizeof(uint32_t));
}

static void find_live(const struct tkv_attend_job *job, uint64_t *live)
{
    memset(live, 0, live_words(job) * sizeof *live);
    for (size_t j = 0; j < job->n_pages; j++) {
        bool seen = false;
        if (job->pages[j].state == TKV_PAGE_SEALED)
            for (size_t i = 0; i < job->p->n_q && !seen; i++)
                seen = tkv_live_bits(job->p, i, (int64_t)(j * TKV_PAGE_TOKENS)) != 0;
        live[j / 64] |= (uint64_t)seen << j % 64;
    }
}

static struct rounds lay_out(const struct tkv_attend_job *job, uint8_t *at)
{
    const size_t n = most_blocks(job);
    struct rounds r = {.job = job, .capacity = n};
    struct round *const both[] = {&r.now, &r.next};
    uint64_t *live = (uint64_t *)(void *)at;
    if (!job->picked)
        find_live(job, live);
    r.live = live;
    at += tkv_align_up(live_words(job) * sizeof *live);
    for (int i = 0; i < 2; i++) {
        both[i]->blocks = (struct tkv_block **)(void *)at;
        at += tkv_align_up(n * sizeof(struct tkv_block *));
        both[i]->where = (uint32_t *)(void *)at;
        at += tkv_align_up(n * sizeof(uint32_t));
    }
    r.n_units = job->layer->shape.n_kv_heads * count_chunks(job);
    return r;
}

static struct tkv_block *block_at(const struct tkv_layer *layer, uint32_t where)
{
    const uint32_t n_heads = layer->shape.n_kv_heads;
    return tkv_tier_block_of(&layer->pages[where / n_heads], where % n_heads);
}

/* Whether some query reads a row of a coded page. */
static bool is_read(const struct rounds *r, uint32_t head, size_t j)
{
    const struct tkv_attend_job *job = r->job;
    const struct tkv_page *page = &job->pages[j];
    if (!job->picked)
        return r->live[j / 64] >> j % 64 & 1;
    uint64_t rows = 0;
    for (size_t i = 0; i < job->p->n_q && page->state == TKV_PAGE_SEALED; i++)
        rows |= job->picked[(i * job->layer->shape.n_kv_heads + head) * job->n_pages + j];
    return rows & ~page->spanned;
}

/* Adds the blocks that a unit reads. False: they do not fit into this round. */
static bool add_unit(const struct rounds *r, struct round *round, size_t unit, uint64_t *bytes)
{
    const struct tkv_attend_job *job = r->job;
    const uint32_t n_heads = job->layer->shape.n_kv_heads;
    const uint32_t head = (uint32_t)(unit / count_chunks(job));
    const size_t chunk = unit % count_chunks(job);
    const uint64_t block =
        tkv_tier_block_bytes(job->cache->tier, tkv_block_bytes(job->layer, head));
    const size_t first = chunk * job->chunk_pages, before = round->n;
    for (size_t j = first; j < first + job->chunk_pages && chunk < job->n_chunks; j++) {
        if (j >= job->n_pages || !is_read(r, head, j))
            continue;
        if (round->n == r->capacity || *bytes + block > r->most_bytes) {
            round->n = before;
            return false;
        }
        const size_t i_page = (size_t)(job->pages + j - job->layer->pages);
        round->where[round->n] = (uint32_t)(i_page * n_heads + head);
        round->blocks[round->n] = block_at(job->layer, round->where[round->n]);
        round->n++;
        *bytes += block;
    }
    return true;
}

static void fill(const struct rounds *r, size_t first, struct round *round)
{
    uint64_t bytes = 0;
    round->first = round->end = first;
    round->n = 0;
    while (round->end < r->n_units && add_unit(r, round, round->end, &bytes))
        round->end++;
}

/* What this layer reads is likely what it reads in the next step. */
static void remember(struct tkv_layer *layer, const struct round *round)
{
    const size_t room = TKV_RECENT - layer->n_recent, n = round->n < room ? round->n : room;
    memcpy(layer->recent + layer->n_recent, round->where, n * sizeof *round->where);
    layer->n_recent += n;
}

/* Begins to read what the layer after this one read in the last step. */
static void ahead_of_next_layer(tkv_cache *cache, const struct tkv_layer *layer, struct round *room,
                                size_t capacity)
{
    const size_t i = (size_t)(layer - cache->layers) + 1;
    const struct tkv_layer *next = &cache->layers[i < cache->n_layers ? i : 0];
    room->n = 0;
    for (size_t k = 0; k < next->n_recent && room->n < capacity; k++) {
        const struct tkv_page *page = &next->pages[next->recent[k] / next->shape.n_kv_heads];
        if (page->state != TKV_PAGE_SEALED)
            continue;
        struct tkv_block *block = block_at(next, next->recent[k]);
        if (block->state == TKV_BLOCK_ABSENT)
            room->blocks[room->n++] = block;
    }
    tkv_tier_prefetch(cache->tier, room->blocks, room->n);
}

tkv_status tkv_run_rounds(tkv_cache *cache, struct tkv_attend_job *job,
                          void (*compute)(struct tkv_attend_job *job), uint8_t *scratch,
                          tkv_error *err)
{
    struct tkv_layer *layer = &cache->layers[job->p->layer];
    job->end_unit = layer->shape.n_kv_heads * count_chunks(job);
    if (!layer->block_pool) {
        compute(job);
        return TKV_OK;
    }
    struct rounds r = lay_out(job, scratch);
    r.most_bytes = tkv_tier_round_bytes(cache->tier);
    layer->n_recent = 0;
    fill(&r, 0, &r.next);
    while (r.next.first < r.n_units) {
        const struct round now = r.next;
        size_t failed;
        r.next = r.now;
        r.now = now;
        const bool scan = !job->picked;
        const tkv_status status =
            tkv_tier_fetch(cache->tier, now.blocks, now.n, scan, &failed, err);
        if (status != TKV_OK)
            return tkv_tier_name(layer, &layer->pages[now.where[failed] / layer->shape.n_kv_heads],
                                 status, err);
        remember(layer, &now);
        fill(&r, now.end, &r.next);
        if (r.next.first < r.n_units)
            tkv_tier_prefetch(cache->tier, r.next.blocks, r.next.n);
        else
            ahead_of_next_layer(cache, layer, &r.next, r.capacity);
        job->first_unit = now.first;
        job->end_unit = now.end;
        compute(job);
        tkv_tier_release(cache->tier, now.blocks, now.n, scan);
    }
    return TKV_OK;
}
