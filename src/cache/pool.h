/* Records of one size, carved from slabs: sealing page after page then yields neighbouring memory,
 * and what one page gives back the next one takes. */
#ifndef TKV_POOL_H
#define TKV_POOL_H

#include <stddef.h>

#include "tightkv/tightkv.h"

struct tkv_slab;
struct tkv_free_record;

struct tkv_pool {
    const tkv_allocator *allocator; /* borrowed */
    size_t record_bytes;            /* a multiple of 64 */
    size_t n_used;
    size_t slab_bytes; /* taken from the allocator */
    struct tkv_slab *slabs;
    struct tkv_free_record *free;
};

void tkv_pool_init(struct tkv_pool *pool, const tkv_allocator *allocator, size_t record_bytes);
void tkv_pool_destroy(struct tkv_pool *pool);

/* An uninitialised record, 64-byte aligned; NULL when there is no memory. */
void *tkv_pool_take(struct tkv_pool *pool);
void tkv_pool_give(struct tkv_pool *pool, void *record);

#endif
