/* Where coded pages are when not all of them may be in memory: a pool of frames, as large as the
 * budget, over a spill file. What is kept and moved is a *block*: the coded keys and values of one
 * head's page, so that one read fetches both.
 *
 * A block begins in memory (put), is written behind the caller's back once memory runs short, and is
 * then thrown out of it when its frame is wanted. Fetching makes blocks resident and pins them until
 * they are released. Which block goes is decided by a clock: each has a count of the selections that
 * read it, up to TKV_TIER_MOST_USES; the hand takes one off the count of every block that it passes,
 * and the first that has none goes. What is read in passing (a scan) counts for nothing, and goes
 * first: a scan of more than fits would else find nothing of what the one before it left.
 *
 * Of the budget, half at most is dirty, unless all of it is; a quarter may be pinned, and a quarter
 * be under way from the file. So a disk that is full stops writing, never reading. */
#ifndef TKV_TIER_H
#define TKV_TIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tier/io.h"
#include "tier/spill.h"
#include "tightkv/tightkv.h"

#define TKV_TIER_MOST_USES 3
#define TKV_NOWHERE        UINT64_MAX

enum tkv_block_state {
    TKV_BLOCK_NONE = 0,
    TKV_BLOCK_DIRTY,   /* in memory alone */
    TKV_BLOCK_WRITING, /* as dirty, and on its way to the file */
    TKV_BLOCK_CLEAN,   /* in both */
    TKV_BLOCK_ABSENT,  /* in the file alone */
    TKV_BLOCK_READING  /* has a frame, which is being filled */
};

struct tkv_block {
    uint8_t *frame;
    uint64_t at;  /* in the file; TKV_NOWHERE: has no place yet */
    uint64_t sum; /* of what was written there */
    struct tkv_block *prev,
        *next;        /* of the dirty ones, the clean ones; next: of the same request */
    uint32_t n_bytes; /* a multiple of the file's unit */
    uint16_t pins;
    uint8_t state, uses;
};

struct tkv_block_list {
    struct tkv_block *first, *last;
    size_t n;
};

/* What came of moving a block, for tests to change: its bytes, too. */
struct tkv_moved {
    struct tkv_block *block;
    bool write;
    int64_t result; /* bytes, or minus an errno */
};

struct tkv_tier {
    const tkv_allocator *allocator;
    char folder[TKV_SPEC_BOOK]; /* as the spec names it */
    struct tkv_spill spill;
    struct tkv_io *io;
    uint64_t ram;
    uint64_t resident_bytes, dirty_bytes, writing_bytes;
    struct tkv_block_list dirty; /* the one put first comes first */
    struct tkv_block_list clean; /* the clock: the hand is at the first */
    size_t n_reading, n_writing;
    int write_errno; /* of the last write, or place in the file: 0 when it went well */
    tkv_tier_stats stats;
    void (*moved_hook)(void *user, struct tkv_moved *moved); /* for tests */
    void *hook_user;
};

struct tkv_tier_params {
    const tkv_allocator *allocator; /* borrowed, as is the executor */
    const tkv_executor *executor;
    const char *folder;
    uint64_t ram;
    bool no_ring; /* io_uring is not tried */
};

tkv_status tkv_tier_create(const struct tkv_tier_params *params, struct tkv_tier **out,
                           tkv_error *err);
/* Blocks are the caller's, and may be gone after. NULL is accepted. */
void tkv_tier_destroy(struct tkv_tier *tier);

/* What a block of so many bytes takes in memory. */
size_t tkv_tier_block_bytes(const struct tkv_tier *tier, size_t n_bytes);
/* Bytes of blocks that one list may fetch; the least budget for lists of so many. */
static inline uint64_t tkv_tier_round_bytes(const struct tkv_tier *tier)
{
    return tier->ram / 4;
}
static inline uint64_t tkv_tier_least_ram(uint64_t round_bytes)
{
    return 4 * round_bytes;
}
/* A new block (zeros before), with a copy of `bytes`. Errors: TKV_ERR_IO when memory is full and
 * blocks cannot be written, TKV_ERR_NOMEM; there is no block then. */
tkv_status tkv_tier_put(struct tkv_tier *tier, struct tkv_block *block, const void *bytes,
                        size_t n_bytes, tkv_error *err);
/* Forgets a block; its place in the file goes to another. */
void tkv_tier_drop(struct tkv_tier *tier, struct tkv_block *block);

/* Makes the blocks of a list resident, and pins them; a block may be in it twice. On failure none is
 * pinned, and *failed is the number of one that could not be had. Errors: TKV_ERR_IO,
 * TKV_ERR_CORRUPT, TKV_ERR_NOMEM (a list of more than round_bytes, too). */
tkv_status tkv_tier_fetch(struct tkv_tier *tier, struct tkv_block *const *list, size_t n, bool scan,
                          size_t *failed, tkv_error *err);
void tkv_tier_release(struct tkv_tier *tier, struct tkv_block *const *list, size_t n, bool scan);
/* Starts reading those that are not there, as far as a quarter of the budget goes and nothing has to
 * be waited for. Without io_uring, nothing. */
void tkv_tier_prefetch(struct tkv_tier *tier, struct tkv_block *const *list, size_t n);
/* Starts writing dirty blocks when memory runs short. */
void tkv_tier_write_behind(struct tkv_tier *tier);

tkv_tier_stats tkv_tier_get_stats(const struct tkv_tier *tier);

#endif
