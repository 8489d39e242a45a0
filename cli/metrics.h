/* How far the logits of one cache are from those of another, token by token. */
#ifndef TKV_CLI_METRICS_H
#define TKV_CLI_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "spool.h"

enum {
    METRICS_TOP = 5
};

/* What one row of logits scores. Without padding: it is stored as it is. */
struct metrics_token {
    float kld;
    float nll, nll_reference; /* of the token that came: minus the logarithm of its probability */
    uint16_t same_top;        /* 1: the most likely token is the reference's */
    uint16_t n_top;           /* tokens that are among the METRICS_TOP most likely of both */
};

/* The reference's rows of one window: its logits on disk, and in memory what is computed of each
 * once. */
struct metrics_reference {
    size_t n_rows, n_vocab;
    struct spool logits;
    double *lse;                 /* [n_rows] logarithm of the sum of exp(logits) */
    int32_t (*top)[METRICS_TOP]; /* [n_rows] most likely tokens, best first */
};

/* All return CLI_OK, or CLI_DATA after a line on stderr. */
int metrics_reference_init(struct metrics_reference *r, size_t n_rows, size_t n_vocab);
void metrics_reference_free(struct metrics_reference *r);

/* Takes rows [first, first + n) of the reference. */
int metrics_reference_set(struct metrics_reference *r, const float *logits, size_t first, size_t n,
                          int n_threads);

/* Scores rows [first, first + n) of another cache into out[0] to out[n - 1]; targets[i] is the
 * token that row first + i should predict. Rows with logits that are not finite score NaN. */
int metrics_score(const struct metrics_reference *r, const float *logits, const int32_t *targets,
                  size_t first, size_t n, int n_threads, struct metrics_token *out);

#endif
