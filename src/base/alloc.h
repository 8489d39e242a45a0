/* All memory goes through here: the caller's allocator, or the C library's. Blocks are aligned to
 * 64. */
#ifndef TKV_ALLOC_H
#define TKV_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

#include "tightkv/tightkv.h"

#define TKV_ALIGN     64
#define TKV_HUGE_PAGE ((size_t)2 << 20)

/* The C library as a tkv_allocator. */
tkv_allocator tkv_allocator_default(void);

/* NULL when bytes is 0 or there is no memory. */
void *tkv_alloc(const tkv_allocator *a, size_t bytes);
void *tkv_alloc_zero(const tkv_allocator *a, size_t bytes);
void tkv_free(const tkv_allocator *a, void *ptr, size_t bytes);

/* *out = a * b; false when it does not fit. */
bool tkv_mul(size_t a, size_t b, size_t *out);

/* The next multiple of TKV_ALIGN. */
static inline size_t tkv_align_up(size_t bytes)
{
    return (bytes + TKV_ALIGN - 1) & ~(size_t)(TKV_ALIGN - 1);
}

#endif
