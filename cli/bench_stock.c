/* Decode attention as stock llama.cpp does it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_stock.h"
#include "llama_load.h"

enum { FILL_ROWS = 64 };

struct stock_layers {
    struct ggml_context *ctx;
    ggml_backend_buffer_t buffer;
    struct ggml_cgraph **graphs; /* one a layer */
    uint32_t n_layers, next;
};

struct stock_engine {
    struct cli_llama llama;
    ggml_backend_t backend;
    struct stock_layers layers[STOCK_TYPES];
};

static const enum ggml_type ggml_types[STOCK_TYPES] = {GGML_TYPE_F16, GGML_TYPE_Q8_0,
                                                       GGML_TYPE_Q4_0};

const char *stock_type_name(enum stock_type type)
{
    static const char *const names[STOCK_TYPES] = {"f16", "q8_0", "q4_0"};
    return names[type];
}

struct stock_engine *stock_engine_open(const struct cli_common *common, uint32_t n_threads)
{
    struct stock_engine *e = cli_alloc(1, sizeof(*e));
    if (cli_llama_open(&e->llama, common, false) != CLI_OK) {
        free(e);
        return NULL;
    }
    const struct llama_api *api = &e->llama.api;
    ggml_backend_dev_t device = api->ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    e->backend = device ? api->ggml_backend_dev_init(device, NULL) : NULL;
    if (!e->backend) {
        cli_fail("llama.cpp in %s has no CPU backend; build it with GGML_CPU", e->llama.bin);
        stock_engine_close(e);
        return NULL;
    }
    void *address = api->ggml_backend_reg_get_proc_address(
        api->ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads");
    ggml_backend_set_n_threads_t set_n_threads;
    memcpy(&set_n_threads, &address, sizeof(address));
    set_n_threads(e->backend, (int)n_threads);
    return e;
}

/* A cache tensor as llama.cpp lays it out, [n_tokens][n_kv_heads * head_dim], filled by
 * repeating some rows. */
static struct ggml_tensor *new_cache(const struct llama_api *api, struct ggml_context *ctx,
                                     enum ggml_type type, const struct bench_shape *s)
{
    return api->ggml_new_tensor_2d(ctx, type, (int64_t)s->n_kv_heads * s->head_dim, s->n_tokens);
}

/* The view of it that attention reads, [n_kv_heads][n_tokens][head_dim]. */
static struct ggml_tensor *heads_of(const struct llama_api *api, struct ggml_context *ctx,
                                    enum ggml_type type, const struct bench_shape *s,
                                    struct ggml_tensor *cache)
{
    size_t head_bytes = api->ggml_row_size(type, s->head_dim);
    struct ggml_tensor *view =
        api->ggml_view_3d(ctx, cache, s->head_dim, s->n_kv_heads, s->n_tokens, head_bytes,
                          head_bytes * s->n_kv_heads, 0);
    return api->ggml_permute(ctx, view, 0, 2, 1, 3);
}

struct layer_tensors {
    struct ggml_tensor *k, *v, *q, *mask;
};

static struct ggml_cgraph *build_layer(const struct llama_api *api, struct ggml_context *ctx,
                                       enum ggml_type type, const struct bench_shape *s,
                                       struct layer_tensors *t)
{
    int64_t n_heads = (int64_t)s->n_kv_heads * s->group;
    t->k = new_cache(api, ctx, type, s);
    t->v = new_cache(api, ctx, type, s);
    t->q = api->ggml_new_tensor_3d(ctx, GGML_TYPE_F32, s->head_dim, 1, n_heads);
    t->mask = api->ggml_new_tensor_2d(ctx, GGML_TYPE_F16, s->n_tokens, 1);
    struct ggml_tensor *out = api->ggml_flash_attn_ext(
        ctx, t->q, heads_of(api, ctx, type, s, t->k), heads_of(api, ctx, type, s, t->v), t->mask,
        1.0f / sqrtf((float)s->head_dim), 0.0f, 0.0f);
    struct ggml_cgraph *graph = api->ggml_new_graph_custom(ctx, 16, false);
    api->ggml_build_forward_expand(graph, out);
    return graph;
}

/* Writes n_bytes of `block` over and over until `total` bytes are full. */
static void fill_tensor(const struct llama_api *api, struct ggml_tensor *t, const void *block,
                        size_t n_bytes, size_t total)
{
    for (size_t at = 0; at < total; at += n_bytes)
        api->ggml_backend_tensor_set(t, block, at, n_bytes < total - at ? n_bytes : total - at);
}

static void fill_layers(const struct llama_api *api, enum ggml_type type,
                        const struct bench_shape *s, const struct layer_tensors *t,
                        uint32_t n_layers)
{
    size_t row_elems = (size_t)s->n_kv_heads * s->head_dim,
           row_bytes = api->ggml_row_size(type, (int64_t)row_elems);
    size_t q_elems = row_elems * s->group;
    float *rows = cli_alloc(FILL_ROWS * row_elems, sizeof(*rows)),
          *q = cli_alloc(q_elems, sizeof(*q));
    void *block = cli_alloc(FILL_ROWS, row_bytes),
         *zeros = cli_alloc(s->n_tokens, sizeof(ggml_fp16_t));
    bench_fill_rows(rows, FILL_ROWS, row_elems, s->head_dim, 1);
    bench_fill_rows(q, 1, q_elems, s->head_dim, 2);
    api->ggml_quantize_chunk(type, rows, block, 0, FILL_ROWS, (int64_t)row_elems, NULL);
    for (uint32_t i = 0; i < n_layers; i++) {
        fill_tensor(api, t[i].k, block, FILL_ROWS * row_bytes, s->n_tokens * row_bytes);
        fill_tensor(api, t[i].v, block, FILL_ROWS * row_bytes, s->n_tokens * row_bytes);
        api->ggml_backend_tensor_set(t[i].q, q, 0, q_elems * sizeof(*q));
        api->ggml_backend_tensor_set(t[i].mask, zeros, 0, s->n_tokens * sizeof(ggml_fp16_t));
    }
    free(rows), free(q), free(block), free(zeros);
}

int stock_engine_add(struct stock_engine *e, enum stock_type type, const struct bench_shape *s,
                     size_t rotate_bytes)
{
    const struct llama_api *api = &e->llama.api;
    enum ggml_type gtype = ggml_types[type];
    if (s->head_dim % api->ggml_blck_size(gtype) != 0)
        return CLI_OK;
    size_t layer_bytes = 2 * api->ggml_row_size(gtype, s->head_dim) * s->n_kv_heads * s->n_tokens;
    struct stock_layers *l = &e->layers[type];
    uint32_t n_layers = (uint32_t)((rotate_bytes + layer_bytes - 1) / layer_bytes);
    size_t overhead =
        n_layers * (16 * api->ggml_tensor_overhead() + api->ggml_graph_overhead_custom(16, false));
    struct layer_tensors *t = cli_alloc(n_layers, sizeof(*t));
    *l = (struct stock_layers){.n_layers = n_layers,
                               .graphs = cli_alloc(n_layers, sizeof(*l->graphs))};
    l->ctx = api->ggml_init((struct ggml_init_params){.mem_size = overhead, .no_alloc = true});
    for (uint32_t i = 0; i < n_layers; i++)
        l->graphs[i] = build_layer(api, l->ctx, gtype, s, &t[i]);
    l->buffer = api->ggml_backend_alloc_ctx_tensors(l->ctx, e->backend);
    if (l->buffer)
        fill_layers(api, gtype, s, t, n_layers);
    free(t);
    if (!l->buffer)
        return cli_fail("no memory for %u layers of %s; take a smaller --ctx", n_layers,
                        stock_type_name(type));
    return CLI_OK;
}

double stock_engine_step(struct stock_engine *e, enum stock_type type)
{
    struct stock_layers *l = &e->layers[type];
    if (!l->buffer)
        return NAN;
    double start = cli_now();
    enum ggml_status status =
        e->llama.api.ggml_backend_graph_compute(e->backend, l->graphs[l->next]);
    double seconds = cli_now() - start;
    l->next = (l->next + 1) % l->n_layers;
    return status == GGML_STATUS_SUCCESS ? seconds : NAN;
}

void stock_engine_close(struct stock_engine *e)
{
    if (!e)
        return;
    const struct llama_api *api = &e->llama.api;
    for (int type = 0; type < STOCK_TYPES; type++) {
        struct stock_layers *l = &e->layers[type];
        if (l->buffer)
            api->ggml_backend_buffer_free(l->buffer);
        if (l->ctx)
            api->ggml_free(l->ctx);
        free(l->graphs);
    }
    if (e->backend)
        api->ggml_backend_free(e->backend);
    free(e);
}
