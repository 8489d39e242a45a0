/* tightkv advise: what is measured, and how large caches are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "advise.h"
#include "estimate.h"

/* From little loss to little memory. Plain and centred keys stand side by side: which of the two
 * a model needs is what it has to tell. Sink and tail are the default preset's. */
static const char *const ladder[ADVISE_LADDER] = {
    "k=q8,v=q8",          "k=q8,v=turbo4",      "k=turbo4c,v=turbo4", "k=turbo4,v=turbo4",
    "k=turbo4c,v=turbo3", "k=turbo3c,v=turbo3", "k=turbo3,v=turbo3",  "k=turbo3c,v=turbo2",
    "k=turbo3,v=turbo2",  "k=turbo2,v=turbo2"};

/* Learned codecs, the one for a quick look first. The survey cannot tell their errors: its caches
 * have no book. */
static const struct {
    const char *codec, *spec;
} learned[ADVISE_LEARNED] = {{"tight3", "k=tight3,v=tight3"},
                             {"tight4", "k=tight4,v=tight4"},
                             {"tight2", "k=tight2,v=tight2"}};

/* What a quick look evaluates: the default preset, what a level lower would be, and a learned
 * codec. */
static const bool evaluated_when_quick[ADVISE_RUNGS] = {
    [2] = true, [5] = true, [ADVISE_LADDER] = true};

/* Keys alone at 4 bits, plain and centred: advise_keys_gain(). */
static const char *const key_probes[] = {"k=turbo4,v=f16", "k=turbo4c,v=f16"};

enum {
    N_SURVEYED = ADVISE_LADDER + sizeof(key_probes) / sizeof(key_probes[0])
};

static int parse(const char *text, tkv_spec *out)
{
    tkv_error err;
    *out = (tkv_spec){.struct_size = sizeof(*out)};
    return tkv_spec_parse(text, out, &err) == TKV_OK ? CLI_OK : cli_fail("%s", err.text);
}

static const struct advise_rung not_measured = {
    .out_error = NAN, .kld = {NAN, NAN, {NAN, NAN}}, .same_top = NAN, .ppl_change = NAN};

static int add_rung(struct advise *a, const char *spec)
{
    struct advise_rung *rung = &a->rungs[a->n_rungs++];
    *rung = not_measured;
    rung->spec = spec;
    return parse(spec, &rung->parsed);
}

int advise_make_rungs(struct advise *a)
{
    int rc = CLI_OK;
    for (size_t i = 0; i < ADVISE_LADDER && rc == CLI_OK; i++)
        rc = add_rung(a, ladder[i]);
    a->floor = not_measured;
    a->floor.spec = "f16";
    return rc == CLI_OK ? parse("kv=f16", &a->floor.parsed) : rc;
}

int advise_add_learned(struct advise *a)
{
    const size_t n = a->quick ? 1 : ADVISE_LEARNED;
    int rc = CLI_OK;
    for (size_t i = 0; i < n && rc == CLI_OK; i++)
        if (a->llama.has_book(a->path, learned[i].codec) == TKV_OK)
            rc = add_rung(a, learned[i].spec);
    return rc;
}

/* ---- layers --------------------------------------------------------------------------------- */

static int survey(struct advise *a, const struct session_tokens *text)
{
    tkv_spec specs[N_SURVEYED];
    int rc = CLI_OK;
    for (size_t i = 0; i < N_SURVEYED && rc == CLI_OK; i++) {
        rc = parse(i < ADVISE_LADDER ? ladder[i] : key_probes[i - ADVISE_LADDER], &specs[i]);
        specs[i].strict = 1;
    }
    struct session_tokens window = {text->ids, a->n_ctx};
    cli_progress_step(&a->progress, 0, "keys and values of every layer");
    if (rc == CLI_OK)
        rc = layer_survey_run(&a->session, &window, specs, N_SURVEYED, &a->progress, &a->survey);
    for (size_t i = 0; i < ADVISE_LADDER && rc == CLI_OK; i++)
        a->rungs[i].out_error = layer_survey_out_error(&a->survey, i);
    return rc;
}

double advise_keys_gain(const struct advise *a)
{
    return layer_survey_out_error(&a->survey, ADVISE_LADDER) /
           layer_survey_out_error(&a->survey, ADVISE_LADDER + 1);
}

/* ---- divergences ---------------------------------------------------------------------------- */

static bool is_evaluated(const struct advise *a, size_t i_rung)
{
    return !a->quick || evaluated_when_quick[i_rung];
}

/* The floor first, then rungs; `measured` says which. */
static size_t make_rows(struct advise *a, struct eval_row *rows, struct advise_rung **measured)
{
    size_t n = 0;
    for (size_t i = 0; i <= a->n_rungs; i++) {
        struct advise_rung *rung = i == 0 ? &a->floor : &a->rungs[i - 1];
        if (i > 0 && !is_evaluated(a, i - 1))
            continue;
        char *strict = cli_format("%s,strict=1", i == 0 ? "kv=f16" : rung->spec);
        rows[n] = (struct eval_row){
            .kv = cli_format("%s", rung->spec), .cache = {.spec = strict}, .strict_spec = strict};
        measured[n++] = rung;
    }
    return n;
}

static int take_figures(const struct eval *e, struct advise_rung **measured)
{
    for (size_t i = 0; i < e->n_rows; i++) {
        if (e->rows[i].error)
            return CLI_DATA; /* with a line on stderr already */
        struct eval_text_figures f = eval_text_figures(e, &e->parts[0], &e->rows[i]);
        measured[i]->measured = true;
        measured[i]->kld = f.kld;
        measured[i]->same_top = f.same_top.mean;
        measured[i]->ppl_change = expm1(f.nll_change.mean);
    }
    return CLI_OK;
}

static size_t n_evaluated(const struct advise *a)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n_rungs; i++)
        n += is_evaluated(a, i);
    return n;
}

static int evaluate(struct advise *a, const struct session_tokens *text)
{
    struct advise_rung *measured[1 + ADVISE_RUNGS];
    struct eval_part part = {.ops = &eval_text_ops};
    struct eval e = {
        .session = &a->session, .progress = &a->progress, .parts = &part, .n_parts = 1};
    e.rows = cli_alloc(1 + ADVISE_RUNGS, sizeof(*e.rows));
    e.n_rows = make_rows(a, e.rows, measured);
    eval_text_set(&part, text, a->n_ctx, a->n_windows);
    eval_prepare(&e);
    int rc = eval_run(&e);
    if (rc == CLI_OK)
        rc = take_figures(&e, measured);
    eval_free_parts(&e);
    eval_free_rows(&e);
    if (rc == CLI_OK)
        advise_estimate(a->rungs, a->n_rungs, &a->floor);
    return rc;
}

int advise_measure(struct advise *a, const struct session_tokens *text)
{
    /* llama.cpp's own f16 cache and the floor come on top. */
    double forward = (double)(a->n_ctx * a->n_windows) * (double)(2 + n_evaluated(a));
    cli_progress_begin(&a->progress, a->common.level,
                       forward + layer_survey_work(a->n_ctx, N_SURVEYED));
    int rc = survey(a, text);
    if (rc == CLI_OK)
        rc = evaluate(a, text);
    cli_progress_end(&a->progress);
    return rc;
}

/* ---- sizes ---------------------------------------------------------------------------------- */

static struct estimate_row row_of(const struct advise *a, const struct advise_rung *rung)
{
    bool coded = rung != &a->floor;
    return (struct estimate_row){.spec = rung->parsed,
                                 .stock = coded ? GGML_TYPE_COUNT : GGML_TYPE_F16};
}

static tkv_status size_rung(const struct advise *a, const struct estimator *e,
                            struct advise_rung *rung, tkv_error *err)
{
    struct estimate_row row = row_of(a, rung);
    struct estimate_bytes bytes;
    tkv_status status = estimate_bytes_of(e, &row, a->ctx, &bytes, err);
    if (status != TKV_OK)
        return status;
    rung->bytes = bytes.total;
    rung->bits = bytes.bits_per_value;
    return TKV_OK;
}

static tkv_status choose(struct advise *a, const struct estimator *e, tkv_error *err)
{
    tkv_status status = size_rung(a, e, &a->floor, err);
    for (size_t i = 0; i < a->n_rungs && status == TKV_OK; i++)
        status = size_rung(a, e, &a->rungs[i], err);
    if (status != TKV_OK)
        return status;
    for (size_t i = 0; i < ADVISE_LEVELS; i++)
        a->chosen[i] = advise_pick(a->rungs, a->n_rungs, &a->floor, advise_levels[i].limit);
    if (a->budget <= 0)
        return TKV_OK;
    a->fitting = advise_fit(a->rungs, a->n_rungs, &a->floor, a->budget);
    const struct advise_rung *smallest = a->chosen[ADVISE_LEVELS - 1];
    struct estimate_row row = row_of(a, smallest ? smallest : &a->floor);
    return a->fitting ? TKV_OK : estimate_longest(e, &row, a->budget, &a->fitting_ctx, err);
}

int advise_choose(struct advise *a)
{
    tkv_context *ctx;
    tkv_error err = {{0}};
    tkv_status status = tkv_context_create(NULL, &ctx, &err);
    if (status == TKV_OK) {
        struct estimator e = {&a->llama.api, &a->model, ctx};
        status = choose(a, &e, &err);
        tkv_context_destroy(ctx);
    }
    return status == TKV_OK ? CLI_OK : cli_fail("%s", err.text);
}
