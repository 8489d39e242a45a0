/* Residual codebooks: k-means stage by stage, then moving averages of all stages together. */
#include "rvq_learn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <tightkv/tightkv.h>

#include "cli.h"
#include "kmeans.h"
#include "parallel.h"

enum {
    BOOK = RVQ_CODES * RVQ_DIM
};

static const double decay = 0.99, epsilon = 1e-5;

/* Samples at work: what is left of them, and where they fall. */
struct batch {
    tkv_context *ctx;
    int n_threads;
    size_t n;
    int8_t *x; /* [n][RVQ_DIM] */
    uint16_t *nearest;
    const int8_t *codes; /* of the stage at hand */
    int32_t count[RVQ_CODES], sum[RVQ_CODES][RVQ_DIM];
};

static struct batch *new_batch(size_t n, int n_threads)
{
    struct batch *b = cli_alloc(1, sizeof(*b));
    tkv_error err;
    b->n = n;
    b->n_threads = n_threads;
    if (tkv_context_create(NULL, &b->ctx, &err) != TKV_OK) {
        cli_fail("%s", err.text);
        free(b);
        return NULL;
    }
    b->x = cli_alloc(n * RVQ_DIM, 1);
    b->nearest = cli_alloc(n, sizeof(*b->nearest));
    return b;
}

static void free_batch(struct batch *b)
{
    tkv_context_destroy(b->ctx);
    free(b->x);
    free(b->nearest);
    free(b);
}

static void draw(const struct rvq_samples *s, uint64_t *rng, struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        memcpy(b->x + i * RVQ_DIM, s->x + kmeans_random(rng) % s->n * RVQ_DIM, RVQ_DIM);
}

static void find_nearest(void *user, size_t first, size_t last)
{
    struct batch *b = user;
    (void)tkv_rvq_nearest(b->ctx, b->codes, b->x + first * RVQ_DIM, last - first,
                          b->nearest + first);
}

/* Where the rows fall, and their sums by code. */
static void assign(struct batch *b, const int8_t *codes)
{
    b->codes = codes;
    parallel_for(b->n, b->n_threads, find_nearest, b);
    memset(b->count, 0, sizeof(b->count));
    memset(b->sum, 0, sizeof(b->sum));
    for (size_t i = 0; i < b->n; i++) {
        b->count[b->nearest[i]]++;
        for (size_t d = 0; d < RVQ_DIM; d++)
            b->sum[b->nearest[i]][d] += b->x[i * RVQ_DIM + d];
    }
}

static int8_t to_level(double x)
{
    return (int8_t)lrint(fmin(fmax(x, -127), 127));
}

static void subtract(struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        for (size_t d = 0; d < RVQ_DIM; d++) {
            int left = b->x[i * RVQ_DIM + d] - b->codes[(size_t)b->nearest[i] * RVQ_DIM + d];
            b->x[i * RVQ_DIM + d] = (int8_t)(left > 127 ? 127 : left < -128 ? -128 : left);
        }
}

/* ---- k-means -------------------------------------------------------------------------------- */

static void copy_random_row(const struct batch *b, uint64_t *rng, int8_t *code)
{
    memcpy(code, b->x + kmeans_random(rng) % b->n * RVQ_DIM, RVQ_DIM);
}

/* From random rows; a code that nothing falls to goes to another. */
static void learn_stage(struct batch *b, uint32_t n_rounds, uint64_t *rng, int8_t *codes)
{
    for (size_t c = 0; c < RVQ_CODES; c++)
        copy_random_row(b, rng, codes + c * RVQ_DIM);
    for (uint32_t round = 0; round < n_rounds; round++) {
        assign(b, codes);
        for (size_t c = 0; c < RVQ_CODES; c++) {
            for (size_t d = 0; d < RVQ_DIM && b->count[c]; d++)
                codes[c * RVQ_DIM + d] = to_level((double)b->sum[c][d] / b->count[c]);
            if (!b->count[c])
                copy_random_row(b, rng, codes + c * RVQ_DIM);
        }
    }
}

/* ---- moving averages ------------------------------------------------------------------------ */

/* The running count and sum of each code of a stage. */
struct average {
    double count[RVQ_CODES], sum[RVQ_CODES][RVQ_DIM];
};

static void begin_average(struct average *a, const int8_t *codes)
{
    for (size_t c = 0; c < RVQ_CODES; c++) {
        a->count[c] = 1;
        for (size_t d = 0; d < RVQ_DIM; d++)
            a->sum[c][d] = codes[c * RVQ_DIM + d];
    }
}

/* Laplace smoothing keeps codes that nothing falls to where they are, and small. */
static void step_average(struct average *a, const struct batch *b, int8_t *codes)
{
    double total = 0;
    for (size_t c = 0; c < RVQ_CODES; c++) {
        a->count[c] = decay * a->count[c] + (1 - decay) * b->count[c];
        total += a->count[c];
    }
    for (size_t c = 0; c < RVQ_CODES; c++) {
        double n = (a->count[c] + epsilon) / (total + RVQ_CODES * epsilon) * total;
        for (size_t d = 0; d < RVQ_DIM; d++) {
            a->sum[c][d] = decay * a->sum[c][d] + (1 - decay) * b->sum[c][d];
            codes[c * RVQ_DIM + d] = to_level(a->sum[c][d] / n);
        }
    }
}

static void refine(const struct rvq_samples *samples, uint32_t n_steps, uint64_t *rng,
                   struct batch *b, int8_t *codes)
{
    struct average *averages = cli_alloc(RVQ_STAGES, sizeof(*averages));
    for (size_t stage = 0; stage < RVQ_STAGES; stage++)
        begin_average(&averages[stage], codes + stage * BOOK);
    for (uint32_t step = 0; step < n_steps; step++) {
        draw(samples, rng, b);
        for (size_t stage = 0; stage < RVQ_STAGES; stage++) {
            assign(b, codes + stage * BOOK);
            subtract(b);
            step_average(&averages[stage], b, codes + stage * BOOK);
        }
    }
    free(averages);
}

int rvq_learn(const struct rvq_samples *samples, const struct rvq_effort *effort, uint64_t seed,
              int n_threads, int8_t *codes)
{
    uint64_t rng = seed;
    struct batch *b = new_batch(effort->n_first, n_threads);
    if (!b)
        return CLI_DATA;
    draw(samples, &rng, b);
    for (size_t stage = 0; stage < RVQ_STAGES; stage++) {
        learn_stage(b, effort->n_rounds, &rng, codes + stage * BOOK);
        assign(b, codes + stage * BOOK);
        subtract(b);
    }
    free_batch(b);
    b = new_batch(effort->n_batch, n_threads);
    if (!b)
        return CLI_DATA;
    refine(samples, effort->n_steps, &rng, b, codes);
    free_batch(b);
    return CLI_OK;
}

double rvq_loss(const struct rvq_samples *samples, const int8_t *codes, uint32_t n_stages,
                int n_threads)
{
    struct batch *b = new_batch(samples->n, n_threads);
    if (!b)
        return NAN;
    double energy = 0, left = 0;
    memcpy(b->x, samples->x, samples->n * RVQ_DIM);
    for (size_t stage = 0; stage < n_stages; stage++) {
        assign(b, codes + stage * BOOK);
        subtract(b);
    }
    for (size_t i = 0; i < samples->n * RVQ_DIM; i++) {
        energy += samples->x[i] * samples->x[i];
        left += b->x[i] * b->x[i];
    }
    free_batch(b);
    return left / energy;
}
