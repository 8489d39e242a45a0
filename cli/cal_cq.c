/* The trainers of cq: centroids for every group of channels of every head. */
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "cq_learn.h"

enum {
    MOST_ROWS = 16384, /* of a group: 64 a centroid */
    N_ROUNDS = 12
};

/* Rows of one head, in f32, spread over all that were sampled. */
struct head_rows {
    float *x, *weight; /* [n][head_dim], [n] */
    size_t n;
};

static struct head_rows read_head(const struct calibration *c, const struct cal_samples *s,
                                  uint32_t head)
{
    const size_t n = s->n_tokens < MOST_ROWS ? s->n_tokens : MOST_ROWS;
    struct head_rows h = {cli_alloc(n * s->head_dim, sizeof(float)), cli_alloc(n, sizeof(float)),
                          n};
    for (size_t i = 0; i < n; i++) {
        const size_t row = i * s->n_tokens / n * s->n_heads + head;
        h.weight[i] = s->weight[row];
        for (uint32_t d = 0; d < s->head_dim; d++)
            h.x[i * s->head_dim + d] =
                c->session->llama->api.ggml_fp16_to_fp32(s->rows[row * s->head_dim + d]);
    }
    return h;
}

/* Centroids of all groups of one head: [group][CQ_CODES][dim]. */
static void learn_head(const struct calibration *c, const struct head_rows *h, uint32_t head_dim,
                       uint32_t dim, bool weighted, uint64_t seed, float *centroids)
{
    float *x = cli_alloc(h->n * dim, sizeof(*x));
    for (uint32_t g = 0; g < head_dim / dim; g++) {
        for (size_t i = 0; i < h->n; i++)
            memcpy(x + i * dim, h->x + i * head_dim + (size_t)g * dim, dim * sizeof(*x));
        const struct kmeans_rows rows = {x, weighted ? h->weight : NULL, h->n, dim};
        cq_learn(&rows, N_ROUNDS, seed + g, c->session->n_threads,
                 centroids + (size_t)g * CQ_CODES * dim);
    }
    free(x);
}

/* Keys have a step for each group, values one a head. */
static void train_kind(const struct calibration *c, struct cal_book *book, size_t layer,
                       tkv_kind kind, enum tkv_span_class klass, uint32_t dim, bool weighted)
{
    const struct cal_samples s = cal_samples(c, layer, kind, klass);
    if (s.n_tokens == 0)
        return;
    const uint32_t D = s.head_dim, n_groups = D / dim, n_steps = kind == TKV_K ? n_groups : 1;
    const size_t n_codes = (size_t)D * CQ_CODES;
    int8_t *codes = cli_alloc(s.n_heads, n_codes);
    float *step = cli_alloc((size_t)s.n_heads * n_steps, sizeof(*step));
    float *base = cli_alloc((size_t)s.n_heads * D, sizeof(*base));
    float *centroids = cli_alloc(n_codes, sizeof(*centroids));
    for (uint32_t head = 0; head < s.n_heads; head++) {
        struct head_rows h = read_head(c, &s, head);
        const uint64_t seed = cal_random(c, (layer * s.n_heads + head) * 16 + dim + kind);
        learn_head(c, &h, D, dim, weighted, seed, centroids);
        cq_round(centroids, n_groups, dim, n_steps == 1,
                 &(struct cq_head){codes + head * n_codes, step + (size_t)head * n_steps,
                                   base + (size_t)head * D});
        free(h.x), free(h.weight);
    }
    char name[64];
    snprintf(name, sizeof(name), "cq%u.blk.%d.attn_%c%s", dim, c->layers[layer].layer,
             kind == TKV_K ? 'k' : 'v', klass == TKV_SPAN_VISUAL ? ".visual" : "");
    cal_book_add(book, GGML_TYPE_I8, (int64_t[]){dim, CQ_CODES, (int64_t)s.n_heads * n_groups},
                 codes, "%s.codes", name);
    cal_book_add(book, GGML_TYPE_F32, (int64_t[]){n_steps, 1, s.n_heads}, step, "%s.step", name);
    cal_book_add(book, GGML_TYPE_F32, (int64_t[]){D, 1, s.n_heads}, base, "%s.base", name);
    free(codes), free(step), free(base), free(centroids);
}

static int train(const struct calibration *c, struct cal_book *book, bool weighted)
{
    for (size_t layer = 0; layer < c->n_layers && cal_stopped(c) == CLI_OK; layer++)
        for (int klass = 0; klass < CAL_CLASSES; klass++)
            for (int kind = TKV_K; kind <= TKV_V; kind++)
                for (uint32_t dim = 4; dim <= 8; dim += 4)
                    train_kind(c, book, layer, (tkv_kind)kind, (enum tkv_span_class)klass, dim,
                               weighted);
    return cal_stopped(c);
}

int cal_train_cq(const struct calibration *c, struct cal_book *book)
{
    return train(c, book, false);
}

int cal_train_cq_weighted(const struct calibration *c, struct cal_book *book)
{
    return train(c, book, true);
}
