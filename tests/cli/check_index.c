/* What the retrieval index learns: a basis in which distance is the error of scores, and codes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* needs those above */

#include "cli.h"
#include "index_learn.h"

enum {
    D = 48
};

static double uniform(uint64_t *rng)
{
    return ((double)(kmeans_random(rng) >> 11) + 0.5) * 0x1p-53;
}

static double gaussian(uint64_t *rng)
{
    return sqrt(-2 * log(uniform(rng))) * cos(6.283185307179586 * uniform(rng));
}

/* Second moments of vectors whose parts are mixed, and fall off by `fall` an axis. */
static void moments(double *m, double fall, uint64_t seed)
{
    double mix[D * D];
    for (size_t i = 0; i < D * D; i++)
        mix[i] = gaussian(&seed) * pow(fall, (double)(i / D));
    for (size_t i = 0; i < D; i++)
        for (size_t j = 0; j < D; j++) {
            m[i * D + j] = 0;
            for (size_t k = 0; k < D; k++)
                m[i * D + j] += mix[k * D + i] * mix[k * D + j];
        }
}

struct basis {
    double queries[D * D], keys[D * D], to[D * D], ask[D * D];
};

static struct basis *make_basis(void)
{
    struct basis *b = cli_alloc(1, sizeof(*b));
    moments(b->queries, 0.9, 1);
    moments(b->keys, 0.8, 2);
    assert_true(index_basis(b->queries, b->keys, D, b->to, b->ask));
    return b;
}

/* x * m */
static void times(const double *x, const double *m, bool transposed, double *out)
{
    for (size_t j = 0; j < D; j++) {
        out[j] = 0;
        for (size_t i = 0; i < D; i++)
            out[j] += x[i] * (transposed ? m[j * D + i] : m[i * D + j]);
    }
}

static double dot(const double *a, const double *b)
{
    double sum = 0;
    for (size_t i = 0; i < D; i++)
        sum += a[i] * b[i];
    return sum;
}

/* |d to|^2 is d H d', up to the scale of all H; what the transposed matrix gives is not. */
static void distance_is_error_of_scores(void **state)
{
    (void)state;
    struct basis *b = make_basis();
    double square = 0, d[D], z[D], h[D];
    uint64_t rng = 3;
    for (size_t i = 0; i < D * D; i++)
        square += b->queries[i] * b->queries[i];
    const double rms = sqrt(square) / D;
    for (int n = 0; n < 20; n++) {
        for (size_t i = 0; i < D; i++)
            d[i] = gaussian(&rng);
        times(d, b->queries, false, h);
        const double want = dot(d, h) / rms;
        times(d, b->to, false, z);
        assert_true(fabs(dot(z, z) - want) < 1e-4 * want);
        times(d, b->to, true, z);
        assert_true(fabs(dot(z, z) - want) > 1e-2 * want);
    }
    free(b);
}

static void asks_for_scores(void **state)
{
    (void)state;
    struct basis *b = make_basis();
    double q[D], k[D], w[D], z[D];
    uint64_t rng = 4;
    for (size_t i = 0; i < D; i++) {
        q[i] = gaussian(&rng);
        k[i] = gaussian(&rng);
    }
    times(q, b->ask, false, w);
    times(k, b->to, false, z);
    assert_true(fabs(dot(w, z) - dot(q, k)) < 1e-6 * sqrt(dot(w, w) * dot(z, z)));
    free(b);
}

static void spreads_variance(void **state)
{
    (void)state;
    struct basis *b = make_basis();
    double column[D], h[D], variance[D], mean = 0;
    for (size_t j = 0; j < D; j++) {
        for (size_t i = 0; i < D; i++)
            column[i] = b->to[i * D + j];
        times(column, b->keys, false, h);
        variance[j] = dot(column, h);
        mean += variance[j] / D;
    }
    for (size_t j = 0; j < D; j++)
        assert_true(variance[j] < 3 * mean);
    free(b);
}

static void needs_queries_and_keys(void **state)
{
    (void)state;
    struct basis *b = make_basis();
    double none[D * D] = {0};
    assert_false(index_basis(none, b->keys, D, b->to, b->ask));
    none[5] = NAN;
    assert_false(index_basis(none, b->keys, D, b->to, b->ask));
    assert_false(index_basis(b->queries, none, D, b->to, b->ask));
    free(b);
}

/* ---- codes ------------------------------------------------------------------------------------ */

enum {
    CLOUDS = 200,
    DIM = 16,
    N = 6000
};

/* Small clouds of very different sizes. */
static float *make_rows(uint64_t seed)
{
    float *x = cli_alloc((size_t)N * DIM, sizeof(*x)), middle[CLOUDS * DIM];
    for (size_t i = 0; i < CLOUDS * DIM; i++)
        middle[i] = (float)gaussian(&seed);
    for (size_t i = 0; i < N; i++) {
        const double u = uniform(&seed);
        const size_t cloud = (size_t)(u * u * CLOUDS);
        for (size_t d = 0; d < DIM; d++)
            x[i * DIM + d] = middle[cloud * DIM + d] + 0.01f * (float)gaussian(&seed);
    }
    return x;
}

static void finds_clouds(void **state)
{
    (void)state;
    float *x = make_rows(5), centroids[CLOUDS * 2 * DIM];
    const struct kmeans_rows rows = {x, NULL, N, DIM};
    const double some = index_learn(&rows, CLOUDS / 4, 20, 1, 2, centroids);
    const double left = index_learn(&rows, CLOUDS * 2, 20, 1, 2, centroids);
    assert_true(some > 1);
    assert_true(left < 1.2 * DIM * 1e-4);
    free(x);
}

static void rounds_help(void **state)
{
    (void)state;
    float *x = make_rows(6), centroids[CLOUDS * DIM];
    const struct kmeans_rows rows = {x, NULL, N, DIM};
    double before = INFINITY;
    for (uint32_t n = 0; n <= 4; n += 2) {
        const double left = index_learn(&rows, CLOUDS / 2, n, 1, 2, centroids);
        assert_true(left < before);
        before = left;
    }
    free(x);
}

static void same_for_a_seed(void **state)
{
    (void)state;
    enum {
        SIZE = CLOUDS * DIM
    };
    float *x = make_rows(7), a[SIZE], b[SIZE];
    const struct kmeans_rows rows = {x, NULL, N, DIM};
    index_learn(&rows, CLOUDS, 5, 1, 1, a);
    index_learn(&rows, CLOUDS, 5, 1, 3, b);
    assert_memory_equal(a, b, sizeof a);
    index_learn(&rows, CLOUDS, 5, 2, 1, b);
    assert_true(memcmp(a, b, sizeof a) != 0);
    free(x);
}

/* As many codes as rows, and more codes than rows that differ. */
static void few_rows(void **state)
{
    (void)state;
    float *x = make_rows(8), centroids[64 * DIM];
    assert_true(index_learn(&(struct kmeans_rows){x, NULL, 64, DIM}, 64, 5, 1, 1, centroids) <
                1e-9);
    for (size_t i = 0; i < 60; i++)
        memcpy(x + (4 + i) * DIM, x + i % 4 * DIM, DIM * sizeof(*x));
    assert_true(index_learn(&(struct kmeans_rows){x, NULL, 64, DIM}, 64, 5, 1, 1, centroids) <
                1e-9);
    for (size_t i = 0; i < 64 * DIM; i++)
        assert_true(isfinite(centroids[i]));
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distance_is_error_of_scores),
        cmocka_unit_test(asks_for_scores),
        cmocka_unit_test(spreads_variance),
        cmocka_unit_test(needs_queries_and_keys),
        cmocka_unit_test(finds_clouds),
        cmocka_unit_test(rounds_help),
        cmocka_unit_test(same_for_a_seed),
        cmocka_unit_test(few_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
