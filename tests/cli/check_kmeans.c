/* k-means and residual codebooks: what calibrate learns codes with. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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

/* In steps of a 24th, as the codec has them. */
static int8_t *levels(const float *x, size_t n)
{
    int8_t *out = cli_alloc(n, 1);
    for (size_t i = 0; i < n; i++)
        out[i] = (int8_t)lrintf(fminf(fmaxf(24 * x[i], -127), 127));
    return out;
}

static void same_on_any_number_of_threads(void **state)
{
    enum {
        N = 3001
    };
    (void)state;
    const struct rvq_effort effort = {2501, 1, 2503, 2};
    size_t n = (size_t)RVQ_STAGES * RVQ_CODES * RVQ_DIM;
    float *x = gaussians((size_t)N * RVQ_DIM + 1, 9);
    int8_t *rows = levels(x, (size_t)N * RVQ_DIM), *one = cli_alloc(n, 1), *three = cli_alloc(n, 1);
    struct rvq_samples samples = {rows, N};
    assert_int_equal(rvq_learn(&samples, &effort, 1, 1, one), CLI_OK);
    assert_int_equal(rvq_learn(&samples, &effort, 1, 3, three), CLI_OK);
    assert_memory_equal(one, three, n);
    double before = 1; /* each stage takes something off, from rows that were learned from */
    for (uint32_t stages = 1; stages <= RVQ_STAGES; stages++) {
        double loss = rvq_loss(&samples, one, stages, 1);
        assert_true(loss < before);
        before = loss;
    }
    free(x), free(rows), free(one), free(three);
}

/* Neighbouring channels that go together (AR(1), .9) take fewer codes than those that do not. */
static void correlation_helps(void **state)
{
    enum {
        N = 32768,
        N_NEW = 4096,
        ALL = (N + N_NEW) * RVQ_DIM
    };
    (void)state;
    const struct rvq_effort effort = {N, 5, N, 4};
    int8_t *codes = cli_alloc((size_t)RVQ_STAGES * RVQ_CODES, RVQ_DIM);
    double loss[2][RVQ_STAGES + 1];
    for (int correlated = 0; correlated < 2; correlated++) {
        float *x = gaussians(ALL, 11);
        for (size_t i = 0; i < ALL && correlated; i++)
            if (i % RVQ_DIM)
                x[i] = 0.9f * x[i - 1] + 0.43588989f * x[i];
        int8_t *rows = levels(x, ALL);
        struct rvq_samples known = {rows, N}, new = {rows + (size_t)N * RVQ_DIM, N_NEW};
        assert_int_equal(rvq_learn(&known, &effort, 1, 2, codes), CLI_OK);
        for (uint32_t stages = 4; stages <= 8; stages += 2)
            loss[correlated][stages] = rvq_loss(&new, codes, stages, 2);
        free(x), free(rows);
    }
    for (uint32_t stages = 4; stages <= 8; stages += 2) {
        printf("%u stages: Gaussian %.4f, AR(1) %.4f\n", stages, loss[0][stages], loss[1][stages]);
        assert_true(loss[1][stages] < 0.4 * loss[0][stages]);
    }
    /* With ever more samples .217, .102 and .048: few learn the late stages less well. */
    assert_true(loss[0][4] > 0.2 && loss[0][4] < 0.25);
    assert_true(loss[0][6] > 0.09 && loss[0][6] < 0.13);
    assert_true(loss[0][8] > 0.04 && loss[0][8] < 0.07);
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
