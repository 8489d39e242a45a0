/* Kullback-Leibler divergence, perplexity and agreement of two sets of logits.
 *
 * A divergence of 1e-6 is the difference of sums of the order of 10, so everything but the
 * logits is double. */
#include "metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "parallel.h"

struct row_score {
    double nll, nll_reference, kld;
    bool same_top;
};

void metrics_reference_init(struct metrics_reference *r, size_t n_rows, size_t n_vocab)
{
    *r = (struct metrics_reference){.n_rows = n_rows, .n_vocab = n_vocab};
    r->logits = cli_grow(NULL, n_rows * n_vocab, sizeof(float));
    r->lse = cli_alloc(n_rows, sizeof(double));
    r->top = cli_alloc(n_rows, sizeof(size_t));
}

void metrics_reference_free(struct metrics_reference *r)
{
    free(r->logits);
    free(r->lse);
    free(r->top);
}

/* log(sum(exp(row))) and the index of the largest. */
static double log_sum_exp(const float *row, size_t n, size_t *top)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (row[i] > row[best])
            best = i;
    double sum = 1, max = (double)row[best];
    for (size_t i = 0; i < n; i++)
        sum += i == best ? 0 : exp((double)row[i] - max);
    *top = best;
    return max + log(sum);
}

struct set_job {
    struct metrics_reference *r;
    size_t first;
};

static void set_rows(void *user, size_t first, size_t last)
{
    struct set_job *job = user;
    for (size_t i = job->first + first; i < job->first + last; i++)
        job->r->lse[i] =
            log_sum_exp(job->r->logits + i * job->r->n_vocab, job->r->n_vocab, &job->r->top[i]);
}

void metrics_reference_set(struct metrics_reference *r, const float *logits, size_t first, size_t n,
                           int n_threads)
{
    memcpy(r->logits + first * r->n_vocab, logits, n * r->n_vocab * sizeof(float));
    struct set_job job = {r, first};
    parallel_for(n, n_threads, set_rows, &job);
}

struct add_job {
    const struct metrics_reference *r;
    const float *logits;
    const int32_t *targets;
    size_t first;
    struct row_score *scores;
};

static void score_rows(void *user, size_t first, size_t last)
{
    struct add_job *job = user;
    size_t n_vocab = job->r->n_vocab;
    for (size_t i = first; i < last; i++) {
        const float *row = job->logits + i * n_vocab;
        const float *ref = job->r->logits + (job->first + i) * n_vocab;
        double lse_ref = job->r->lse[job->first + i], kld = 0;
        size_t top, target = (size_t)job->targets[i];
        double lse = log_sum_exp(row, n_vocab, &top);
        for (size_t v = 0; v < n_vocab; v++) {
            double log_p = (double)ref[v] - lse_ref;
            kld += exp(log_p) * (log_p - ((double)row[v] - lse));
        }
        job->scores[i] = (struct row_score){.nll = lse - (double)row[target],
                                            .nll_reference = lse_ref - (double)ref[target],
                                            .kld = kld,
                                            .same_top = top == job->r->top[job->first + i]};
    }
}

void metrics_add(struct metrics *m, const struct metrics_reference *r, const float *logits,
                 const int32_t *targets, size_t first, size_t n, int n_threads)
{
    struct add_job job = {r, logits, targets, first, cli_alloc(n, sizeof(struct row_score))};
    parallel_for(n, n_threads, score_rows, &job);
    if (m->n == 0)
        m->finite = true;
    m->klds = cli_grow(m->klds, m->n + n, sizeof(float));
    for (size_t i = 0; i < n; i++) {
        const struct row_score *s = &job.scores[i];
        m->finite = m->finite && isfinite(s->kld) && isfinite(s->nll);
        m->nll += s->nll;
        m->nll_reference += s->nll_reference;
        m->kld += s->kld;
        m->n_same_top += s->same_top;
        m->klds[m->n++] = (float)s->kld;
    }
    free(job.scores);
}

void metrics_free(struct metrics *m)
{
    free(m->klds);
    *m = (struct metrics){0};
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

double metrics_quantile(const float *values, size_t n, double q)
{
    if (n == 0)
        return NAN;
    float *sorted = cli_grow(NULL, n, sizeof(float));
    memcpy(sorted, values, n * sizeof(float));
    qsort(sorted, n, sizeof(float), compare_floats);
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    double low = (double)sorted[i], high = (double)sorted[i + 1 < n ? i + 1 : i];
    free(sorted);
    return low + (at - (double)i) * (high - low);
}
