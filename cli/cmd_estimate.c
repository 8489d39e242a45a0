/* tightkv estimate: cache bytes of a model, by kind of layer, stock and coded, and what fits. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli.h"
#include "estimate.h"

enum {
    N_STOCK = 3
};

/* Layers of one shape. */
struct group {
    const struct model_layer *layer;
    uint32_t cells, n_layers;
};

struct row {
    struct estimate_row cache;
    struct estimate_bytes bytes;
    uint32_t longest; /* context that --memory holds */
};

struct estimate {
    struct cli_llama llama;
    struct model_layers model;
    const char *path;
    uint32_t ctx;
    double memory;  /* bytes for the cache; 0: not asked */
    double weights; /* bytes of the file, where they count */
    struct group *groups;
    size_t n_groups;
    struct row *rows;
    size_t n_rows;
};

static const char *const kind_keys[LAYER_KINDS] = {"full", "window", "mla", "recurrent", "none"};
static const char *const part_keys[ESTIMATE_PARTS] = {"full", "window", "mla", "index",
                                                      "recurrent"};
static const char *const part_names[ESTIMATE_PARTS] = {"full attention", "sliding window", "MLA",
                                                       "index keys", "recurrent"};

static void group_layers(struct estimate *e)
{
    e->groups = cli_alloc(e->model.n_layers, sizeof(*e->groups));
    for (uint32_t i = 0; i < e->model.n_layers; i++) {
        const struct model_layer *l = &e->model.layers[i];
        size_t g = 0;
        while (g < e->n_groups && !model_layers_same(e->groups[g].layer, l))
            g++;
        if (g == e->n_groups)
            e->groups[e->n_groups++] =
                (struct group){l, l->n_kv_heads ? model_layer_cells(&e->model, l, e->ctx) : 0, 0};
        e->groups[g].n_layers++;
    }
}

static void add_stock_rows(struct estimate *e)
{
    static const enum ggml_type types[N_STOCK] = {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0};
    e->rows = cli_alloc(N_STOCK, sizeof(*e->rows));
    for (; e->n_rows < N_STOCK; e->n_rows++)
        e->rows[e->n_rows].cache = (struct estimate_row){
            .name = cli_format("stock:%s", e->llama.api.ggml_type_name(types[e->n_rows])),
            .stock = types[e->n_rows]};
}

static bool add_row(struct estimate *e, const char *kv)
{
    struct row row = {
        .cache = {.stock = GGML_TYPE_COUNT, .spec = {.struct_size = sizeof(tkv_spec)}}};
    tkv_error err;
    if (tkv_spec_parse(kv, &row.cache.spec, &err) != TKV_OK) {
        cli_misuse("estimate", "--kv: %s", err.text);
        return false;
    }
    row.cache.name = cli_format("%s", kv);
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

static void json_groups(const struct estimate *e, cJSON *layers)
{
    for (size_t i = 0; i < e->n_groups; i++) {
        const struct group *g = &e->groups[i];
        cJSON *group = cli_json_object(layers, NULL);
        cli_json_text(group, "kind", kind_keys[g->layer->kind]);
        cli_json_number(group, "n_layers", g->n_layers);
        cli_json_number(group, "n_kv_heads", g->layer->n_kv_heads);
        cli_json_number(group, "k_head_dim", g->layer->k_head_dim);
        cli_json_number(group, "v_head_dim", g->layer->v_head_dim);
        cli_json_number(group, "index_dim", g->layer->index_dim);
        cli_json_number(group, "cells", g->cells);
        cli_json_number(group, "state_bytes", (double)g->layer->state_bytes);
    }
}

static int print_json(const struct estimate *e, const struct cli_common *common)
{
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "estimate", common);
    cli_json_base_name(root, "model", e->path);
    cli_json_text(root, "arch", e->model.arch);
    cli_json_number(root, "ctx", e->ctx);
    cli_json_number(root, "trained_ctx", e->model.trained_ctx);
    cli_json_number(root, "memory_bytes", e->memory > 0 ? e->memory : (double)NAN);
    cli_json_number(root, "weights_bytes", e->weights > 0 ? e->weights : (double)NAN);
    json_groups(e, cli_json_array(root, "layers"));
    cJSON *rows = cli_json_array(root, "rows");
    for (size_t i = 0; i < e->n_rows; i++) {
        const struct row *r = &e->rows[i];
        cJSON *row = cli_json_object(rows, NULL);
        cli_json_text(row, "kv", r->cache.name);
        cJSON *bytes = cli_json_object(row, "bytes");
        for (int part = 0; part < ESTIMATE_PARTS; part++)
            cli_json_number(bytes, part_keys[part], r->bytes.parts[part]);
        cli_json_number(row, "total_bytes", r->bytes.total);
        cli_json_number(row, "bits_per_value", r->bytes.bits_per_value);
        cli_json_number(row, "longest_ctx",
                        e->memory > 0 && !isnan(r->bytes.total) ? r->longest : (double)NAN);
    }
    return cli_json_print(root);
}

static void print_groups(const struct estimate *e)
{
    printf("%s: %s, %u layers, %u tokens of one sequence\n", e->path, e->model.arch,
           e->model.n_layers, e->ctx);
    for (size_t i = 0; i < e->n_groups; i++) {
        const struct model_layer *l = e->groups[i].layer;
        printf("  %3u x %s", e->groups[i].n_layers, layer_kind_name(l->kind));
        if (l->n_kv_heads)
            printf(", %u KV head%s of %u + %u values, %u cells", l->n_kv_heads,
                   l->n_kv_heads > 1 ? "s" : "", l->k_head_dim, l->v_head_dim, e->groups[i].cells);
        if (l->index_dim)
            printf(", index keys of %u values", l->index_dim);
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

static char *longest_cell(const struct row *row)
{
    if (isnan(row->bytes.total))
        return cli_format("-");
    return row->longest == ESTIMATE_MAX_CTX ? cli_format("any") : cli_format("%u", row->longest);
}

/* Cells of a row; the heads of the columns where `row` is NULL. Returns how many. */
static size_t add_cells(const struct estimate *e, const struct row *row, char **cells)
{
    size_t n = 0;
    cells[n++] = cli_format("%s", row ? row->cache.name : "MiB");
    for (int part = 0; part < ESTIMATE_PARTS; part++)
        if (e->rows[0].bytes.parts[part] > 0)
            cells[n++] =
                row ? mib_cell(row->bytes.parts[part]) : cli_format("%s", part_names[part]);
    cells[n++] = row ? mib_cell(row->bytes.total) : cli_format("total");
    double bits = row ? row->bytes.bits_per_value : 0;
    double share = row ? 100 * row->bytes.total / e->rows[0].bytes.total : 0;
    cells[n++] = !row          ? cli_format("bits/value")
                 : isnan(bits) ? cli_format("-")
                               : cli_format("%.2f", bits);
    cells[n++] = !row           ? cli_format("of f16")
                 : isnan(share) ? cli_format("-")
                                : cli_format("%.1f%%", share);
    if (e->memory > 0)
        cells[n++] = row ? longest_cell(row) : cli_format("longest context");
    return n;
}

static void print_size(double bytes)
{
    if (bytes >= 1 << 30)
        printf("%.2f GiB", bytes / (1 << 30));
    else
        printf("%.0f MiB", bytes / (1 << 20));
}

static void print_memory(const struct estimate *e)
{
    printf("\nlongest context: tokens of one sequence whose cache takes ");
    print_size(e->memory);
    if (e->weights > 0) {
        printf(", what is left beside weights of ");
        print_size(e->weights);
    } else {
        printf(", weights not counted");
    }
    printf("; compute buffers come on top\n");
    if (e->model.trained_ctx)
        printf("the model was trained for %u tokens\n", e->model.trained_ctx);
}

static int print_table(const struct estimate *e)
{
    enum {
        MAX_COLUMNS = ESTIMATE_PARTS + 5
    };
    char **cells = cli_alloc((e->n_rows + 1) * MAX_COLUMNS, sizeof(*cells));
    size_t n_columns = add_cells(e, NULL, cells), n_cells = n_columns;
    for (size_t i = 0; i < e->n_rows; i++)
        n_cells += add_cells(e, &e->rows[i], cells + n_cells);
    print_groups(e);
    cli_table_print((const char *const *)cells, e->n_rows + 1, n_columns);
    if (e->memory > 0)
        print_memory(e);
    for (size_t i = 0; i < n_cells; i++)
        free(cells[i]);
    free(cells);
    return fflush(stdout) == 0 ? CLI_OK : cli_fail("cannot write to stdout");
}

static int fill_rows(struct estimate *e, const struct cli_common *common)
{
    struct estimator estimator = {.api = &e->llama.api, .model = &e->model};
    tkv_context_params params;
    tkv_error err;
    tkv_context_params_default(&params);
    params.cpu_mask = common->cpu_mask;
    tkv_status status = tkv_context_create(&params, &estimator.ctx, &err);
    if (status != TKV_OK)
        return cli_fail("%s", err.text);
    for (size_t i = 0; i < e->n_rows && status == TKV_OK; i++) {
        struct row *row = &e->rows[i];
        status = estimate_bytes_of(&estimator, &row->cache, e->ctx, &row->bytes, &err);
        if (status == TKV_OK && e->memory > 0 && !isnan(row->bytes.total))
            status = estimate_longest(&estimator, &row->cache, e->memory, &row->longest, &err);
    }
    tkv_context_destroy(estimator.ctx);
    return status == TKV_OK ? CLI_OK : cli_fail("%s", err.text);
}

/* Takes the weights off the memory. */
static int count_weights(struct estimate *e)
{
    struct stat st;
    if (e->model.n_files > 1)
        return cli_fail("%s is one of %u files of the model, and their weights cannot be counted "
                        "here; take their size off --memory and leave out --with-weights",
                        e->path, e->model.n_files);
    if (stat(e->path, &st) != 0)
        return cli_fail("cannot read %s: %s", e->path, strerror(errno));
    e->weights = (double)st.st_size;
    e->memory -= e->weights;
    if (e->memory <= 0)
        return cli_fail("the weights of %s alone take %.2f GiB; give more --memory", e->path,
                        e->weights / (1 << 30));
    return CLI_OK;
}

static int estimate(struct estimate *e, const struct cli_common *common, int64_t ctx,
                    bool with_weights, const struct cli_list *kv)
{
    tkv_error err;
    int rc = cli_llama_open(&e->llama, common, false);
    if (rc != CLI_OK)
        return rc;
    add_stock_rows(e);
    if (!add_coded_rows(e, kv))
        return CLI_USAGE;
    if (!model_layers_read(&e->llama.api, e->path, &e->model, &err))
        return cli_fail("%s", err.text);
    e->ctx = ctx ? (uint32_t)ctx : e->model.trained_ctx;
    if (e->ctx == 0)
        return cli_misuse("estimate", "the header of %s names no context length; give --ctx",
                          e->path);
    group_layers(e);
    if (with_weights)
        rc = count_weights(e);
    if (rc == CLI_OK)
        rc = fill_rows(e, common);
    if (rc != CLI_OK)
        return rc;
    if (e->rows[0].bytes.total == 0)
        return cli_fail("%s: llama.cpp keeps no cache for a model of this kind (%s)", e->path,
                        e->model.arch);
    return common->json ? print_json(e, common) : print_table(e);
}

static void free_estimate(struct estimate *e)
{
    for (size_t i = 0; i < e->n_rows; i++)
        free(e->rows[i].cache.name);
    free(e->rows);
    free(e->groups);
    model_layers_free(&e->model);
}

int cmd_estimate(int argc, char **argv)
{
    int64_t ctx = 0;
    const char *memory = NULL;
    bool with_weights = false;
    struct cli_list kv = {0};
    const struct cli_option options[] = {
        {"ctx", 'c', CLI_COUNT, &ctx, "N",
         "tokens of context (default: what the model was trained for)", 1, ESTIMATE_MAX_CTX, false},
        {"memory", 'm', CLI_TEXT, &memory, "SIZE",
         "what fits: the longest context whose cache takes SIZE, as 8G or 512M", 0, 0, false},
        {"with-weights", 0, CLI_FLAG, &with_weights, NULL, "the weights are to fit in there too", 0,
         0, false},
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
    struct estimate e = {.path = argv[first]};
    if (memory && !cli_parse_size(memory, &e.memory))
        return cli_misuse(syntax.command, "--memory is a size as 8G or 512M, not '%s'", memory);
    if (with_weights && !memory)
        return cli_misuse(syntax.command, "--with-weights needs --memory");
    int rc = estimate(&e, &common, ctx, with_weights, &kv);
    free_estimate(&e);
    cli_list_free(&kv);
    return rc;
}
