#include "index/choose.h"

#include <math.h>
#include <string.h>

#define NEVER     UINT32_MAX
#define HALVINGS  6
#define FEW_CODES 1024
#define MARGIN    1.25f
#define MOST_SPAN 1e30f /* beyond, scores are no numbers */

size_t tkv_index_choice_words(uint32_t n_codes)
{
    return (n_codes + 63) / 64;
}

size_t tkv_index_choose_scratch(uint32_t n_codes)
{
    return (size_t)n_codes * (2 * sizeof(uint64_t) + 3 * sizeof(uint32_t));
}

/* Ascending, by the bytes from `low` on; keys alike in these stay in order. */
static void sort_keys(uint64_t *keys, uint64_t *spare, size_t n, unsigned low)
{
    static const unsigned bytes = sizeof *keys;
    uint32_t held[sizeof *keys][256] = {{0}};
    uint64_t *from = keys, *to = spare;
    for (size_t i = 0; i < n; i++)
        for (unsigned b = low; b < bytes; b++)
            held[b][keys[i] >> 8 * b & 255]++;
    for (unsigned b = low; b < bytes && n > 0; b++) {
        uint32_t *at = held[b], first = 0;
        if (at[keys[0] >> 8 * b & 255] == n)
            continue; /* all alike */
        for (unsigned value = 0; value < 256; value++) {
            const uint32_t count = at[value];
            at[value] = first;
            first += count;
        }
        for (size_t i = 0; i < n; i++)
            to[at[from[i] >> 8 * b & 255]++] = from[i];
        uint64_t *const done = to;
        to = from;
        from = done;
    }
    if (from != keys)
        memcpy(keys, from, n * sizeof *keys);
}

/* Higher scores first, of equal ones the lower code. */
static uint64_t key_of(float score, uint32_t code)
{
    uint32_t bits;
    score += 0.0f; /* -0 is 0 */
    memcpy(&bits, &score, sizeof bits);
    const uint32_t rising = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)~rising << 32 | code;
}

/* One head's scores. */
struct head {
    const struct tkv_kernels *k;
    const float *score;
    const uint32_t *counts;
    uint32_t n_codes;
    float best;
};

/* Working memory. */
struct room {
    uint64_t *keys, *spare; /* [n_codes] */
    uint32_t *before;       /* [n_codes] */
    uint32_t *list;         /* [n_codes] */
    uint32_t *wanted;       /* [n_wanted] codes that some head wants */
    uint32_t n_wanted;
};

static uint64_t count_listed(const struct head *h, const uint32_t *list, uint32_t n)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < n; i++)
        rows += h->counts[list[i]];
    return rows;
}

/* The codes that the best `rows` rows have, best first, as keys; some more may follow. They are looked
 * for downwards from the best score, first by a little more than was enough the last time. */
static size_t best_codes(const struct head *h, uint64_t rows, const float *reach,
                         const struct room *room)
{
    const bool known = reach && *reach > 0 && isfinite(*reach);
    float span = known ? *reach * MARGIN : fabsf(h->best) * 0.1f + 0.1f, least = 0;
    uint32_t n = h->k->index_above(h->score, h->counts, h->n_codes, h->best - span, room->list);
    while (count_listed(h, room->list, n) < rows && span < MOST_SPAN) {
        least = span;
        span *= 1.5f;
        n = h->k->index_above(h->score, h->counts, h->n_codes, h->best - span, room->list);
    }
    bool enough = true;
    for (int i = 0; i < HALVINGS && n > FEW_CODES; i++) { /* more than is quickly sorted */
        const float middle = least + (span - least) / 2;
        n = h->k->index_above(h->score, h->counts, h->n_codes, h->best - middle, room->list);
        enough = count_listed(h, room->list, n) >= rows;
        *(enough ? &span : &least) = middle;
    }
    if (!enough)
        n = h->k->index_above(h->score, h->counts, h->n_codes, h->best - span, room->list);
    for (uint32_t i = 0; i < n; i++)
        room->keys[i] = key_of(h->score[room->list[i]], room->list[i]);
    sort_keys(room->keys, room->spare, n, 4); /* codes rise already */
    return n;
}

static double weight_of(const struct head *h, uint32_t code)
{
    return h->counts[code] * exp((double)(h->score[code] - h->best));
}

/* The weight at which a head has its share. */
static double wanted_weight(const struct head *h, float mass)
{
    double sum = 0;
    for (uint32_t c = 0; c < h->n_codes; c++)
        sum += h->counts[c] ? weight_of(h, c) : 0;
    return sum * (double)mass;
}

/* before[code] becomes the rows that go before it in some head's order, if that is less. */
static void rank_head(const struct head *h, const struct tkv_index_budget *budget, float *reach,
                      struct room *room)
{
    const size_t n = best_codes(h, budget->rows, reach, room);
    const double wanted = budget->mass > 0 ? wanted_weight(h, budget->mass) : INFINITY;
    double mass = 0;
    uint64_t rows = 0;
    for (size_t i = 0; i < n && rows < budget->rows; i++) {
        const uint32_t code = (uint32_t)room->keys[i];
        if (mass >= wanted && rows >= budget->least)
            break;
        if (room->before[code] == NEVER)
            room->wanted[room->n_wanted++] = code;
        room->before[code] = rows < room->before[code] ? (uint32_t)rows : room->before[code];
        rows += h->counts[code];
        mass += budget->mass > 0 ? weight_of(h, code) : 0;
        if (reach)
            *reach = h->best - h->score[code];
    }
}

/* Codes that some head wants, by the rows before them, as keys. */
static size_t order_wanted(const struct room *room)
{
    for (uint32_t i = 0; i < room->n_wanted; i++)
        room->keys[i] = (uint64_t)room->before[room->wanted[i]] << 32 | room->wanted[i];
    sort_keys(room->keys, room->spare, room->n_wanted, 0);
    return room->n_wanted;
}

static struct tkv_index_budget within(const struct tkv_index_budget *budget, const uint32_t *counts,
                                      uint32_t n_codes)
{
    struct tkv_index_budget b = *budget;
    uint64_t all = 0;
    for (uint32_t c = 0; c < n_codes; c++)
        all += counts[c];
    b.rows = b.rows < all ? b.rows : all;
    return b;
}

void tkv_index_choose(const struct tkv_kernels *k, const float *table, uint32_t n_heads,
                      const uint32_t *counts, uint32_t n_codes,
                      const struct tkv_index_budget *allowed, float *reach, void *scratch,
                      struct tkv_index_choice *out)
{
    const struct tkv_index_budget budget = within(allowed, counts, n_codes);
    struct room room = {.keys = scratch};
    room.spare = room.keys + n_codes;
    room.before = (uint32_t *)(void *)(room.spare + n_codes);
    room.list = room.before + n_codes;
    room.wanted = room.list + n_codes;
    memset(room.before, 0xff, n_codes * sizeof *room.before);
    for (uint32_t i = 0; i < n_heads; i++) {
        const float *score = table + (size_t)i * n_codes;
        const struct head head = {k, score, counts, n_codes, k->index_best(score, counts, n_codes)};
        if (isfinite(head.best))
            rank_head(&head, &budget, reach ? reach + i : NULL, &room);
    }
    const size_t n = order_wanted(&room);
    memset(out->codes, 0, tkv_index_choice_words(n_codes) * sizeof *out->codes);
    out->n_rows = out->n_cut = 0;
    for (size_t i = 0; i < n && out->n_rows < budget.rows; i++) {
        const uint32_t code = (uint32_t)room.keys[i];
        const uint64_t left = budget.rows - out->n_rows;
        if (counts[code] > left) {
            out->cut = code;
            out->n_cut = left;
            break;
        }
        out->codes[code / 64] |= (uint64_t)1 << code % 64;
        out->n_rows += counts[code];
    }
}
