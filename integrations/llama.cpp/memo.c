/* memo.c: positions and classes of rows that were saved. llama.cpp saves and restores its cache as
 * bytes without saying whose they are; a row that comes back is the row that went out, so a hash of
 * it finds what it was. */
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

#define MEMO_MIN 1024u
#define MEMO_MAX (1u << 20) /* entries, 16 bytes each; older ones are overwritten past that */

struct memo_entry {
    uint64_t hash; /* 0: free */
    struct tkg_cell cell;
};

struct tkg_memo {
    struct memo_entry *entries;
    uint32_t capacity; /* a power of two */
    uint32_t n_used;
};

/* FNV-1a over 8-byte words, with a final mix: rows are long and few. */
static uint64_t hash_row(const void *row, size_t bytes)
{
    const unsigned char *p = row;
    uint64_t h = 0xcbf29ce484222325u;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * 0x100000001b3u;
        h ^= h >> 29;
    }
    for (; bytes > 0; bytes--, p++) {
        h = (h ^ *p) * 0x100000001b3u;
    }
    h ^= h >> 32;
    return h != 0 ? h : 1;
}

struct tkg_memo *tkg_memo_create(void)
{
    struct tkg_memo *memo = calloc(1, sizeof(*memo));
    if (memo == NULL) {
        return NULL;
    }
    memo->entries = calloc(MEMO_MIN, sizeof(*memo->entries));
    memo->capacity = MEMO_MIN;
    if (memo->entries == NULL) {
        free(memo);
        return NULL;
    }
    return memo;
}

void tkg_memo_destroy(struct tkg_memo *memo)
{
    if (memo != NULL) {
        free(memo->entries);
        free(memo);
    }
}

/* The entry with this hash, or the free one where it would go; in a table grown to its limit, one
 * to overwrite. */
static struct memo_entry *find_entry(const struct tkg_memo *memo, uint64_t hash)
{
    const uint32_t mask = memo->capacity - 1;
    uint32_t i = (uint32_t)hash & mask;
    for (uint32_t probes = 0; probes < 32; probes++, i = (i + 1) & mask) {
        if (memo->entries[i].hash == hash || memo->entries[i].hash == 0) {
            return &memo->entries[i];
        }
    }
    return &memo->entries[(uint32_t)hash & mask];
}

static void grow(struct tkg_memo *memo)
{
    struct tkg_memo bigger = {.capacity = memo->capacity * 2};
    bigger.entries = calloc(bigger.capacity, sizeof(*bigger.entries));
    if (bigger.entries == NULL) {
        return;
    }
    for (uint32_t i = 0; i < memo->capacity; i++) {
        if (memo->entries[i].hash != 0) {
            struct memo_entry *e = find_entry(&bigger, memo->entries[i].hash);
            bigger.n_used += e->hash == 0;
            *e = memo->entries[i];
        }
    }
    free(memo->entries);
    *memo = bigger;
}

void tkg_memo_add(struct tkg_memo *memo, const void *row, size_t bytes, struct tkg_cell cell)
{
    if (memo->n_used * 2 >= memo->capacity && memo->capacity < MEMO_MAX) {
        grow(memo);
    }
    const uint64_t hash = hash_row(row, bytes);
    struct memo_entry *e = find_entry(memo, hash);
    memo->n_used += e->hash == 0;
    e->hash = hash;
    e->cell = cell;
}

bool tkg_memo_find(const struct tkg_memo *memo, const void *row, size_t bytes,
                   struct tkg_cell *cell)
{
    const uint64_t hash = hash_row(row, bytes);
    const struct memo_entry *e = find_entry(memo, hash);
    if (e->hash != hash) {
        return false;
    }
    *cell = e->cell;
    return true;
}
