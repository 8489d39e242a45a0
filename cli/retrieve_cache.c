/* The coded cache that bench retrieve measures. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "retrieve.h"

enum {
    FILL_TOKENS = 512 /* rows a write, as many as llama.cpp's micro-batch */
};

static int fail(const char *what, const tkv_error *err)
{
    return cli_fail("%s: %s", what, err->text);
}

static int open_empty(struct retrieve_cache *c, const struct cli_common *common,
                      const struct retrieve_rows *rows)
{
    const struct retrieve_layer *l = &rows->layers[0];
    tkv_context_params params;
    tkv_error err;
    tkv_context_params_default(&params);
    params.cpu_mask = common->cpu_mask;
    bench_executor(&params.executor, &c->n_threads);
    if (tkv_context_create(&params, &c->ctx, &err) != TKV_OK)
        return fail("--kv", &err);
    if (bench_book_open(c->ctx, &c->spec, l->n_kv_heads, l->head_dim, &c->book) != CLI_OK)
        return CLI_DATA;
    if (tkv_cache_create(c->ctx, &c->spec, &c->cache, &err) != TKV_OK ||
        (c->book.book && tkv_cache_set_book(c->cache, c->book.book, &err) != TKV_OK))
        return fail("--kv", &err);
    return CLI_OK;
}

static int add_layer(struct retrieve_cache *c, const struct retrieve_layer *l)
{
    uint32_t index;
    const size_t n_pages = (c->n_tokens + TKV_PAGE_TOKENS - 1) / TKV_PAGE_TOKENS;
    const tkv_layer_params params = {.struct_size = sizeof(params),
                                     .n_kv_heads = l->n_kv_heads,
                                     .k_head_dim = l->head_dim,
                                     .v_head_dim = l->head_dim,
                                     .n_slots = (uint32_t)(n_pages * TKV_PAGE_TOKENS),
                                     .n_streams = 1,
                                     .model_layer = (uint32_t)l->layer};
    tkv_error err;
    return tkv_cache_add_layer(c->cache, &params, &index, &err) == TKV_OK ? CLI_OK
                                                                          : fail("--kv", &err);
}

static int fill_layer(struct retrieve_cache *c, const struct retrieve_rows *rows, size_t i_layer,
                      struct cli_progress *progress)
{
    const struct retrieve_layer *l = &rows->layers[i_layer];
    const size_t n_elems = (size_t)l->n_kv_heads * l->head_dim, stride = n_elems * sizeof(float);
    float *k = cli_alloc(FILL_TOKENS, stride), *v = cli_alloc(FILL_TOKENS, stride);
    int64_t slots[FILL_TOKENS];
    int32_t pos[FILL_TOKENS];
    tkv_error err;
    int rc = CLI_OK;
    for (size_t at = 0; at < c->n_tokens && rc == CLI_OK; at += FILL_TOKENS) {
        const size_t n = c->n_tokens - at < FILL_TOKENS ? c->n_tokens - at : FILL_TOKENS;
        for (size_t i = 0; i < n; i++) {
            slots[i] = (int64_t)(at + i);
            pos[i] = (int32_t)(at + i);
        }
        retrieve_rows_make(rows, l, c->n_tokens, at, n, k, v);
        const double start = cli_now();
        if (tkv_cache_write(c->cache, (uint32_t)i_layer, n, slots, pos, NULL,
                            (tkv_rows){k, TKV_F32, stride}, (tkv_rows){v, TKV_F32, stride},
                            &err) != TKV_OK ||
            tkv_cache_seal(c->cache, (uint32_t)i_layer, &err) != TKV_OK)
            rc = fail("filling the cache", &err);
        c->write_seconds += cli_now() - start;
        cli_progress_step(progress, (double)n / (double)c->n_tokens / (double)c->n_layers, NULL);
    }
    free(k), free(v);
    return rc;
}

int retrieve_cache_open(struct retrieve_cache *c, const struct cli_common *common,
                        const tkv_spec *spec, const struct retrieve_rows *rows, size_t n_tokens,
                        size_t n_layers, struct cli_progress *progress)
{
    *c = (struct retrieve_cache){.spec = *spec,
                                 .n_threads = (uint32_t)common->n_threads,
                                 .n_tokens = n_tokens,
                                 .n_layers = n_layers};
    int rc = open_empty(c, common, rows);
    for (size_t i = 0; i < n_layers && rc == CLI_OK; i++)
        rc = add_layer(c, &rows->layers[i]);
    for (size_t i = 0; i < n_layers && rc == CLI_OK; i++)
        rc = fill_layer(c, rows, i, progress);
    return rc;
}

void retrieve_cache_close(struct retrieve_cache *c)
{
    tkv_cache_destroy(c->cache);
    bench_book_close(&c->book);
    tkv_context_destroy(c->ctx);
}

tkv_attend_params retrieve_call(const struct retrieve_cache *c, const struct retrieve_rows *rows,
                                size_t i_layer, size_t i, int32_t *pos, float *q, float *out)
{
    const struct retrieve_layer *l = &rows->layers[i_layer];
    tkv_attend_params p;
    tkv_attend_params_default(&p);
    *pos = (int32_t)c->n_tokens - 1;
    if (c->n_tokens == rows->n_tokens) /* a query of the text itself sees what came before it */
        *pos -= (int32_t)(RETRIEVE_QUERIES - 1 - i);
    retrieve_rows_query(rows, l, c->n_tokens, i, q);
    p.layer = (uint32_t)i_layer;
    p.n_q = 1;
    p.n_q_heads = l->n_kv_heads * l->group;
    p.q = q;
    p.out = out;
    p.q_head_stride = p.out_head_stride = l->head_dim * sizeof(float);
    p.q_token_stride = p.out_token_stride = p.n_q_heads * p.q_head_stride;
    p.n_kv = (size_t)*pos + 1;
    p.q_pos = pos;
    p.scale = l->scale;
    return p;
}
