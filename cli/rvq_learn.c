/* Residual codebooks: k-means stage by stage, then moving averages of all stages together. */
#include "rvq_learn.h"

#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "kmeans.h"

static const double decay = 0.99, epsilon = 1e-5;

static const float *stage_of(const float *codes, uint32_t stage)
{
    return codes + (size_t)stage * RVQ_CODES * RVQ_DIM;
}

/* Takes the code of each row off it. */
static void subtract(float *x, size_t n, const float *codes, const uint32_t *nearest)
{
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < RVQ_DIM; d++)
            x[i * RVQ_DIM + d] -= codes[(size_t)nearest[i] * RVQ_DIM + d];
}

/* n samples, drawn at random when there are more. */
struct draw {
    float *x, *weight;
    uint32_t *nearest;
    struct kmeans_rows rows;
};

static struct draw new_draw(size_t n)
{
    struct draw d = {.x = cli_alloc(n * RVQ_DIM, sizeof(float)),
                     .weight = cli_alloc(n, sizeof(float)),
                     .nearest = cli_alloc(n, sizeof(uint32_t))};
    d.rows = (struct kmeans_rows){d.x, d.weight, n, RVQ_DIM};
    return d;
}

static void free_draw(struct draw *d)
{
    free(d->x), free(d->weight), free(d->nearest);
}

static void draw_samples(const struct rvq_samples *s, uint64_t *rng, struct draw *d)
{
    for (size_t i = 0; i < d->rows.n; i++) {
        size_t from = (size_t)(kmeans_random(rng) % s->n);
        memcpy(d->x + i * RVQ_DIM, s->x + from * RVQ_DIM, RVQ_DIM * sizeof(float));
        d->weight[i] = s->weight ? s->weight[from] : 1;
    }
}

static void begin_codes(const struct rvq_samples *s, const struct rvq_effort *effort, uint64_t *rng,
                        int n_threads, float *codes)
{
    struct draw d = new_draw(s->n < effort->n_first ? s->n : effort->n_first);
    draw_samples(s, rng, &d);
    for (uint32_t stage = 0; stage < RVQ_STAGES; stage++, codes += RVQ_CODES * RVQ_DIM) {
        kmeans_learn(&d.rows, RVQ_CODES, effort->n_rounds, rng, n_threads, codes);
        kmeans_assign(&d.rows, codes, RVQ_CODES, n_threads, d.nearest);
        subtract(d.x, d.rows.n, codes, d.nearest);
    }
    free_draw(&d);
}

/* The running count and sum of each code of a stage. */
struct average {
    double count[RVQ_CODES], sum[RVQ_CODES][RVQ_DIM];
    double batch_count[RVQ_CODES], batch_sum[RVQ_CODES][RVQ_DIM];
};

static void begin_average(struct average *a, const float *codes)
{
    for (size_t c = 0; c < RVQ_CODES; c++) {
        a->count[c] = 1;
        for (size_t d = 0; d < RVQ_DIM; d++)
            a->sum[c][d] = (double)codes[c * RVQ_DIM + d];
    }
}

/* Laplace smoothing keeps codes that nothing falls to where they are, and small. */
static void step_average(struct average *a, float *codes)
{
    double total = 0;
    for (size_t c = 0; c < RVQ_CODES; c++) {
        a->count[c] = decay * a->count[c] + (1 - decay) * a->batch_count[c];
        total += a->count[c];
    }
    for (size_t c = 0; c < RVQ_CODES; c++) {
        double n = (a->count[c] + epsilon) / (total + RVQ_CODES * epsilon) * total;
        for (size_t d = 0; d < RVQ_DIM; d++) {
            a->sum[c][d] = decay * a->sum[c][d] + (1 - decay) * a->batch_sum[c][d];
            codes[c * RVQ_DIM + d] = (float)(a->sum[c][d] / n);
        }
    }
}

void rvq_learn(const struct rvq_samples *samples, const struct rvq_effort *effort, uint64_t seed,
               int n_threads, float *codes)
{
    uint64_t rng = seed;
    begin_codes(samples, effort, &rng, n_threads, codes);
    struct average *averages = cli_alloc(RVQ_STAGES, sizeof(*averages));
    for (uint32_t stage = 0; stage < RVQ_STAGES; stage++)
        begin_average(&averages[stage], stage_of(codes, stage));
    struct draw d = new_draw(effort->n_batch);
    for (uint32_t step = 0; step < effort->n_steps; step++) {
        draw_samples(samples, &rng, &d);
        for (uint32_t stage = 0; stage < RVQ_STAGES; stage++) {
            struct average *a = &averages[stage];
            float *own = codes + (size_t)stage * RVQ_CODES * RVQ_DIM;
            kmeans_assign(&d.rows, own, RVQ_CODES, n_threads, d.nearest);
            kmeans_sums(&d.rows, d.nearest, RVQ_CODES, n_threads, a->batch_sum[0], a->batch_count);
            subtract(d.x, d.rows.n, own, d.nearest);
            step_average(a, own);
        }
    }
    free_draw(&d);
    free(averages);
}

double rvq_loss(const struct rvq_samples *samples, const float *codes, uint32_t n_stages,
                int n_threads)
{
    size_t n = samples->n * RVQ_DIM;
    float *x = cli_alloc(n, sizeof(*x));
    uint32_t *nearest = cli_alloc(samples->n, sizeof(*nearest));
    struct kmeans_rows rows = {x, NULL, samples->n, RVQ_DIM};
    double energy = 0, left = 0;
    memcpy(x, samples->x, n * sizeof(*x));
    for (uint32_t stage = 0; stage < n_stages; stage++) {
        kmeans_assign(&rows, stage_of(codes, stage), RVQ_CODES, n_threads, nearest);
        subtract(x, samples->n, stage_of(codes, stage), nearest);
    }
    for (size_t i = 0; i < n; i++) {
        energy += (double)samples->x[i] * (double)samples->x[i];
        left += (double)x[i] * (double)x[i];
    }
    free(x);
    free(nearest);
    return left / energy;
}
