/* The results of an evaluation: JSON, and a table made from it. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"

static double ratio(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

void eval_add_interval(cJSON *json, const char *key, struct stats_interval interval)
{
    if (!isfinite(interval.low) || !isfinite(interval.high)) {
        cli_json_number(json, key, NAN);
        return;
    }
    cJSON *list = cli_json_array(json, key);
    cJSON_AddItemToArray(list, cJSON_CreateNumber(interval.low));
    cJSON_AddItemToArray(list, cJSON_CreateNumber(interval.high));
}

static void add_text(cJSON *json, const char *key, const char *text)
{
    if (text)
        cli_json_text(json, key, text);
    else
        cJSON_AddNullToObject(json, key);
}

static void add_file(cJSON *json, const char *key, const char *path)
{
    if (path)
        cli_json_base_name(json, key, path);
    else
        cJSON_AddNullToObject(json, key);
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static double held_bytes(const struct eval_held *h)
{
    return h->codes + h->side + h->exact_pages + h->tables + h->plain;
}

/* What a row's visual tokens take, where they are coded in their own way. */
static struct eval_held visual_sizes(const struct eval *e, const struct eval_row *row)
{
    struct eval_held held = {0};
    tkv_spec spec;
    if (!row->cache.spec || tkv_spec_parse(row->cache.spec, &spec, NULL) != TKV_OK ||
        (!spec.visual_k.id && !spec.visual_v.id))
        return held;
    for (size_t i = 0; i < e->n_parts; i++)
        if (e->parts[i].ops == &eval_visual_ops)
            held = eval_held_in(e, &e->parts[i], row);
    return held;
}

/* Sizes, and what was read, are of the first part that ran: contexts of different lengths do not
 * mix. */
static struct eval_held sizes_of(const struct eval *e, const struct eval_row *row)
{
    struct eval_held held = {0};
    for (size_t i = 0; i < e->n_parts && held.n_contexts == 0; i++)
        held = eval_held_in(e, &e->parts[i], row);
    return held;
}

/* Of visual tokens alone, where the row has codecs for them or nothing else was asked for. */
static double bits_per_value(const struct eval *e, const struct eval_row *row)
{
    struct eval_held held = visual_sizes(e, row);
    if (held.n_contexts == 0)
        held = sizes_of(e, row);
    if (held.visual_values > 0)
        return 8 * held.visual_bytes / held.visual_values;
    return ratio(8 * held_bytes(&held), held.n_values);
}

static void add_sizes(const struct eval *e, const struct eval_row *row, cJSON *json)
{
    struct eval_held held = sizes_of(e, row);
    double contexts_mib = held.n_contexts * (1 << 20);
    cli_json_number(json, "bits_per_value", bits_per_value(e, row));
    cli_json_number(json, "book_mib", ratio(held.books, contexts_mib));
    cli_json_number(json, "kv_mib", ratio(held_bytes(&held), contexts_mib));
    cJSON *breakdown = cli_json_object(json, "breakdown");
    cli_json_number(breakdown, "codes_mib", ratio(held.codes, contexts_mib));
    cli_json_number(breakdown, "side_mib", ratio(held.side, contexts_mib));
    cli_json_number(breakdown, "exact_mib", ratio(held.exact_pages, contexts_mib));
    cli_json_number(breakdown, "table_mib", ratio(held.tables, contexts_mib));
    cli_json_number(breakdown, "plain_mib", ratio(held.plain, contexts_mib));
}

static void add_reads(const struct eval *e, const struct eval_row *row, cJSON *json)
{
    struct eval_held held = sizes_of(e, row);
    cli_json_number(json, "exact_fraction", ratio(held.exact, held.n_measured));
    cli_json_number(json, "read_fraction", ratio(held.read, held.n_measured));
    if (held.tier_hits + held.tier_misses == 0)
        return;
    cJSON *tiers = cli_json_object(json, "tiers");
    double contexts_mib = held.n_contexts * (1 << 20);
    cli_json_number(tiers, "hit_rate", ratio(held.tier_hits, held.tier_hits + held.tier_misses));
    cli_json_number(tiers, "read_mib", ratio(held.tier_read, contexts_mib));
    cli_json_number(tiers, "resident_mib", ratio(held.tier_resident, contexts_mib));
    cli_json_number(tiers, "stall_seconds", ratio(held.tier_stall_seconds, held.n_contexts));
}

/* ---- the noise floor -------------------------------------------------------------------------
 *
 * The plug-in's f16 codec loses nothing, so its divergence from stock f16 is what another order
 * of summing makes, amplified by quantised weights. A row no further off than that may lose
 * nothing either: its figure is an upper bound. */

static const struct eval_part *text_part(const struct eval *e)
{
    for (size_t i = 0; i < e->n_parts; i++)
        if (e->parts[i].ops == &eval_text_ops && e->parts[i].state)
            return &e->parts[i];
    return NULL;
}

static const struct eval_row *floor_row(const struct eval *e)
{
    for (size_t i = 0; i < e->n_rows; i++)
        if (e->rows[i].is_floor)
            return &e->rows[i];
    return NULL;
}

/* The upper end of the floor's interval: what it may well be; its mean, where that is all there
 * is. NaN: not measured. */
static double floor_of(const struct eval *e)
{
    const struct eval_row *row = floor_row(e);
    if (!row || !text_part(e))
        return NAN;
    struct stats_mean kld = eval_text_figures(e, text_part(e), row).kld;
    return isfinite(kld.ci.high) ? kld.ci.high : kld.mean;
}

static void add_floor(const struct eval *e, cJSON *root)
{
    if (!isfinite(floor_of(e))) {
        cli_json_number(root, "noise_floor", NAN);
        return;
    }
    struct eval_text_figures f = eval_text_figures(e, text_part(e), floor_row(e));
    cJSON *json = cli_json_object(root, "noise_floor");
    cli_json_number(json, "kld_mean", f.kld.mean);
    eval_add_interval(json, "kld_ci", f.kld.ci);
    cli_json_number(json, "kld_median", f.kld_median);
    cli_json_number(json, "kld_p99", f.kld_p99);
    cli_json_number(json, "kld_p999", f.kld_p999);
    cli_json_number(json, "same_top1", f.same_top.mean);
    for (size_t i = 0; i < e->n_parts; i++)
        if (e->parts[i].ops == &eval_greedy_ops)
            eval_greedy_ops.add_json(e, &e->parts[i], floor_row(e), json);
}

/* Windows differ: the row's are those that the floor ran too. */
static void add_below_floor(const struct eval *e, const struct eval_row *row, cJSON *json)
{
    double floor = floor_of(e), kld = NAN;
    if (isfinite(floor))
        kld = eval_text_kld_beside(e, text_part(e), row, floor_row(e));
    if (isfinite(kld))
        cJSON_AddBoolToObject(json, "below_floor", kld <= floor);
    else
        cli_json_number(json, "below_floor", NAN);
}

/* ---- rows and head -------------------------------------------------------------------------- */

static void add_row(const struct eval *e, const struct eval_row *row, cJSON *json)
{
    cli_json_text(json, "kv", row->kv);
    add_text(json, "spec", row->strict_spec);
    add_sizes(e, row, json);
    add_reads(e, row, json);
    for (size_t i = 0; i < e->n_parts; i++) {
        e->parts[i].ops->add_json(e, &e->parts[i], row, json);
        if (e->parts[i].ops == &eval_text_ops)
            add_below_floor(e, row, json);
    }
    if (row->error)
        cli_json_text(json, "error", row->error);
}

static double forward_seconds(const struct eval *e)
{
    double sum = 0;
    for (size_t i = 0; i < e->n_parts; i++) {
        sum += eval_held_in(e, &e->parts[i], NULL).forward_seconds;
        for (size_t r = 0; r < e->n_rows; r++)
            sum += eval_held_in(e, &e->parts[i], &e->rows[r]).forward_seconds;
    }
    return sum;
}

cJSON *eval_json(const struct eval *e, const struct eval_options *o)
{
    const struct llama_api *api = &e->session->llama->api;
    const struct eval_part *text = text_part(e);
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "eval", &o->common);
    cli_json_base_name(root, "model", e->session->path);
    add_text(root, "weights", api->llama_ftype_name(api->llama_model_ftype(e->session->model)));
    add_file(root, "text", o->text);
    add_file(root, "recall_file", o->recall);
    add_file(root, "visual_file", o->visual);
    cli_json_number(root, "n_ctx", text ? (double)o->n_ctx : (double)eval_longest(e));
    cli_json_number(root, "n_windows", text ? (double)text->n_units : NAN);
    cli_json_number(root, "forward_seconds", forward_seconds(e));
    add_floor(e, root);
    cJSON *rows = cli_json_array(root, "rows");
    for (size_t i = 0; i < e->n_rows; i++)
        if (!e->rows[i].is_floor)
            add_row(e, &e->rows[i], cli_json_object(rows, NULL));
    return root;
}

/* ---- the table ------------------------------------------------------------------------------ */

static const struct column {
    const char *key, *title;
    int digits;
    const char *in; /* object that has the key; NULL: the row itself */
} columns[] = {
    {"bits_per_value", "bits", 3, NULL},
    {"kv_mib", "MiB", 2, NULL},
    {"exact_fraction", "exact", 3, NULL},
    {"read_fraction", "read", 3, NULL},
    {"ppl", "ppl", 3, NULL},
    {"ppl_f16", "ppl f16", 3, NULL},
    {"kld_mean", "KLD", 6, NULL},
    {"kld_ci", "KLD 95%", 6, NULL},
    {"kld_median", "median", 6, NULL},
    {"kld_p99", "99%", 5, NULL},
    {"kld_p999", "99.9%", 5, NULL},
    {"kld_max", "max", 4, NULL},
    {"same_top1", "same top", 4, NULL},
    {"top5_overlap", "top 5", 4, NULL},
    {"mean_agree", "greedy", 1, "greedy"},
    {"full_agree", "to the end", 3, "greedy"},
    {"recall", "recall", 4, NULL},
    {"recall_f16", "recall f16", 4, NULL},
    {"visual", "visual", 4, NULL},
    {"visual_f16", "visual f16", 4, NULL},
};

enum {
    N_COLUMNS = sizeof(columns) / sizeof(columns[0])
};

/* The table while it is made: cells of all lines, the titles first. */
struct table {
    char **cells;
    size_t n_lines;
    bool used[1 + N_COLUMNS]; /* columns in which any line has a value */
};

/* NULL: not measured. */
static char *cell_of(const cJSON *row, const struct column *column)
{
    if (column->in)
        row = cJSON_GetObjectItemCaseSensitive(row, column->in);
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(row, column->key);
    if (cJSON_IsArray(value))
        return cli_format("%.*f-%.*f", column->digits,
                          cJSON_GetNumberValue(cJSON_GetArrayItem(value, 0)), column->digits,
                          cJSON_GetNumberValue(cJSON_GetArrayItem(value, 1)));
    if (cJSON_IsNumber(value))
        return cli_format("%.*f", column->digits, cJSON_GetNumberValue(value));
    return NULL;
}

static void add_line(struct table *t, const char *name, const cJSON *values, bool marked)
{
    char **cells = t->cells + t->n_lines++ * (1 + N_COLUMNS);
    cells[0] = cli_format("%s%s", name, marked ? " *" : "");
    for (size_t i = 0; i < N_COLUMNS; i++) {
        char *cell = cell_of(values, &columns[i]);
        t->used[1 + i] = t->used[1 + i] || cell;
        cells[1 + i] = cell ? cell : cli_format("-");
    }
}

static void add_titles(struct table *t)
{
    t->cells[0] = cli_format("kv");
    for (size_t i = 0; i < N_COLUMNS; i++)
        t->cells[1 + i] = cli_format("%s", columns[i].title);
    t->n_lines = 1;
    t->used[0] = true;
}

/* Prints the columns that have values, and frees the cells. */
static void end_table(struct table *t)
{
    size_t n_cells = t->n_lines * (1 + N_COLUMNS), n = 0;
    const char **shown = cli_alloc(n_cells, sizeof(*shown));
    for (size_t i = 0; i < n_cells; i++)
        if (t->used[i % (1 + N_COLUMNS)])
            shown[n++] = t->cells[i];
    cli_table_print(shown, t->n_lines, n / t->n_lines);
    free(shown);
    for (size_t i = 0; i < n_cells; i++)
        free(t->cells[i]);
    free(t->cells);
}

static const char *text_at(const cJSON *row, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, key));
}

int eval_print_table(const cJSON *json)
{
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(json, "rows"), *row;
    const cJSON *floor = cJSON_GetObjectItemCaseSensitive(json, "noise_floor");
    size_t n_lines = 2 + (size_t)cJSON_GetArraySize(rows);
    struct table t = {.cells = cli_alloc(n_lines * (1 + N_COLUMNS), sizeof(*t.cells))};
    bool any_marked = false;
    add_titles(&t);
    cJSON_ArrayForEach(row, rows)
    {
        bool marked = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(row, "below_floor"));
        add_line(&t, text_at(row, "kv"), row, marked);
        any_marked = any_marked || marked;
    }
    if (cJSON_IsObject(floor))
        add_line(&t, "noise floor", floor, false);
    end_table(&t);
    if (any_marked)
        printf("* no further from stock f16 than the plug-in's own f16: KLD is the noise of this "
               "model's weights\n");
    cJSON_ArrayForEach(row, rows)
    {
        if (text_at(row, "error"))
            printf("%s failed: %s\n", text_at(row, "kv"), text_at(row, "error"));
    }
    return fflush(stdout) == 0 ? CLI_OK : cli_fail("cannot write to stdout");
}
