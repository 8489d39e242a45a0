/* Codebooks for coupled quantisation. */
#include "cq_learn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum {
    MOST_STARTS = 4096 /* rows that beginnings are chosen from */
};

static double weight_of(const struct kmeans_rows *rows, size_t i)
{
    return rows->weight ? (double)rows->weight[i] : 1;
}

static double distance(const float *a, const float *b, uint32_t dim)
{
    double sum = 0;
    for (uint32_t d = 0; d < dim; d++)
        sum += ((double)a[d] - (double)b[d]) * ((double)a[d] - (double)b[d]);
    return sum;
}

/* One of n, in proportion to its cost. */
static size_t draw(const double *cost, size_t n, uint64_t *rng)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += cost[i];
    double left = sum * ((double)(kmeans_random(rng) >> 11) * 0x1p-53);
    size_t i = 0;
    for (; i + 1 < n && left >= cost[i]; i++)
        left -= cost[i];
    return i;
}

/* k-means++: each centroid a row, drawn in proportion to its weight and its squared distance from
 * the centroids before. */
static void begin(const struct kmeans_rows *rows, uint64_t *rng, float *centroids)
{
    const size_t n = rows->n < MOST_STARTS ? rows->n : MOST_STARTS;
    double *cost = cli_alloc(n, sizeof(*cost)), *far = cli_alloc(n, sizeof(*far));
    for (size_t i = 0; i < n; i++) {
        far[i] = INFINITY;
        cost[i] = weight_of(rows, i * rows->n / n);
    }
    for (uint32_t c = 0; c < CQ_CODES; c++) {
        float *centroid = centroids + (size_t)c * rows->dim;
        memcpy(centroid, rows->x + draw(cost, n, rng) * rows->n / n * rows->dim,
               rows->dim * sizeof(*centroid));
        for (size_t i = 0; i < n; i++) {
            const size_t row = i * rows->n / n;
            far[i] = fmin(far[i], distance(rows->x + row * rows->dim, centroid, rows->dim));
            cost[i] = weight_of(rows, row) * far[i];
        }
    }
    free(cost);
    free(far);
}

void cq_learn(const struct kmeans_rows *rows, uint32_t n_rounds, uint64_t seed, int n_threads,
              float *centroids)
{
    const uint32_t dim = rows->dim;
    uint64_t rng = seed;
    uint32_t *nearest = cli_alloc(rows->n, sizeof(*nearest));
    double *sum = cli_alloc((size_t)CQ_CODES * dim, sizeof(*sum));
    double *total = cli_alloc(CQ_CODES, sizeof(*total));
    begin(rows, &rng, centroids);
    for (uint32_t round = 0; round < n_rounds; round++) {
        kmeans_assign(rows, centroids, CQ_CODES, n_threads, nearest);
        kmeans_sums(rows, nearest, CQ_CODES, n_threads, sum, total);
        for (size_t i = 0; i < (size_t)CQ_CODES * dim; i++)
            if (total[i / dim] > 0) /* a centroid that no row is near stays where it is */
                centroids[i] = (float)(sum[i] / total[i / dim]);
    }
    free(nearest);
    free(sum);
    free(total);
}

/* ---- to 8 bits ------------------------------------------------------------------------------ */

/* The middle of a channel's centroids; returns how far they go from there. */
static float centre(const float *centroids, uint32_t dim, float *base)
{
    float low = centroids[0], high = centroids[0];
    for (uint32_t i = 1; i < CQ_CODES; i++) {
        low = fminf(low, centroids[(size_t)i * dim]);
        high = fmaxf(high, centroids[(size_t)i * dim]);
    }
    *base = (low + high) / 2;
    return (high - low) / 2;
}

void cq_round(const float *centroids, uint32_t n_groups, uint32_t dim, bool one_step,
              const struct cq_head *out)
{
    const size_t per_group = (size_t)CQ_CODES * dim;
    float most = 0;
    for (uint32_t g = 0; g < n_groups; g++) {
        float reach = 0;
        for (uint32_t j = 0; j < dim; j++)
            reach =
                fmaxf(reach, centre(centroids + g * per_group + j, dim, &out->base[g * dim + j]));
        most = one_step ? fmaxf(most, reach) : reach;
        out->step[one_step ? 0 : g] = fmaxf(most / 127, 0x1p-30f);
    }
    for (uint32_t g = 0; g < n_groups; g++)
        for (size_t i = 0; i < per_group; i++) {
            const float from_base = centroids[g * per_group + i] - out->base[g * dim + i % dim];
            const float code = roundf(from_base / out->step[one_step ? 0 : g]);
            out->codes[g * per_group + i] = (int8_t)fminf(fmaxf(code, -127), 127);
        }
}
