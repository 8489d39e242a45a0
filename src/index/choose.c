#include "index/choose.h"

#include <math.h>
#include <string.h>

#define BUCKETS 512u
#define NEVER   UINT32_MAX

size_t tkv_index_choice_words(uint32_t n_codes)
{
    return (n_codes + 63) / 64;
}

size_t tkv_index_choose_scratch(uint32_t n_codes)
{
    return (size_t)n_codes * (sizeof(uint64_t) + sizeof(uint32_t));
}

/* Ascending; a few hundred keys as a rule. */
static void sort_keys(uint64_t *keys, size_t n)
{
    static const size_t gaps[] = {8929, 3905, 1750, 701, 301, 132, 57, 23, 10, 4, 1};
    for (size_t g = 0; g < sizeof gaps / sizeof gaps[0]; g++) {
        const size_t gap = gaps[g];
        for (size_t i = gap; i < n; i++) {
            const uint64_t key = keys[i];
            size_t j = i;
            for (; j >= gap && keys[j - gap] > key; j -= gap)
                keys[j] = keys[j - gap];
            keys[j] = key;
        }
    }
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

/* One head's scores of the codes that have rows. */
struct head {
    const float *score;
    const uint32_t *counts;
    uint32_t n_codes;
    float low, to_bucket, high;
};

static struct head head_of(const float *score, const uint32_t *counts, uint32_t n_codes)
{
    struct head h = {score, counts, n_codes, INFINITY, 0, -INFINITY};
    for (uint32_t c = 0; c < n_codes; c++) {
        if (!counts[c])
            continue;
        h.low = score[c] < h.low ? score[c] : h.low;
        h.high = score[c] > h.high ? score[c] : h.high;
    }
    const float range = h.high - h.low;
    h.to_bucket = range > 0 && isfinite(range) ? (float)(BUCKETS - 1) / range : 0.0f;
    return h;
}

static uint32_t bucket_of(const struct head *h, uint32_t code)
{
    const float b = (h->score[code] - h->low) * h->to_bucket;
    return b < (float)BUCKETS ? (uint32_t)b : BUCKETS - 1;
}

/* The codes that the best `rows` rows have, best first, as keys. Only these are sorted. */
static size_t best_codes(const struct head *h, uint64_t rows, uint64_t *keys)
{
    uint64_t held[BUCKETS] = {0}, above = 0;
    for (uint32_t c = 0; c < h->n_codes; c++)
        if (h->counts[c])
            held[bucket_of(h, c)] += h->counts[c];
    uint32_t least = BUCKETS;
    while (least > 0 && above < rows)
        above += held[--least];
    size_t n = 0;
    for (uint32_t c = 0; c < h->n_codes; c++)
        if (h->counts[c] && bucket_of(h, c) >= least)
            keys[n++] = key_of(h->score[c], c);
    sort_keys(keys, n);
    return n;
}

static double weight_of(const struct head *h, uint32_t code)
{
    return h->counts[code] * exp((double)(h->score[code] - h->high));
}

/* before[code] becomes the rows that go before it in some head's order, if that is less. */
static void rank_head(const struct head *h, const struct tkv_index_budget *budget, uint64_t *keys,
                      uint32_t *before)
{
    const size_t n = best_codes(h, budget->rows, keys);
    double wanted = INFINITY, mass = 0;
    uint64_t rows = 0;
    if (budget->mass > 0) {
        wanted = 0;
        for (uint32_t c = 0; c < h->n_codes; c++)
            wanted += h->counts[c] ? weight_of(h, c) : 0;
        wanted *= (double)budget->mass;
    }
    for (size_t i = 0; i < n && rows < budget->rows; i++) {
        const uint32_t code = (uint32_t)keys[i];
        if (mass >= wanted && rows >= budget->least)
            break;
        before[code] = rows < before[code] ? (uint32_t)rows : before[code];
        rows += h->counts[code];
        mass += budget->mass > 0 ? weight_of(h, code) : 0;
    }
}

void tkv_index_choose(const float *table, uint32_t n_heads, const uint32_t *counts,
                      uint32_t n_codes, const struct tkv_index_budget *budget, void *scratch,
                      struct tkv_index_choice *out)
{
    uint64_t *keys = scratch;
    uint32_t *before = (uint32_t *)(void *)(keys + n_codes);
    memset(before, 0xff, n_codes * sizeof *before);
    for (uint32_t h = 0; h < n_heads; h++) {
        const struct head head = head_of(table + (size_t)h * n_codes, counts, n_codes);
        rank_head(&head, budget, keys, before);
    }
    size_t n = 0;
    for (uint32_t c = 0; c < n_codes; c++)
        if (before[c] != NEVER)
            keys[n++] = (uint64_t)before[c] << 32 | c;
    sort_keys(keys, n);
    memset(out->codes, 0, tkv_index_choice_words(n_codes) * sizeof *out->codes);
    out->n_rows = out->n_cut = 0;
    for (size_t i = 0; i < n && out->n_rows < budget->rows; i++) {
        const uint32_t code = (uint32_t)keys[i];
        const uint64_t left = budget->rows - out->n_rows;
        if (counts[code] > left) {
            out->cut = code;
            out->n_cut = left;
            break;
        }
        out->codes[code / 64] |= (uint64_t)1 << code % 64;
        out->n_rows += counts[code];
    }
}
