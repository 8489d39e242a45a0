/* k-means over rows of floats. What comes out does not depend on the number of threads. */
#ifndef TKV_CLI_KMEANS_H
#define TKV_CLI_KMEANS_H

#include <stddef.h>
#include <stdint.h>

struct kmeans_rows {
    const float *x;      /* [n][dim] */
    const float *weight; /* [n], or NULL: all count alike */
    size_t n;
    uint32_t dim;
};

/* k centroids after so many rounds of Lloyd's, begun at k rows drawn from the state `rng`. A
 * centroid that is nearest to no row moves to one drawn anew. */
void kmeans_learn(const struct kmeans_rows *rows, uint32_t k, uint32_t n_rounds, uint64_t *rng,
                  int n_threads, float *centroids);

/* nearest[i]: the centroid nearest to row i, the first of equals. */
void kmeans_assign(const struct kmeans_rows *rows, const float *centroids, uint32_t k,
                   int n_threads, uint32_t *nearest);

/* Weighted sums of the rows of each centroid, and of their weights. sum: [k][dim], total: [k] */
void kmeans_sums(const struct kmeans_rows *rows, const uint32_t *nearest, uint32_t k, int n_threads,
                 double *sum, double *total);

/* The next number of a splitmix64 sequence. */
uint64_t kmeans_random(uint64_t *rng);

#endif
