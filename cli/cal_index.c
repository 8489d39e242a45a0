/* The trainer of the retrieval index: for every head of keys a basis, and codes in steps of it. */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "index_learn.h"

enum {
    N_ROUNDS = 6
};

/* One head's part of the tensors. */
struct head {
    uint32_t dim, n_codes;
    float *to, *ask, *mean;
    int8_t *codes;
};

static void covariance(const struct cal_head *h, double *out)
{
    const uint32_t n = h->dim;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            out[(size_t)i * n + j] = h->plain_square[(size_t)i * n + j] / h->n -
                                     h->plain_sum[i] / h->n * (h->plain_sum[j] / h->n);
}

/* ---- which queries ask ---------------------------------------------------------------------- */

/* Turns both sides of a symmetric matrix, pair by pair: cosine and sine. */
static void turn_both(const struct graph_rope *rope, double (*turn)[2], uint32_t dim, double *m)
{
    const uint32_t step = rope->halves ? 1 : 2, apart = rope->halves ? rope->n_pairs : 1;
    for (int side = 0; side < 2; side++)
        for (uint32_t i = 0; i < rope->n_pairs; i++) {
            const size_t along = side ? dim : 1, across = side ? 1 : dim;
            double *a = m + i * step * along, *b = a + apart * along;
            for (uint32_t k = 0; k < dim; k++, a += across, b += across) {
                const double x = *a, y = *b;
                *a = x * turn[i][0] - y * turn[i][1];
                *b = x * turn[i][1] + y * turn[i][0];
            }
        }
}

void cal_mean_turn(const struct graph_rope *rope, double from, double n, double (*turn)[2])
{
    for (uint32_t i = 0; i < rope->n_pairs; i++) {
        double c = 0, s = 0;
        for (double d = from; d < from + n; d++) {
            c += cos(d * (double)rope->freq[i]);
            s += sin(d * (double)rope->freq[i]);
        }
        turn[i][0] = c / n;
        turn[i][1] = s / n;
    }
}

void cal_turn_mean(const struct graph_rope *rope, const double (*turn)[2], float *x)
{
    const uint32_t step = rope->halves ? 1 : 2, apart = rope->halves ? rope->n_pairs : 1;
    for (uint32_t i = 0; i < rope->n_pairs; i++) {
        float *a = x + i * step, *b = a + apart;
        const double u = (double)*a, v = (double)*b;
        *a = (float)(u * turn[i][0] - v * turn[i][1]);
        *b = (float)(u * turn[i][1] + v * turn[i][0]);
    }
}

/* Second moments of queries as they ask in the bands of distances of a whole context, all bands
 * alike: see index.h of the library. */
static void over_bands(const struct calibration *c, const struct cal_layer *layer,
                       const double *far, uint32_t dim, double *out)
{
    const size_t square = (size_t)dim * dim;
    double *plain = cli_alloc(square, sizeof(*plain)), *band = cli_alloc(square, sizeof(*band));
    double(*turn)[2] = cli_alloc(layer->rope.n_pairs + 1, sizeof(*turn));
    memcpy(plain, far, square * sizeof(*plain));
    cal_mean_turn(&layer->rope, -CAL_FAR, 1, turn);
    turn_both(&layer->rope, turn, dim, plain);
    memset(out, 0, square * sizeof(*out));
    for (uint32_t from = CAL_NEAR; from == CAL_NEAR || from < c->session->n_ctx_train; from *= 2) {
        cal_mean_turn(&layer->rope, from, from, turn);
        memcpy(band, plain, square * sizeof(*band));
        turn_both(&layer->rope, turn, dim, band);
        for (size_t i = 0; i < square; i++)
            out[i] += band[i];
    }
    free(plain), free(band), free(turn);
}

/* ---- one head ------------------------------------------------------------------------------- */

static bool make_basis(const struct cal_head *from, const double *queries, struct head *out)
{
    const uint32_t n = from->dim;
    const size_t square = (size_t)n * n;
    double *keys = cli_alloc(square, sizeof(*keys));
    double *to = cli_alloc(square, sizeof(*to)), *ask = cli_alloc(square, sizeof(*ask));
    covariance(from, keys);
    const bool good = index_basis(queries, keys, n, to, ask);
    for (size_t i = 0; i < square && good; i++) {
        out->to[i] = (float)to[i];
        out->ask[i] = (float)ask[i];
    }
    for (uint32_t i = 0; i < n; i++)
        out->mean[i] = (float)(from->plain_sum[i] / from->n);
    free(keys), free(to), free(ask);
    return good;
}

/* The head's samples as coefficients, [n_tokens][dim]. */
static float *coefficients(const struct calibration *c, const struct cal_samples *s, uint32_t head,
                           const struct head *h)
{
    const struct llama_api *api = &c->session->llama->api;
    const size_t n = s->n_tokens, dim = h->dim;
    float *x = cli_alloc(n * dim, sizeof(*x)), *z = cli_alloc(n * dim, sizeof(*z));
    for (size_t t = 0; t < n; t++)
        for (size_t d = 0; d < dim; d++)
            x[t * dim + d] =
                api->ggml_fp16_to_fp32(s->rows[(t * s->n_heads + head) * dim + d]) - h->mean[d];
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)dim, (int)dim, 1, x,
                (int)dim, h->to, (int)dim, 0, z, (int)dim);
    free(x);
    return z;
}

/* Makes 127 steps reach as far as any sample. */
static void scale(float *z, size_t n, struct head *h)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(z[i]));
    const float step = fmaxf(most / 127, 0x1p-60f);
    for (size_t i = 0; i < n; i++)
        z[i] /= step;
    for (size_t i = 0; i < (size_t)h->dim * h->dim; i++) {
        h->to[i] /= step;
        h->ask[i] *= step;
    }
}

static int train_head(const struct calibration *c, size_t layer, uint32_t head, bool bands,
                      struct head *h)
{
    const struct cal_layer *l = &c->layers[layer];
    const struct cal_head *from = &l->heads[TKV_SPAN_TEXT][TKV_K][head];
    const struct cal_samples s = cal_samples(c, layer, TKV_K, TKV_SPAN_TEXT);
    double *queries = cli_alloc((size_t)h->dim * h->dim, sizeof(*queries));
    if (bands)
        over_bands(c, l, from->query_far, h->dim, queries);
    const bool good = make_basis(from, bands ? queries : from->query_far, h);
    free(queries);
    if (!good)
        return cli_fail("layer %d: queries or keys that do not vary: no index", l->layer);
    const size_t n_codes = (size_t)h->n_codes * h->dim;
    float *z = coefficients(c, &s, head, h), *centroids = cli_alloc(n_codes, sizeof(*centroids));
    scale(z, s.n_tokens * h->dim, h);
    index_learn(&(struct kmeans_rows){z, NULL, s.n_tokens, h->dim}, h->n_codes, N_ROUNDS,
                cal_random(c, layer * l->n_kv_heads + head), c->session->n_threads, centroids);
    for (size_t i = 0; i < n_codes; i++)
        h->codes[i] = (int8_t)lrintf(centroids[i]);
    free(z), free(centroids);
    return CLI_OK;
}

static int train_layer(const struct calibration *c, size_t layer, bool bands, struct cal_book *book)
{
    const struct cal_layer *l = &c->layers[layer];
    const uint32_t D = l->heads[TKV_SPAN_TEXT][TKV_K]->dim, n = l->n_kv_heads;
    const size_t square = (size_t)D * D, n_codes = (size_t)c->index_codes * D;
    const struct head all = {D,
                             c->index_codes,
                             cli_alloc(n * square, sizeof(float)),
                             cli_alloc(n * square, sizeof(float)),
                             cli_alloc((size_t)n * D, sizeof(float)),
                             cli_alloc(n, n_codes)};
    int rc = CLI_OK;
    for (uint32_t h = 0; h < n && rc == CLI_OK; h++)
        rc = train_head(c, layer, h, bands,
                        &(struct head){D, c->index_codes, all.to + h * square, all.ask + h * square,
                                       all.mean + (size_t)h * D, all.codes + h * n_codes});
    if (rc == CLI_OK) {
        cal_book_add(book, GGML_TYPE_I8, (int64_t[]){D, c->index_codes, n}, all.codes,
                     "qvq.blk.%d.codes", l->layer);
        cal_book_add(book, GGML_TYPE_F32, (int64_t[]){D, D, n}, all.to, "qvq.blk.%d.to", l->layer);
        cal_book_add(book, GGML_TYPE_F32, (int64_t[]){D, D, n}, all.ask, "qvq.blk.%d.ask",
                     l->layer);
        cal_book_add(book, GGML_TYPE_F32, (int64_t[]){D, 1, n}, all.mean, "qvq.blk.%d.mean",
                     l->layer);
    }
    free(all.to), free(all.ask), free(all.mean), free(all.codes);
    return rc;
}

int cal_index_check(const struct calibration *c)
{
    const struct cal_samples s = cal_samples(c, 0, TKV_K, TKV_SPAN_TEXT);
    for (size_t i = 0; i < c->n_layers; i++)
        if (c->layers[i].heads[TKV_SPAN_TEXT][TKV_K]->dim % 16 != 0)
            return cli_fail("layer %d: keys of %u values; an index takes multiples of 16",
                            c->layers[i].layer, c->layers[i].heads[TKV_SPAN_TEXT][TKV_K]->dim);
    if (s.n_tokens < c->index_codes)
        return cli_fail("%zu tokens were sampled, too few for an index of %u codes; sample more "
                        "with --tokens and --sample, or ask for fewer with --index-codes",
                        s.n_tokens, c->index_codes);
    return CLI_OK;
}

static int train(const struct calibration *c, bool bands, struct cal_book *book)
{
    int rc = cal_index_check(c);
    for (size_t i = 0; i < c->n_layers && rc == CLI_OK; i++) {
        rc = train_layer(c, i, bands, book);
        rc = rc == CLI_OK ? cal_stopped(c) : rc;
    }
    cal_book_set(book, "qvq.far", CAL_FAR);
    cal_book_set(book, "qvq.window", CAL_NEAR);
    return rc;
}

int cal_train_index(const struct calibration *c, struct cal_book *book)
{
    const int rc = train(c, true, book);
    return rc == CLI_OK ? cal_share(c, book) : rc;
}

int cal_train_index_far(const struct calibration *c, struct cal_book *book)
{
    return train(c, false, book);
}
