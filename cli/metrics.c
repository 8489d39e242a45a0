/* Kullback-Leibler divergence, likelihood and agreement of two rows of logits.
 *
 * A divergence of 1e-6 is the difference of sums of the order of 10, so everything but the
 * logits is double. */
#include "metrics.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "cli.h"
#include "parallel.h"

int metrics_reference_init(struct metrics_reference *r, size_t n_rows, size_t n_vocab)
{
    *r = (struct metrics_reference){.n_rows = n_rows, .n_vocab = n_vocab};
    r->lse = cli_alloc(n_rows, sizeof(*r->lse));
    r->top = cli_alloc(n_rows, sizeof(*r->top));
    return spool_open(&r->logits, n_vocab);
}

void metrics_reference_free(struct metrics_reference *r)
{
    spool_close(&r->logits);
    free(r->lse);
    free(r->top);
}

/* The most likely tokens, best first, the first among equals. */
static void find_top(const float *row, size_t n, int32_t top[METRICS_TOP])
{
    size_t n_kept = 0;
    for (size_t v = 0; v < n; v++) {
        if (n_kept == METRICS_TOP && !(row[v] > row[top[METRICS_TOP - 1]]))
            continue;
        size_t i = n_kept < METRICS_TOP ? n_kept++ : METRICS_TOP - 1;
        for (; i > 0 && row[v] > row[top[i - 1]]; i--)
            top[i] = top[i - 1];
        top[i] = (int32_t)v;
    }
    for (; n_kept < METRICS_TOP; n_kept++)
        top[n_kept] = -1;
}

static double log_sum_exp(const float *row, size_t n, size_t best)
{
    double sum = 1, max = (double)row[best];
    for (size_t v = 0; v < n; v++)
        sum += v == best ? 0 : exp((double)row[v] - max);
    return max + log(sum);
}

struct set_job {
    struct metrics_reference *r;
    const float *logits;
    size_t first;
};

static void set_rows(void *user, size_t first, size_t last)
{
    struct set_job *job = user;
    struct metrics_reference *r = job->r;
    for (size_t i = first; i < last; i++) {
        const float *row = job->logits + i * r->n_vocab;
        int32_t *top = r->top[job->first + i];
        find_top(row, r->n_vocab, top);
        r->lse[job->first + i] = log_sum_exp(row, r->n_vocab, (size_t)top[0]);
    }
}

int metrics_reference_set(struct metrics_reference *r, const float *logits, size_t first, size_t n,
                          int n_threads)
{
    struct set_job job = {r, logits, first};
    parallel_for(n, n_threads, set_rows, &job);
    return spool_write(&r->logits, first, n, logits);
}

static double divergence(const float *ref, double lse_ref, const float *row, double lse, size_t n)
{
    double kld = 0;
    for (size_t v = 0; v < n; v++) {
        double log_p = (double)ref[v] - lse_ref;
        kld += exp(log_p) * (log_p - ((double)row[v] - lse));
    }
    return kld;
}

static uint16_t count_common(const int32_t a[METRICS_TOP], const int32_t b[METRICS_TOP])
{
    uint16_t n = 0;
    for (size_t i = 0; i < METRICS_TOP; i++)
        for (size_t j = 0; j < METRICS_TOP; j++)
            n = (uint16_t)(n + (a[i] == b[j]));
    return n;
}

struct score_job {
    const struct metrics_reference *r;
    const float *logits;
    const int32_t *targets;
    size_t first;
    struct metrics_token *out;
    atomic_int rc;
};

static void score_row(const struct score_job *job, size_t i, const float *ref)
{
    const struct metrics_reference *r = job->r;
    const float *row = job->logits + i * r->n_vocab;
    double lse_ref = r->lse[job->first + i];
    int32_t top[METRICS_TOP];
    find_top(row, r->n_vocab, top);
    double lse = log_sum_exp(row, r->n_vocab, (size_t)top[0]);
    size_t target = (size_t)job->targets[i];
    job->out[i] = (struct metrics_token){
        .kld = (float)divergence(ref, lse_ref, row, lse, r->n_vocab),
        .nll = (float)(lse - (double)row[target]),
        .nll_reference = (float)(lse_ref - (double)ref[target]),
        .same_top = top[0] == r->top[job->first + i][0],
        .n_top = count_common(top, r->top[job->first + i]),
    };
}

/* One row of the reference at a time comes back from the disk. */
static void score_rows(void *user, size_t first, size_t last)
{
    struct score_job *job = user;
    float *ref = cli_alloc(job->r->n_vocab, sizeof(*ref));
    for (size_t i = first; i < last; i++) {
        int rc = spool_read(&job->r->logits, job->first + i, 1, ref);
        if (rc != CLI_OK) {
            atomic_store(&job->rc, rc);
            break;
        }
        score_row(job, i, ref);
    }
    free(ref);
}

int metrics_score(const struct metrics_reference *r, const float *logits, const int32_t *targets,
                  size_t first, size_t n, int n_threads, struct metrics_token *out)
{
    struct score_job job = {r, logits, targets, first, out, CLI_OK};
    parallel_for(n, n_threads, score_rows, &job);
    return atomic_load(&job.rc);
}
