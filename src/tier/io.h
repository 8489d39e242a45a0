/* Reads and writes of the spill file, many at once: through io_uring where the library was built with
 * it and the kernel allows it, else spread over the caller's executor. */
#ifndef TKV_TIER_IO_H
#define TKV_TIER_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "tightkv/tightkv.h"

#define TKV_IO_DEPTH 1024 /* requests under way at once */
#define TKV_IO_PARTS 64   /* of a request */

/* Neighbours in the file go in one request, wherever they are in memory. */
struct tkv_io_request {
    void *owner;
    struct iovec *parts; /* copied when it is added */
    uint32_t n_parts;
    uint64_t at;
    bool write;
    int64_t result; /* bytes, or minus an errno */
};

struct tkv_io;

/* ring: whether io_uring is tried. NULL: no memory. */
struct tkv_io *tkv_io_create(const tkv_allocator *allocator, const tkv_executor *executor, int fd,
                             bool ring);
/* Nothing may be under way. */
void tkv_io_destroy(struct tkv_io *io);

/* Whether requests go on while the caller does something else. */
bool tkv_io_is_async(const struct tkv_io *io);
/* Requests that may be added before one has to be reaped. */
uint32_t tkv_io_room(const struct tkv_io *io);
void tkv_io_add(struct tkv_io *io, const struct tkv_io_request *request);
/* Starts what was added; without io_uring, also finishes it. */
void tkv_io_submit(struct tkv_io *io);
/* Takes a request that is through, in any order. wait: until there is one. False: there is none. */
bool tkv_io_reap(struct tkv_io *io, bool wait, struct tkv_io_request *out);
/* One request, at once. */
void tkv_io_now(const struct tkv_io *io, struct tkv_io_request *request);

#endif
