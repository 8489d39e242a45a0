/* k-means: nearest centroids by matrix products, a block of rows at a time. */
#include "kmeans.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "parallel.h"

enum {
    BLOCK = 128, /* rows of one product; fixed, as results may depend on it */
    LANES = 16
};

uint64_t kmeans_random(uint64_t *rng)
{
    uint64_t z = *rng += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- the nearest centroid: the one with the most x c - |c|^2 / 2 ----------------------------- */

struct assignment {
    const struct kmeans_rows *rows;
    const float *centroids, *half; /* half: |c|^2 / 2 */
    uint32_t k;
    uint32_t *nearest;
};

/* Lanes are the compiler's to turn into vectors. */
static uint32_t first_of_most(float *score, const float *half, uint32_t k)
{
    uint32_t whole = k / LANES * LANES, i = 0;
    float lane[LANES], most;
    for (uint32_t j = 0; j < k; j++)
        score[j] -= half[j];
    most = score[0];
    for (uint32_t j = 0; j < LANES; j++)
        lane[j] = most;
    for (; i < whole; i += LANES)
        for (uint32_t j = 0; j < LANES; j++)
            lane[j] = score[i + j] > lane[j] ? score[i + j] : lane[j];
    for (uint32_t j = 0; j < LANES; j++)
        most = lane[j] > most ? lane[j] : most;
    for (; i < k; i++)
        most = score[i] > most ? score[i] : most;
    for (i = 0; i + 1 < k && score[i] != most; i++)
        ;
    return i;
}

static void assign_blocks(void *user, size_t first, size_t last)
{
    const struct assignment *a = user;
    uint32_t dim = a->rows->dim;
    float *score = cli_alloc((size_t)BLOCK * a->k, sizeof(*score));
    for (size_t block = first; block < last; block++) {
        size_t at = block * BLOCK, left = a->rows->n - at, n = left < BLOCK ? left : BLOCK;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)a->k, (int)dim, 1,
                    a->rows->x + at * dim, (int)dim, a->centroids, (int)dim, 0, score, (int)a->k);
        for (size_t i = 0; i < n; i++)
            a->nearest[at + i] = first_of_most(score + i * a->k, a->half, a->k);
    }
    free(score);
}

void kmeans_assign(const struct kmeans_rows *rows, const float *centroids, uint32_t k,
                   int n_threads, uint32_t *nearest)
{
    float *half = cli_alloc(k, sizeof(*half));
    for (uint32_t i = 0; i < k; i++) {
        half[i] = 0;
        for (uint32_t d = 0; d < rows->dim; d++) {
            float c = centroids[(size_t)i * rows->dim + d];
            half[i] += c * c / 2;
        }
    }
    struct assignment a = {rows, centroids, half, k, nearest};
    int blas_threads = openblas_get_num_threads();
    openblas_set_num_threads(1); /* the blocks are shared out already */
    parallel_for((rows->n + BLOCK - 1) / BLOCK, n_threads, assign_blocks, &a);
    openblas_set_num_threads(blas_threads);
    free(half);
}

/* ---- means ----------------------------------------------------------------------------------- */

struct summation {
    const struct kmeans_rows *rows;
    const size_t *member; /* rows by centroid */
    const size_t *begin;  /* [k + 1] */
    double *sum, *total;
};

static void sum_centroids(void *user, size_t first, size_t last)
{
    const struct summation *s = user;
    uint32_t dim = s->rows->dim;
    for (size_t c = first; c < last; c++) {
        double *sum = s->sum + c * dim;
        memset(sum, 0, dim * sizeof(*sum));
        s->total[c] = 0;
        for (size_t i = s->begin[c]; i < s->begin[c + 1]; i++) {
            size_t row = s->member[i];
            double w = s->rows->weight ? (double)s->rows->weight[row] : 1;
            s->total[c] += w;
            for (uint32_t d = 0; d < dim; d++)
                sum[d] += w * (double)s->rows->x[row * dim + d];
        }
    }
}

void kmeans_sums(const struct kmeans_rows *rows, const uint32_t *nearest, uint32_t k, int n_threads,
                 double *sum, double *total)
{
    size_t *begin = cli_alloc((size_t)k + 2, sizeof(*begin));
    size_t *member = cli_alloc(rows->n ? rows->n : 1, sizeof(*member));
    for (size_t i = 0; i < rows->n; i++)
        begin[nearest[i] + 2]++;
    for (uint32_t c = 0; c < k; c++)
        begin[c + 2] += begin[c + 1];
    for (size_t i = 0; i < rows->n; i++)
        member[begin[nearest[i] + 1]++] = i;
    struct summation s = {rows, member, begin, sum, total};
    parallel_for(k, n_threads, sum_centroids, &s);
    free(begin);
    free(member);
}

static void copy_random_row(const struct kmeans_rows *rows, uint64_t *rng, float *out)
{
    size_t row = (size_t)(kmeans_random(rng) % rows->n);
    memcpy(out, rows->x + row * rows->dim, rows->dim * sizeof(*out));
}

void kmeans_learn(const struct kmeans_rows *rows, uint32_t k, uint32_t n_rounds, uint64_t *rng,
                  int n_threads, float *centroids)
{
    uint32_t *nearest = cli_alloc(rows->n, sizeof(*nearest));
    double *sum = cli_alloc((size_t)k * rows->dim, sizeof(*sum));
    double *total = cli_alloc(k, sizeof(*total));
    for (uint32_t c = 0; c < k; c++)
        copy_random_row(rows, rng, centroids + (size_t)c * rows->dim);
    for (uint32_t round = 0; round < n_rounds; round++) {
        kmeans_assign(rows, centroids, k, n_threads, nearest);
        kmeans_sums(rows, nearest, k, n_threads, sum, total);
        for (uint32_t c = 0; c < k; c++) {
            float *centroid = centroids + (size_t)c * rows->dim;
            for (uint32_t d = 0; d < rows->dim && total[c] > 0; d++)
                centroid[d] = (float)(sum[(size_t)c * rows->dim + d] / total[c]);
            if (!(total[c] > 0))
                copy_random_row(rows, rng, centroid);
        }
    }
    free(nearest);
    free(sum);
    free(total);
}
