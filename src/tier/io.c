/* The ring of requests, and what stands in for it. */
#define _GNU_SOURCE /* preadv, pwritev */
#include "tier/io.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#ifdef TKV_HAVE_URING
#include <liburing.h>
#endif

#include "base/alloc.h"
#include "base/parallel.h"

/* Numbers of requests, last in first out. */
struct stack {
    uint16_t at[TKV_IO_DEPTH];
    uint32_t n;
};

struct tkv_io {
    const tkv_allocator *allocator;
    const tkv_executor *executor; /* the context's, which may change */
    int fd;
    struct tkv_io_request requests[TKV_IO_DEPTH];
    struct stack free;
    struct stack added; /* in the order that they were; their parts: */
    struct iovec parts[TKV_IO_DEPTH];
    uint32_t n_parts;
    struct stack done; /* without a ring */
#ifdef TKV_HAVE_URING
    struct io_uring ring;
    bool flying[TKV_IO_DEPTH];
    uint32_t n_flying;
#endif
    bool has_ring;
    bool broken; /* the ring takes no more requests */
};

static void push(struct stack *s, uint16_t i)
{
    s->at[s->n++] = i;
}

struct tkv_io *tkv_io_create(const tkv_allocator *allocator, const tkv_executor *executor, int fd,
                             bool ring)
{
    struct tkv_io *io = tkv_alloc_zero(allocator, sizeof *io);
    if (!io)
        return NULL;
    io->allocator = allocator;
    io->executor = executor;
    io->fd = fd;
    for (uint16_t i = 0; i < TKV_IO_DEPTH; i++)
        push(&io->free, i);
#ifdef TKV_HAVE_URING
    io->has_ring = ring && io_uring_queue_init(TKV_IO_DEPTH, &io->ring, 0) == 0;
    /* older kernels read the parts after they have taken the request */
    io->broken = io->has_ring && !(io->ring.features & IORING_FEAT_SUBMIT_STABLE);
#else
    (void)ring;
#endif
    return io;
}

void tkv_io_destroy(struct tkv_io *io)
{
    if (!io)
        return;
#ifdef TKV_HAVE_URING
    if (io->has_ring)
        io_uring_queue_exit(&io->ring);
#endif
    tkv_free(io->allocator, io, sizeof *io);
}

bool tkv_io_is_async(const struct tkv_io *io)
{
    return io->has_ring && !io->broken;
}

uint32_t tkv_io_room(const struct tkv_io *io)
{
    return io->free.n;
}

static size_t move_part(int fd, bool write, const struct iovec *part, uint64_t at, int *error)
{
    size_t n = 0;
    *error = 0;
    while (n < part->iov_len) {
        uint8_t *bytes = (uint8_t *)part->iov_base + n;
        const ssize_t step = write ? pwrite(fd, bytes, part->iov_len - n, (off_t)(at + n))
                                   : pread(fd, bytes, part->iov_len - n, (off_t)(at + n));
        if (step < 0 && errno == EINTR)
            continue;
        if (step < 0)
            *error = errno;
        if (step <= 0)
            break;
        n += (size_t)step;
    }
    return n;
}

void tkv_io_now(const struct tkv_io *io, struct tkv_io_request *r)
{
    size_t all = 0, n = 0;
    int error = 0;
    for (uint32_t i = 0; i < r->n_parts; i++)
        all += r->parts[i].iov_len;
    const ssize_t at_once = r->write ? pwritev(io->fd, r->parts, (int)r->n_parts, (off_t)r->at)
                                     : preadv(io->fd, r->parts, (int)r->n_parts, (off_t)r->at);
    if (at_once == (ssize_t)all) {
        r->result = at_once;
        return;
    }
    for (uint32_t i = 0; i < r->n_parts; i++) {
        const size_t step = move_part(io->fd, r->write, &r->parts[i], r->at + n, &error);
        n += step;
        if (step < r->parts[i].iov_len)
            break;
    }
    r->result = n || !error ? (int64_t)n : -error;
}

static void now_item(void *arg, size_t item, uint32_t ith)
{
    struct tkv_io *io = arg;
    (void)ith;
    tkv_io_now(io, &io->requests[io->added.at[item]]);
}

static void do_added(struct tkv_io *io)
{
    tkv_parallel(io->executor, io->added.n, now_item, io);
    for (uint32_t i = 0; i < io->added.n; i++)
        push(&io->done, io->added.at[i]);
    io->added.n = 0;
}

#ifdef TKV_HAVE_URING

static void prepare(struct tkv_io *io, uint16_t i)
{
    const struct tkv_io_request *r = &io->requests[i];
    struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring); /* as many as there are requests */
    if (r->write)
        io_uring_prep_writev(sqe, io->fd, r->parts, r->n_parts, r->at);
    else
        io_uring_prep_readv(sqe, io->fd, r->parts, r->n_parts, r->at);
    io_uring_sqe_set_data64(sqe, i);
}

/* A ring that refuses requests is given up: these go the other way, and later ones too. */
static void submit_ring(struct tkv_io *io)
{
    uint32_t n = 0;
    while (n < io->added.n && !io->broken) {
        const int taken = io_uring_submit(&io->ring);
        io->broken = taken <= 0 && taken != -EINTR;
        for (int i = 0; i < taken; i++, n++)
            io->flying[io->added.at[n]] = true;
    }
    io->n_flying += n;
    io->added.n -= n;
    memmove(io->added.at, io->added.at + n, io->added.n * sizeof io->added.at[0]);
}

/* Takes a request off the ring; when even waiting fails, any that was there, with that error. */
static bool reap_ring(struct tkv_io *io, bool wait, struct tkv_io_request *out)
{
    struct io_uring_cqe *cqe = NULL;
    int error = -EAGAIN;
    if (io->n_flying == 0)
        return false;
    do
        error = wait ? io_uring_wait_cqe(&io->ring, &cqe) : io_uring_peek_cqe(&io->ring, &cqe);
    while (error == -EINTR);
    if (error && !wait)
        return false;
    uint16_t i = 0;
    while (error && !io->flying[i])
        i++;
    if (error)
        io->broken = true;
    else
        i = (uint16_t)io_uring_cqe_get_data64(cqe);
    io->requests[i].result = error ? error : cqe->res;
    if (!error)
        io_uring_cqe_seen(&io->ring, cqe);
    io->flying[i] = false;
    io->n_flying--;
    *out = io->requests[i];
    push(&io->free, i);
    return true;
}

#endif

void tkv_io_add(struct tkv_io *io, const struct tkv_io_request *request)
{
    if (io->n_parts + request->n_parts > TKV_IO_DEPTH)
        tkv_io_submit(io);
    const uint16_t i = io->free.at[--io->free.n];
    struct tkv_io_request *r = &io->requests[i];
    *r = *request;
    r->parts = io->parts + io->n_parts;
    memcpy(r->parts, request->parts, r->n_parts * sizeof *r->parts);
    io->n_parts += r->n_parts;
    push(&io->added, i);
#ifdef TKV_HAVE_URING
    if (tkv_io_is_async(io))
        prepare(io, i);
#endif
}

void tkv_io_submit(struct tkv_io *io)
{
#ifdef TKV_HAVE_URING
    if (tkv_io_is_async(io))
        submit_ring(io);
#endif
    do_added(io);
    io->n_parts = 0; /* the kernel has its own copy */
}

bool tkv_io_reap(struct tkv_io *io, bool wait, struct tkv_io_request *out)
{
    if (io->done.n) {
        const uint16_t i = io->done.at[--io->done.n];
        *out = io->requests[i];
        push(&io->free, i);
        return true;
    }
#ifdef TKV_HAVE_URING
    if (io->has_ring)
        return reap_ring(io, wait, out);
#endif
    (void)wait;
    return false;
}
