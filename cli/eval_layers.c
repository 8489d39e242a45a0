/* Layers: errors of keys, values and attention outputs in every layer, on one window of the text.
 *
 * The reference's run surveys all rows at once, since the model's own pass is the same for all;
 * a row's run only takes its share. A record is flat: for each layer its number and its count of
 * heads, then (k, v, out) of the layer and of each head. Stock caches are not looked into. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "layer_survey.h"

enum {
    WINDOW = 2048
};

struct layers_state {
    struct session_tokens window; /* of e->text */
    struct layer_survey survey;
    size_t *spec_of_row; /* [n_rows] into the survey */
};

static int load(struct eval *e, struct eval_part *part, const struct eval_options *o)
{
    if (!o->layers)
        return CLI_OK;
    struct layers_state *st = cli_alloc(1, sizeof(*st));
    part->state = st;
    int rc = eval_read_text(e, o);
    st->window = e->text;
    size_t most = o->n_ctx < WINDOW ? (size_t)o->n_ctx : WINDOW;
    st->window.n = st->window.n < most ? st->window.n : most;
    eval_identify(e, st->window.ids, st->window.n * sizeof(*st->window.ids));
    return rc;
}

static void free_state(struct eval_part *part)
{
    struct layers_state *st = part->state;
    if (!st)
        return;
    layer_survey_free(&st->survey);
    free(st->spec_of_row);
    free(st);
    part->state = NULL;
}

static size_t n_units(const struct eval_part *part)
{
    (void)part;
    return 1;
}

static struct eval_work work(const struct eval_part *part, size_t unit)
{
    (void)unit;
    return (struct eval_work){.n_batched = ((const struct layers_state *)part->state)->window.n};
}

static int survey_rows(struct eval *e, struct layers_state *st)
{
    tkv_spec *specs = cli_alloc(e->n_rows, sizeof(*specs));
    size_t n = 0;
    int rc = CLI_OK;
    layer_survey_free(&st->survey);
    free(st->spec_of_row);
    st->spec_of_row = cli_alloc(e->n_rows, sizeof(*st->spec_of_row));
    for (size_t i = 0; i < e->n_rows && rc == CLI_OK; i++) {
        tkv_error err;
        if (!e->rows[i].strict_spec)
            continue;
        specs[n].struct_size = sizeof(*specs);
        if (tkv_spec_parse(e->rows[i].strict_spec, &specs[n], &err) != TKV_OK)
            rc = cli_fail("%s", err.text);
        st->spec_of_row[i] = n++;
    }
    if (rc == CLI_OK)
        rc = layer_survey_run(e->session, &st->window, specs, n, NULL, &st->survey);
    free(specs);
    return rc;
}

static double *put(double *at, const struct head_error *h)
{
    *at++ = h->k;
    *at++ = h->v;
    *at++ = h->out;
    return at;
}

static void keep(const struct layer_survey *s, size_t spec, struct eval_record *out)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_layers; i++)
        n += 2 + 3 * (1 + (size_t)s->layers[i].errors[spec].n_heads);
    double *at = eval_keep(out, n * sizeof(*at));
    for (size_t i = 0; i < s->n_layers; i++) {
        const struct layer_error *layer = &s->layers[i].errors[spec];
        *at++ = s->layers[i].layer;
        *at++ = layer->n_heads;
        at = put(at, &layer->all);
        for (uint32_t h = 0; h < layer->n_heads; h++)
            at = put(at, &layer->heads[h]);
    }
}

static int run(struct eval *e, struct eval_part *part, size_t unit, const struct eval_row *row,
               struct eval_record *out)
{
    (void)unit;
    struct layers_state *st = part->state;
    if (row && row->strict_spec) {
        keep(&st->survey, st->spec_of_row[row - e->rows], out);
        return CLI_OK;
    }
    eval_keep(out, 1);
    return row ? CLI_OK : survey_rows(e, st);
}

static const double *add_errors(cJSON *json, const double *at)
{
    static const char *const keys[] = {"k_error", "v_error", "out_error"};
    for (size_t i = 0; i < 3; i++)
        cli_json_number(json, keys[i], at[i]);
    return at + 3;
}

static void add_json(const struct eval *e, const struct eval_part *part, const struct eval_row *row,
                     cJSON *json)
{
    const struct eval_record *record = eval_record_of(e, part, 0, row);
    if (!part->state || !record || !row->strict_spec) {
        cJSON_AddNullToObject(json, "layers");
        return;
    }
    cJSON *layers = cli_json_array(json, "layers");
    const double *at = record->data, *end = at + record->n_bytes / sizeof(*at);
    while (at < end) {
        cJSON *layer = cli_json_object(layers, NULL);
        cli_json_number(layer, "layer", *at++);
        uint32_t n_heads = (uint32_t)*at++;
        at = add_errors(layer, at);
        cJSON *heads = cli_json_array(layer, "heads");
        for (uint32_t h = 0; h < n_heads; h++)
            at = add_errors(cli_json_object(heads, NULL), at);
    }
}

const struct eval_part_ops eval_layers_ops = {.name = "layers",
                                              .reference_runs_again = true,
                                              .may_fail = true,
                                              .load = load,
                                              .free = free_state,
                                              .n_units = n_units,
                                              .work = work,
                                              .run = run,
                                              .add_json = add_json};
