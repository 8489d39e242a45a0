/* The C library as an allocator, and the checked calls that everything else uses. */
#if defined(__linux__)
#define _DEFAULT_SOURCE /* madvise */
#include <sys/mman.h>
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

/* Large blocks lie on huge pages where the system has them: attention walks a cache from end to
 * end. */
static void *libc_alloc(void *user, size_t bytes)
{
    (void)user;
    if (bytes > SIZE_MAX - TKV_HUGE_PAGE)
        return NULL;
    if (bytes < TKV_HUGE_PAGE)
        return aligned_alloc(TKV_ALIGN, tkv_align_up(bytes));
    const size_t rounded = (bytes + TKV_HUGE_PAGE - 1) & ~(TKV_HUGE_PAGE - 1);
    void *ptr = aligned_alloc(TKV_HUGE_PAGE, rounded);
#if defined(__linux__)
    if (ptr)
        (void)madvise(ptr, rounded,
                      MADV_HUGEPAGE); /* a wish: nothing breaks where it is not granted */
#endif
    return ptr;
}

static void libc_free(void *user, void *ptr, size_t bytes)
{
    (void)user, (void)bytes;
    free(ptr);
}

tkv_allocator tkv_allocator_default(void)
{
    return (tkv_allocator){.user = NULL, .alloc = libc_alloc, .free = libc_free};
}

void *tkv_alloc(const tkv_allocator *a, size_t bytes)
{
    return bytes ? a->alloc(a->user, bytes) : NULL;
}

void *tkv_alloc_zero(const tkv_allocator *a, size_t bytes)
{
    void *ptr = tkv_alloc(a, bytes);
    if (ptr)
        memset(ptr, 0, bytes);
    return ptr;
}

void tkv_free(const tkv_allocator *a, void *ptr, size_t bytes)
{
    if (ptr)
        a->free(a->user, ptr, bytes);
}

bool tkv_mul(size_t a, size_t b, size_t *out)
{
    if (b && a > SIZE_MAX / b)
        return false;
    *out = a * b;
    return true;
}
