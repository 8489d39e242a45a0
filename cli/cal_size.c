/* How much a layer's attention matters: noise into its output, divergence out of the model. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "metrics.h"

/* Noise relative to the rms of the output: small enough for divergence to go by its square. */
#define NOISE 0.05

/* Layers beyond this number are measured one in so many, and those between interpolated. */
enum {
    MOST_MEASURED = 32
};

struct injection {
    int layer; /* -1: none */
    uint64_t rng;
    double square, n; /* of the noise */
};

/* The layer whose cache a node reads. */
static int layer_of(const struct ggml_tensor *node)
{
    const char *name = node->src[1]->view_src ? node->src[1]->view_src->name : "";
    const char *number = strstr(name, "_l");
    return number ? atoi(number + 2) : -1;
}

/* Uniform noise: only its variance counts. */
static double noise(uint64_t *rng)
{
    *rng = *rng * 6364136223846793005ull + 1442695040888963407ull;
    return ((double)(*rng >> 11) / 9007199254740992.0 - .5) * 3.4641016151377544;
}

static bool on_node(struct ggml_tensor *node, bool ask, void *user)
{
    struct injection *in = user;
    if (node->op != GGML_OP_FLASH_ATTN_EXT || layer_of(node) != in->layer)
        return !ask;
    if (ask)
        return true;
    float *x = node->data;
    const size_t n = (size_t)(node->ne[0] * node->ne[1] * node->ne[2]);
    double square = 0;
    for (size_t i = 0; i < n; i++)
        square += (double)x[i] * (double)x[i];
    const double size = NOISE * sqrt(square / (double)n);
    for (size_t i = 0; i < n; i++) {
        const double e = size * noise(&in->rng);
        x[i] += (float)e;
        in->square += e * e;
    }
    in->n += (double)n;
    return true;
}

struct scoring {
    struct metrics_reference *reference;
    struct metrics_token *scores; /* NULL: these rows are the reference */
    const int32_t *targets;
    int n_threads, rc;
};

static void take(void *user, const float *logits, size_t i, size_t n)
{
    struct scoring *s = user;
    if (s->rc != CLI_OK)
        return;
    s->rc = s->scores ? metrics_score(s->reference, logits, s->targets + i, i, n, s->n_threads,
                                      s->scores + i)
                      : metrics_reference_set(s->reference, logits, i, n, s->n_threads);
}

/* One pass; rows from the middle on are scored, the last has no successor. */
static int pass(struct calibration *c, const struct session_tokens *window, struct injection *in,
                struct scoring *s)
{
    struct session watched = *c->session;
    watched.watch = on_node;
    watched.watch_user = in;
    const struct session_cache stock = {.type = GGML_TYPE_F16};
    const size_t first = window->n / 2;
    struct llama_context *ctx = session_context(&watched, &stock, window->n);
    int rc = ctx ? session_decode(&watched, ctx, window->ids, first, NULL, NULL) : CLI_DATA;
    if (rc == CLI_OK)
        rc = session_decode(&watched, ctx, window->ids + first, window->n - first - 1, take, s);
    session_free(&watched, ctx);
    c->session->decode_seconds = watched.decode_seconds;
    return rc == CLI_OK ? s->rc : rc;
}

static double trace_of_projection(const struct cal_layer *layer)
{
    double sum = 0;
    for (size_t i = 0; i < (size_t)layer->n_embd * layer->n_out; i++)
        sum += (double)layer->projection[i] * (double)layer->projection[i];
    return sum;
}

/* A token's divergence is size^2 / 2 times the noise in the residual stream, of all tokens that
 * it sees, which is what all tokens' is of a token's noise. */
static int measure(struct calibration *c, const struct session_tokens *window,
                   struct metrics_reference *reference, struct cal_layer *layer)
{
    struct injection in = {.layer = layer->layer, .rng = 1};
    struct scoring s = {reference, cli_alloc(reference->n_rows, sizeof(struct metrics_token)),
                        window->ids + window->n / 2 + 1, c->session->n_threads, CLI_OK};
    int rc = pass(c, window, &in, &s);
    double kld = 0;
    for (size_t i = 0; i < reference->n_rows; i++)
        kld += (double)s.scores[i].kld / (double)reference->n_rows;
    const double variance = in.n > 0 ? in.square / in.n : 0;
    layer->size = sqrt(2 * kld / (variance * trace_of_projection(layer)));
    free(s.scores);
    if (rc == CLI_OK && !(layer->size > 0 && layer->size < 1e9))
        return cli_fail("layer %d: noise in its attention does not reach the output", layer->layer);
    return rc;
}

/* Of so many layers one is measured. */
static size_t step_of(const struct calibration *c)
{
    return (c->n_layers + MOST_MEASURED - 1) / MOST_MEASURED;
}

size_t cal_size_steps(const struct calibration *c)
{
    return (c->n_layers + step_of(c) - 1) / step_of(c);
}

int cal_sizes(struct calibration *c, const struct session_tokens *window, cal_done_fn done,
              void *user)
{
    struct metrics_reference reference;
    struct injection none = {.layer = -1};
    const size_t n_rows = window->n - window->n / 2 - 1;
    int rc = metrics_reference_init(&reference, n_rows, c->session->n_vocab);
    struct scoring s = {&reference, NULL, NULL, c->session->n_threads, CLI_OK};
    if (rc == CLI_OK)
        rc = pass(c, window, &none, &s);
    const size_t step = step_of(c);
    for (size_t i = 0; i < c->n_layers && rc == CLI_OK; i += step) {
        if (c->layers[i].size > 0)
            continue;
        rc = measure(c, window, &reference, &c->layers[i]);
        if (rc == CLI_OK)
            rc = done(user);
    }
    for (size_t i = 0; i < c->n_layers; i++)
        if (i % step)
            c->layers[i].size = c->layers[i - i % step].size;
    metrics_reference_free(&reference);
    return rc;
}
