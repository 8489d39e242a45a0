/* Moments of keys, values and of the gradients that noise behind the attention makes in them. */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "capture.h"

/* Queries of one step: their weights take BLOCK * group * tokens floats. */
enum {
    BLOCK = 128
};

static void fill_noise(uint64_t *rng, float *x, size_t n)
{
    for (size_t i = 0; i < n; i += 2) {
        double r = sqrt(-2 * log(cal_uniform(rng))), a = 6.283185307179586 * cal_uniform(rng);
        x[i] = (float)(r * cos(a));
        if (i + 1 < n)
            x[i + 1] = (float)(r * sin(a));
    }
}

/* One KV head of one layer over a whole window, in f32. */
struct head_pass {
    size_t n; /* tokens */
    uint32_t dk, dv, group;
    float scale, softcap;
    float *q, *k, *v; /* [n][group][dk], [n][dk], [n][dv] */
    float *da;        /* [n][group][dv]: gradient of the outputs */
    float *dk_rows, *dv_rows;
    float *p, *ds; /* [BLOCK * group][n] */
    const struct graph_rope *rope;
    float *to_page; /* back by the angle of the middle of their page, as the cache does it */
    float *to_zero; /* back by their own angle: as before RoPE */
    float *to_far;  /* as if they all stood at CAL_FAR */
};

static void softmax_row(const struct head_pass *h, float *s, size_t n_seen)
{
    float most = -INFINITY;
    for (size_t j = 0; j < n_seen; j++)
        most = s[j] > most ? s[j] : most;
    float sum = 0;
    for (size_t j = 0; j < n_seen; j++) {
        s[j] = expf(s[j] - most);
        sum += s[j];
    }
    for (size_t j = 0; j < n_seen; j++)
        s[j] /= sum;
    memset(s + n_seen, 0, (h->n - n_seen) * sizeof(*s));
}

/* ds = p * (dp - sum(p dp)) */
static void softmax_back(const float *p, float *ds, size_t n)
{
    float mean = 0;
    for (size_t j = 0; j < n; j++)
        mean += p[j] * ds[j];
    for (size_t j = 0; j < n; j++)
        ds[j] = p[j] * (ds[j] - mean);
}

static void gemm(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *a,
                 size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
                (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

/* Gradients of keys and values from those of a block of queries' outputs. */
static void block_back(struct head_pass *h, size_t first, size_t n_queries)
{
    const size_t rows = n_queries * h->group, n = first + n_queries;
    const float *q = h->q + first * h->group * h->dk, *da = h->da + first * h->group * h->dv;
    gemm(false, true, rows, n, h->dk, h->scale, q, h->dk, h->k, h->dk, 0, h->p, h->n);
    for (size_t r = 0; r < rows; r++)
        softmax_row(h, h->p + r * h->n, first + r / h->group + 1);
    gemm(true, false, n, h->dv, rows, 1, h->p, h->n, da, h->dv, 1, h->dv_rows, h->dv);
    gemm(false, true, rows, n, h->dv, 1, da, h->dv, h->v, h->dv, 0, h->ds, h->n);
    for (size_t r = 0; r < rows; r++)
        softmax_back(h->p + r * h->n, h->ds + r * h->n, n);
    gemm(true, false, n, h->dk, rows, h->scale, h->ds, h->n, q, h->dk, 1, h->dk_rows, h->dk);
}

/* ---- turning keys as the cache does --------------------------------------------------------- */

enum {
    PAGE = TKV_PAGE_TOKENS
};

static float *make_turns(const struct graph_rope *rope, size_t n, double (*by)(size_t t))
{
    float *turns = cli_alloc(n * rope->n_pairs * 2 + 1, sizeof(*turns));
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < rope->n_pairs; i++) {
            const double angle = by(t) * (double)rope->freq[i];
            turns[(t * rope->n_pairs + i) * 2] = (float)cos(angle);
            turns[(t * rope->n_pairs + i) * 2 + 1] = (float)sin(angle);
        }
    return turns;
}

static double to_page(size_t t)
{
    return -(double)(t / PAGE * PAGE + PAGE / 2);
}

static double to_zero(size_t t)
{
    return -(double)t;
}

static double to_far(size_t t)
{
    return CAL_FAR - (double)t;
}

/* x: [n][per_token][dim]; turns: [n][n_pairs] cosine and sine. */
static void turn_rows(const struct graph_rope *rope, const float *turns, float *x, size_t n,
                      size_t per_token, uint32_t dim)
{
    const size_t step = rope->halves ? 1 : 2, apart = rope->halves ? rope->n_pairs : 1;
    for (size_t row = 0; row < n * per_token; row++, x += dim) {
        const float *turn = turns + row / per_token * rope->n_pairs * 2;
        for (size_t i = 0; i < rope->n_pairs; i++) {
            float *a = x + i * step, *b = a + apart;
            const float a0 = *a, b0 = *b, co = turn[2 * i], si = turn[2 * i + 1];
            *a = a0 * co - b0 * si;
            *b = a0 * si + b0 * co;
        }
    }
}

/* ---- adding up ------------------------------------------------------------------------------ */

static void add_square(double *into, const float *x, size_t n, uint32_t dim, float *room)
{
    memset(room, 0, (size_t)dim * dim * sizeof(*room));
    gemm(true, false, dim, dim, n, 1, x, dim, x, dim, 0, room, dim);
    for (size_t i = 0; i < (size_t)dim * dim; i++)
        into[i] += (double)room[i];
}

static void add_sum(double *into, const float *x, size_t n, uint32_t dim)
{
    for (size_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < dim; i++)
            into[i] += (double)x[t * dim + i];
}

static void add_head(struct cal_head *head, const float *x, const float *g, size_t n, float *room)
{
    add_sum(head->sum, x, n, head->dim);
    add_square(head->square, x, n, head->dim, room);
    add_square(head->gradient, g, n, head->dim, room);
    head->n += (double)n;
}

/* Rows as they are before RoPE; called before add_head(). */
static void add_range(struct cal_head *head, const float *x, size_t n)
{
    for (size_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < head->dim; i++) {
            const double value = (double)x[t * head->dim + i];
            const bool first = head->n <= 0 && t == 0;
            head->low[i] = first || value < head->low[i] ? value : head->low[i];
            head->high[i] = first || value > head->high[i] ? value : head->high[i];
        }
}

/* A NaN or an infinity anywhere is one in a sum. */
static bool is_finite(const struct cal_head *head)
{
    double sum = 0;
    for (uint32_t i = 0; i < head->dim; i++)
        sum += head->sum[i] + head->square[i * head->dim + i] + head->gradient[i * head->dim + i];
    return isfinite(sum);
}

/* ---- samples -------------------------------------------------------------------------------- */

/* What a step of the pass is about. */
struct step {
    struct calibration *c;
    const struct cal_unit *unit;
    size_t index;      /* of the unit in its class */
    size_t n_tokens;   /* of the unit */
    float **queries;   /* [n_layers], of the batches so far; NULL: none */
    uint32_t *sampled; /* tokens */
    size_t n_sampled;
    size_t first, n; /* tokens of the unit's class */
};

static void put_samples(const struct step *p, size_t layer, tkv_kind kind, uint32_t head,
                        const float *x, const float *g)
{
    const struct llama_api *api = &p->c->session->llama->api;
    struct cal_samples s = cal_samples(p->c, layer, kind, p->unit->klass);
    for (size_t i = 0; i < p->n_sampled; i++) {
        const size_t to = (p->index * s.per_unit + i) * s.n_heads + head;
        const float *row = x + p->sampled[i] * s.head_dim,
                    *gradient = g + p->sampled[i] * s.head_dim;
        double square = 0;
        for (uint32_t k = 0; k < s.head_dim; k++)
            square += (double)gradient[k] * (double)gradient[k];
        s.weight[to] = (float)(square / s.head_dim);
        api->ggml_fp32_to_fp16_row(row, s.rows + to * s.head_dim, s.head_dim);
    }
}

/* ---- one layer ------------------------------------------------------------------------------ */

static void load_rows(const struct cli_llama *l, const void *from, size_t stride, size_t n,
                      uint32_t head, uint32_t dim, float *out)
{
    for (size_t t = 0; t < n; t++) {
        const ggml_fp16_t *row =
            (const ggml_fp16_t *)(const void *)((const char *)from + t * stride) +
            (size_t)head * dim;
        for (uint32_t i = 0; i < dim; i++)
            out[t * dim + i] = l->api.ggml_fp16_to_fp32(row[i]);
    }
}

/* queries: [n][n_q_heads][dim] */
static void load_queries(const float *queries, size_t n, uint32_t n_heads, uint32_t head,
                         uint32_t group, uint32_t dim, float *out)
{
    for (size_t t = 0; t < n; t++)
        memcpy(out + t * group * dim, queries + (t * n_heads + (size_t)head * group) * dim,
               (size_t)group * dim * sizeof(*out));
}

/* The queries of a batch behind those of earlier ones. */
static void keep_queries(const struct capture_layer *in, size_t n, float **queries)
{
    const size_t width = (size_t)in->n_q_heads * in->k_head_dim;
    if (!*queries)
        *queries = cli_alloc(n * width, sizeof(float));
    for (size_t t = 0; t < in->n_q; t++)
        for (uint32_t h = 0; h < in->n_q_heads; h++)
            memcpy(*queries + (in->first + t) * width + (size_t)h * in->k_head_dim,
                   (const char *)in->q + t * in->q_token_stride + (size_t)h * in->q_head_stride,
                   in->k_head_dim * sizeof(float));
}

/* Gradients of a head's outputs: noise in the residual stream through the projection. */
static void project_noise(const struct cal_layer *layer, const float *noise, size_t n,
                          uint32_t head, struct head_pass *h)
{
    const size_t width = (size_t)h->group * h->dv;
    gemm(false, false, n, width, layer->n_embd, 1, noise, layer->n_embd,
         layer->projection + head * width, layer->n_out, 0, h->da, width);
}

static void pass_free(struct head_pass *h)
{
    free(h->q), free(h->k), free(h->v), free(h->da), free(h->dk_rows), free(h->dv_rows);
    free(h->p), free(h->ds);
    free(h->to_page), free(h->to_zero), free(h->to_far);
}

static struct head_pass pass_new(const struct capture_layer *in, const struct graph_rope *rope,
                                 size_t n)
{
    const uint32_t group = in->n_q_heads / in->n_kv_heads;
    const size_t rows = (size_t)BLOCK * group;
    return (struct head_pass){
        .n = n,
        .dk = in->k_head_dim,
        .dv = in->v_head_dim,
        .group = group,
        .scale = in->scale,
        .q = cli_alloc(n * group * in->k_head_dim, sizeof(float)),
        .k = cli_alloc(n * in->k_head_dim, sizeof(float)),
        .v = cli_alloc(n * in->v_head_dim, sizeof(float)),
        .da = cli_alloc(n * group * in->v_head_dim, sizeof(float)),
        .dk_rows = cli_alloc(n * in->k_head_dim, sizeof(float)),
        .dv_rows = cli_alloc(n * in->v_head_dim, sizeof(float)),
        .p = cli_alloc(rows * n, sizeof(float)),
        .ds = cli_alloc(rows * n, sizeof(float)),
        .rope = rope,
        .to_page = make_turns(rope, n, to_page),
        .to_zero = make_turns(rope, n, to_zero),
        .to_far = make_turns(rope, n, to_far),
    };
}

/* Keys before RoPE, and the queries that read them. */
static void add_keys(const struct step *p, size_t layer, uint32_t head, const struct head_pass *h,
                     float *room)
{
    struct cal_head *to = &p->c->layers[layer].heads[p->unit->klass][TKV_K][head];
    float *plain = cli_alloc(h->n * h->dk, sizeof(float));
    memcpy(plain, h->k, h->n * h->dk * sizeof(float));
    turn_rows(h->rope, h->to_zero, plain, h->n, 1, h->dk);
    put_samples(p, layer, TKV_K, head, plain, h->dk_rows);
    add_range(to, plain + p->first * h->dk, p->n);
    add_sum(to->plain_sum, plain + p->first * h->dk, p->n, h->dk);
    add_square(to->plain_square, plain + p->first * h->dk, p->n, h->dk, room);
    free(plain);
    const size_t n_queries = (h->n - p->first) * h->group;
    float *queries = h->q + p->first * h->group * h->dk;
    add_square(to->query, queries, n_queries, h->dk, room);
    turn_rows(h->rope, h->to_far, h->q, h->n, h->group, h->dk);
    add_square(to->query_far, queries, n_queries, h->dk, room);
    to->n_queries += (double)n_queries;
}

static int one_head(const struct step *p, const struct capture_layer *in, size_t index,
                    uint32_t head, struct head_pass *h, const float *noise, float *room)
{
    const struct cli_llama *l = p->c->session->llama;
    struct cal_layer *layer = &p->c->layers[index];
    struct cal_head *k = &layer->heads[p->unit->klass][TKV_K][head];
    struct cal_head *v = &layer->heads[p->unit->klass][TKV_V][head];
    load_queries(p->queries[index], h->n, in->n_q_heads, head, h->group, h->dk, h->q);
    load_rows(l, in->k, in->k_token_stride, h->n, head, h->dk, h->k);
    load_rows(l, in->v, in->v_token_stride, h->n, head, h->dv, h->v);
    project_noise(layer, noise, h->n, head, h);
    memset(h->dk_rows, 0, h->n * h->dk * sizeof(float));
    memset(h->dv_rows, 0, h->n * h->dv * sizeof(float));
    for (size_t first = 0; first < h->n; first += BLOCK)
        block_back(h, first, h->n - first < BLOCK ? h->n - first : BLOCK);
    add_keys(p, index, head, h, room);
    put_samples(p, index, TKV_V, head, h->v, h->dv_rows);
    turn_rows(h->rope, h->to_page, h->k, h->n, 1, h->dk);
    turn_rows(h->rope, h->to_page, h->dk_rows, h->n, 1, h->dk);
    add_head(k, h->k + p->first * h->dk, h->dk_rows + p->first * h->dk, p->n, room);
    add_range(v, h->v + p->first * h->dv, p->n);
    add_head(v, h->v + p->first * h->dv, h->dv_rows + p->first * h->dv, p->n, room);
    return is_finite(k) && is_finite(v)
               ? CLI_OK
               : cli_fail("%s: layer %d has keys, values or queries that are not finite; this "
                          "model cannot be calibrated",
                          p->c->session->path, layer->layer);
}

static int whole_layer(const struct step *p, const struct capture_layer *in, size_t index)
{
    struct calibration *c = p->c;
    const uint32_t most = in->k_head_dim > in->v_head_dim ? in->k_head_dim : in->v_head_dim;
    struct head_pass h = pass_new(in, &c->layers[index].rope, p->n_tokens);
    float *noise = cli_alloc(h.n * c->layers[index].n_embd, sizeof(float));
    float *room = cli_alloc((size_t)most * most, sizeof(float));
    uint64_t rng = cal_random(c, index);
    fill_noise(&rng, noise, h.n * c->layers[index].n_embd);
    int rc = CLI_OK;
    for (uint32_t head = 0; head < in->n_kv_heads && rc == CLI_OK; head++)
        rc = one_head(p, in, index, head, &h, noise, room);
    pass_free(&h);
    free(noise);
    free(room);
    return rc;
}

/* Keys and values are all there with the last batch. */
static int on_layer(void *user, const struct capture_layer *in)
{
    struct step *p = user;
    size_t i = 0;
    while (i < p->c->n_layers && p->c->layers[i].layer != in->layer)
        i++;
    if (i == p->c->n_layers)
        return CLI_OK;
    keep_queries(in, p->n_tokens, &p->queries[i]);
    if (in->first + in->n_q < p->n_tokens)
        return CLI_OK;
    int rc = whole_layer(p, in, i);
    free(p->queries[i]);
    p->queries[i] = NULL;
    return rc;
}

/* The rows of the unit that are learned from, and the samples among them. */
static void choose_rows(struct step *p)
{
    const struct cal_unit *unit = p->unit;
    p->first = unit->n_rows ? 1 : 0;
    p->n = unit->n_rows ? unit->n_rows : unit->tokens.n;
    p->n_sampled = cal_samples(p->c, 0, TKV_K, unit->klass).per_unit;
    p->sampled = cli_alloc(p->n_sampled, sizeof(*p->sampled));
    cal_sample_choose(cal_random(p->c, p->c->n_layers), p->n, p->n_sampled, p->sampled);
    for (size_t i = 0; i < p->n_sampled; i++)
        p->sampled[i] += (uint32_t)p->first;
}

int cal_moments(struct calibration *c, const struct cal_unit *unit, size_t index)
{
    struct session whole = *c->session;
    const struct session_tokens *tokens = &unit->tokens;
    const size_t n_before = unit->n_rows ? 1 : tokens->n;
    const struct capture_piece pieces[] = {{tokens->ids, NULL, n_before},
                                           {NULL, unit->rows, unit->n_rows},
                                           {tokens->ids + n_before, NULL, tokens->n - n_before}};
    struct step p = {.c = c, .unit = unit, .index = index, .n_tokens = tokens->n + unit->n_rows};
    p.queries = cli_alloc(c->n_layers, sizeof(*p.queries));
    choose_rows(&p);
    whole.n_ubatch = (uint32_t)p.n_tokens; /* a text's layers are seen once, with all queries */
    int rc = capture_pieces(&whole, pieces, unit->n_rows ? 3 : 1, on_layer, &p);
    c->session->decode_seconds = whole.decode_seconds;
    for (size_t i = 0; i < c->n_layers; i++)
        free(p.queries[i]);
    free(p.queries);
    free(p.sampled);
    return rc;
}
