#include "retrieve_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "capture.h"

enum {
    PIECE = 256, /* tokens that stay together */
    KEPT = 2048  /* of the text's end */
};

struct taking {
    struct retrieve_rows *out;
    const struct llama_api *api;
    size_t n_tokens;
};

static void take_rows(const struct taking *t, const void *rows, size_t stride, size_t n_elems,
                      float *out)
{
    for (size_t i = 0; i < t->n_tokens; i++) {
        const ggml_fp16_t *row =
            (const ggml_fp16_t *)(const void *)((const char *)rows + i * stride);
        for (size_t c = 0; c < n_elems; c++)
            out[i * n_elems + c] = t->api->ggml_fp16_to_fp32(row[c]);
    }
}

static int on_layer(void *user, const struct capture_layer *c)
{
    const struct taking *t = user;
    struct retrieve_rows *r = t->out;
    if (c->k_head_dim != c->v_head_dim)
        return CLI_OK;
    r->layers = cli_grow(r->layers, r->n_layers + 1, sizeof(*r->layers));
    struct retrieve_layer *l = &r->layers[r->n_layers++];
    const size_t n_elems = (size_t)c->n_kv_heads * c->k_head_dim;
    *l = (struct retrieve_layer){
        .layer = c->layer,
        .n_kv_heads = c->n_kv_heads,
        .group = c->n_q_heads / c->n_kv_heads,
        .head_dim = c->k_head_dim,
        .scale = c->scale,
        .k = cli_alloc(t->n_tokens * n_elems, sizeof(*l->k)),
        .v = cli_alloc(t->n_tokens * n_elems, sizeof(*l->v)),
        .q = cli_alloc((size_t)RETRIEVE_QUERIES * c->n_q_heads * c->k_head_dim, sizeof(*l->q)),
    };
    take_rows(t, c->k, c->k_token_stride, n_elems, l->k);
    take_rows(t, c->v, c->v_token_stride, n_elems, l->v);
    for (size_t i = 0; i < RETRIEVE_QUERIES; i++)
        for (size_t h = 0; h < c->n_q_heads; h++)
            memcpy(l->q + (i * c->n_q_heads + h) * c->k_head_dim,
                   (const char *)c->q + (c->n_q - RETRIEVE_QUERIES + i) * c->q_token_stride +
                       h * c->q_head_stride,
                   c->k_head_dim * sizeof(*l->q));
    return CLI_OK;
}

/* How keys are turned: as calibration finds it. */
static int read_ropes(struct session *s, struct retrieve_rows *r)
{
    struct cal_layer *layers = cli_alloc(r->n_layers, sizeof(*layers));
    struct calibration c = {.session = s, .layers = layers, .n_layers = r->n_layers};
    for (size_t i = 0; i < r->n_layers; i++) {
        layers[i].layer = r->layers[i].layer;
        layers[i].n_kv_heads = r->layers[i].n_kv_heads;
    }
    const int rc = cal_rope(&c);
    for (size_t i = 0; i < r->n_layers; i++)
        r->layers[i].rope = layers[i].rope;
    free(layers);
    return rc;
}

int retrieve_rows_capture(struct session *s, const struct session_tokens *window,
                          struct retrieve_rows *out)
{
    *out = (struct retrieve_rows){.n_tokens = window->n};
    struct taking t = {out, &s->llama->api, window->n};
    struct session whole = *s; /* in one batch, so that every layer comes once and whole */
    whole.n_ubatch = (uint32_t)window->n;
    int rc = capture_run(&whole, window, on_layer, &t);
    if (rc == CLI_OK && out->n_layers == 0)
        rc = cli_fail("%s has no attention layers with keys and values of one head size", s->path);
    return rc == CLI_OK ? read_ropes(s, out) : rc;
}

void retrieve_rows_free(struct retrieve_rows *r)
{
    for (size_t i = 0; i < r->n_layers; i++)
        free(r->layers[i].k), free(r->layers[i].v), free(r->layers[i].q);
    free(r->layers);
    *r = (struct retrieve_rows){0};
}

/* splitmix64, as a number in [-1, 1). */
static double noise(uint64_t seed)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)(int64_t)(z ^ (z >> 31)) * 0x1p-63;
}

/* The token of the text that stands at `at` in a cache of `total`. */
static size_t source_of(const struct retrieve_rows *r, size_t total, size_t at)
{
    const size_t kept = r->n_tokens < KEPT ? r->n_tokens : KEPT;
    if (total <= r->n_tokens || at + kept >= total)
        return at + r->n_tokens - total;
    const double place = (noise(at / PIECE) + 1) / 2;
    return (size_t)(place * (double)(r->n_tokens - PIECE)) + at % PIECE;
}

static void move_row(float *x, size_t n, uint64_t seed)
{
    double square = 0;
    for (size_t c = 0; c < n; c++)
        square += (double)x[c] * (double)x[c];
    const double size = .1 * sqrt(3 * square / (double)n); /* of a uniform number */
    for (size_t c = 0; c < n; c++)
        x[c] += (float)(size * noise(seed + c));
}

void retrieve_rows_make(const struct retrieve_rows *r, const struct retrieve_layer *l, size_t total,
                        size_t first, size_t n, float *k, float *v)
{
    const size_t D = l->head_dim, n_elems = l->n_kv_heads * D;
    for (size_t i = 0; i < n; i++) {
        const size_t at = first + i, from = source_of(r, total, at);
        memcpy(k + i * n_elems, l->k + from * n_elems, n_elems * sizeof(*k));
        memcpy(v + i * n_elems, l->v + from * n_elems, n_elems * sizeof(*v));
        for (size_t h = 0; h < l->n_kv_heads && at != from; h++) {
            move_row(k + i * n_elems + h * D, D, 2 * (at * n_elems + h * D));
            move_row(v + i * n_elems + h * D, D, 2 * (at * n_elems + h * D) + 1);
            graph_rope_turn(&l->rope, (double)at - (double)from, k + i * n_elems + h * D);
        }
    }
}

void retrieve_rows_query(const struct retrieve_rows *r, const struct retrieve_layer *l,
                         size_t total, size_t i, float *q)
{
    const size_t n_heads = (size_t)l->n_kv_heads * l->group, D = l->head_dim;
    memcpy(q, l->q + i * n_heads * D, n_heads * D * sizeof(*q));
    for (size_t h = 0; h < n_heads && total != r->n_tokens; h++)
        graph_rope_turn(&l->rope, (double)total - (double)r->n_tokens, q + h * D);
}
