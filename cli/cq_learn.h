/* Codebooks for coupled quantisation (arXiv 2405.03917): a few neighbouring channels to one code. */
#ifndef TKV_CLI_CQ_LEARN_H
#define TKV_CLI_CQ_LEARN_H

#include <stdbool.h>

#include "kmeans.h"

enum {
    CQ_CODES = 256
};

/* Centroids [CQ_CODES][dim] of a group's rows, which may weigh differently: begun at rows far from
 * each other, then rounds of k-means. The same for a seed on any number of threads. */
void cq_learn(const struct kmeans_rows *rows, uint32_t n_rounds, uint64_t seed, int n_threads,
              float *centroids);

/* Centroids of a head, [n_groups][CQ_CODES][dim], in 8 bits: value = code * step + base. */
struct cq_head {
    int8_t *codes; /* as centroids */
    float *step;   /* [n_groups], or [1] */
    float *base;   /* [n_groups * dim] */
};
void cq_round(const float *centroids, uint32_t n_groups, uint32_t dim, bool one_step,
              const struct cq_head *out);

#endif
