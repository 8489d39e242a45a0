/* k-means and residual codebooks: what calibrate learns codes with. */
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
#include "kmeans.h"
#include "rvq_learn.h"

static double uniform(uint64_t *rng)
{
    return ((double)(kmeans_random(rng) >> 11) + 0.5) * 0x1p-53;
}

static float *gaussians(size_t n, uint64_t seed)
{
    float *x = cli_alloc(n, sizeof(*x));
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(sqrt(-2 * log(uniform(&seed))) * cos(6.283185307179586 * uniform(&seed)));
    return x;
}

/* Four clouds of weights 1 to 4 about the corners of a square. */
static void finds_clouds(void **state)
{
    enum {
        N = 4000,
        K = 16
    };
    (void)state;
    float *x = gaussians(2 * N, 1), weight[N], centroids[2 * K];
    uint32_t nearest[N];
    double sum[2 * K], total[K];
    uint64_t rng = 3;
    for (size_t i = 0; i < N; i++) {
        x[2 * i] = 0.1f * x[2 * i] + (i % 4 / 2 ? 8.0f : -8.0f);
        x[2 * i + 1] = 0.1f * x[2 * i + 1] + (i % 2 ? 8.0f : -8.0f);
        weight[i] = (float)(1 + i % 4);
    }
    struct kmeans_rows rows = {x, weight, N, 2};
    kmeans_learn(&rows, K, 20, &rng, 1, centroids);
    kmeans_assign(&rows, centroids, K, 1, nearest);
    kmeans_sums(&rows, nearest, K, 1, sum, total);
    double of_cloud[4] = {0};
    for (size_t c = 0; c < K; c++) {
        assert_true(total[c] > 0);
        of_cloud[(centroids[2 * c] > 0 ? 2 : 0) + (centroids[2 * c + 1] > 0)] += total[c];
        for (size_t d = 0; d < 2; d++) {
            assert_true(fabsf(fabsf(centroids[2 * c + d]) - 8) < 0.5f);
            assert_true(fabs(sum[2 * c + d] / total[c] - (double)centroids[2 * c + d]) < 0.01);
        }
    }
    for (int cloud = 0; cloud < 4; cloud++)
        assert_true(fabs(of_cloud[cloud] - N / 4 * (1 + cloud)) < 1e-6);
    free(x);
}

static void first_of_equals_is_nearest(void **state)
{
    (void)state;
    const float x[] = {1, 2, -3, 0}, centroids[] = {5, 5, 0, 1, 0, 1, -3, 0, -3, 0};
    uint32_t nearest[2];
    kmeans_assign(&(struct kmeans_rows){x, NULL, 2, 2}, centroids, 5, 1, nearest);
    assert_int_equal(nearest[0], 1);
    assert_int_equal(nearest[1], 3);
}

/* Odd numbers of rows and centroids, against a search of all. */
static void nearest_is_nearest(void **state)
{
    enum {
        N = 331,
        K = 77,
        DIM = 5
    };
    (void)state;
    float *x = gaussians(N * DIM, 5), *centroids = gaussians(K * DIM, 6);
    uint32_t nearest[N];
    kmeans_assign(&(struct kmeans_rows){x, NULL, N, DIM}, centroids, K, 2, nearest);
    for (size_t i = 0; i < N; i++) {
        double distance[K], least = INFINITY;
        for (size_t c = 0; c < K; c++) {
            distance[c] = 0;
            for (size_t d = 0; d < DIM; d++) {
                double e = (double)x[i * DIM + d] - (double)centroids[c * DIM + d];
                distance[c] += e * e;
            }
            least = distance[c] < least ? distance[c] : least;
        }
        assert_true(distance[nearest[i]] < least + 1e-4);
    }
    free(x);
    free(centroids);
}

static void same_on_any_number_of_threads(void **state)
{
    enum {
        N = 3000
    };
    (void)state;
    const struct rvq_effort effort = {2500, 1, 2500, 2};
    size_t n = (size_t)RVQ_STAGES * RVQ_CODES * RVQ_DIM;
    float *x = gaussians((size_t)N * RVQ_DIM, 9);
    float *one = cli_alloc(n, sizeof(*one)), *three = cli_alloc(n, sizeof(*three));
    struct rvq_samples samples = {x, NULL, N};
    rvq_learn(&samples, &effort, 1, 1, one);
    rvq_learn(&samples, &effort, 1, 3, three);
    assert_memory_equal(one, three, n * sizeof(*one));
    /* Each stage takes something off, from rows that were learned from. */
    double before = 1;
    for (uint32_t stages = 1; stages <= RVQ_STAGES; stages++) {
        double loss = rvq_loss(&samples, one, stages, 1);
        assert_true(loss < before);
        before = loss;
    }
    free(x);
    free(one);
    free(three);
}

/* Neighbouring channels that go together (AR(1), .9) take fewer codes than those that do not. */
static void correlation_helps(void **state)
{
    enum {
        N = 8192,
        N_NEW = 2048
    };
    (void)state;
    const struct rvq_effort effort = {N, 2, N, 1};
    float *codes = cli_alloc((size_t)RVQ_STAGES * RVQ_CODES * RVQ_DIM, sizeof(*codes));
    double loss[2];
    for (int correlated = 0; correlated < 2; correlated++) {
        float *x = gaussians((size_t)(N + N_NEW) * RVQ_DIM, 11);
        for (size_t i = 0; i < (size_t)(N + N_NEW) * RVQ_DIM && correlated; i++)
            if (i % RVQ_DIM)
                x[i] = 0.9f * x[i - 1] + 0.43588989f * x[i];
        struct rvq_samples known = {x, NULL, N}, new = {x + (size_t)N * RVQ_DIM, NULL, N_NEW};
        rvq_learn(&known, &effort, 1, 2, codes);
        loss[correlated] = rvq_loss(&new, codes, 2, 2);
        free(x);
    }
    assert_in_range((int)(1000 * loss[0]), 472, 620); /* .472 for ever more samples */
    assert_true(loss[1] < 0.5 * loss[0]);
    free(codes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_clouds),       cmocka_unit_test(first_of_equals_is_nearest),
        cmocka_unit_test(nearest_is_nearest), cmocka_unit_test(same_on_any_number_of_threads),
        cmocka_unit_test(correlation_helps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
