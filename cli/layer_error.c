/* Errors of a layer. Rows go into a cache batch by batch as llama.cpp writes them, and queries
 * ask it between: what is sealed when a query comes, and what the cache learned from the first
 * queries, is then as in use. */
#include "layer_error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum {
    BATCH = 512,
    MAX_QUERIES = 256
};

/* llama.cpp's own attention rounds to f16 on its way: an error of about 1e-6. */
static const double same_attention = .01;

/* Numerator and denominator of a relative squared error. */
struct sums {
    double error, square;
};

static double ratio(struct sums s)
{
    return s.square > 0 ? s.error / s.square : NAN;
}

static void add(struct sums *s, const float *exact, const float *coded, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double x = (double)exact[i], e = x - (double)coded[i];
        s->error += e * e;
        s->square += x * x;
    }
}

/* ALiBi's factors on the mask, by the rule of ggml's kernels. */
static float *make_slopes(const struct capture_layer *l)
{
    if (l->max_bias <= 0)
        return NULL;
    float *slopes = cli_alloc(l->n_q_heads, sizeof(*slopes));
    uint32_t n_even = 1;
    while (2 * n_even <= l->n_q_heads)
        n_even *= 2;
    for (uint32_t h = 0; h < l->n_q_heads; h++) {
        float step = h < n_even ? (float)(h + 1) : (float)(h - n_even) + .5F;
        slopes[h] = exp2f(-l->max_bias * step / (float)n_even);
    }
    return slopes;
}

/* ---- one cache ----------------------------------------------------------------------------- */

/* A pass of the layer through a cache. */
struct pass {
    const struct layer_probe *probe;
    const tkv_spec *spec;
    tkv_cache *cache;
    float *out;    /* of the sampled queries */
    float *unused; /* outputs that only show the cache its first queries */
    tkv_error *err;
};

static tkv_status write_rows(struct pass *p, size_t first, size_t n)
{
    const struct capture_layer *l = p->probe->layer;
    int64_t slots[BATCH];
    int32_t pos[BATCH];
    for (size_t i = 0; i < n; i++) {
        slots[i] = (int64_t)(first + i);
        pos[i] = (int32_t)(first + i);
    }
    tkv_rows k = {(const char *)l->k + first * l->k_token_stride, TKV_F16, l->k_token_stride};
    tkv_rows v = {(const char *)l->v + first * l->v_token_stride, TKV_F16, l->v_token_stride};
    return tkv_cache_write(p->cache, 0, n, slots, pos, NULL, k, v, p->err);
}

/* Attention of n queries, `step` tokens apart from token `first` on. */
static tkv_status ask(struct pass *p, size_t first, size_t step, size_t n, float *out)
{
    const struct capture_layer *l = p->probe->layer;
    int32_t pos[BATCH];
    for (size_t i = 0; i < n; i++)
        pos[i] = (int32_t)(first + i * step);
    tkv_attend_params a;
    tkv_attend_params_default(&a);
    a.n_q = (uint32_t)n;
    a.n_q_heads = l->n_q_heads;
    a.q = (const float *)(const void *)((const char *)l->q + first * l->q_token_stride);
    a.q_token_stride = step * l->q_token_stride;
    a.q_head_stride = l->q_head_stride;
    a.out = out;
    a.out_head_stride = l->v_head_dim * sizeof(float);
    a.out_token_stride = l->n_q_heads * a.out_head_stride;
    a.n_kv = l->n_q;
    a.mask = (const char *)l->mask + first * l->mask_stride;
    a.mask_type = TKV_F16;
    a.mask_stride = step * l->mask_stride;
    a.q_pos = pos;
    a.scale = l->scale;
    a.softcap = l->softcap;
    a.slopes = p->probe->slopes;
    a.sinks = l->sinks;
    return tkv_attend(p->cache, &a, p->err);
}

/* The sampled queries among tokens [first, first + n). */
static tkv_status ask_sampled(struct pass *p, size_t first, size_t n)
{
    const struct layer_probe *probe = p->probe;
    size_t i = 0, last = first + n;
    if (first > probe->first_query)
        i = (first - probe->first_query + probe->query_step - 1) / probe->query_step;
    size_t begin = i;
    while (i < probe->n_queries && probe->first_query + i * probe->query_step < last)
        i++;
    if (i == begin)
        return TKV_OK;
    size_t row = (size_t)probe->layer->n_q_heads * probe->layer->v_head_dim;
    return ask(p, probe->first_query + begin * probe->query_step, probe->query_step, i - begin,
               p->out + begin * row);
}

static tkv_status run_batches(struct pass *p)
{
    /* As many as a cache learns from. */
    size_t n_first = (size_t)p->spec->sink + p->spec->tail;
    size_t n = p->probe->layer->n_q;
    tkv_status status = TKV_OK;
    n_first = n_first > TKV_PAGE_TOKENS ? n_first : TKV_PAGE_TOKENS;
    for (size_t at = 0; at < n && status == TKV_OK; at += BATCH) {
        size_t n_batch = n - at < BATCH ? n - at : BATCH;
        status = write_rows(p, at, n_batch);
        if (status == TKV_OK && at == 0)
            status = ask(p, 0, 1, n_first < n_batch ? n_first : n_batch, p->unused);
        if (status == TKV_OK)
            status = ask_sampled(p, at, n_batch);
        if (status == TKV_OK)
            status = tkv_cache_seal(p->cache, 0, p->err);
    }
    return status;
}

/* Makes the pass's cache and sends the layer through it; the caller destroys the cache. */
static tkv_status run_pass(struct pass *p)
{
    const struct capture_layer *l = p->probe->layer;
    tkv_layer_params shape = {.struct_size = sizeof(shape),
                              .n_kv_heads = l->n_kv_heads,
                              .k_head_dim = l->k_head_dim,
                              .v_head_dim = l->v_head_dim,
                              .n_slots = (uint32_t)l->n_q,
                              .n_streams = 1};
    uint32_t index;
    shape.n_slots = (shape.n_slots + TKV_PAGE_TOKENS - 1) / TKV_PAGE_TOKENS * TKV_PAGE_TOKENS;
    tkv_status status = tkv_cache_create(p->probe->ctx, p->spec, &p->cache, p->err);
    if (status == TKV_OK)
        status = tkv_cache_add_layer(p->cache, &shape, &index, p->err);
    p->unused = cli_alloc((size_t)BATCH * l->n_q_heads * l->v_head_dim, sizeof(float));
    if (status == TKV_OK)
        status = run_batches(p);
    free(p->unused);
    return status;
}

/* Rows [first, first + n) of all heads, decoded; NULL on failure. The caller frees. */
static float *read_rows(struct pass *p, tkv_kind kind, size_t first, size_t n, tkv_status *status)
{
    const struct capture_layer *l = p->probe->layer;
    size_t width = (size_t)l->n_kv_heads * (kind == TKV_K ? l->k_head_dim : l->v_head_dim);
    int64_t *slots = cli_alloc(n, sizeof(*slots));
    for (size_t i = 0; i < n; i++)
        slots[i] = (int64_t)(first + i);
    float *rows = cli_alloc(n * width, sizeof(*rows));
    *status =
        tkv_cache_read(p->cache, 0, kind, n, slots, rows, TKV_F32, width * sizeof(*rows), p->err);
    free(slots);
    if (*status == TKV_OK)
        return rows;
    free(rows);
    return NULL;
}

/* ---- the probe ----------------------------------------------------------------------------- */

/* Our exact attention against llama.cpp's. */
static tkv_status check_outputs(const struct layer_probe *probe, tkv_error *err)
{
    const struct capture_layer *l = probe->layer;
    struct sums sums = {0};
    const float *ours = probe->out;
    for (size_t i = 0; i < probe->n_queries; i++) {
        const char *theirs = (const char *)l->out +
                             (probe->first_query + i * probe->query_step) * l->out_token_stride;
        for (size_t h = 0; h < l->n_q_heads; h++, ours += l->v_head_dim)
            add(&sums, (const float *)(const void *)(theirs + h * l->out_head_stride), ours,
                l->v_head_dim);
    }
    if (sums.error <= same_attention * sums.square)
        return TKV_OK;
    snprintf(err->text, sizeof(err->text),
             "attention of layer %d is not as tightkv computes it (error %.2g)", l->layer,
             ratio(sums));
    return TKV_ERR_UNSUPPORTED;
}

tkv_status layer_probe_open(tkv_context *ctx, const struct capture_layer *layer,
                            struct layer_probe *out, tkv_error *err)
{
    *out = (struct layer_probe){.ctx = ctx, .layer = layer, .slopes = make_slopes(layer)};
    out->first_query = layer->n_q / 2;
    out->query_step = (layer->n_q - out->first_query + MAX_QUERIES - 1) / MAX_QUERIES;
    out->n_queries = (layer->n_q - out->first_query + out->query_step - 1) / out->query_step;
    out->out = cli_alloc(out->n_queries * layer->n_q_heads * layer->v_head_dim, sizeof(float));

    tkv_spec spec = {.struct_size = sizeof(spec)};
    struct pass p = {.probe = out, .spec = &spec, .out = out->out, .err = err};
    tkv_status status = tkv_spec_parse("kv=f16,sink=0,tail=0", &spec, err);
    if (status == TKV_OK)
        status = run_pass(&p);
    if (status == TKV_OK)
        out->k = read_rows(&p, TKV_K, 0, layer->n_q, &status);
    if (status == TKV_OK)
        out->v = read_rows(&p, TKV_V, 0, layer->n_q, &status);
    if (status == TKV_OK)
        status = check_outputs(out, err);
    tkv_cache_destroy(p.cache);
    if (status != TKV_OK)
        layer_probe_close(out);
    return status;
}

void layer_probe_close(struct layer_probe *probe)
{
    free(probe->slopes);
    free(probe->k);
    free(probe->v);
    free(probe->out);
    *probe = (struct layer_probe){0};
}

/* Adds the errors of sealed rows to sums[KV head]: those of pages without a sink row and wholly
 * older than the tail. */
static tkv_status compare_rows(struct pass *p, tkv_kind kind, struct sums *sums)
{
    const struct capture_layer *l = p->probe->layer;
    size_t page = TKV_PAGE_TOKENS, first = (p->spec->sink + page - 1) / page * page;
    size_t last = l->n_q > p->spec->tail ? (l->n_q - p->spec->tail) / page * page : 0;
    size_t dim = kind == TKV_K ? l->k_head_dim : l->v_head_dim;
    const float *exact = kind == TKV_K ? p->probe->k : p->probe->v;
    if (last <= first)
        return TKV_OK;
    tkv_status status;
    float *coded = read_rows(p, kind, first, last - first, &status);
    for (size_t i = 0; coded && i < (last - first) * l->n_kv_heads; i++)
        add(&sums[i % l->n_kv_heads], exact + (first * l->n_kv_heads + i) * dim, coded + i * dim,
            dim);
    free(coded);
    return status;
}

static void compare_outputs(const struct pass *p, struct sums *sums)
{
    const struct capture_layer *l = p->probe->layer;
    size_t group = l->n_q_heads / l->n_kv_heads, dim = l->v_head_dim;
    for (size_t i = 0; i < p->probe->n_queries * l->n_q_heads; i++)
        add(&sums[i % l->n_q_heads / group], p->probe->out + i * dim, p->out + i * dim, dim);
}

/* sums: [K, V, output][n_heads]. */
static void finish(const struct sums *sums, uint32_t n_heads, struct layer_error *out)
{
    struct sums all[3] = {{0}};
    *out =
        (struct layer_error){.n_heads = n_heads, .heads = cli_alloc(n_heads, sizeof(*out->heads))};
    for (uint32_t h = 0; h < n_heads; h++) {
        out->heads[h] = (struct head_error){ratio(sums[h]), ratio(sums[n_heads + h]),
                                            ratio(sums[2 * n_heads + h])};
        for (size_t i = 0; i < 3; i++) {
            all[i].error += sums[i * n_heads + h].error;
            all[i].square += sums[i * n_heads + h].square;
        }
    }
    out->all = (struct head_error){ratio(all[0]), ratio(all[1]), ratio(all[2])};
}

tkv_status layer_probe_measure(const struct layer_probe *probe, const tkv_spec *spec,
                               struct layer_error *out, tkv_error *err)
{
    const struct capture_layer *l = probe->layer;
    struct pass p = {.probe = probe, .spec = spec, .err = err};
    p.out = cli_alloc(probe->n_queries * l->n_q_heads * l->v_head_dim, sizeof(*p.out));
    struct sums *sums = cli_alloc(3 * (size_t)l->n_kv_heads, sizeof(*sums));
    tkv_status status = run_pass(&p);
    if (status == TKV_OK)
        status = compare_rows(&p, TKV_K, sums);
    if (status == TKV_OK)
        status = compare_rows(&p, TKV_V, sums + l->n_kv_heads);
    if (status == TKV_OK) {
        compare_outputs(&p, sums + 2 * l->n_kv_heads);
        finish(sums, l->n_kv_heads, out);
    }
    tkv_cache_destroy(p.cache);
    free(sums);
    free(p.out);
    return status;
}

void layer_error_free(struct layer_error *error)
{
    free(error->heads);
    *error = (struct layer_error){0};
}
