/* Codebooks for residual vector quantisation (arXiv 2410.15704): each stage codes what the ones
 * before it left over. Rows and codes are in integers, as the codec searches them. */
#ifndef TKV_CLI_RVQ_LEARN_H
#define TKV_CLI_RVQ_LEARN_H

#include <stddef.h>
#include <stdint.h>

enum {
    RVQ_STAGES = 8,
    RVQ_CODES = 2048,
    RVQ_DIM = 32
};

struct rvq_samples {
    const int8_t *x; /* [n][RVQ_DIM] */
    size_t n;        /* at least 1 */
};

struct rvq_effort {
    size_t n_first;    /* samples that k-means begins with, stage by stage */
    uint32_t n_rounds; /* of k-means */
    size_t n_batch;    /* samples of a step of the moving averages that follow */
    uint32_t n_steps;
};

/* codes: [RVQ_STAGES][RVQ_CODES][RVQ_DIM]. The same for a seed on any number of threads. CLI_OK, or
 * CLI_DATA after a line on stderr. */
int rvq_learn(const struct rvq_samples *samples, const struct rvq_effort *effort, uint64_t seed,
              int n_threads, int8_t *codes);

/* What is left of the samples after so many stages, each taking the nearest code: the sum of squares
 * over theirs. NaN after a line on stderr. */
double rvq_loss(const struct rvq_samples *samples, const int8_t *codes, uint32_t n_stages,
                int n_threads);

#endif
