/* What the retrieval index learns of a head: in which basis keys are compared, and codes for them.
 * Facts: arXiv 2502.12665, query-aware vector quantisation. */
#ifndef TKV_CLI_INDEX_LEARN_H
#define TKV_CLI_INDEX_LEARN_H

#include <stdbool.h>

#include "kmeans.h"

/* to = L U [dim][dim], where L L' is the second moment `queries` of queries, scaled to an rms of 1,
 * plus a little of the identity; L is lower. Then |k to|^2 is the mean square of the scores of k.
 * U is orthonormal and changes no distance: it gives coefficients of keys about the same variance, so
 * that 8 bits serve them all. ask: the inverse of `to`, transposed. keys: covariance [dim][dim].
 * False: there is no such basis. */
bool index_basis(const double *queries, const double *keys, uint32_t dim, double *to, double *ask);

/* k <= rows->n centroids: k-means++ in batches, then Lloyd's rounds until nothing moves or there
 * were n_rounds of them. A centroid that no row is nearest to moves to a row, drawn as in the
 * beginning. Returns the mean square distance that is left. */
double index_learn(const struct kmeans_rows *rows, uint32_t k, uint32_t n_rounds, uint64_t seed,
                   int n_threads, float *centroids);

#endif
