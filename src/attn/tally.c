/* How many rows that may be picked have each code, in each band of distances. From one decode step to
 * the next a row or two enter each band, so the layer keeps the counts of the last step. */
#include <string.h>

#include "attn/select.h"
#include "base/alloc.h"
#include "base/bits.h"

#define T TKV_PAGE_TOKENS

/* --- bands --- */

static uint64_t rows_from(int64_t first)
{
    return first <= 0 ? UINT64_MAX : first >= T ? 0 : UINT64_MAX << first;
}

/* Rows of a page at positions [from, to). */
uint64_t tkv_rows_at(const struct tkv_page *page, int64_t from, int64_t to)
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

static uint32_t band_of(const tkv_cache *cache, int64_t distance)
{
    return cache->spec.index == TKV_INDEX_A2ATS ? 0 : tkv_index_band((uint64_t)distance);
}

uint64_t tkv_take_band(const tkv_cache *cache, const struct tkv_page *page, int64_t q_pos,
                       uint64_t *rows, uint32_t *band)
{
    uint64_t taken = *rows;
    *band = band_of(cache, q_pos - tkv_page_pos(page, tkv_lowest_bit(*rows)));
    if (cache->spec.index != TKV_INDEX_A2ATS) {
        const int64_t near = (int64_t)tkv_index_band_from(*band),
                      far = (int64_t)tkv_index_band_from(*band + 1);
        const bool last = *band + 1 == TKV_INDEX_BANDS;
        taken &= tkv_rows_at(page, last ? 0 : q_pos - far + 1, q_pos - near + 1);
    }
    *rows &= ~taken;
    return taken;
}

/* --- counting --- */

/* Adds `sign` for each of the rows of a page, for one head. */
static void count_page(const tkv_cache *cache, const struct tkv_page *page, int64_t q_pos,
                       uint64_t rows, uint32_t head, uint32_t sign, size_t n_places,
                       uint32_t *counts)
{
    const uint16_t *code = rows ? page->codes->code + head * T : NULL;
    while (rows) {
        uint32_t band;
        uint64_t taken = tkv_take_band(cache, page, q_pos, &rows, &band);
        uint32_t *of_band = counts + band * n_places;
        for (; taken; taken &= taken - 1)
            of_band[code[tkv_lowest_bit(taken)]] += sign;
    }
}

void tkv_count_candidates(const struct tkv_selection *s, size_t i, uint32_t head, uint32_t *counts)
{
    const struct tkv_attend_job *job = s->job;
    const uint64_t *candidates = s->candidates + i * job->n_pages;
    memset(counts, 0, s->queries[i].n_bands * (size_t)s->n_places * sizeof *counts);
    for (size_t j = 0; j < job->n_pages; j++)
        count_page(s->cache, &job->pages[j], job->p->q_pos[i], candidates[j], head, 1, s->n_places,
                   counts);
}

/* --- from step to step --- */

/* The tally's room: what was a candidate, a word a page of the stream, then the counts
 * [n_kv_heads][n_bands][n_places], then how far each query head went. */
static uint64_t *known_of(const struct tkv_tally *tally)
{
    return tally->room.at;
}

static uint32_t *counts_of(const struct tkv_tally *tally, const struct tkv_layer *layer,
                           uint32_t n_places, uint32_t head)
{
    uint32_t *counts = (uint32_t *)(void *)((uint64_t *)tally->room.at + layer->pages_per_stream);
    return counts + (size_t)head * tally->n_bands * n_places;
}

const uint32_t *tkv_tally_of(const struct tkv_selection *s, uint32_t head)
{
    return s->tally ? counts_of(s->tally, s->job->layer, s->n_places, head) : NULL;
}

float *tkv_tally_reach(const struct tkv_selection *s, uint32_t head)
{
    const struct tkv_layer *layer = s->job->layer;
    if (!s->tally)
        return NULL;
    uint32_t *end = counts_of(s->tally, layer, s->n_places, layer->shape.n_kv_heads);
    return (float *)(void *)end + (size_t)head * s->job->group;
}

/* Begins anew, with nothing counted. False: no memory. */
static bool reset(tkv_cache *cache, const struct tkv_selection *s, struct tkv_tally *tally)
{
    const struct tkv_layer *layer = s->job->layer;
    const size_t n_heads = layer->shape.n_kv_heads;
    const size_t bytes = layer->pages_per_stream * sizeof(uint64_t) +
                         n_heads * s->n_bands * s->n_places * sizeof(uint32_t) +
                         n_heads * s->job->group * sizeof(float);
    tally->valid = false;
    if (!tkv_cache_room(cache, &tally->room, bytes))
        return false;
    memset(tally->room.at, 0, bytes);
    tally->valid = true;
    tally->pages = s->job->pages;
    tally->n_pages = 0;
    tally->q_pos = s->job->p->q_pos[0];
    tally->n_bands = s->n_bands;
    tally->group = s->job->group;
    tally->n_lost = layer->index->n_lost;
    return true;
}

/* Whether all rows of a page are in one band, the same for both queries. */
static bool same_band(const tkv_cache *cache, const struct tkv_page *page, int64_t a, int64_t b)
{
    if (page->state != TKV_PAGE_SEALED || !page->places || !page->places->consecutive)
        return false;
    const int64_t first = page->places->pos[0], last = first + T - 1;
    if (a - last < TKV_INDEX_NEAR || b - last < TKV_INDEX_NEAR)
        return false;
    const uint32_t band = band_of(cache, a - first);
    return band_of(cache, a - last) == band && band_of(cache, b - first) == band &&
           band_of(cache, b - last) == band;
}

void tkv_tally_update(tkv_cache *cache, struct tkv_selection *s)
{
    const struct tkv_attend_job *job = s->job;
    const struct tkv_layer *layer = job->layer;
    struct tkv_tally *tally = &layer->index->tally;
    if ((!tally->valid || tally->pages != job->pages || tally->n_lost != layer->index->n_lost ||
         tally->n_bands < s->n_bands || tally->group != job->group) &&
        !reset(cache, s, tally))
        return;
    const size_t n_pages = tally->n_pages > job->n_pages ? tally->n_pages : job->n_pages;
    const int32_t before = tally->q_pos, now = job->p->q_pos[0];
    uint64_t *known = known_of(tally);
    for (size_t j = 0; j < n_pages; j++) {
        const struct tkv_page *page = &job->pages[j];
        const uint64_t is = j < job->n_pages ? s->candidates[j] : 0;
        if (!(is | known[j]) || (is == known[j] && same_band(cache, page, before, now)))
            continue;
        for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++) {
            uint32_t *counts = counts_of(tally, layer, s->n_places, head);
            count_page(cache, page, before, known[j], head, UINT32_MAX, s->n_places, counts);
            count_page(cache, page, now, is, head, 1, s->n_places, counts);
        }
        known[j] = is;
    }
    tally->n_pages = job->n_pages;
    tally->q_pos = now;
    s->tally = tally;
}
