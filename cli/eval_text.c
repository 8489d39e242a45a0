/* Text: divergence, perplexity and agreement on windows of a text. */
#include <stdlib.h>
#include <string.h>

#include "eval.h"

/* One window of the text and where its scored rows begin: as llama-perplexity, the tokens from
 * the middle on predict their successors, the last token has none. */
struct window {
    llama_token *ids;
    size_t n, first;
};

struct row_sink {
    struct eval *e;
    struct metrics_reference *reference;
    struct metrics *metrics; /* NULL: these rows are the reference */
    const int32_t *targets;
};

static void take_logits(void *user, const float *logits, size_t i, size_t n)
{
    struct row_sink *sink = user;
    int n_threads = sink->e->session->n_threads;
    if (i + n > sink->reference->n_rows)
        n = sink->reference->n_rows - i;
    if (sink->metrics)
        metrics_add(sink->metrics, sink->reference, logits, sink->targets + i, i, n, n_threads);
    else
        metrics_reference_set(sink->reference, logits, i, n, n_threads);
}

static int decode_window(struct eval *e, struct llama_context *ctx, const struct window *w,
                         struct eval_row *row, struct metrics_reference *reference)
{
    struct session *s = e->session;
    int rc = session_decode(s, ctx, w->ids, w->first, NULL, NULL);
    if (rc != CLI_OK)
        return rc;
    if (row)
        eval_measure_begin(e, row);
    struct row_sink sink = {e, reference, row ? &row->text : NULL, w->ids + w->first + 1};
    rc = session_decode(s, ctx, w->ids + w->first, w->n - w->first, take_logits, &sink);
    if (rc == CLI_OK && row)
        rc = eval_measure_end(e, row);
    if (rc == CLI_OK && row)
        rc = eval_add_usage(e, row, ctx, &row->text_usage);
    return rc;
}

/* A context for every window, so that one cache at a time is in memory and every window starts
 * clean. */
static int run_window(struct eval *e, const struct window *w, struct eval_row *row,
                      struct metrics_reference *ref)
{
    const struct session_cache stock_f16 = {.type = GGML_TYPE_F16};
    struct llama_context *ctx = session_context(e->session, row ? &row->cache : &stock_f16, w->n);
    if (!ctx)
        return CLI_DATA;
    int rc = decode_window(e, ctx, w, row, ref);
    session_free(e->session, ctx);
    if (rc == CLI_OK && row && !row->text.finite)
        rc = cli_fail("%s: the logits are not finite; this cache does not work with %s", row->kv,
                      e->session->path);
    cli_progress_step(e->progress, (double)w->n, NULL);
    return rc;
}

int eval_text(struct eval *e, const struct session_tokens *text, size_t n_ctx, size_t n_chunks)
{
    const struct llama_api *api = &e->session->llama->api;
    struct window w = {cli_alloc(n_ctx, sizeof(llama_token)), n_ctx, n_ctx / 2};
    struct metrics_reference reference;
    metrics_reference_init(&reference, n_ctx - 1 - w.first, e->session->n_vocab);
    int rc = CLI_OK;
    for (size_t chunk = 0; chunk < n_chunks && rc == CLI_OK; chunk++) {
        char label[64];
        snprintf(label, sizeof(label), "text, window %zu of %zu", chunk + 1, n_chunks);
        cli_progress_step(e->progress, 0, label);
        memcpy(w.ids, text->ids + chunk * n_ctx, n_ctx * sizeof(*w.ids));
        if (api->llama_vocab_get_add_bos(e->session->vocab))
            w.ids[0] = api->llama_vocab_bos(e->session->vocab);
        rc = run_window(e, &w, NULL, &reference);
        for (size_t i = 0; i < e->n_rows && rc == CLI_OK; i++)
            rc = run_window(e, &w, &e->rows[i], &reference);
    }
    metrics_reference_free(&reference);
    free(w.ids);
    return rc;
}
