/* What every registered codec promises, whatever it is. */
#include "codec_page.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOR_EACH_CODEC(ops)                                                                        \
    for (uint32_t i_codec = 0; i_codec < tkv_codec_registry_count(); i_codec++)                    \
        for (const struct tkv_codec_ops *ops = tkv_codec_by_index(i_codec); ops; ops = NULL)

/* Whether a codec codes this at all. Those with codebooks may want multiples of 32. */
static bool codes(const struct tkv_codec_ops *ops, int kind, uint32_t D)
{
    const bool fits = D % 32 == 0 || !(ops->caps & TKV_CAP_BOOK);
    assert_true(ops->supports(D, TKV_K) || !fits);
    assert_int_equal(ops->supports(D, TKV_V),
                     ops->supports(D, TKV_K) && !(ops->caps & TKV_CAP_KEYS_ONLY));
    return ops->supports(D, (tkv_kind)kind);
}

/* Codecs that learn are slow in plain C, and come as families that differ in a rate alone: each takes
 * every twelfth case. */
static bool skips(const struct tkv_codec_ops *ops, size_t i)
{
    return ops->caps & TKV_CAP_BOOK && (i + ops->id) % 12 != 0;
}

static void best_kernels(struct tkv_kernels *k)
{
    struct test_level levels[MAX_LEVELS];
    *k = levels[test_levels(levels) - 1].kernels;
}

/* Ids and names find their codec and no other; every size fits a page of f16. */
static void registry(void **state)
{
    (void)state;
    FOR_EACH_CODEC(ops)
    {
        assert_ptr_equal(tkv_codec_by_id(ops->id), ops);
        assert_ptr_equal(tkv_codec_by_name(ops->name), ops);
        assert_true(ops->tile_i8 == NULL || ops->planes == 1 || ops->planes == 2);
        for (size_t i = 0; i < N_TEST_DIMS; i++)
            for (int kind = TKV_K; kind <= TKV_V; kind++) {
                if (!codes(ops, kind, test_dims[i]))
                    continue;
                const size_t bytes = ops->page_bytes(test_dims[i], (tkv_kind)kind);
                assert_in_range(bytes, 1, 2 * TOKENS * test_dims[i]);
                if (!ops->bound_bytes)
                    assert_in_range(TOKENS * test_dims[i] * ops->code_bits / 128, 1, bytes);
            }
        assert_false(ops->supports(0, TKV_K));
        assert_false(ops->supports(TKV_MAX_HEAD_DIM + 16, TKV_K));
        assert_false(ops->supports(72, TKV_V));
    }
    assert_null(tkv_codec_by_id(0));
    assert_null(tkv_codec_by_name("turbo"));
}

static void fail_at(const struct test_page *p, const char *level, int rows, const char *what)
{
    fail_msg("%s %s D=%u %s rows, level %s: %s", p->ops->name, p->env.kind == TKV_K ? "K" : "V",
             p->env.head_dim, test_rows_name(rows), level, what);
}

/* Same bytes and same decoded floats on every level, and a second encode repeats the first. */
static void same_on_every_level(void **state)
{
    (void)state;
    struct test_level levels[MAX_LEVELS];
    const size_t n_levels = test_levels(levels);
    FOR_EACH_CODEC(ops)
    for (size_t i = 0; i < N_TEST_DIMS; i++)
        for (int rows = 0; rows < ROWS_COUNT; rows++) {
            const tkv_kind kind =
                ((size_t)rows + i) % 2 && codes(ops, TKV_V, test_dims[i]) ? TKV_V : TKV_K;
            struct test_page ref, now;
            if (skips(ops, i + (size_t)rows) || !codes(ops, kind, test_dims[i]))
                continue;
            test_page_init(&ref, ops, &levels[0].kernels, test_dims[i], kind);
            test_rows(ref.x, test_dims[i], rows, i);
            test_to_basis(&ref);
            const uint64_t valid = rows % 3 == 1 ? 0x00ffffff0fffffffu : ALL_TOKENS;
            for (size_t t = 0; t < TOKENS; t++)
                if (!(valid >> t & 1))
                    memset(ref.x + t * test_dims[i], 0, test_dims[i] * sizeof(float));
            test_encode(&ref, ref.x, valid);
            test_decode(&ref);
            for (size_t l = 0; l < n_levels; l++) {
                test_page_init(&now, ops, &levels[l].kernels, test_dims[i], ref.env.kind);
                test_encode(&now, ref.x, valid);
                if (memcmp(now.page, ref.page, ref.bytes) != 0)
                    fail_at(&ref, levels[l].name, rows, "other bytes");
                test_decode(&now);
                if (memcmp(now.y, ref.y, ref.n * sizeof(float)) != 0)
                    fail_at(&ref, levels[l].name, rows, "decoded differently");
                test_page_free(&now);
            }
            test_page_free(&ref);
        }
}

/* Where the value of (token, dim) lies in an i8 tile of the kind, and what it stands for. */
static float tile_value(const struct test_page *p, const struct tkv_tile_i8 *tile, size_t t,
                        size_t d)
{
    const size_t D = p->env.head_dim;
    const float mean = tile->mean ? tile->mean[d] : 0.0f;
    if (p->env.kind == TKV_K) {
        const size_t at = ((t / 16 * (D / 4) + d / 4) * 16 + t % 16) * 4 + d % 4;
        return (float)(((const uint8_t *)tile->codes)[at] - 128) * tile->scale[t] + mean;
    }
    const size_t at = ((t / 4 * (D / 16) + d / 16) * 16 + d % 16) * 4 + t % 4;
    return (float)((const int8_t *)tile->codes)[at] * tile->scale[t] + mean;
}

/* Tiles hold what decode gives: the same floats, or floats of a few codes' difference where the
 * codec says so. */
static void tiles_are_decoded_pages(void **state)
{
    (void)state;
    struct tkv_kernels kernels;
    best_kernels(&kernels);
    FOR_EACH_CODEC(ops)
    for (size_t i = 0; i < N_TEST_DIMS; i++)
        for (int kind = TKV_K; kind <= TKV_V && codes(ops, kind, test_dims[i]); kind++) {
            const size_t D = test_dims[i];
            struct test_page p;
            test_page_init(&p, ops, &kernels, test_dims[i], (tkv_kind)kind);
            test_rows(p.x, test_dims[i], ROWS_SCALES, i);
            test_encode(&p, p.x, ALL_TOKENS);
            test_decode(&p);
            struct tkv_tile_i8 tile;
            const bool has_i8 = ops->tile_i8 && (kind == TKV_V || !(ops->caps & TKV_CAP_UNROTATES));
            if (has_i8) {
                ops->tile_i8(&p.env, p.page, &p.buf, &tile);
                assert_in_range(tile.planes, kind == TKV_K ? ops->planes : 1, ops->planes);
                assert_int_equal((uintptr_t)tile.codes % 64, 0);
            }
            if (ops->tile_f32)
                ops->tile_f32(&p.env, p.page, p.tile);
            for (size_t t = 0; t < TOKENS; t++)
                for (size_t d = 0; d < D; d++) {
                    const float want = p.y[t * D + d];
                    const float slack = ops->caps & TKV_CAP_ROUNDS ? 3.0f * p.buf.scale[t] : 0.0f;
                    if (has_i8 && fabsf(tile_value(&p, &tile, t, d) - want) > slack)
                        fail_at(&p, "best", ROWS_SCALES, "i8 tile is not the page");
                    if (ops->tile_f32 && p.tile[kind == TKV_K ? d * TOKENS + t : t * D + d] != want)
                        fail_at(&p, "best", ROWS_SCALES, "f32 tile is not the page");
                }
            test_page_free(&p);
        }
}

/* Tokens that do not exist change nothing for those that do. */
static void absent_tokens(void **state)
{
    (void)state;
    struct tkv_kernels kernels;
    best_kernels(&kernels);
    FOR_EACH_CODEC(ops)
    for (int kind = TKV_K; kind <= TKV_V && codes(ops, kind, 128); kind++) {
        enum {
            D = 128,
            N_VALID = 40
        };
        struct test_page p;
        test_page_init(&p, ops, &kernels, D, (tkv_kind)kind);
        test_rows(p.x, D, ROWS_OFFSET, 3);
        memset(p.x + N_VALID * D, 0, (TOKENS - N_VALID) * D * sizeof(float));
        test_encode(&p, p.x, (1ull << N_VALID) - 1);
        test_decode(&p);
        const double alone = test_rel_mse(p.x, p.y, N_VALID * D);
        test_rows(p.x, D, ROWS_OFFSET, 3);
        test_encode(&p, p.x, ALL_TOKENS);
        test_decode(&p);
        if (alone > 1.1 * test_rel_mse(p.x, p.y, N_VALID * D) + 1e-12)
            fail_at(&p, "best", ROWS_OFFSET, "worse when some tokens are absent");
        test_encode(&p, memset(p.x, 0, p.n * sizeof(float)), 0); /* none at all */
        test_decode(&p);
        for (size_t j = 0; j < p.n && !(ops->caps & TKV_CAP_BOOK); j++) /* books have means */
            assert_true(p.y[j] == 0.0f);
        test_page_free(&p);
    }
}

/* Any bytes decode to something, without a trap: the pages of files are untrusted. */
static void any_bytes(void **state)
{
    (void)state;
    struct test_level levels[MAX_LEVELS];
    const size_t n_levels = test_levels(levels);
    FOR_EACH_CODEC(ops)
    for (size_t l = 0; l < n_levels; l++)
        for (size_t i = 0; i < 2 * N_TEST_DIMS; i++) {
            struct test_page p;
            struct tkv_tile_i8 tile;
            if (!codes(ops, (int)(i % 2), test_dims[i / 2]))
                continue;
            test_page_init(&p, ops, &levels[l].kernels, test_dims[i / 2], (tkv_kind)(i % 2));
            uint32_t z = (uint32_t)i + 1;
            for (size_t j = 0; j < p.bytes; j++)
                p.page[j] = (uint8_t)((z = z * 1664525u + 1013904223u) >> 24);
            test_decode(&p);
            if (ops->tile_i8)
                ops->tile_i8(&p.env, p.page, &p.buf, &tile);
            test_page_free(&p);
        }
}

/* One page through an engine's save and restore. Returns whether its bytes came back. */
static bool comes_back(struct test_page *p, uint8_t *before)
{
    memcpy(before, p->page, p->bytes);
    test_decode(p);
    test_save_and_restore(p);
    test_encode(p, p->x, ALL_TOKENS);
    return memcmp(before, p->page, p->bytes) == 0;
}

/* TKV_CAP_IDEMPOTENT: pages survive as they are. Encoding is a function of its input, so that one
 * cycle that changes nothing stands for any number of them; a few more are run all the same. */
static void idempotent_codecs_do_not_drift(void **state)
{
    (void)state;
    struct tkv_kernels kernels;
    best_kernels(&kernels);
    uint8_t *before = malloc(2 * TOKENS * TKV_MAX_HEAD_DIM);
    FOR_EACH_CODEC(ops)
    for (size_t i = 0; ops->caps & TKV_CAP_IDEMPOTENT && i < N_TEST_DIMS; i++)
        for (int run = 0; run < 20 * ROWS_COUNT; run++) {
            struct test_page p;
            struct tkv_codec_ops unrotated = *ops; /* rot=none */
            unrotated.caps &= (uint16_t)~TKV_CAP_ROTATES;
            if (test_dims[i] != 128 && run >= 4 * ROWS_COUNT)
                continue; /* 12800 rows of 128, 2560 of each other size */
            if (!codes(ops, run % 2, test_dims[i]))
                continue;
            test_page_init(&p, run / ROWS_COUNT % 4 == 3 ? &unrotated : ops, &kernels, test_dims[i],
                           (tkv_kind)(run % 2));
            test_rows(p.x, test_dims[i], run % ROWS_COUNT, (uint64_t)run);
            test_to_basis(&p);
            test_encode(&p, p.x, ALL_TOKENS);
            for (int cycle = 0; cycle < (run < ROWS_COUNT ? 10 : 1); cycle++)
                if (!comes_back(&p, before))
                    fail_at(&p, "best", run % ROWS_COUNT, "other bytes after save and restore");
            test_page_free(&p);
        }
    free(before);
}

/* rvq codes stage by stage, and does not find back the codes of a row that it decoded: each cycle
 * costs some of what the first did. */
static double most_drift(const struct tkv_codec_ops *ops)
{
    return strncmp(ops->name, "rvq", 3) == 0 ? 3.5 : 1.05;
}

/* The others: ten cycles cost at most a twentieth of the error of the first. Codecs with a book of
 * Gaussian rows see no other ones. */
static void other_codecs_hardly_drift(void **state)
{
    static const int kinds_of_rows[] = {ROWS_GAUSSIAN, ROWS_HEAVY, ROWS_OUTLIER, ROWS_OFFSET};
    (void)state;
    struct tkv_kernels kernels;
    best_kernels(&kernels);
    float *first = malloc(TOKENS * 128 * sizeof(float));
    FOR_EACH_CODEC(ops)
    for (int run = 0; !(ops->caps & TKV_CAP_IDEMPOTENT) && run < (ops->caps & TKV_CAP_BOOK ? 2 : 8);
         run++) {
        double once = 0, often = 0;
        if (!codes(ops, run % 2, 128))
            continue;
        for (uint64_t seed = 0; seed < 16; seed++) {
            struct test_page p;
            test_page_init(&p, ops, &kernels, 128, (tkv_kind)(run % 2));
            test_rows(p.x, 128, kinds_of_rows[run / 2], seed);
            test_to_basis(&p);
            memcpy(first, p.x, p.n * sizeof(float));
            test_encode(&p, p.x, ALL_TOKENS);
            test_decode(&p);
            once += test_rel_mse(first, p.y, p.n);
            for (int cycle = 1; cycle < 10; cycle++) {
                test_save_and_restore(&p);
                test_encode(&p, p.x, ALL_TOKENS);
                test_decode(&p);
            }
            often += test_rel_mse(first, p.y, p.n);
            test_page_free(&p);
        }
        printf("%-12s %s %-8s %.3e, after ten cycles x %.4f\n", ops->name, run % 2 ? "V" : "K",
               test_rows_name(kinds_of_rows[run / 2]), once / 16, often / once);
        assert_true(often <= most_drift(ops) * once);
    }
    free(first);
}

/* Row order loses nothing, and rows of several pages make one that decodes to those rows. */
static void rows_make_pages(void **state)
{
    (void)state;
    struct test_level levels[MAX_LEVELS];
    const size_t n_levels = test_levels(levels);
    FOR_EACH_CODEC(ops)
    for (size_t i = 0; ops->to_rows && i < N_TEST_DIMS * 2 * n_levels; i++) {
        const tkv_kind kind = i % 2 ? TKV_V : TKV_K;
        const uint32_t D = test_dims[i / 2 % N_TEST_DIMS];
        struct test_page a, b;
        test_page_init(&a, ops, &levels[i / 2 / N_TEST_DIMS].kernels, D, kind);
        test_page_init(&b, ops, &levels[i / 2 / N_TEST_DIMS].kernels, D, kind);
        const size_t row_bytes = a.bytes / TOKENS, stride = row_bytes + 5;
        uint8_t *rows = malloc(2 * TOKENS * stride), *page = malloc(a.bytes);
        const uint8_t *at[TOKENS];
        assert_int_equal(a.bytes % TOKENS, 0);
        for (int half = 0; half < 2; half++) {
            struct test_page *p = half ? &b : &a;
            test_rows(p->x, D, ROWS_SCALES, 3 + (uint64_t)half);
            test_encode(p, p->x, ALL_TOKENS);
            test_decode(p);
            ops->to_rows(&p->env, p->page, rows + (size_t)half * TOKENS * stride, stride);
        }
        for (size_t t = 0; t < TOKENS; t++)
            at[t] = rows + t * stride;
        ops->from_rows(&a.env, at, page);
        assert_memory_equal(page, a.page, a.bytes);
        for (size_t t = 0; t < TOKENS; t++)
            at[t] = rows + 37 * t % (2 * TOKENS) * stride;
        ops->from_rows(&a.env, at, a.page);
        float *first = malloc(a.n * sizeof *first);
        memcpy(first, a.y, a.n * sizeof *first);
        test_decode(&a);
        for (size_t t = 0; t < TOKENS; t++) {
            const size_t from = 37 * t % (2 * TOKENS);
            const float *want = from < TOKENS ? first + from * D : b.y + (from - TOKENS) * D;
            assert_memory_equal(a.y + t * D, want, D * sizeof *want);
        }
        free(first), free(rows), free(page);
        test_page_free(&a), test_page_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registry),
        cmocka_unit_test(same_on_every_level),
        cmocka_unit_test(tiles_are_decoded_pages),
        cmocka_unit_test(rows_make_pages),
        cmocka_unit_test(absent_tokens),
        cmocka_unit_test(any_bytes),
        cmocka_unit_test(idempotent_codecs_do_not_drift),
        cmocka_unit_test(other_codecs_hardly_drift),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
