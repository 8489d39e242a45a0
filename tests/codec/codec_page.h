/* One page of rows, coded and decoded: what the tests of codecs share. */
#ifndef CODEC_PAGE_H
#define CODEC_PAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs those above */

#include "codec/codec.h"

#define TOKENS     TKV_PAGE_TOKENS
#define ALL_TOKENS UINT64_MAX

static const uint32_t test_dims[] = {64, 80, 96, 112, 128, 192, 256, 512};
#define N_TEST_DIMS (sizeof test_dims / sizeof test_dims[0])

/* The CPU levels that this machine can compare with the reference. */
struct test_level {
    const char *name;
    struct tkv_kernels kernels;
};
#define MAX_LEVELS 4
/* levels[0] is the reference, the last one the best. Returns how many. */
size_t test_levels(struct test_level *levels);

/* What rows may look like. */
enum {
    ROWS_GAUSSIAN,
    ROWS_HEAVY,   /* Student's t of 4 degrees: a few huge values */
    ROWS_OUTLIER, /* one channel 40 times the others */
    ROWS_OFFSET,  /* one constant vector 20 times as long as what varies */
    ROWS_SCALES,  /* rows of norms from 1e-4 to 1e4 */
    ROWS_ZERO,
    ROWS_TINY,   /* subnormal as f16 */
    ROWS_BIG,    /* up to 4e4: what decodes must still be an f16 */
    ROWS_FLAT,   /* every value +-1 */
    ROWS_SPARSE, /* one or two values, the rest zero */
    ROWS_COUNT
};
const char *test_rows_name(int rows);
/* [64][D]; `seed` chooses the draw, and the fixed vectors of the kinds that have one. */
void test_rows(float *x, uint32_t D, int rows, uint64_t seed);

/* A codec on one shape, with every buffer it needs. */
struct test_page {
    const struct tkv_codec_ops *ops;
    struct tkv_codec_env env;
    size_t n, bytes; /* values, page bytes */
    float *x, *y, *tile;
    uint8_t *page; /* `bytes`, then a few guard bytes */
    void *scratch;
    struct tkv_tile_buf buf;
    struct tkv_ahead ahead;
    float *sign;
    void *model; /* of a made-up book, where the codec needs one */
};

void test_page_init(struct test_page *p, const struct tkv_codec_ops *ops,
                    const struct tkv_kernels *kernels, uint32_t D, tkv_kind kind);
/* The same by the codec's name, with the best kernels. */
void test_start(struct test_page *p, const char *name, uint32_t D, tkv_kind kind);
void test_page_free(struct test_page *p);
/* Encodes a copy of x and checks the guard bytes. */
void test_encode(struct test_page *p, const float *x, uint64_t valid);
/* Decodes into p->y. */
void test_decode(struct test_page *p);
/* p->x as an engine gives it: f16 rows, rotated or in a learned basis where the codec wants that. */
void test_to_basis(struct test_page *p);
/* The other way: p->y as the f16 rows that an engine would save, and those again in p->x's basis. */
void test_save_and_restore(struct test_page *p);

/* ||a - b||^2 / ||a||^2 over n values. */
double test_rel_mse(const float *a, const float *b, size_t n);
/* Mean of it over so many pages of Gaussian rows. */
double test_distortion(const char *name, uint32_t D, tkv_kind kind, uint64_t n_pages);

#endif
