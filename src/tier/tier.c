/* Blocks, frames, the clock. */
#define _GNU_SOURCE /* clock_gettime */
#define XXH_INLINE_ALL
#include "tier/tier.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/status.h"

/* ---- lists ------------------------------------------------------------------------------------ */

static void append(struct tkv_block_list *list, struct tkv_block *block)
{
    block->next = NULL;
    block->prev = list->last;
    if (list->last)
        list->last->next = block;
    else
        list->first = block;
    list->last = block;
    list->n++;
}

static void prepend(struct tkv_block_list *list, struct tkv_block *block)
{
    block->prev = NULL;
    block->next = list->first;
    if (list->first)
        list->first->prev = block;
    else
        list->last = block;
    list->first = block;
    list->n++;
}

static void take_out(struct tkv_block_list *list, struct tkv_block *block)
{
    *(block->prev ? &block->prev->next : &list->first) = block->next;
    *(block->next ? &block->next->prev : &list->last) = block->prev;
    block->prev = block->next = NULL;
    list->n--;
}

/* ---- frames ----------------------------------------------------------------------------------- */

static size_t file_bytes(const struct tkv_tier *tier, size_t n_bytes)
{
    return (n_bytes + tier->spill.unit - 1) / tier->spill.unit * tier->spill.unit;
}

/* The allocator aligns to TKV_ALIGN. Where the file wants more, the piece is longer by as much, and
 * says behind the frame where it begins. */
static size_t piece_bytes(const struct tkv_tier *tier, size_t n_bytes)
{
    return n_bytes + (tier->spill.memory_unit > TKV_ALIGN ? tier->spill.memory_unit : 0);
}

size_t tkv_tier_block_bytes(const struct tkv_tier *tier, size_t n_bytes)
{
    return piece_bytes(tier, file_bytes(tier, n_bytes));
}

/* What a block costs of the budget. */
static size_t cost(const struct tkv_tier *tier, const struct tkv_block *block)
{
    return piece_bytes(tier, block->n_bytes);
}

static uint8_t *make_frame(struct tkv_tier *tier, size_t n_bytes)
{
    const size_t unit = tier->spill.memory_unit;
    uint8_t *piece = tkv_alloc(tier->allocator, piece_bytes(tier, n_bytes));
    if (!piece)
        return NULL;
    tier->resident_bytes += piece_bytes(tier, n_bytes);
    if (unit <= TKV_ALIGN)
        return piece;
    uint8_t *frame = piece + (unit - (uintptr_t)piece % unit) % unit;
    memcpy(frame + n_bytes, &piece, sizeof piece);
    return frame;
}

static void free_frame(struct tkv_tier *tier, uint8_t *frame, size_t n_bytes)
{
    uint8_t *piece = frame;
    if (tier->spill.memory_unit > TKV_ALIGN)
        memcpy(&piece, frame + n_bytes, sizeof piece);
    tkv_free(tier->allocator, piece, piece_bytes(tier, n_bytes));
    tier->resident_bytes -= piece_bytes(tier, n_bytes);
}

/* ---- requests --------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Neighbours in the file that are moved by one request. */
struct run {
    struct tkv_block *first, *last;
    struct iovec parts[TKV_IO_PARTS];
    uint32_t n;
    bool write;
};

static void add_run(struct tkv_tier *tier, struct run *run)
{
    if (run->n == 0)
        return;
    const struct tkv_io_request r = {.owner = run->first,
                                     .parts = run->parts,
                                     .n_parts = run->n,
                                     .at = run->first->at,
                                     .write = run->write};
    tkv_io_add(tier->io, &r);
    run->n = 0;
}

/* Adds a block to the run, or to a new one when it is no neighbour of the last. */
static void extend_run(struct tkv_tier *tier, struct run *run, struct tkv_block *block)
{
    if (run->n == TKV_IO_PARTS || (run->n && run->last->at + run->last->n_bytes != block->at))
        add_run(tier, run);
    if (run->n)
        run->last->next = block;
    else
        run->first = block;
    block->next = NULL;
    run->last = block;
    run->parts[run->n++] = (struct iovec){block->frame, block->n_bytes};
}

/* What came of moving a block: TKV_OK, TKV_ERR_IO with an errno, TKV_ERR_CORRUPT. */
static tkv_status judge(struct tkv_tier *tier, struct tkv_moved *m, int *error)
{
    const size_t n_bytes = m->block->n_bytes;
    if (tier->moved_hook)
        tier->moved_hook(tier->hook_user, m);
    *error = m->result < 0 ? (int)-m->result : m->write ? ENOSPC : EIO;
    if (m->result != (int64_t)n_bytes)
        return TKV_ERR_IO;
    *(m->write ? &tier->stats.bytes_written : &tier->stats.bytes_read) += n_bytes;
    return m->write || XXH3_64bits(m->block->frame, n_bytes) == m->block->sum ? TKV_OK
                                                                              : TKV_ERR_CORRUPT;
}

static void set_clean(struct tkv_tier *tier, struct tkv_block *block)
{
    block->state = TKV_BLOCK_CLEAN;
    append(&tier->clean, block);
}

static void set_dirty(struct tkv_tier *tier, struct tkv_block *block)
{
    block->state = TKV_BLOCK_DIRTY;
    append(&tier->dirty, block);
    tier->dirty_bytes += cost(tier, block);
}

static void end_write(struct tkv_tier *tier, struct tkv_moved *m)
{
    struct tkv_block *block = m->block;
    int error;
    tier->n_writing--;
    tier->writing_bytes -= cost(tier, block);
    if (judge(tier, m, &error) == TKV_OK) {
        set_clean(tier, block);
        return;
    }
    tier->write_errno = error;
    set_dirty(tier, block);
}

/* A block whose read failed is absent again: whoever wants it reads it once more. */
static tkv_status end_read(struct tkv_tier *tier, struct tkv_moved *m, int *error)
{
    struct tkv_block *block = m->block;
    tier->n_reading--;
    const tkv_status status = judge(tier, m, error);
    if (status == TKV_OK) {
        set_clean(tier, block);
        return TKV_OK;
    }
    free_frame(tier, block->frame, block->n_bytes);
    block->frame = NULL;
    block->state = TKV_BLOCK_ABSENT;
    return status;
}

/* Shares out what a request moved among its blocks. */
static void end_run(struct tkv_tier *tier, const struct tkv_io_request *r)
{
    int64_t left = r->result;
    int error;
    for (struct tkv_block *block = r->owner, *next; block; block = next) {
        const int64_t n = block->n_bytes;
        struct tkv_moved m = {block, r->write, left < n ? left : n};
        next = block->next;
        left = left > n ? left - n : left < 0 ? left : 0;
        if (r->write)
            end_write(tier, &m);
        else
            (void)!end_read(tier, &m, &error);
    }
}

static void submit(struct tkv_tier *tier)
{
    const bool async = tkv_io_is_async(tier->io);
    const uint64_t begin = async ? 0 : now_ns();
    tkv_io_submit(tier->io);
    if (!async)
        tier->stats.stall_ns += now_ns() - begin;
}

/* Takes in a request that is through; waits for one. False: there is none. */
static bool reap(struct tkv_tier *tier, bool wait)
{
    struct tkv_io_request r;
    if (wait)
        submit(tier);
    const uint64_t begin = wait ? now_ns() : 0;
    const bool found = tkv_io_reap(tier->io, wait, &r);
    if (wait)
        tier->stats.stall_ns += now_ns() - begin;
    if (!found)
        return false;
    end_run(tier, &r);
    return true;
}

/* Starts writing the oldest dirty blocks, until no more than `most` bytes are dirty. */
static void write_oldest(struct tkv_tier *tier, uint64_t most)
{
    struct run run = {.write = true};
    while (tier->dirty_bytes > most && tkv_io_room(tier->io) > 1) {
        struct tkv_block *block = tier->dirty.first;
        if (block->at == TKV_NOWHERE) {
            tier->write_errno = tkv_spill_take(&tier->spill, block->n_bytes, &block->at);
            if (tier->write_errno) {
                block->at = TKV_NOWHERE;
                break;
            }
        }
        take_out(&tier->dirty, block);
        tier->dirty_bytes -= cost(tier, block);
        tier->writing_bytes += cost(tier, block);
        tier->n_writing++;
        block->state = TKV_BLOCK_WRITING;
        block->sum = XXH3_64bits(block->frame, block->n_bytes);
        extend_run(tier, &run, block);
    }
    add_run(tier, &run);
    submit(tier);
}

/* Writes until no more than `most` bytes are in memory alone. Once a write has failed no other
 * begins. False: more are left. */
static bool write_down_to(struct tkv_tier *tier, uint64_t most)
{
    tier->write_errno = 0;
    while (tier->dirty_bytes + tier->writing_bytes > most) {
        if (!tier->write_errno)
            write_oldest(tier, most > tier->writing_bytes ? most - tier->writing_bytes : 0);
        if (!reap(tier, true))
            return false;
    }
    return true;
}

/* ---- the clock -------------------------------------------------------------------------------- */

static struct tkv_block *pick_victim(struct tkv_tier *tier)
{
    for (size_t n = tier->clean.n * (TKV_TIER_MOST_USES + 1); n; n--) {
        struct tkv_block *block = tier->clean.first;
        take_out(&tier->clean, block);
        if (!block->pins && !block->uses)
            return block;
        if (!block->pins)
            block->uses--;
        append(&tier->clean, block);
    }
    return NULL;
}

/* The frame of a clean block that goes, when it has this size; else it is freed. */
static bool evict(struct tkv_tier *tier, size_t n_bytes, uint8_t **frame)
{
    struct tkv_block *victim = pick_victim(tier);
    if (!victim)
        return false;
    if (victim->n_bytes == n_bytes)
        *frame = victim->frame;
    else
        free_frame(tier, victim->frame, victim->n_bytes);
    victim->frame = NULL;
    victim->state = TKV_BLOCK_ABSENT;
    return true;
}

static tkv_status fail_write(const struct tkv_tier *tier, tkv_error *err)
{
    return tkv_fail(
        err, TKV_ERR_IO,
        "spill=%.120s: writing failed: %s; free space there, or give the cache more ram=",
        tier->folder, strerror(tier->write_errno));
}

static tkv_status fail_frame(const struct tkv_tier *tier, uint64_t n_bytes, tkv_error *err)
{
    return tkv_fail(err, TKV_ERR_NOMEM,
                    "no memory for %llu bytes of coded pages within ram=%llu; give the cache more "
                    "ram=",
                    (unsigned long long)n_bytes, (unsigned long long)tier->ram);
}

/* A frame within the budget. wait: for what is under way, and for blocks to be written. */
static tkv_status take_frame(struct tkv_tier *tier, size_t n_bytes, bool wait, uint8_t **out,
                             tkv_error *err)
{
    uint8_t *frame = NULL;
    while (!frame) {
        bool no_memory = false;
        if (tier->resident_bytes + piece_bytes(tier, n_bytes) <= tier->ram) {
            frame = make_frame(tier, n_bytes);
            no_memory = !frame;
        }
        if (frame || evict(tier, n_bytes, &frame))
            continue;
        if (wait && tier->n_reading + tier->n_writing) {
            reap(tier, true);
            continue;
        }
        if (!wait || no_memory || tier->dirty.n == 0)
            return fail_frame(tier, n_bytes, err);
        const uint64_t dirty = tier->dirty_bytes, some = tier->ram / 8;
        write_down_to(tier, dirty > some ? dirty - some : 0);
        if (tier->dirty_bytes == dirty)
            return fail_write(tier, err);
    }
    *out = frame;
    return TKV_OK;
}

/* ---- what others call ------------------------------------------------------------------------- */

tkv_status tkv_tier_create(const struct tkv_tier_params *p, struct tkv_tier **out, tkv_error *err)
{
    struct tkv_tier *tier = tkv_alloc_zero(p->allocator, sizeof *tier);
    if (!tier)
        return tkv_fail_nomem(err, sizeof *tier, "a tier");
    tier->allocator = p->allocator;
    tier->ram = p->ram;
    memcpy(tier->folder, p->folder, strnlen(p->folder, sizeof tier->folder - 1));
    tkv_status status = tkv_spill_open(&tier->spill, p->allocator, tier->folder, err);
    if (status == TKV_OK) {
        tier->io = tkv_io_create(p->allocator, p->executor, tier->spill.fd, !p->no_ring);
        if (!tier->io)
            status = tkv_fail_nomem(err, sizeof *tier, "the queue of reads");
    }
    if (status != TKV_OK) {
        tkv_tier_destroy(tier);
        return status;
    }
    *out = tier;
    return TKV_OK;
}

static void free_frames(struct tkv_tier *tier, const struct tkv_block_list *list)
{
    for (struct tkv_block *block = list->first; block; block = block->next)
        free_frame(tier, block->frame, block->n_bytes);
}

void tkv_tier_destroy(struct tkv_tier *tier)
{
    if (!tier)
        return;
    while (tier->n_reading + tier->n_writing)
        reap(tier, true);
    free_frames(tier, &tier->dirty);
    free_frames(tier, &tier->clean);
    tkv_io_destroy(tier->io);
    tkv_spill_close(&tier->spill);
    tkv_free(tier->allocator, tier, sizeof *tier);
}

tkv_status tkv_tier_put(struct tkv_tier *tier, struct tkv_block *block, const void *bytes,
                        size_t n_bytes, tkv_error *err)
{
    const size_t rounded = file_bytes(tier, n_bytes), taken = piece_bytes(tier, rounded);
    const uint64_t most_dirty = tier->ram / 2 > taken ? tier->ram / 2 - taken : 0;
    uint8_t *frame;
    if (tier->resident_bytes + taken > tier->ram && !write_down_to(tier, most_dirty))
        return fail_write(tier, err);
    const tkv_status status = take_frame(tier, rounded, true, &frame, err);
    if (status != TKV_OK)
        return status;
    memcpy(frame, bytes, n_bytes);
    memset(frame + n_bytes, 0, rounded - n_bytes);
    *block = (struct tkv_block){
        .frame = frame, .at = TKV_NOWHERE, .n_bytes = (uint32_t)rounded, .uses = 1};
    set_dirty(tier, block);
    return TKV_OK;
}

static bool is_flying(const struct tkv_block *block)
{
    return block->state == TKV_BLOCK_READING || block->state == TKV_BLOCK_WRITING;
}

void tkv_tier_drop(struct tkv_tier *tier, struct tkv_block *block)
{
    while (is_flying(block))
        reap(tier, true);
    if (block->state == TKV_BLOCK_DIRTY) {
        take_out(&tier->dirty, block);
        tier->dirty_bytes -= cost(tier, block);
    } else if (block->state == TKV_BLOCK_CLEAN) {
        take_out(&tier->clean, block);
    }
    if (block->frame)
        free_frame(tier, block->frame, block->n_bytes);
    if (block->state != TKV_BLOCK_NONE && block->at != TKV_NOWHERE)
        tkv_spill_give(&tier->spill, block->n_bytes, block->at);
    *block = (struct tkv_block){0};
}

/* Gives an absent block its frame, to be read. */
static tkv_status begin_read(struct tkv_tier *tier, struct tkv_block *block, bool wait,
                             tkv_error *err)
{
    const tkv_status status = take_frame(tier, block->n_bytes, wait, &block->frame, err);
    if (status != TKV_OK)
        return status;
    block->state = TKV_BLOCK_READING;
    tier->n_reading++;
    return TKV_OK;
}

/* Begins the reads of a list whose blocks are pinned. */
static tkv_status begin_reads(struct tkv_tier *tier, struct tkv_block *const *list, size_t n,
                              bool scan, size_t *i, tkv_error *err)
{
    tkv_status status = TKV_OK;
    struct run run = {0};
    for (*i = 0; *i < n && status == TKV_OK; (*i)++) {
        struct tkv_block *block = list[*i];
        const bool absent = block->state == TKV_BLOCK_ABSENT;
        if (!scan && block->uses < TKV_TIER_MOST_USES)
            block->uses++;
        tier->stats.hits += !absent;
        tier->stats.misses += absent;
        if (!absent)
            continue;
        if (scan)
            block->uses = 0;
        while (tkv_io_room(tier->io) < 2)
            reap(tier, true);
        if (begin_read(tier, block, false, NULL) != TKV_OK) {
            add_run(tier, &run); /* it may have to be waited for */
            status = begin_read(tier, block, true, err);
        }
        if (status == TKV_OK)
            extend_run(tier, &run, block);
    }
    *i -= status != TKV_OK;
    add_run(tier, &run);
    submit(tier);
    return status;
}

/* Reads a block that could not be read, alone and once more. */
static tkv_status read_again(struct tkv_tier *tier, struct tkv_block *block, tkv_error *err)
{
    int error;
    tkv_status status = begin_read(tier, block, true, err);
    if (status != TKV_OK)
        return status;
    struct iovec part = {block->frame, block->n_bytes};
    struct tkv_io_request r = {.parts = &part, .n_parts = 1, .at = block->at};
    tkv_io_now(tier->io, &r);
    struct tkv_moved m = {block, false, r.result};
    status = end_read(tier, &m, &error);
    if (status == TKV_OK)
        return TKV_OK;
    if (status == TKV_ERR_CORRUPT)
        return tkv_fail(err, status,
                        "the spill file in %.120s has other bytes than were written; "
                        "this part of the context is lost: check the disk",
                        tier->folder);
    return tkv_fail(err, status, "the spill file in %.120s cannot be read: %s; check the disk",
                    tier->folder, strerror(error));
}

void tkv_tier_release(struct tkv_tier *tier, struct tkv_block *const *list, size_t n, bool scan)
{
    for (size_t i = 0; i < n; i++) {
        struct tkv_block *block = list[i];
        block->pins--;
        if (scan && !block->pins && !block->uses && block->state == TKV_BLOCK_CLEAN) {
            take_out(&tier->clean, block);
            prepend(&tier->clean, block);
        }
    }
}

tkv_status tkv_tier_fetch(struct tkv_tier *tier, struct tkv_block *const *list, size_t n, bool scan,
                          size_t *failed, tkv_error *err)
{
    uint64_t bytes = 0;
    size_t i, at;
    for (i = 0; i < n; i++)
        bytes += cost(tier, list[i]);
    if (bytes > tkv_tier_round_bytes(tier)) {
        *failed = 0;
        return fail_frame(tier, bytes, err);
    }
    while (reap(tier, false))
        ;
    for (i = 0; i < n; i++)
        list[i]->pins++;
    tkv_status status = begin_reads(tier, list, n, scan, &at, err);
    for (i = 0; i < n; i++)
        while (list[i]->state == TKV_BLOCK_READING)
            reap(tier, true);
    for (i = 0; i < n && status == TKV_OK; i++)
        if (list[i]->state == TKV_BLOCK_ABSENT) {
            status = read_again(tier, list[i], err);
            at = i;
        }
    if (status == TKV_OK)
        return TKV_OK;
    tkv_tier_release(tier, list, n, scan);
    *failed = at;
    return status;
}

void tkv_tier_prefetch(struct tkv_tier *tier, struct tkv_block *const *list, size_t n)
{
    uint64_t left = tier->ram / 4;
    if (!tkv_io_is_async(tier->io))
        return;
    while (reap(tier, false))
        ;
    struct run run = {0};
    for (size_t i = 0; i < n && tkv_io_room(tier->io) > 1; i++) {
        struct tkv_block *block = list[i];
        if (block->state != TKV_BLOCK_ABSENT)
            continue;
        if (left < cost(tier, block) || begin_read(tier, block, false, NULL) != TKV_OK)
            break;
        left -= cost(tier, block);
        extend_run(tier, &run, block);
    }
    add_run(tier, &run);
    submit(tier);
}

void tkv_tier_write_behind(struct tkv_tier *tier)
{
    while (reap(tier, false))
        ;
    tier->write_errno = 0;
    if (tier->resident_bytes > tier->ram / 4 * 3)
        write_oldest(tier, tier->ram / 4);
}

tkv_tier_stats tkv_tier_get_stats(const struct tkv_tier *tier)
{
    tkv_tier_stats s = tier->stats;
    s.struct_size = sizeof s;
    s.io_uring = tkv_io_is_async(tier->io);
    s.resident_bytes = tier->resident_bytes;
    s.file_bytes = tier->spill.file_bytes;
    return s;
}
