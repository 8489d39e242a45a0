/* How far the logits of one cache are from those of another. */
#ifndef TKV_CLI_METRICS_H
#define TKV_CLI_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The reference's scored rows of one window, and what is computed of each once. */
struct metrics_reference {
    size_t n_rows, n_vocab;
    float *logits; /* [n_rows][n_vocab] */
    double *lse;   /* [n_rows] logarithm of the sum of exp(logits) */
    size_t *top;   /* [n_rows] */
};

/* What one cache scored so far. Sums are in double, row by row in order. */
struct metrics {
    size_t n;
    double nll, nll_reference, kld;
    size_t n_same_top;
    float *klds; /* [n], for the quantiles */
    bool finite;
};

void metrics_reference_init(struct metrics_reference *r, size_t n_rows, size_t n_vocab);
void metrics_reference_free(struct metrics_reference *r);

/* Takes rows [first, first + n) of the reference. */
void metrics_reference_set(struct metrics_reference *r, const float *logits, size_t first, size_t n,
                           int n_threads);

/* Scores rows [first, first + n) of another cache; targets[i] is the token that row i should
 * predict. */
void metrics_add(struct metrics *m, const struct metrics_reference *r, const float *logits,
                 const int32_t *targets, size_t first, size_t n, int n_threads);
void metrics_free(struct metrics *m);

/* The q-quantile of n values, interpolated linearly; NaN when there are none. */
double metrics_quantile(const float *values, size_t n, double q);

#endif
