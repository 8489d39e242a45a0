/* The spill file: it has no name, so that nothing is left behind, and is read and written past the
 * page cache where the file system takes that: what should stay in memory, the tier decides. */
#ifndef TKV_TIER_SPILL_H
#define TKV_TIER_SPILL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tightkv/tightkv.h"

/* Places of one size that have been given back. There is room for all that there are, so that giving
 * back never fails. */
struct tkv_spill_size {
    size_t bytes;
    size_t n_places, n_free, capacity;
    uint64_t *free;
};

struct tkv_spill {
    const tkv_allocator *allocator;
    int fd;
    bool direct;
    size_t unit;        /* sizes and places are multiples of it */
    size_t memory_unit; /* so are the addresses that the file is read to and written from */
    uint64_t file_bytes, used_bytes;
    struct tkv_spill_size *sizes;
    size_t n_sizes;
    /* For tests: what growing to so many bytes gives, 0 or an errno. */
    int (*grow_hook)(void *user, uint64_t bytes);
    void *hook_user;
};

tkv_status tkv_spill_open(struct tkv_spill *spill, const tkv_allocator *allocator,
                          const char *folder, tkv_error *err);
void tkv_spill_close(struct tkv_spill *spill);
/* A place for `bytes` bytes, a multiple of unit. Returns 0, or an errno. */
int tkv_spill_take(struct tkv_spill *spill, size_t bytes, uint64_t *at);
void tkv_spill_give(struct tkv_spill *spill, size_t bytes, uint64_t at);

#endif
