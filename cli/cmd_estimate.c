/* tightkv estimate: cache bytes of a model, by kind of layer, stock and coded. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>

#include "cache_size.h"
#include "cli.h"
#include "llama_load.h"
#include "model_layers.h"

enum { N_STOCK = 3, MAX_KINDS = LAYER_NONE };

/* Layers of one shape. */
struct group {
    struct model_layer layer;
    uint32_t cells, n_layers;
};

struct row {
    char *name; /* "stock:f16", or a spec as given */
    tkv_spec spec;
    enum ggml_type stock; /* GGML_TYPE_COUNT: a coded cache */
    double bytes[MAX_KINDS];
    double total;
};

struct estimate {
    struct cli_llama llama;
    struct model_layers model;
    uint32_t ctx;
    struct group *groups;
    size_t n_groups;
    struct row *rows;
    size_t n_rows;
};

static const char *const kind_keys[MAX_KINDS] = {"full", "window", "mla", "recurrent"};

static void group_layers(struct estimate *e)
{
    e->groups = cli_alloc(e->model.n_layers, sizeof(*e->groups));
    for (uint32_t i = 0; i < e->model.n_layers; i++) {
        const struct model_layer *l = &e->model.layers[i];
        size_t g = 0;
        while (g < e->n_groups && !model_layers_same(&e->groups[g].layer, l))
            g++;
        if (g == e->n_groups)
            e->groups[e->n_groups++] =
                (struct group){*l, l->n_kv_heads ? model_layer_cells(&e->model, l, e->ctx) : 0, 0};
        e->groups[g].n_layers++;
    }
}

/* Bytes of a layer in stock llama.cpp; NaN where the type does not fit the head size. */
static double stock_bytes(const struct llama_api *api, const struct group *g, enum ggml_type type)
{
    const struct model_layer *l = &g->layer;
    int64_t block = api->ggml_blck_size(type);
    if (l->k_head_dim % block != 0 || l->v_head_dim % block != 0)
        return NAN;
    size_t token =
        api->ggml_row_size(type, l->k_head_dim) + api->ggml_row_size(type, l->v_head_dim);
    return (double)token * l->n_kv_heads * g->cells;
}

/* Bytes of a layer of `g` in `row`'s cache. Layers that cannot be coded stay f16, as in the
 * plug-in. */
static tkv_status layer_bytes(const struct estimate *e, tkv_context *ctx, const struct row *row,
                              const struct group *g, double *bytes, tkv_error *err)
{
    const struct model_layer *l = &g->layer;
    *bytes = 0;
    if (l->n_kv_heads == 0)
        return TKV_OK;
    bool coded = row->stock == GGML_TYPE_COUNT && l->kind != LAYER_MLA &&
                 cache_can_code(&row->spec, l->k_head_dim, l->v_head_dim);
    if (coded) {
        struct cache_shape shape = {l->n_kv_heads, l->k_head_dim, l->v_head_dim, g->cells, e->ctx};
        return cache_size(ctx, &row->spec, &shape, bytes, err);
    }
    *bytes =
        stock_bytes(&e->llama.api, g, row->stock == GGML_TYPE_COUNT ? GGML_TYPE_F16 : row->stock);
    return TKV_OK;
}

static tkv_status fill_row(const struct estimate *e, tkv_context *ctx, struct row *row,
                           tkv_error *err)
{
    for (size_t i = 0; i < e->n_groups; i++) {
        const struct group *g = &e->groups[i];
        double bytes;
        tkv_status status = layer_bytes(e, ctx, row, g, &bytes, err);
        if (status != TKV_OK)
            return status;
        enum layer_kind kind = g->layer.kind == LAYER_NONE ? LAYER_FULL : g->layer.kind;
        row->bytes[kind] += bytes * g->n_layers;
        row->bytes[LAYER_RECURRENT] += (double)g->layer.state_bytes * g->n_layers;
    }
    for (int kind = 0; kind < MAX_KINDS; kind++)
        row->total += row->bytes[kind];
    return TKV_OK;
}

static void add_stock_rows(struct estimate *e)
{
    static const enum ggml_type types[N_STOCK] = {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0};
    e->rows = cli_alloc(N_STOCK, sizeof(*e->rows));
    for (; e->n_rows < N_STOCK; e->n_rows++)
        e->rows[e->n_rows] = (struct row){
            .name = cli_format("stock:%s", e->llama.api.ggml_type_name(types[e->n_rows])),
            .stock = types[e->n_rows]};
}

static bool add_row(struct estimate *e, const char *kv)
{
    struct row row = {.stock = GGML_TYPE_COUNT, .spec = {.struct_size = sizeof(tkv_spec)}};
    tkv_error err;
    if (tkv_spec_parse(kv, &row.spec, &err) != TKV_OK) {
        cli_misuse("estimate", "--kv: %s", err.text);
        return false;
    }
    row.name = cli_format("%s", kv);
    e->rows = cli_grow(e->rows, e->n_rows + 1, sizeof(*e->rows));
    e->rows[e->n_rows++] = row;
    return true;
}

/* The specs asked for, or every preset. */
static bool add_coded_rows(struct estimate *e, const struct cli_list *kv)
{
    const char *name, *text, *summary;
    for (size_t i = 0; i < kv->n; i++)
        if (!add_row(e, kv->items[i]))
            return false;
    for (uint32_t i = 0; kv->n == 0 && tkv_spec_preset(i, &name, &text, &summary) == TKV_OK; i++)
        if (!add_row(e, name))
            return false;
    return true;
}

/* Values that the caches hold when the context is full. */
static double count_values(const struct estimate *e)
{
    double n = 0;
    for (size_t i = 0; i < e->n_groups; i++) {
        const struct group *g = &e->groups[i];
        uint32_t tokens = g->cells < e->ctx ? g->cells : e->ctx;
        n += (double)g->n_layers * tokens * g->layer.n_kv_heads *
             (g->layer.k_head_dim + g->layer.v_head_dim);
    }
    return n;
}

static double bits_per_value(const struct estimate *e, const struct row *row)
{
    return 8 * (row->total - row->bytes[LAYER_RECURRENT]) / count_values(e);
}

static int print_json(const struct estimate *e, const struct cli_common *common, const char *path)
{
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "estimate", common);
    cli_json_base_name(root, "model", path);
    cli_json_text(root, "arch", e->model.arch);
    cli_json_number(root, "ctx", e->ctx);
    cJSON *layers = cli_json_array(root, "layers");
    for (size_t i = 0; i < e->n_groups; i++) {
        const struct group *g = &e->groups[i];
        cJSON *group = cli_json_object(layers, NULL);
        cli_json_text(group, "kind",
                      g->layer.kind == LAYER_NONE ? "none" : kind_keys[g->layer.kind]);
        cli_json_number(group, "n_layers", g->n_layers);
        cli_json_number(group, "n_kv_heads", g->layer.n_kv_heads);
        cli_json_number(group, "k_head_dim", g->layer.k_head_dim);
        cli_json_number(group, "v_head_dim", g->layer.v_head_dim);
        cli_json_number(group, "cells", g->cells);
        cli_json_number(group, "state_bytes", (double)g->layer.state_bytes);
    }
    cJSON *rows = cli_json_array(root, "rows");
    for (size_t i = 0; i < e->n_rows; i++) {
        cJSON *row = cli_json_object(rows, NULL);
        cli_json_text(row, "kv", e->rows[i].name);
        cJSON *bytes = cli_json_object(row, "bytes");
        for (int kind = 0; kind < MAX_KINDS; kind++)
            cli_json_number(bytes, kind_keys[kind], e->rows[i].bytes[kind]);
        cli_json_number(row, "total_bytes", e->rows[i].total);
        cli_json_number(row, "bits_per_value", bits_per_value(e, &e->rows[i]));
    }
    return cli_json_print(root);
}

static void print_groups(const struct estimate *e, const char *path)
{
    printf("%s: %s, %u layers, %u tokens of one sequence\n", path, e->model.arch, e->model.n_layers,
           e->ctx);
    for (size_t i = 0; i < e->n_groups; i++) {
        const struct model_layer *l = &e->groups[i].layer;
        printf("  %3u x %s", e->groups[i].n_layers, layer_kind_name(l->kind));
        if (l->n_kv_heads)
            printf(", %u KV head%s of %u + %u values, %u cells", l->n_kv_heads,
                   l->n_kv_heads > 1 ? "s" : "", l->k_head_dim, l->v_head_dim, e->groups[i].cells);
        if (l->state_bytes)
            printf(", a state of %.2f MiB", (double)l->state_bytes / (1 << 20));
        putchar('\n');
    }
    if (e->model.note[0])
        printf("  (%s)\n", e->model.note);
    putchar('\n');
}

static char *mib_cell(double bytes)
{
    return isnan(bytes) ? cli_format("-") : cli_format("%.2f", bytes / (1 << 20));
}

static int print_table(const struct estimate *e, const char *path)
{
    bool shown[MAX_KINDS];
    size_t n_columns = 4, at = 0;
    for (int kind = 0; kind < MAX_KINDS; kind++)
        n_columns += shown[kind] = e->rows[0].bytes[kind] > 0;
    size_t n_cells = (e->n_rows + 1) * n_columns;
    char **cells = cli_alloc(n_cells, sizeof(*cells));
    cells[at++] = cli_format("MiB");
    for (int kind = 0; kind < MAX_KINDS; kind++)
        if (shown[kind])
            cells[at++] = cli_format("%s", layer_kind_name((enum layer_kind)kind));
    cells[at++] = cli_format("total");
    cells[at++] = cli_format("bits/value");
    cells[at++] = cli_format("of f16");
    for (size_t i = 0; i < e->n_rows; i++) {
        const struct row *row = &e->rows[i];
        cells[at++] = cli_format("%s", row->name);
        for (int kind = 0; kind < MAX_KINDS; kind++)
            if (shown[kind])
                cells[at++] = mib_cell(row->bytes[kind]);
        cells[at++] = mib_cell(row->total);
        double bits = bits_per_value(e, row);
        cells[at++] = isnan(bits) ? cli_format("-") : cli_format("%.2f", bits);
        cells[at++] = isnan(row->total) ? cli_format("-")
                                        : cli_format("%.1f%%", 100 * row->total / e->rows[0].total);
    }
    print_groups(e, path);
    cli_table_print((const char *const *)cells, e->n_rows + 1, n_columns);
    for (size_t i = 0; i < n_cells; i++)
        free(cells[i]);
    free(cells);
    return fflush(stdout) == 0 ? CLI_OK : cli_fail("cannot write to stdout");
}

static int fill_rows(struct estimate *e, const struct cli_common *common)
{
    tkv_context *ctx;
    tkv_context_params params;
    tkv_error err;
    tkv_context_params_default(&params);
    params.cpu_mask = common->cpu_mask;
    tkv_status status = tkv_context_create(&params, &ctx, &err);
    if (status != TKV_OK)
        return cli_fail("%s", err.text);
    for (size_t i = 0; i < e->n_rows && status == TKV_OK; i++)
        status = fill_row(e, ctx, &e->rows[i], &err);
    tkv_context_destroy(ctx);
    return status == TKV_OK ? CLI_OK : cli_fail("%s", err.text);
}

static int estimate(struct estimate *e, const struct cli_common *common, const char *path,
                    int64_t ctx, const struct cli_list *kv)
{
    tkv_error err;
    int rc = cli_llama_open(&e->llama, common, false);
    if (rc != CLI_OK)
        return rc;
    add_stock_rows(e);
    if (!add_coded_rows(e, kv))
        return CLI_USAGE;
    if (!model_layers_read(&e->llama.api, path, &e->model, &err))
        return cli_fail("%s", err.text);
    e->ctx = ctx ? (uint32_t)ctx : e->model.trained_ctx;
    if (e->ctx == 0)
        return cli_misuse("estimate", "the header of %s names no context length; give --ctx", path);
    group_layers(e);
    rc = fill_rows(e, common);
    if (rc != CLI_OK)
        return rc;
    if (e->rows[0].total == 0)
        return cli_fail("%s: llama.cpp keeps no cache for a model of this kind (%s)", path,
                        e->model.arch);
    return common->json ? print_json(e, common, path) : print_table(e, path);
}

static void free_estimate(struct estimate *e)
{
    for (size_t i = 0; i < e->n_rows; i++)
        free(e->rows[i].name);
    free(e->rows);
    free(e->groups);
    model_layers_free(&e->model);
}

int cmd_estimate(int argc, char **argv)
{
    int64_t ctx = 0;
    struct cli_list kv = {0};
    const struct cli_option options[] = {
        {"ctx", 'c', CLI_COUNT, &ctx, "N",
         "tokens of context (default: what the model was trained for)", 1, 1 << 26, false},
        {"kv", 0, CLI_LIST, &kv, "SPEC", "this spec; may be given again (default: every preset)", 0,
         0, false},
    };
    const struct cli_syntax syntax = {
        "estimate", "MODEL [options]",
        "Cache bytes of a GGUF model when the context is full, from its header: stock "
        "and coded.",
        options, sizeof(options) / sizeof(options[0])};
    struct cli_common common;
    int first = cli_parse(&syntax, &common, argc, argv);
    if (first < 0)
        return -1 - first;
    if (first + 1 != argc)
        return cli_misuse(syntax.command,
                          first == argc ? "which model? Give a GGUF file" : "one model at a time");
    struct estimate e = {0};
    int rc = estimate(&e, &common, argv[first], ctx, &kv);
    free_estimate(&e);
    cli_list_free(&kv);
    return rc;
}
