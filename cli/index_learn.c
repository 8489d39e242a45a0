/* Codes of the retrieval index: k-means with many centroids for few rows, so that where they begin
 * counts. */
#include "index_learn.h"

#include <stdlib.h>
#include <string.h>

#include "cli.h"

struct learning {
    const struct kmeans_rows *rows;
    uint64_t rng;
    int n_threads;
    uint32_t *nearest;
    double *distance; /* of each row, squared, from its centroid */
    double *reach;    /* sums of distances up to each row */
};

static double distance(const float *a, const float *b, uint32_t dim)
{
    double sum = 0;
    for (uint32_t d = 0; d < dim; d++) {
        const double x = (double)a[d] - (double)b[d];
        sum += x * x;
    }
    return sum;
}

static const float *row(const struct learning *l, size_t i)
{
    return l->rows->x + i * l->rows->dim;
}

static void add_up(struct learning *l)
{
    double sum = 0;
    for (size_t i = 0; i < l->rows->n; i++)
        l->reach[i] = sum += l->distance[i];
}

/* A row, drawn in proportion to its distance when they were added up. */
static size_t draw(struct learning *l)
{
    const double at = (double)(kmeans_random(&l->rng) >> 11) * 0x1p-53 * l->reach[l->rows->n - 1];
    size_t low = 0, high = l->rows->n - 1;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (l->reach[middle] > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void copy_row(const struct learning *l, size_t i, float *centroid)
{
    memcpy(centroid, row(l, i), l->rows->dim * sizeof(*centroid));
}

/* k-means++, but for an eighth more centroids at a time: as good, and a few products of matrices. */
static void begin(struct learning *l, uint32_t k, float *centroids)
{
    const uint32_t dim = l->rows->dim;
    for (size_t i = 0; i < l->rows->n; i++)
        l->distance[i] = 1;
    for (uint32_t c = 0, n; c < k; c += n) {
        const bool first = c == 0;
        float *own = centroids + (size_t)c * dim;
        n = k - c < 1 + c / 8 ? k - c : 1 + c / 8;
        add_up(l);
        for (uint32_t i = 0; i < n; i++)
            copy_row(l, draw(l), own + (size_t)i * dim);
        kmeans_assign(l->rows, own, n, l->n_threads, l->nearest);
        for (size_t i = 0; i < l->rows->n; i++) {
            const double d = distance(row(l, i), own + (size_t)l->nearest[i] * dim, dim);
            l->distance[i] = first || d < l->distance[i] ? d : l->distance[i];
        }
    }
}

/* Assigns all rows; the mean distance. */
static double assign(struct learning *l, uint32_t k, const float *centroids)
{
    const uint32_t dim = l->rows->dim;
    double sum = 0;
    kmeans_assign(l->rows, centroids, k, l->n_threads, l->nearest);
    for (size_t i = 0; i < l->rows->n; i++) {
        l->distance[i] = distance(row(l, i), centroids + (size_t)l->nearest[i] * dim, dim);
        sum += l->distance[i];
    }
    return sum / (double)l->rows->n;
}

static void move(struct learning *l, uint32_t k, double *sum, double *total, float *centroids)
{
    const uint32_t dim = l->rows->dim;
    kmeans_sums(l->rows, l->nearest, k, l->n_threads, sum, total);
    add_up(l);
    for (uint32_t c = 0; c < k; c++) {
        float *own = centroids + (size_t)c * dim;
        for (uint32_t d = 0; d < dim && total[c] > 0; d++)
            own[d] = (float)(sum[(size_t)c * dim + d] / total[c]);
        if (!(total[c] > 0))
            copy_row(l, draw(l), own);
    }
}

double index_learn(const struct kmeans_rows *rows, uint32_t k, uint32_t n_rounds, uint64_t seed,
                   int n_threads, float *centroids)
{
    struct learning l = {rows,
                         seed,
                         n_threads,
                         cli_alloc(rows->n, sizeof(*l.nearest)),
                         cli_alloc(rows->n, sizeof(*l.distance)),
                         cli_alloc(rows->n, sizeof(*l.reach))};
    double *sum = cli_alloc((size_t)k * rows->dim, sizeof(*sum));
    double *total = cli_alloc(k, sizeof(*total)), left, before = -1;
    begin(&l, k, centroids);
    left = assign(&l, k, centroids);
    for (uint32_t round = 0; round < n_rounds && left != before; round++) {
        before = left;
        move(&l, k, sum, total, centroids);
        left = assign(&l, k, centroids);
    }
    free(l.nearest), free(l.distance), free(l.reach);
    free(sum), free(total);
    return left;
}
