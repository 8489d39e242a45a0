/* Positions of the rows of sealed pages whose keys are coded un-rotated: see cache.h. */
#include <string.h>

#include "base/alloc.h"
#include "cache/cache.h"

/* A set of places before it has a home. */
struct key {
    uint32_t n_axes;
    bool consecutive;
    uint32_t n; /* numbers */
    int32_t pos[TKV_N_AXES * TKV_PAGE_TOKENS];
};

static int32_t position(const struct tkv_open *info, uint32_t axis, uint32_t t)
{
    return axis == 0 ? info->pos[t] : info->beside[axis - 1][t];
}

/* Whether every row that is there comes one position after the row before it, on all axes. */
static bool count_up(const struct tkv_open *info, uint64_t valid, int32_t *first)
{
    bool found = false;
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
        for (uint32_t axis = 0; axis < TKV_N_AXES && (valid >> t & 1); axis++) {
            const int32_t pos = position(info, axis, t);
            if (pos < (int32_t)t || (found && pos - (int32_t)t != *first))
                return false;
            *first = pos - (int32_t)t;
            found = true;
        }
    return found;
}

static bool axes_differ(const struct tkv_open *info)
{
    return memcmp(info->beside[0], info->pos, sizeof info->pos) != 0 ||
           memcmp(info->beside[1], info->pos, sizeof info->pos) != 0;
}

static struct key make_key(const struct tkv_page *page)
{
    const struct tkv_open *info = tkv_open_info(page);
    struct key key = {0};
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
        if (info->pos[t] != TKV_NO_POS)
            key.n_axes = 1;
    if (key.n_axes == 0)
        return key;
    if (count_up(info, page->valid[TKV_K], &key.pos[0])) {
        key.consecutive = true;
        key.n = 1;
        return key;
    }
    key.n_axes = axes_differ(info) ? TKV_N_AXES : 1;
    key.n = key.n_axes * TKV_PAGE_TOKENS;
    for (uint32_t i = 0; i < key.n; i++)
        key.pos[i] = position(info, i / TKV_PAGE_TOKENS, i % TKV_PAGE_TOKENS);
    return key;
}

static uint32_t hash_key(const struct key *key)
{
    uint32_t hash = 2166136261u ^ key->n;
    for (uint32_t i = 0; i < key->n; i++)
        hash = (hash ^ (uint32_t)key->pos[i]) * 16777619u;
    return hash ^ hash >> 15;
}

static size_t record_bytes(uint32_t n)
{
    return sizeof(struct tkv_places) + n * sizeof(int32_t);
}

static uint32_t n_numbers(const struct tkv_places *p)
{
    return p->consecutive ? 1 : p->n_axes * TKV_PAGE_TOKENS;
}

static bool grow(struct tkv_places_set *set, const tkv_allocator *a)
{
    const uint32_t wanted = set->n_buckets ? 2 * set->n_buckets : 64;
    struct tkv_places **buckets = tkv_alloc_zero(a, wanted * sizeof(*buckets));
    if (!buckets)
        return false;
    for (uint32_t i = 0; i < set->n_buckets; i++)
        for (struct tkv_places *p = set->buckets[i], *next; p; p = next) {
            next = p->next;
            p->next = buckets[p->hash % wanted];
            buckets[p->hash % wanted] = p;
        }
    tkv_free(a, set->buckets, set->n_buckets * sizeof(*buckets));
    set->buckets = buckets;
    set->n_buckets = wanted;
    return true;
}

static struct tkv_places *find(const struct tkv_places_set *set, const struct key *key,
                               uint32_t hash)
{
    struct tkv_places *p = set->n_buckets ? set->buckets[hash % set->n_buckets] : NULL;
    while (p &&
           (p->hash != hash || p->n_axes != key->n_axes || p->consecutive != key->consecutive ||
            memcmp(p->pos, key->pos, key->n * sizeof(int32_t)) != 0))
        p = p->next;
    return p;
}

struct tkv_places *tkv_places_take(tkv_cache *cache, const struct tkv_page *page)
{
    const tkv_allocator *a = &cache->ctx->allocator;
    struct tkv_places_set *set = &cache->places;
    const struct key key = make_key(page);
    const uint32_t hash = hash_key(&key);
    struct tkv_places *p = find(set, &key, hash);
    if (p) {
        p->n_refs++;
        return p;
    }
    if (set->n == set->n_buckets && !grow(set, a))
        return NULL;
    p = tkv_alloc(a, record_bytes(key.n));
    if (!p)
        return NULL;
    struct tkv_places **bucket = &set->buckets[hash % set->n_buckets];
    *p = (struct tkv_places){*bucket, hash, 1, (uint8_t)key.n_axes, key.consecutive};
    memcpy(p->pos, key.pos, key.n * sizeof(int32_t));
    *bucket = p;
    set->n++;
    set->bytes += record_bytes(key.n);
    return p;
}

void tkv_places_drop(tkv_cache *cache, struct tkv_places *places)
{
    if (!places || --places->n_refs)
        return;
    struct tkv_places_set *set = &cache->places;
    struct tkv_places **at = &set->buckets[places->hash % set->n_buckets];
    while (*at != places)
        at = &(*at)->next;
    *at = places->next;
    const size_t bytes = record_bytes(n_numbers(places));
    set->n--;
    set->bytes -= bytes;
    tkv_free(&cache->ctx->allocator, places, bytes);
}

void tkv_places_restore(const struct tkv_places *places, struct tkv_open *info)
{
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        info->pos[t] = tkv_place(places, 0, t);
        info->beside[0][t] = tkv_place(places, 1, t);
        info->beside[1][t] = tkv_place(places, 2, t);
    }
}

int32_t tkv_page_pos(const struct tkv_page *page, uint32_t t)
{
    if (page->state == TKV_PAGE_OPEN)
        return tkv_open_info(page)->pos[t];
    return page->places ? tkv_place(page->places, 0, t) : TKV_NO_POS;
}

void tkv_places_release(tkv_cache *cache)
{
    const tkv_allocator *a = &cache->ctx->allocator;
    struct tkv_places_set *set = &cache->places;
    for (uint32_t i = 0; i < set->n_buckets; i++)
        for (struct tkv_places *p = set->buckets[i], *next; p; p = next) {
            next = p->next;
            tkv_free(a, p, record_bytes(n_numbers(p)));
        }
    tkv_free(a, set->buckets, set->n_buckets * sizeof(*set->buckets));
}
