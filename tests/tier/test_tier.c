/* The pool of blocks over a spill file: what goes in comes out, within the budget, whatever the disk
 * does. Through io_uring, where the kernel allows it, and without. */
#define _GNU_SOURCE /* pwrite */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "tier/tier.h"

#define BLOCK    4096
#define N_BLOCKS 256
#define RAM      (64 * (BLOCK + 512)) /* what the frame of a block takes */

static const char folder[] = ".";

struct pool {
    tkv_allocator allocator;
    tkv_executor executor;
    struct tkv_tier *tier;
    struct tkv_block blocks[N_BLOCKS];
};

static struct pool *make_pool(bool no_ring, uint64_t ram)
{
    struct pool *p = calloc(1, sizeof *p);
    p->allocator = tkv_allocator_default();
    const struct tkv_tier_params params = {.allocator = &p->allocator,
                                           .executor = &p->executor,
                                           .folder = folder,
                                           .ram = ram,
                                           .no_ring = no_ring};
    assert_int_equal(tkv_tier_create(&params, &p->tier, NULL), TKV_OK);
    return p;
}

static void free_pool(struct pool *p)
{
    tkv_tier_destroy(p->tier);
    free(p);
}

/* Sizes differ, as those of heads with models of their own do. */
static size_t size_of(uint32_t i)
{
    return BLOCK - 500 * (i % 3);
}

static void fill(uint32_t i, uint8_t *bytes)
{
    for (size_t k = 0; k < BLOCK; k++)
        bytes[k] = (uint8_t)(i * 131 + k * 7 + k / 251);
}

static tkv_status put(struct pool *p, uint32_t i, tkv_error *err)
{
    uint8_t bytes[BLOCK];
    fill(i, bytes);
    const tkv_status status = tkv_tier_put(p->tier, &p->blocks[i], bytes, size_of(i), err);
    tkv_tier_write_behind(p->tier);
    assert_true(p->tier->resident_bytes <= p->tier->ram);
    return status;
}

static void put_all(struct pool *p)
{
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        assert_int_equal(put(p, i, NULL), TKV_OK);
}

static void assert_holds(const struct tkv_block *block, uint32_t i)
{
    uint8_t bytes[BLOCK];
    fill(i, bytes);
    assert_non_null(block->frame);
    assert_memory_equal(block->frame, bytes, size_of(i));
}

static tkv_status get(struct pool *p, uint32_t i, tkv_error *err)
{
    struct tkv_block *list[] = {&p->blocks[i]};
    size_t failed = 99;
    const tkv_status status = tkv_tier_fetch(p->tier, list, 1, false, &failed, err);
    if (status != TKV_OK) {
        assert_int_equal(failed, 0);
        return status;
    }
    assert_holds(list[0], i);
    tkv_tier_release(p->tier, list, 1, false);
    return TKV_OK;
}

static void get_all(struct pool *p)
{
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        assert_int_equal(get(p, i, NULL), TKV_OK);
}

static bool no_ring(void **state)
{
    return *state != NULL;
}

static void test_comes_back(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    put_all(p);
    get_all(p);
    const tkv_tier_stats s = tkv_tier_get_stats(p->tier);
    assert_true(s.misses >= N_BLOCKS - 80 && s.hits + s.misses == N_BLOCKS);
    assert_true(s.bytes_read >= s.misses * (BLOCK - 1024));
    assert_true(s.bytes_written >= (N_BLOCKS - 80) * (BLOCK - 1024));
    assert_true(s.file_bytes >= s.bytes_written && s.resident_bytes <= RAM);
    if (no_ring(state))
        assert_int_equal(s.io_uring, 0);
    free_pool(p);
}

/* Lists as long as the budget allows, blocks twice in one, and one that is too long. */
static void test_lists(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    struct tkv_block *list[32];
    size_t failed;
    put_all(p);
    for (uint32_t first = 0; first + 16 <= N_BLOCKS; first += 16) {
        for (uint32_t i = 0; i < 16; i++)
            list[i] = &p->blocks[first + i / 2 * 2];
        tkv_tier_prefetch(p->tier, list + 8, 8);
        assert_int_equal(tkv_tier_fetch(p->tier, list, 16, true, &failed, NULL), TKV_OK);
        for (uint32_t i = 0; i < 16; i++)
            assert_holds(list[i], first + i / 2 * 2);
        /* what is pinned stays, whatever else is asked for */
        for (uint32_t i = 100; i < 164; i++)
            assert_int_equal(get(p, i, NULL), TKV_OK);
        for (uint32_t i = 0; i < 16; i++)
            assert_holds(list[i], first + i / 2 * 2);
        tkv_tier_release(p->tier, list, 16, true);
    }
    for (uint32_t i = 0; i < 32; i++)
        list[i] = &p->blocks[i];
    assert_int_equal(tkv_tier_fetch(p->tier, list, 32, true, &failed, NULL), TKV_ERR_NOMEM);
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        assert_int_equal(p->blocks[i].pins, 0);
    free_pool(p);
}

static void test_prefetch(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    struct tkv_block *list[] = {&p->blocks[3], &p->blocks[4], &p->blocks[3]};
    put_all(p);
    assert_int_equal(p->blocks[3].state, TKV_BLOCK_ABSENT);
    tkv_tier_prefetch(p->tier, list, 3);
    assert_int_equal(get(p, 3, NULL), TKV_OK);
    const tkv_tier_stats s = tkv_tier_get_stats(p->tier);
    assert_int_equal(s.hits, s.io_uring);
    assert_int_equal(s.misses, !s.io_uring);
    tkv_tier_drop(p->tier, &p->blocks[4]); /* perhaps while it is being read */
    free_pool(p);
}

/* Places in the file are taken again. */
static void test_reuse(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    put_all(p);
    get_all(p);
    const uint64_t used = p->tier->spill.used_bytes;
    for (int round = 0; round < 20; round++) {
        for (uint32_t i = (uint32_t)round % 3; i < N_BLOCKS; i += 3)
            tkv_tier_drop(p->tier, &p->blocks[i]);
        for (uint32_t i = (uint32_t)round % 3; i < N_BLOCKS; i += 3)
            assert_int_equal(put(p, i, NULL), TKV_OK);
        get_all(p);
    }
    assert_true(p->tier->spill.used_bytes <= used + RAM);
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        tkv_tier_drop(p->tier, &p->blocks[i]);
    assert_int_equal(p->tier->resident_bytes, 0);
    assert_int_equal(p->tier->dirty_bytes + p->tier->clean.n, 0);
    free_pool(p);
}

/* ---- policy ----------------------------------------------------------------------------------- */

/* Blocks that selections read stay through a scan of all the others. */
static void test_selected_stay(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    size_t failed;
    put_all(p);
    for (int step = 0; step < 4; step++)
        for (uint32_t i = 0; i < 16; i++)
            assert_int_equal(get(p, i * 5, NULL), TKV_OK);
    for (uint32_t i = 0; i < N_BLOCKS; i++) {
        struct tkv_block *list[] = {&p->blocks[i]};
        if (i % 5 == 0 && i < 80)
            continue;
        assert_int_equal(tkv_tier_fetch(p->tier, list, 1, true, &failed, NULL), TKV_OK);
        tkv_tier_release(p->tier, list, 1, true);
        if (i == 100)
            break;
    }
    for (uint32_t i = 0; i < 16; i++)
        assert_int_equal(p->blocks[i * 5].state, TKV_BLOCK_CLEAN);
    free_pool(p);
}

/* Scans of all blocks find again what fits, though it is a quarter. */
static void test_scans(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    size_t failed;
    put_all(p);
    for (int round = 0; round < 4; round++) {
        const uint64_t hits = tkv_tier_get_stats(p->tier).hits;
        for (uint32_t i = 0; i < N_BLOCKS; i += 8) {
            struct tkv_block *list[8];
            for (uint32_t k = 0; k < 8; k++)
                list[k] = &p->blocks[i + k];
            assert_int_equal(tkv_tier_fetch(p->tier, list, 8, true, &failed, NULL), TKV_OK);
            tkv_tier_release(p->tier, list, 8, true);
        }
        assert_true(round == 0 || tkv_tier_get_stats(p->tier).hits - hits >= 48);
    }
    free_pool(p);
}

/* ---- what goes wrong -------------------------------------------------------------------------- */

struct fault {
    const struct tkv_block *block; /* NULL: every one */
    bool write;
    int64_t result; /* 0: as it was */
    int32_t less;   /* short by so many bytes */
    uint8_t flip;   /* one byte of what was read */
    int left;       /* times */
};

static void inject(void *user, struct tkv_moved *r)
{
    struct fault *f = user;
    if (r->write != f->write || (f->block && f->block != r->block) || f->left == 0)
        return;
    f->left--;
    if (f->result)
        r->result = f->result;
    r->result -= f->less;
    r->block->frame[1000] ^= f->flip;
}

static void break_with(struct pool *p, struct fault *f)
{
    p->tier->moved_hook = inject;
    p->tier->hook_user = f;
}

/* A failure that lasts is that block's alone; one that passes is not noticed. */
static void read_fault(bool no_ring, struct fault f, tkv_status expected, const char *words)
{
    struct pool *p = make_pool(no_ring, RAM);
    tkv_error err;
    put_all(p);
    f.block = &p->blocks[7];
    f.left = 1;
    break_with(p, &f);
    assert_int_equal(get(p, 7, &err), TKV_OK);
    assert_int_equal(f.left, 0);
    for (uint32_t i = 128; i < N_BLOCKS; i++) /* out with it */
        assert_int_equal(get(p, i, NULL), TKV_OK);
    for (uint32_t i = 128; i < N_BLOCKS; i++)
        assert_int_equal(get(p, i, NULL), TKV_OK);
    assert_int_equal(p->blocks[7].state, TKV_BLOCK_ABSENT);
    f.left = -1;
    assert_int_equal(get(p, 7, &err), expected);
    assert_non_null(strstr(err.text, words));
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        if (i != 7)
            assert_int_equal(get(p, i, NULL), TKV_OK);
    f.left = 0;
    assert_int_equal(get(p, 7, NULL), TKV_OK);
    free_pool(p);
}

static void test_failed_read(void **state)
{
    read_fault(no_ring(state), (struct fault){.result = -EIO}, TKV_ERR_IO, "Input/output error");
}

static void test_short_read(void **state)
{
    read_fault(no_ring(state), (struct fault){.less = 512}, TKV_ERR_IO, "check the disk");
}

static void test_flipped_byte(void **state)
{
    read_fault(no_ring(state), (struct fault){.flip = 1}, TKV_ERR_CORRUPT, "other bytes");
}

static int full(void *user, uint64_t bytes)
{
    return bytes > *(const uint64_t *)user ? ENOSPC : 0;
}

/* Puts blocks until one fails; all that were put are there, and go on once there is space. */
static void fill_up(struct pool *p)
{
    tkv_error err;
    uint32_t n = 0;
    while (n < N_BLOCKS && put(p, n, &err) == TKV_OK)
        n++;
    assert_in_range(n, 16, N_BLOCKS - 1);
    assert_non_null(strstr(err.text, "No space left"));
    assert_non_null(strstr(err.text, "free space there"));
    assert_int_equal(p->blocks[n].state, TKV_BLOCK_NONE);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(get(p, i, NULL), TKV_OK);
    assert_int_equal(put(p, n, &err), TKV_ERR_IO);
    p->tier->spill.grow_hook = NULL;
    p->tier->moved_hook = NULL;
    for (; n < N_BLOCKS; n++)
        assert_int_equal(put(p, n, NULL), TKV_OK);
    get_all(p);
}

static void test_disk_full_from_the_start(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    uint64_t most = 0;
    p->tier->spill.grow_hook = full;
    p->tier->spill.hook_user = &most;
    fill_up(p);
    free_pool(p);
}

static void test_disk_fills_up(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    uint64_t most = 80 * BLOCK;
    p->tier->spill.grow_hook = full;
    p->tier->spill.hook_user = &most;
    fill_up(p);
    free_pool(p);
}

static void test_failed_writes(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    struct fault f = {.write = true, .result = -ENOSPC, .left = -1};
    break_with(p, &f);
    fill_up(p);
    free_pool(p);
}

static void *no_memory(void *user, size_t bytes)
{
    (void)user, (void)bytes;
    return NULL;
}

/* Without memory, frames come from other blocks, or the call fails and is good for later. */
static void test_no_memory(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    put_all(p);
    const tkv_allocator good = p->allocator;
    p->allocator.alloc = no_memory;
    for (uint32_t i = 0; i < N_BLOCKS; i++) {
        const tkv_status status = get(p, i, NULL);
        assert_true(status == TKV_OK || status == TKV_ERR_NOMEM);
    }
    p->allocator = good;
    get_all(p);
    free_pool(p);
}

/* Bytes that change on the disk itself, not in a hook. */
static void test_changed_file(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    uint8_t *junk = aligned_alloc(4096, BLOCK);
    put_all(p);
    memset(junk, 0x55, BLOCK);
    const struct tkv_block *block = &p->blocks[9];
    assert_int_equal(block->state, TKV_BLOCK_ABSENT);
    assert_int_equal(pwrite(p->tier->spill.fd, junk, block->n_bytes, (off_t)block->at),
                     block->n_bytes);
    free(junk);
    assert_int_equal(get(p, 9, NULL), TKV_ERR_CORRUPT);
    assert_int_equal(get(p, 10, NULL), TKV_OK);
    free_pool(p);
}

static void test_bad_folders(void **state)
{
    static const char *const folders[] = {"no/such/folder", "/proc"};
    const tkv_allocator allocator = tkv_allocator_default();
    const tkv_executor executor = {0};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct tkv_tier *tier = NULL;
        tkv_error err = {""};
        const struct tkv_tier_params params = {
            .allocator = &allocator, .executor = &executor, .folder = folders[i], .ram = RAM};
        assert_int_equal(tkv_tier_create(&params, &tier, &err), TKV_ERR_IO);
        assert_null(tier);
        assert_non_null(strstr(err.text, folders[i]));
        assert_non_null(strstr(err.text, "name a folder"));
    }
}

/* The file has no name: nothing is left in the folder, while it is open or after. */
static void test_leaves_nothing(void **state)
{
    struct pool *p = make_pool(no_ring(state), RAM);
    struct stat s;
    put_all(p);
    assert_int_equal(fstat(p->tier->spill.fd, &s), 0);
    assert_int_equal(s.st_nlink, 0);
    assert_true((uint64_t)s.st_size >= p->tier->spill.used_bytes);
    free_pool(p);
}

static int no_ring_state(void **state)
{
    static int no;
    *state = &no;
    return 0;
}

#define BOTH(test) cmocka_unit_test(test), cmocka_unit_test_setup(test, no_ring_state)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_comes_back),     BOTH(test_lists),
        BOTH(test_prefetch),       BOTH(test_reuse),
        BOTH(test_selected_stay),  BOTH(test_scans),
        BOTH(test_failed_read),    BOTH(test_short_read),
        BOTH(test_flipped_byte),   BOTH(test_disk_full_from_the_start),
        BOTH(test_disk_fills_up),  BOTH(test_failed_writes),
        BOTH(test_changed_file),   BOTH(test_no_memory),
        BOTH(test_leaves_nothing), cmocka_unit_test(test_bad_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
