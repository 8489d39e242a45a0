/* Opening the spill file, finding out how it wants to be written, and places in it. */
#define _GNU_SOURCE /* O_DIRECT, O_TMPFILE, fallocate */
#include "tier/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/status.h"

#define BUFFERED_UNIT 64 /* keeps blocks on cache lines */
#define PROBE_BYTES   4096
#define FIRST_STEP    ((uint64_t)1 << 20)
#define LARGEST_STEP  ((uint64_t)64 << 20)

/* A file without a name, where the file system knows how; else one that loses its name at once. */
static int open_nameless(const char *folder, int flags)
{
    const int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
    char name[TKV_SPEC_BOOK + 32];
    snprintf(name, sizeof name, "%s/tightkv-XXXXXX", folder);
    const int named = mkostemp(name, O_CLOEXEC | flags);
    if (named >= 0)
        unlink(name);
    return named;
}

/* Writes as blocks will be written: more than a page, from an address that is aligned no better. */
static bool can_write(int fd, const uint8_t *buf, size_t memory_unit, size_t unit)
{
    const size_t past = memory_unit < PROBE_BYTES ? memory_unit : 0, bytes = PROBE_BYTES + unit;
    return pwrite(fd, buf + past, bytes, (off_t)unit) == (ssize_t)bytes;
}

/* The smallest units that a direct write takes. False: none. */
static bool probe_units(struct tkv_spill *spill, uint8_t *buf)
{
    static const size_t units[][2] = {{512, 64}, {512, 512}, {4096, 4096}};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (!can_write(spill->fd, buf, units[i][1], units[i][0]))
            continue;
        spill->unit = units[i][0];
        spill->memory_unit = units[i][1];
        return true;
    }
    return false;
}

/* Opens the file for direct writes, or else for ordinary ones. Returns 0 or an errno. */
static int open_and_probe(struct tkv_spill *spill, const char *folder, uint8_t *buf)
{
    spill->fd = open_nameless(folder, O_DIRECT);
    spill->direct = spill->fd >= 0 && probe_units(spill, buf);
    if (spill->direct)
        return 0;
    if (spill->fd >= 0)
        close(spill->fd);
    spill->fd = open_nameless(folder, 0);
    if (spill->fd < 0)
        return errno;
    spill->unit = spill->memory_unit = BUFFERED_UNIT;
    return can_write(spill->fd, buf, BUFFERED_UNIT, BUFFERED_UNIT) ? 0 : errno;
}

tkv_status tkv_spill_open(struct tkv_spill *spill, const tkv_allocator *allocator,
                          const char *folder, tkv_error *err)
{
    *spill = (struct tkv_spill){.allocator = allocator, .fd = -1};
    const size_t bytes = 4 * PROBE_BYTES;
    uint8_t *buf = tkv_alloc_zero(allocator, bytes);
    if (!buf)
        return tkv_fail_nomem(err, bytes, "the spill file's probe");
    uint8_t *aligned = buf + (PROBE_BYTES - (uintptr_t)buf % PROBE_BYTES) % PROBE_BYTES;
    const int error = open_and_probe(spill, folder, aligned);
    tkv_free(allocator, buf, bytes);
    if (error == 0)
        return TKV_OK;
    tkv_spill_close(spill);
    return tkv_fail(
        err, TKV_ERR_IO,
        "spill=%.120s: no file can be written there: %s; name a folder that exists, can "
        "be written to and has space",
        folder, strerror(error));
}

void tkv_spill_close(struct tkv_spill *spill)
{
    if (spill->fd >= 0)
        close(spill->fd);
    for (size_t i = 0; i < spill->n_sizes; i++)
        tkv_free(spill->allocator, spill->sizes[i].free,
                 spill->sizes[i].capacity * sizeof *spill->sizes[i].free);
    tkv_free(spill->allocator, spill->sizes, spill->n_sizes * sizeof *spill->sizes);
    *spill = (struct tkv_spill){.fd = -1};
}

/* Steps double, so that a small cache takes little. When a step does not fit, what is needed might. */
static int grow_file(struct tkv_spill *spill, uint64_t needed)
{
    uint64_t step = spill->file_bytes < FIRST_STEP ? FIRST_STEP : spill->file_bytes;
    step = step > LARGEST_STEP ? LARGEST_STEP : step;
    const uint64_t sizes[] = {spill->file_bytes + step, needed};
    int error = 0;
    for (size_t i = 0; i < 2; i++) {
        if (sizes[i] < needed)
            continue;
        error = spill->grow_hook ? spill->grow_hook(spill->hook_user, sizes[i]) : 0;
        if (error == 0 && fallocate(spill->fd, 0, 0, (off_t)sizes[i]) != 0)
            error = errno;
        if (error == EOPNOTSUPP) /* space is then found out about when blocks are written */
            error = ftruncate(spill->fd, (off_t)sizes[i]) == 0 ? 0 : errno;
        if (error == 0) {
            spill->file_bytes = sizes[i];
            return 0;
        }
    }
    return error;
}

static struct tkv_spill_size *size_of(struct tkv_spill *spill, size_t bytes)
{
    for (size_t i = 0; i < spill->n_sizes; i++)
        if (spill->sizes[i].bytes == bytes)
            return &spill->sizes[i];
    const size_t n = spill->n_sizes;
    struct tkv_spill_size *grown = tkv_alloc(spill->allocator, (n + 1) * sizeof *grown);
    if (!grown)
        return NULL;
    if (n)
        memcpy(grown, spill->sizes, n * sizeof *grown);
    tkv_free(spill->allocator, spill->sizes, n * sizeof *grown);
    grown[n] = (struct tkv_spill_size){.bytes = bytes};
    spill->sizes = grown;
    spill->n_sizes++;
    return &grown[n];
}

/* Room to give one more place back. */
static bool make_room(struct tkv_spill *spill, struct tkv_spill_size *size)
{
    if (size->n_places < size->capacity)
        return true;
    const size_t capacity = size->capacity ? 2 * size->capacity : 64;
    uint64_t *grown = tkv_alloc(spill->allocator, capacity * sizeof *grown);
    if (!grown)
        return false;
    if (size->n_free)
        memcpy(grown, size->free, size->n_free * sizeof *grown);
    tkv_free(spill->allocator, size->free, size->capacity * sizeof *grown);
    size->free = grown;
    size->capacity = capacity;
    return true;
}

int tkv_spill_take(struct tkv_spill *spill, size_t bytes, uint64_t *at)
{
    struct tkv_spill_size *size = size_of(spill, bytes);
    if (!size || !make_room(spill, size))
        return ENOMEM;
    if (size->n_free) {
        *at = size->free[--size->n_free];
        return 0;
    }
    const uint64_t end = spill->used_bytes + bytes;
    const int error = end > spill->file_bytes ? grow_file(spill, end) : 0;
    if (error)
        return error;
    *at = spill->used_bytes;
    spill->used_bytes = end;
    size->n_places++;
    return 0;
}

void tkv_spill_give(struct tkv_spill *spill, size_t bytes, uint64_t at)
{
    struct tkv_spill_size *size = size_of(spill, bytes); /* there is one: the place came from it */
    size->free[size->n_free++] = at;
}
