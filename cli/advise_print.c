/* tightkv advise: the advice, as JSON and as text. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "advise.h"

/* ---- JSON ----------------------------------------------------------------------------------- */

/* Takes `text`. */
static void add_owned_text(cJSON *json, const char *key, char *text)
{
    if (text)
        cli_json_text(json, key, text);
    else
        cJSON_AddNullToObject(json, key);
    free(text);
}

static void add_rung(const struct advise *a, const struct advise_rung *r, cJSON *json)
{
    cli_json_text(json, "spec", r->spec);
    cli_json_number(json, "bits_per_value", r->bits);
    cli_json_number(json, "kv_mib", r->bytes / (1 << 20));
    cli_json_number(json, "smaller", a->floor.bytes / r->bytes);
    cJSON_AddBoolToObject(json, "measured", r->measured);
    cli_json_number(json, "kld_mean", r->kld.mean);
    eval_add_interval(json, "kld_ci", r->kld.ci);
    cli_json_number(json, "kld_at_most", advise_at_most(r, &a->floor));
    cli_json_number(json, "same_top1", r->same_top);
    cli_json_number(json, "ppl_change", r->ppl_change);
    cli_json_number(json, "out_error", r->out_error);
}

static void add_levels(const struct advise *a, cJSON *root)
{
    cJSON *levels = cli_json_array(root, "levels");
    for (size_t i = 0; i < ADVISE_LEVELS; i++) {
        cJSON *level = cli_json_object(levels, NULL);
        cli_json_text(level, "level", advise_levels[i].key);
        cli_json_number(level, "kld_limit", advise_levels[i].limit);
        add_rung(a, a->chosen[i] ? a->chosen[i] : &a->floor, level);
        add_owned_text(level, "why", advise_why_level(a, i));
    }
}

static void add_stats(cJSON *json, const char *key, const struct kv_stats *s)
{
    cJSON *out = cli_json_object(json, key);
    cli_json_number(out, "offset", s->offset);
    cli_json_number(out, "worst_offset", s->worst_offset);
    cli_json_number(out, "outlier", s->outlier);
    cli_json_number(out, "kurtosis", s->kurtosis);
    cli_json_number(out, "norm_spread", s->norm_spread);
}

static void add_layers(const struct advise *a, cJSON *root)
{
    cJSON *layers = cli_json_array(root, "layers");
    for (size_t i = 0; i < a->survey.n_layers; i++) {
        const struct surveyed_layer *l = &a->survey.layers[i];
        cJSON *layer = cli_json_object(layers, NULL);
        cli_json_number(layer, "layer", l->layer);
        cJSON *heads = cli_json_array(layer, "heads");
        for (uint32_t h = 0; h < l->n_kv_heads; h++) {
            cJSON *head = cli_json_object(heads, NULL);
            add_stats(head, "k", &l->k[h]);
            add_stats(head, "v", &l->v[h]);
        }
    }
}

static void add_budget(const struct advise *a, cJSON *root)
{
    if (a->budget <= 0) {
        cJSON_AddNullToObject(root, "budget");
        return;
    }
    cJSON *json = cli_json_object(root, "budget");
    cli_json_number(json, "mib", a->budget / (1 << 20));
    add_owned_text(json, "spec", a->fitting ? cli_format("%s", a->fitting->spec) : NULL);
    cli_json_number(json, "fits_ctx", a->fitting ? a->ctx : a->fitting_ctx);
    add_owned_text(json, "why", advise_why_budget(a));
}

static int print_json(const struct advise *a)
{
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "advise", &a->common);
    cli_json_base_name(root, "model", a->path);
    cli_json_base_name(root, "text", a->text_path);
    cli_json_number(root, "ctx", a->ctx);
    cli_json_number(root, "n_ctx", (double)a->n_ctx);
    cli_json_number(root, "n_windows", (double)a->n_windows);
    cli_json_number(root, "weights_mib", a->weight_bytes / (1 << 20));
    cli_json_number(root, "f16_mib", a->floor.bytes / (1 << 20));
    cJSON *floor = cli_json_object(root, "noise_floor");
    cli_json_number(floor, "kld_mean", a->floor.kld.mean);
    eval_add_interval(floor, "kld_ci", a->floor.kld.ci);
    cli_json_number(floor, "same_top1", a->floor.same_top);
    add_owned_text(root, "leave_at_f16", advise_why_f16(a));
    add_owned_text(root, "keys", advise_why_keys(a));
    cli_json_number(root, "keys_gain", advise_keys_gain(a));
    add_levels(a, root);
    add_budget(a, root);
    cJSON *rungs = cli_json_array(root, "rungs");
    for (size_t i = 0; i < a->n_rungs; i++)
        add_rung(a, &a->rungs[i], cli_json_object(rungs, NULL));
    add_layers(a, root);
    return cli_json_print(root);
}

/* ---- text ----------------------------------------------------------------------------------- */

enum {
    WRAP = 100,
    N_COLUMNS = 9
};

/* Takes `text`; wraps it at blanks. */
static void print_wrapped(const char *head, char *text)
{
    int at = printf("%s", head);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        int n = (int)strlen(word);
        if (at + 1 + n > WRAP)
            at = printf("\n   ") - 1;
        at += printf(" %s", word);
    }
    putchar('\n');
    free(text);
}

static char *share_cell(double share)
{
    return isfinite(share) ? cli_format("%.1f%%", 100 * share) : cli_format("-");
}

/* A line of the table: a level's name or nothing, and a rung. */
static void add_line(const struct advise *a, const char *name, const struct advise_rung *r,
                     char **cells)
{
    cells[0] = cli_format("%s", name);
    cells[1] = cli_format("%s", r->spec);
    cells[2] = cli_format("%.2f", r->bits);
    cells[3] = cli_format("%.1f", r->bytes / (1 << 20));
    cells[4] = cli_format("%.1fx", a->floor.bytes / r->bytes);
    cells[5] = cli_format("%s%.5f", r->measured ? "" : "~", r->kld.mean);
    cells[6] = cli_format("%.5f-%.5f", r->kld.ci.low, r->kld.ci.high);
    cells[7] = cli_format("%.4f", advise_at_most(r, &a->floor));
    cells[8] = share_cell(1 - r->same_top);
}

static const char *const titles[N_COLUMNS] = {
    "", "spec", "bits", "MiB", "smaller", "KLD", "95%", "at most", "first choice changed"};

/* The levels, then the ladder that they are chosen from. */
static void print_table(const struct advise *a)
{
    char *cells[(2 + ADVISE_LEVELS + ADVISE_RUNGS) * N_COLUMNS];
    const size_t n_lines = 2 + ADVISE_LEVELS + a->n_rungs;
    size_t line = 0;
    for (size_t i = 0; i < N_COLUMNS; i++)
        cells[i] = cli_format("%s", titles[i]);
    for (size_t i = 0; i < ADVISE_LEVELS; i++)
        add_line(a, advise_levels[i].name, a->chosen[i] ? a->chosen[i] : &a->floor,
                 cells + ++line * N_COLUMNS);
    add_line(a, "all that was tried", &a->floor, cells + ++line * N_COLUMNS);
    for (size_t i = 0; i < a->n_rungs; i++)
        add_line(a, "", &a->rungs[i], cells + ++line * N_COLUMNS);
    cli_table_print((const char *const *)cells, n_lines, N_COLUMNS);
    for (size_t i = 0; i < n_lines * N_COLUMNS; i++)
        free(cells[i]);
}

/* A word as a shell takes it whole. */
static void print_word(const char *word)
{
    if (!strpbrk(word, " \t\n\"'`$\\*?[]{}()<>|&;!#~")) {
        fputs(word, stdout);
        return;
    }
    putchar('\'');
    for (const char *p = word; *p; p++) {
        if (*p == '\'')
            fputs("'\\''", stdout);
        else
            putchar(*p);
    }
    putchar('\'');
}

static void print_run(const char *path, const char *spec, uint32_t ctx)
{
    fputs("Take it: tightkv run -m ", stdout);
    print_word(path);
    fputs(" --kv ", stdout);
    print_word(spec);
    printf(" -- llama-server -c %u\n", ctx);
}

/* The command that takes the advice: what fits the budget, else the small loss. */
static void print_command(const struct advise *a)
{
    const struct advise_rung *usable = a->chosen[ADVISE_LEVELS - 1], *small = a->chosen[1];
    const struct advise_rung *r = small ? small : usable;
    uint32_t ctx = a->ctx;
    if (a->fitting)
        r = a->fitting;
    else if (a->budget > 0)
        r = usable, ctx = a->fitting_ctx;
    if (r != &a->floor && ctx > 0)
        print_run(a->path, r->spec, ctx);
}

static int print_text(const struct advise *a)
{
    char *f16 = advise_why_f16(a);
    printf("%s (%s): f16 cache of %u tokens %.1f MiB, weights %.1f MiB\n", a->path, a->model.arch,
           a->ctx, a->floor.bytes / (1 << 20), a->weight_bytes / (1 << 20));
    if (a->n_windows > 0) {
        printf("measured on %zu x %zu tokens of %s, read strictly; noise floor: KLD %.6f, "
               "sizes at %u tokens\n\n",
               a->n_windows, a->n_ctx, a->text_path, a->floor.kld.mean, a->ctx);
        print_table(a);
        putchar('\n');
        print_wrapped("Keys:", advise_why_keys(a));
        for (size_t i = 0; i < ADVISE_LEVELS; i++) {
            char *head =
                cli_format("%c%s: %s is", advise_levels[i].name[0] - 'a' + 'A',
                           advise_levels[i].name + 1, a->chosen[i] ? a->chosen[i]->spec : "f16");
            print_wrapped(head, advise_why_level(a, i));
            free(head);
        }
    }
    if (a->budget > 0)
        print_wrapped("Budget:", advise_why_budget(a));
    if (f16)
        print_wrapped("Verdict:", f16);
    else
        print_command(a);
    return fflush(stdout) == 0 ? CLI_OK : cli_fail("cannot write to stdout");
}

int advise_print(const struct advise *a)
{
    return a->common.json ? print_json(a) : print_text(a);
}
