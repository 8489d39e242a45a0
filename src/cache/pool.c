/* Slabs grow with the pool, from one record up to 2 MiB, so that a small cache wastes little. */
#include "cache/pool.h"
#include "base/alloc.h"

struct tkv_slab { /* one cache line in front of the records */
    struct tkv_slab *next;
    size_t bytes;
    size_t n_carved;
    size_t n_records;
};

struct tkv_free_record {
    struct tkv_free_record *next;
};

void tkv_pool_init(struct tkv_pool *pool, const tkv_allocator *allocator, size_t record_bytes)
{
    *pool = (struct tkv_pool){.allocator = allocator, .record_bytes = tkv_align_up(record_bytes)};
}

void tkv_pool_destroy(struct tkv_pool *pool)
{
    while (pool->slabs) {
        struct tkv_slab *slab = pool->slabs;
        pool->slabs = slab->next;
        tkv_free(pool->allocator, slab, slab->bytes);
    }
    *pool = (struct tkv_pool){.allocator = pool->allocator, .record_bytes = pool->record_bytes};
}

static struct tkv_slab *add_slab(struct tkv_pool *pool)
{
    size_t wanted = pool->slab_bytes / 8; /* at most an eighth of the pool stands empty */
    if (wanted > TKV_HUGE_PAGE)
        wanted = TKV_HUGE_PAGE;
    const size_t n =
        wanted > TKV_ALIGN + pool->record_bytes ? (wanted - TKV_ALIGN) / pool->record_bytes : 1;
    size_t bytes = TKV_ALIGN + n * pool->record_bytes;
    if (wanted == TKV_HUGE_PAGE && bytes < wanted)
        bytes = wanted;
    struct tkv_slab *slab = tkv_alloc(pool->allocator, bytes);
    if (!slab)
        return NULL;
    *slab = (struct tkv_slab){.next = pool->slabs, .bytes = bytes, .n_records = n};
    pool->slabs = slab;
    pool->slab_bytes += bytes;
    return slab;
}

void *tkv_pool_take(struct tkv_pool *pool)
{
    if (pool->free) {
        struct tkv_free_record *record = pool->free;
        pool->free = record->next;
        pool->n_used++;
        return record;
    }
    struct tkv_slab *slab = pool->slabs;
    if (!slab || slab->n_carved == slab->n_records)
        slab = add_slab(pool);
    if (!slab)
        return NULL;
    pool->n_used++;
    return (char *)slab + TKV_ALIGN + slab->n_carved++ * pool->record_bytes;
}

void tkv_pool_give(struct tkv_pool *pool, void *record)
{
    struct tkv_free_record *free_record = record;
    free_record->next = pool->free;
    pool->free = free_record;
    pool->n_used--;
}
