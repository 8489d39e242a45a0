/* Text: divergence, perplexity and agreement on windows of a text. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "metrics.h"

/* As llama-perplexity, the headline figures are of the tokens from the middle of a window on,
 * each of which predicts its successor; the last token has none. Those before count by position
 * only. A record is the window's n_ctx - 1 tokens, as metrics_score() leaves them. */
struct text_state {
    const struct session_tokens *text;
    size_t n_ctx, n_windows, first;
    llama_token *window; /* the tokens of the unit at hand */
    struct metrics_reference reference;
    bool has_reference;
};

void eval_text_set(struct eval_part *part, const struct session_tokens *text, size_t n_ctx,
                   size_t n_windows)
{
    struct text_state *st = cli_alloc(1, sizeof(*st));
    st->text = text;
    st->n_ctx = n_ctx;
    st->n_windows = n_windows;
    st->first = n_ctx / 2;
    st->window = cli_alloc(n_ctx, sizeof(*st->window));
    part->state = st;
}

int eval_read_text(struct eval *e, const struct eval_options *o)
{
    if (e->text.ids)
        return CLI_OK;
    size_t n_bytes;
    char *text = cli_read_text(o->text, &n_bytes);
    if (!text)
        return CLI_DATA;
    int rc = session_tokenize(e->session, text, n_bytes, true, &e->text);
    free(text);
    if (rc == CLI_OK && e->text.n < (size_t)o->n_ctx)
        rc = cli_fail(
            "%s has %zu tokens, less than one window; take a longer text or a smaller --ctx",
            o->text, e->text.n);
    return rc;
}

static int load(struct eval *e, struct eval_part *part, const struct eval_options *o)
{
    if (!o->text)
        return CLI_OK;
    size_t n_ctx = (size_t)o->n_ctx, most = (size_t)o->n_chunks;
    int rc = eval_check_length(e, n_ctx, "--ctx");
    if (rc == CLI_OK)
        rc = eval_read_text(e, o);
    if (rc != CLI_OK)
        return rc;
    size_t n_windows = e->text.n / n_ctx < most ? e->text.n / n_ctx : most;
    eval_text_set(part, &e->text, n_ctx, n_windows);
    eval_identify(e, &n_ctx, sizeof(n_ctx));
    eval_identify(e, e->text.ids, n_windows * n_ctx * sizeof(*e->text.ids));
    return CLI_OK;
}

static void free_state(struct eval_part *part)
{
    struct text_state *st = part->state;
    if (!st)
        return;
    if (st->has_reference)
        metrics_reference_free(&st->reference);
    free(st->window);
    free(st);
    part->state = NULL;
}

static size_t n_units(const struct eval_part *part)
{
    return ((const struct text_state *)part->state)->n_windows;
}

static struct eval_work work(const struct eval_part *part, size_t unit)
{
    (void)unit;
    return (struct eval_work){.n_batched = ((const struct text_state *)part->state)->n_ctx};
}

/* ---- running -------------------------------------------------------------------------------- */

struct logits_sink {
    struct session *session;
    struct text_state *st;
    size_t first;              /* token that the decoded ones begin with */
    struct metrics_token *out; /* NULL: the reference */
    int rc;
};

static void take_logits(void *user, const float *logits, size_t i, size_t n)
{
    struct logits_sink *sink = user;
    struct metrics_reference *r = &sink->st->reference;
    size_t at = sink->first + i;
    if (at + n > r->n_rows)
        n = r->n_rows - at;
    if (sink->rc != CLI_OK)
        return;
    int n_threads = sink->session->n_threads;
    if (sink->out)
        sink->rc =
            metrics_score(r, logits, sink->st->window + at + 1, at, n, n_threads, sink->out + at);
    else
        sink->rc = metrics_reference_set(r, logits, at, n, n_threads);
}

/* Tokens [first, last) of the window, every one scored. */
static int score(struct eval *e, struct text_state *st, struct llama_context *ctx, size_t first,
                 size_t last, struct metrics_token *out)
{
    struct logits_sink sink = {e->session, st, first, out, CLI_OK};
    int rc = session_decode(e->session, ctx, st->window + first, last - first, take_logits, &sink);
    return rc != CLI_OK ? rc : sink.rc;
}

/* Only the second half says what was read: it is what the figures are of. */
static int decode_window(struct eval *e, struct text_state *st, struct llama_context *ctx,
                         const struct eval_row *row, struct eval_record *out)
{
    struct metrics_token *tokens = row ? out->data : NULL;
    int rc = score(e, st, ctx, 0, st->first, tokens);
    if (rc != CLI_OK)
        return rc;
    eval_measure_begin(e, row);
    rc = score(e, st, ctx, st->first, st->n_ctx, tokens);
    if (rc == CLI_OK)
        rc = eval_measure_end(e, row, &out->held);
    if (rc == CLI_OK)
        rc = eval_add_held(e, row, ctx, &out->held);
    return rc;
}

static void fill_window(struct eval *e, struct text_state *st, size_t unit)
{
    const struct llama_api *api = &e->session->llama->api;
    memcpy(st->window, st->text->ids + unit * st->n_ctx, st->n_ctx * sizeof(*st->window));
    if (api->llama_vocab_get_add_bos(e->session->vocab))
        st->window[0] = api->llama_vocab_bos(e->session->vocab);
}

static int check_finite(const struct eval *e, const struct eval_row *row,
                        const struct metrics_token *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(tokens[i].kld) || !isfinite(tokens[i].nll))
            return cli_fail("%s: the logits are not finite; this cache does not work with %s",
                            row->kv, e->session->path);
    return CLI_OK;
}

/* A context for every window, so that one cache at a time is in memory and every window starts
 * clean. */
static int run(struct eval *e, struct eval_part *part, size_t unit, const struct eval_row *row,
               struct eval_record *out)
{
    struct text_state *st = part->state;
    size_t n = st->n_ctx - 1;
    if (!st->has_reference) {
        st->has_reference = true;
        int rc = metrics_reference_init(&st->reference, n, e->session->n_vocab);
        if (rc != CLI_OK)
            return rc;
    }
    fill_window(e, st, unit);
    eval_keep(out, row ? n * sizeof(struct metrics_token) : 1);
    struct llama_context *ctx = eval_context(e, row, st->n_ctx);
    int rc = ctx ? decode_window(e, st, ctx, row, out) : CLI_DATA;
    session_free(e->session, ctx);
    return rc == CLI_OK && row ? check_finite(e, row, out->data, n) : rc;
}

/* ---- results -------------------------------------------------------------------------------- */

/* One number of every scored token, window after window. */
struct columns {
    size_t n_windows, length;
    float *kld, *nll, *change, *same;
    double nll_reference, n_common;
};

static void take_window(struct columns *c, const struct metrics_token *tokens)
{
    size_t at = c->length * c->n_windows++;
    for (size_t i = 0; i < c->length; i++) {
        const struct metrics_token *t = &tokens[i];
        c->kld[at + i] = t->kld;
        c->nll[at + i] = t->nll;
        c->change[at + i] = (float)((double)t->nll - (double)t->nll_reference);
        c->same[at + i] = (float)t->same_top;
        c->nll_reference += (double)t->nll_reference;
        c->n_common += t->n_top;
    }
}

static struct columns make_columns(const struct eval *e, const struct eval_part *part,
                                   const struct eval_row *row)
{
    const struct text_state *st = part->state;
    struct columns c = {.length = st->n_ctx - 1 - st->first};
    float **const all[] = {&c.kld, &c.nll, &c.change, &c.same};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        *all[i] = cli_alloc(part->n_units * c.length, sizeof(float));
    for (size_t unit = 0; unit < part->n_units; unit++) {
        const struct eval_record *record = eval_record_of(e, part, unit, row);
        if (record)
            take_window(&c, (const struct metrics_token *)record->data + st->first);
    }
    return c;
}

struct eval_text_figures eval_text_figures(const struct eval *e, const struct eval_part *part,
                                           const struct eval_row *row)
{
    const struct stats_mean none = {NAN, NAN, {NAN, NAN}};
    struct eval_text_figures f = {none, none, none, none, NAN, NAN, NAN, NAN, NAN, NAN, 0};
    if (part->n_units == 0)
        return f;
    struct columns c = make_columns(e, part, row);
    size_t n = f.n_tokens = c.n_windows * c.length;
    if (n > 0) {
        f.kld = stats_mean_of_runs(c.kld, c.n_windows, c.length);
        f.same_top = stats_mean_of_runs(c.same, c.n_windows, c.length);
        f.nll = stats_mean_of_runs(c.nll, c.n_windows, c.length);
        f.nll_change = stats_mean_of_runs(c.change, c.n_windows, c.length);
        f.nll_reference = c.nll_reference / (double)n;
        f.top5_overlap = c.n_common / (METRICS_TOP * (double)n);
        f.kld_median = stats_quantile(c.kld, n, .5);
        f.kld_p99 = stats_quantile(c.kld, n, .99);
        f.kld_p999 = stats_quantile(c.kld, n, .999);
        f.kld_max = stats_quantile(c.kld, n, 1);
    }
    free(c.kld);
    free(c.nll);
    free(c.change);
    free(c.same);
    return f;
}

double eval_text_kld_beside(const struct eval *e, const struct eval_part *part,
                            const struct eval_row *row, const struct eval_row *other)
{
    const struct text_state *st = part->state;
    double sum = 0, n = 0;
    for (size_t unit = 0; unit < part->n_units; unit++) {
        const struct eval_record *record = eval_record_of(e, part, unit, row);
        const struct metrics_token *tokens = record ? record->data : NULL;
        if (!tokens || !eval_record_of(e, part, unit, other))
            continue;
        for (size_t i = st->first; i < st->n_ctx - 1; i++, n++)
            sum += (double)tokens[i].kld;
    }
    return n > 0 ? sum / n : NAN;
}

/* Positions [first, last] of all windows. */
static void add_bucket(const struct eval *e, const struct eval_part *part,
                       const struct eval_row *row, size_t first, size_t last, cJSON *list)
{
    double kld = 0, same = 0, n = 0;
    for (size_t unit = 0; unit < part->n_units; unit++) {
        const struct eval_record *record = eval_record_of(e, part, unit, row);
        const struct metrics_token *tokens = record ? record->data : NULL;
        for (size_t i = first; tokens && i <= last; i++) {
            kld += (double)tokens[i].kld;
            same += tokens[i].same_top;
            n++;
        }
    }
    cJSON *bucket = cli_json_object(list, NULL);
    cli_json_number(bucket, "first", (double)first);
    cli_json_number(bucket, "last", (double)last);
    cli_json_number(bucket, "n", n);
    cli_json_number(bucket, "kld_mean", kld / n);
    cli_json_number(bucket, "same_top1", same / n);
}

/* 0 to 127, 128 to 255, 256 to 511, and so on: errors grow with the depth. */
static void add_by_position(const struct eval *e, const struct eval_part *part,
                            const struct eval_row *row, cJSON *json)
{
    enum {
        FIRST_BUCKET = 128
    };
    cJSON *list = cli_json_array(json, "by_position");
    size_t n = ((const struct text_state *)part->state)->n_ctx - 1;
    for (size_t first = 0, end = FIRST_BUCKET; first < n; first = end, end *= 2)
        add_bucket(e, part, row, first, (end < n ? end : n) - 1, list);
}

static struct stats_interval exp_interval(struct stats_interval i)
{
    return (struct stats_interval){exp(i.low) - 1, exp(i.high) - 1};
}

/* Where all windows agree alike, the means of blocks tell nothing: Wilson's interval does. */
static struct stats_interval share_interval(const struct stats_mean *share, size_t n)
{
    if (share->se <= 0)
        return stats_wilson((size_t)lround(share->mean * (double)n), n);
    return stats_within(share->ci, 0, 1);
}

static void add_json(const struct eval *e, const struct eval_part *part, const struct eval_row *row,
                     cJSON *json)
{
    struct eval_text_figures f = eval_text_figures(e, part, row);
    cli_json_number(json, "ppl", exp(f.nll.mean));
    cli_json_number(json, "ppl_se", exp(f.nll.mean) * f.nll.se);
    cli_json_number(json, "ppl_f16", exp(f.nll_reference));
    cli_json_number(json, "ppl_change", exp(f.nll_change.mean) - 1);
    eval_add_interval(json, "ppl_change_ci", exp_interval(f.nll_change.ci));
    cli_json_number(json, "kld_mean", f.kld.mean);
    eval_add_interval(json, "kld_ci", f.kld.ci);
    cli_json_number(json, "kld_median", f.kld_median);
    cli_json_number(json, "kld_p99", f.kld_p99);
    cli_json_number(json, "kld_p999", f.kld_p999);
    cli_json_number(json, "kld_max", f.kld_max);
    cli_json_number(json, "same_top1", f.same_top.mean);
    eval_add_interval(json, "same_top1_ci", share_interval(&f.same_top, f.n_tokens));
    cli_json_number(json, "top5_overlap", f.top5_overlap);
    if (isfinite(f.kld.mean))
        add_by_position(e, part, row, json);
    else
        cJSON_AddNullToObject(json, "by_position");
}

const struct eval_part_ops eval_text_ops = {.name = "text",
                                            .reference_runs_again = true,
                                            .n_floor_units = 2,
                                            .load = load,
                                            .free = free_state,
                                            .n_units = n_units,
                                            .work = work,
                                            .run = run,
                                            .add_json = add_json};
