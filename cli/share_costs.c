#include "share_costs.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_QUERIES = 128,
    N_BLOCK = 512, /* keys whose codes are looked for at once */
    MOST_GROUP = 64,
    SINKS = 8 /* always read, like the window */
};

const double share_keys[SHARE_KEYS] = {.01, .02, .03, .045, .06, .08, .1, .13,
                                       .16, .2,  .25, .3,   .4,  .55, 1};
const double share_values[SHARE_VALUES] = {.005, .01, .015, .02, .03, .045, .06, .09, .13, .2};

/* ---- what the index knows of a head ----------------------------------------------------------- */

struct index_head {
    uint32_t dim, n_codes;
    const float *to, *ask, *mean;
    float *codes, *half; /* [n_codes][dim], [n_codes] half their squares */
};

static struct index_head find_head(const struct cal_book *book, const struct cal_layer *l,
                                   uint32_t head, uint32_t n_codes)
{
    const uint32_t D = l->heads[TKV_SPAN_TEXT][TKV_K]->dim;
    const int8_t *codes = cal_book_find(book, "qvq.blk.%d.codes", l->layer);
    const float *to = cal_book_find(book, "qvq.blk.%d.to", l->layer),
                *ask = cal_book_find(book, "qvq.blk.%d.ask", l->layer),
                *mean = cal_book_find(book, "qvq.blk.%d.mean", l->layer);
    const struct index_head h = {
        .dim = D,
        .n_codes = n_codes,
        .to = to + (size_t)head * D * D,
        .ask = ask + (size_t)head * D * D,
        .mean = mean + (size_t)head * D,
        .codes = cli_alloc((size_t)n_codes * D, sizeof(float)),
        .half = cli_alloc(n_codes, sizeof(float)),
    };
    for (size_t i = 0; i < (size_t)n_codes * D; i++) {
        h.codes[i] = codes[(size_t)head * n_codes * D + i];
        h.half[i / D] += h.codes[i] * h.codes[i] / 2;
    }
    return h;
}

/* ---- one head's rows -------------------------------------------------------------------------- */

struct rows {
    size_t n;
    uint32_t dim, value_dim;
    float *keys;   /* [n][dim] */
    float *values; /* [n][value_dim] less their mean */
    uint32_t *code;
};

static void multiply(bool transposed, size_t m, size_t n, size_t k, const float *a, const float *b,
                     float *out)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, transposed ? CblasTrans : CblasNoTrans, (int)m, (int)n,
                (int)k, 1, a, (int)k, b, (int)(transposed ? k : n), 0, out, (int)n);
}

static void find_codes(const struct index_head *h, const struct cal_layer *l, struct rows *r)
{
    const size_t D = h->dim;
    float *plain = cli_alloc(N_BLOCK * D, sizeof(float)),
          *z = cli_alloc(N_BLOCK * D, sizeof(float));
    float *dots = cli_alloc((size_t)N_BLOCK * h->n_codes, sizeof(float));
    for (size_t first = 0; first < r->n; first += N_BLOCK) {
        const size_t n = r->n - first < N_BLOCK ? r->n - first : N_BLOCK;
        memcpy(plain, r->keys + first * D, n * D * sizeof(float));
        for (size_t i = 0; i < n; i++) {
            graph_rope_turn(&l->rope, -(double)(first + i), plain + i * D);
            for (size_t d = 0; d < D; d++)
                plain[i * D + d] -= h->mean[d];
        }
        multiply(false, n, D, D, plain, h->to, z);
        multiply(true, n, h->n_codes, D, z, h->codes, dots);
        for (size_t i = 0; i < n; i++) {
            const float *dot = dots + i * h->n_codes;
            uint32_t best = 0;
            for (uint32_t c = 1; c < h->n_codes; c++)
                best = dot[c] - h->half[c] > dot[best] - h->half[best] ? c : best;
            r->code[first + i] = best;
        }
    }
    free(plain), free(z), free(dots);
}

static void read_rows(const struct llama_api *api, const void *from, size_t stride, size_t n,
                      uint32_t dim, uint32_t head, float *out)
{
    for (size_t i = 0; i < n; i++) {
        const ggml_fp16_t *row = (const void *)((const char *)from + i * stride);
        for (uint32_t d = 0; d < dim; d++)
            out[i * dim + d] = api->ggml_fp16_to_fp32(row[head * dim + d]);
    }
}

static void take_mean(float *rows, size_t n, uint32_t dim)
{
    for (uint32_t d = 0; d < dim; d++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += (double)rows[i * dim + d];
        for (size_t i = 0; i < n; i++)
            rows[i * dim + d] -= (float)(sum / (double)n);
    }
}

/* ---- one query -------------------------------------------------------------------------------- */

/* Room for one query token: of each query head. */
struct asking {
    uint32_t n_bands;
    double (**turns)[2];   /* [n_bands][n_pairs] */
    float *q, *w;          /* [group * n_bands][dim] */
    float *bias;           /* [group * n_bands] */
    float *table;          /* [group * n_bands][n_codes] */
    float *logits;         /* [group][n] then weights */
    struct place *order;   /* [n] */
    uint32_t *rank;        /* [n] in the order of codes */
    float *missing, *left; /* [group][value_dim] */
};

struct place {
    float score;
    uint32_t row;
};

static int by_score(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->row < y->row ? 1 : x->row > y->row ? -1 : 0;
}

static uint32_t band_of(size_t distance)
{
    uint32_t band = 0;
    for (size_t from = CAL_NEAR; distance >= 2 * from; from *= 2)
        band++;
    return band;
}

/* What every code of every band scores. */
static void make_tables(const struct index_head *h, const struct cal_layer *l, const float *q,
                        size_t at, float scale, struct asking *a)
{
    const size_t D = h->dim;
    for (uint32_t g = 0; g < l->group; g++)
        for (uint32_t band = 0; band < a->n_bands; band++) {
            const size_t row = (size_t)g * a->n_bands + band;
            float *x = a->q + row * D;
            for (size_t d = 0; d < D; d++)
                x[d] = q[g * D + d] * scale;
            graph_rope_turn(&l->rope, -(double)at, x);
            cal_turn_mean(&l->rope, a->turns[band], x);
            a->bias[row] = cblas_sdot((int)D, h->mean, 1, x, 1);
        }
    const size_t n = (size_t)l->group * a->n_bands;
    multiply(false, n, D, D, a->q, h->ask, a->w);
    multiply(true, n, h->n_codes, D, a->w, h->codes, a->table);
}

/* Each row of [SINKS, end) gets its place in the order of codes: the best of each head in turn. */
static void rank_by_code(const struct index_head *h, const struct rows *r, uint32_t group,
                         size_t at, size_t end, struct asking *a)
{
    for (size_t j = SINKS; j < end; j++)
        a->rank[j] = UINT32_MAX;
    for (uint32_t g = 0; g < group; g++) {
        for (size_t j = SINKS; j < end; j++) {
            const size_t row = (size_t)g * a->n_bands + band_of(at - j);
            a->order[j - SINKS] =
                (struct place){a->table[row * h->n_codes + r->code[j]] + a->bias[row], (uint32_t)j};
        }
        qsort(a->order, end - SINKS, sizeof(*a->order), by_score);
        for (uint32_t i = 0; i < end - SINKS; i++)
            if (i < a->rank[a->order[i].row])
                a->rank[a->order[i].row] = i;
    }
    for (size_t j = SINKS; j < end; j++)
        a->order[j - SINKS] = (struct place){-(float)a->rank[j], (uint32_t)j};
    qsort(a->order, end - SINKS, sizeof(*a->order), by_score);
    for (uint32_t i = 0; i < end - SINKS; i++)
        a->rank[a->order[i].row] = i;
}

/* a->order becomes that of weights, all heads together. */
static void order_by_weight(uint32_t group, size_t at, size_t end, struct asking *a)
{
    for (size_t j = SINKS; j < end; j++) {
        float sum = 0;
        for (uint32_t g = 0; g < group; g++)
            sum += a->logits[g * (at + 1) + j];
        a->order[j - SINKS] = (struct place){sum, (uint32_t)j};
    }
    qsort(a->order, end - SINKS, sizeof(*a->order), by_score);
}

static void softmax(float *x, size_t n)
{
    float most = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, x[i]);
    for (size_t i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - most);
    for (size_t i = 0; i < n; i++)
        x[i] /= sum;
}

/* Divergence that an error in a head's output makes: half of its mean square effect on the residual
 * stream, times how much that stream's errors count. */
static double cost_of(const float *error, const float *metric, uint32_t dim, double size)
{
    float moved[TKV_MAX_HEAD_DIM];
    multiply(false, 1, dim, dim, error, metric, moved);
    return size * size / 2 * (double)cblas_sdot((int)dim, error, 1, moved, 1);
}

/* What is missing from a head's output as long as no row is read: each has the mean value instead of
 * its own. */
static void miss_all(const struct rows *r, const float *weights, size_t end, float *missing)
{
    memset(missing, 0, r->value_dim * sizeof(*missing));
    for (size_t j = SINKS; j < end; j++)
        cblas_saxpy((int)r->value_dim, weights[j], r->values + j * r->value_dim, 1, missing, 1);
}

/* Adds what it costs to read the values of some of the rows among the first n_keys by code. */
static void add_costs(const struct rows *r, const struct cal_layer *l, const float *metrics,
                      size_t at, size_t end, size_t n_keys, const struct asking *a, double *costs)
{
    const size_t D = r->value_dim;
    size_t i = 0, n_read = 0;
    memcpy(a->left, a->missing, l->group * D * sizeof(float));
    for (int level = 0; level < SHARE_VALUES; level++) {
        const size_t wanted = (size_t)(share_values[level] * (double)(at + 1));
        for (; i < end - SINKS && n_read < wanted; i++) {
            const uint32_t row = a->order[i].row;
            if (a->rank[row] >= n_keys)
                continue;
            n_read++;
            for (uint32_t g = 0; g < l->group; g++)
                cblas_saxpy((int)D, -a->logits[g * (at + 1) + row], r->values + row * D, 1,
                            a->left + g * D, 1);
        }
        for (uint32_t g = 0; g < l->group; g++)
            costs[level] += cost_of(a->left + g * D, metrics + g * D * D, r->value_dim, l->size);
    }
}

/* ---- a layer ---------------------------------------------------------------------------------- */

/* W'W, [dim][dim], of a query head's part W of the output projection. */
static void metric_of(const struct cal_layer *l, uint32_t q_head, uint32_t dim, float *out)
{
    const float *from = l->projection + (size_t)q_head * dim;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)dim, (int)dim, (int)l->n_embd, 1,
                from, (int)l->n_out, from, (int)l->n_out, 0, out, (int)dim);
}

static void hide(const struct llama_api *api, const struct capture_layer *c, size_t at,
                 float *logits)
{
    const ggml_fp16_t *mask = (const void *)((const char *)c->mask + at * c->mask_stride);
    for (size_t j = 0; j <= at; j++)
        if (api->ggml_fp16_to_fp32(mask[j]) < 0)
            logits[j] = -INFINITY;
}

static void ask(const struct llama_api *api, const struct capture_layer *c,
                const struct cal_layer *l, uint32_t head, const struct index_head *h,
                const struct rows *r, size_t at, const float *metrics, struct asking *a,
                struct share_costs *costs)
{
    const size_t D = h->dim, end = at + 1 - CAL_NEAR;
    const char *q =
        (const char *)c->q + at * c->q_token_stride + (size_t)head * l->group * c->q_head_stride;
    float rows[MOST_GROUP * TKV_MAX_HEAD_DIM];
    for (uint32_t g = 0; g < l->group; g++)
        memcpy(rows + g * D, q + g * c->q_head_stride, D * sizeof(float));
    a->n_bands = band_of(at) + 1;
    make_tables(h, l, rows, at, c->scale, a);
    rank_by_code(h, r, l->group, at, end, a);
    multiply(true, l->group, at + 1, D, rows, r->keys, a->logits);
    for (uint32_t g = 0; g < l->group; g++) {
        float *logits = a->logits + g * (at + 1);
        cblas_sscal((int)at + 1, c->scale, logits, 1);
        hide(api, c, at, logits);
        softmax(logits, at + 1);
        miss_all(r, logits, end, a->missing + (size_t)g * r->value_dim);
    }
    order_by_weight(l->group, at, end, a);
    struct share_costs own = {{{0}}};
    for (int level = 0; level < SHARE_KEYS; level++)
        add_costs(r, l, metrics, at, end, (size_t)(share_keys[level] * (double)(at + 1)), a,
                  own.of[level]);
    for (int k = 0; k < SHARE_KEYS; k++)
        for (int v = 0; v < SHARE_VALUES; v++)
            costs->of[k][v] += own.of[k][v] * own.of[k][v];
}

static void measure_head(const struct llama_api *api, const struct capture_layer *c,
                         const struct cal_layer *l, uint32_t head, const struct index_head *h,
                         struct asking *a, struct share_costs *costs)
{
    const size_t n = c->n_q, square = (size_t)c->v_head_dim * c->v_head_dim;
    struct rows r = {.n = n,
                     .dim = c->k_head_dim,
                     .value_dim = c->v_head_dim,
                     .keys = cli_alloc(n * c->k_head_dim, sizeof(float)),
                     .values = cli_alloc(n * c->v_head_dim, sizeof(float)),
                     .code = cli_alloc(n, sizeof(uint32_t))};
    float *metrics = cli_alloc(l->group * square, sizeof(float));
    read_rows(api, c->k, c->k_token_stride, n, r.dim, head, r.keys);
    read_rows(api, c->v, c->v_token_stride, n, r.value_dim, head, r.values);
    take_mean(r.values, n, r.value_dim);
    find_codes(h, l, &r);
    for (uint32_t g = 0; g < l->group; g++)
        metric_of(l, head * l->group + g, r.value_dim, metrics + g * square);
    for (size_t i = 0; i < N_QUERIES; i++)
        ask(api, c, l, head, h, &r, n / 2 + (i + 1) * (n - n / 2) / N_QUERIES - 1, metrics, a,
            costs);
    free(r.keys), free(r.values), free(r.code), free(metrics);
}

static struct asking make_room(const struct calibration *c, const struct cal_layer *l, size_t n)
{
    const uint32_t D = l->heads[TKV_SPAN_TEXT][TKV_K]->dim, n_bands = band_of(n) + 1;
    const size_t n_rows = (size_t)l->group * n_bands;
    struct asking a = {.n_bands = n_bands,
                       .turns = cli_alloc(n_bands, sizeof(*a.turns)),
                       .q = cli_alloc(n_rows * D, sizeof(float)),
                       .w = cli_alloc(n_rows * D, sizeof(float)),
                       .bias = cli_alloc(n_rows, sizeof(float)),
                       .table = cli_alloc(n_rows * c->index_codes, sizeof(float)),
                       .logits = cli_alloc(l->group * n, sizeof(float)),
                       .order = cli_alloc(n, sizeof(*a.order)),
                       .rank = cli_alloc(n, sizeof(*a.rank)),
                       .missing = cli_alloc((size_t)l->group * TKV_MAX_HEAD_DIM, sizeof(float)),
                       .left = cli_alloc((size_t)l->group * TKV_MAX_HEAD_DIM, sizeof(float))};
    for (uint32_t band = 0; band < n_bands; band++) {
        const double from = (double)((size_t)CAL_NEAR << band);
        a.turns[band] = cli_alloc(l->rope.n_pairs + 1, sizeof(**a.turns));
        cal_mean_turn(&l->rope, from, from, a.turns[band]);
    }
    return a;
}

static void free_room(struct asking *a, uint32_t n_bands)
{
    for (uint32_t band = 0; band < n_bands; band++)
        free(a->turns[band]);
    free(a->turns), free(a->q), free(a->w), free(a->bias), free(a->table), free(a->logits);
    free(a->order), free(a->rank), free(a->missing), free(a->left);
}

bool share_costs_add(const struct calibration *c, const struct cal_book *book,
                     const struct cal_layer *layer, const struct capture_layer *rows,
                     struct share_costs *costs)
{
    if (layer->group > MOST_GROUP || !cal_book_find(book, "qvq.blk.%d.codes", layer->layer))
        return false;
    struct asking a = make_room(c, layer, rows->n_q);
    const uint32_t n_bands = a.n_bands;
    for (uint32_t head = 0; head < layer->n_kv_heads; head++) {
        struct index_head h = find_head(book, layer, head, c->index_codes);
        measure_head(&c->session->llama->api, rows, layer, head, &h, &a, &costs[head]);
        free(h.codes), free(h.half);
    }
    free_room(&a, n_bands);
    return true;
}
