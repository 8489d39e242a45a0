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

/* ---- JSON ----------------------------------------------------------------------------------- */

/* Sizes are of the first part that ran: contexts of different lengths do not mix. */
static struct eval_held sizes_of(const struct eval *e, const struct eval_row *row)
{
    struct eval_held held = {0};
    for (size_t i = 0; i < e->n_parts && held.n_contexts == 0; i++)
        held = eval_held_in(e, &e->parts[i], row);
    return held;
}

static void add_sizes(const struct eval *e, const struct eval_row *row, cJSON *json)
{
    struct eval_held held = sizes_of(e, row);
    cli_json_number(json, "bits_per_value", ratio(8 * held.bytes, held.n_values));
    cli_json_number(json, "book_mib", 0);
    cli_json_number(json, "kv_mib", ratio(held.bytes, held.n_contexts) / (1 << 20));
}

static void add_reads(const struct eval *e, const struct eval_row *row, cJSON *json)
{
    double exact = 0, read = 0, n = 0;
    for (size_t i = 0; i < e->n_parts; i++) {
        struct eval_held held = eval_held_in(e, &e->parts[i], row);
        exact += held.exact;
        read += held.read;
        n += held.n_measured;
    }
    cli_json_number(json, "exact_fraction", ratio(exact, n));
    cli_json_number(json, "read_fraction", ratio(read, n));
}

static void add_row(const struct eval *e, const struct eval_row *row, cJSON *json)
{
    cli_json_text(json, "kv", row->kv);
    if (row->strict_spec)
        cli_json_text(json, "spec", row->strict_spec);
    else
        cli_json_number(json, "spec", NAN);
    add_sizes(e, row, json);
    add_reads(e, row, json);
    for (size_t i = 0; i < e->n_parts; i++)
        e->parts[i].ops->add_json(e, &e->parts[i], row, json);
    if (row->error)
        cli_json_text(json, "error", row->error);
}

cJSON *eval_json(const struct eval *e, const struct eval_options *o)
{
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "eval", &o->common);
    cli_json_base_name(root, "model", e->session->path);
    if (o->text)
        cli_json_base_name(root, "text", o->text);
    else
        cli_json_number(root, "text", NAN);
    cli_json_number(root, "n_ctx", o->text ? (double)o->n_ctx : NAN);
    cli_json_number(root, "n_windows", o->text ? (double)e->parts[0].n_units : NAN);
    cli_json_number(root, "forward_seconds", e->forward_seconds);
    cJSON *rows = cli_json_array(root, "rows");
    for (size_t i = 0; i < e->n_rows; i++)
        add_row(e, &e->rows[i], cli_json_object(rows, NULL));
    return root;
}

/* ---- the table ------------------------------------------------------------------------------ */

static const struct column {
    const char *key, *title;
    int digits;
} columns[] = {
    {"bits_per_value", "bits", 3},
    {"kv_mib", "MiB", 2},
    {"exact_fraction", "exact", 3},
    {"read_fraction", "read", 3},
    {"ppl", "ppl", 3},
    {"ppl_f16", "ppl f16", 3},
    {"kld_mean", "KLD", 6},
    {"kld_median", "median", 6},
    {"kld_p999", "99.9%", 5},
    {"same_top1", "same top", 4},
    {"top5_overlap", "top 5", 4},
    {"recall", "recall", 4},
    {"recall_f16", "recall f16", 4},
};

enum {
    N_COLUMNS = sizeof(columns) / sizeof(columns[0])
};

static char *cell_of(const cJSON *row, const struct column *column)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(row, column->key);
    if (!cJSON_IsNumber(value))
        return cli_format("-");
    return cli_format("%.*f", column->digits, cJSON_GetNumberValue(value));
}

void eval_print_table(const cJSON *json)
{
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(json, "rows"), *row;
    size_t n = 0, n_lines = 1 + (size_t)cJSON_GetArraySize(rows);
    const char **cells = cli_alloc(n_lines * (1 + N_COLUMNS), sizeof(*cells));
    cells[n++] = cli_format("kv");
    for (size_t i = 0; i < N_COLUMNS; i++)
        cells[n++] = cli_format("%s", columns[i].title);
    cJSON_ArrayForEach(row, rows)
    {
        cells[n++] =
            cli_format("%s", cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "kv")));
        for (size_t i = 0; i < N_COLUMNS; i++)
            cells[n++] = cell_of(row, &columns[i]);
    }
    cli_table_print(cells, n_lines, 1 + N_COLUMNS);
    for (size_t i = 0; i < n; i++)
        free((char *)cells[i]);
    free(cells);
}
