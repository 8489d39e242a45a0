/* Is it the same function still? Both models read a text, and their logits are compared. */
#include "harden.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

static const char text[] =
    "The harbour lay quiet in the early morning. Two fishing boats had come in during the night, "
    "and their crews were still mending the nets on the quay when the first carts arrived from the "
    "market. \"You are late,\" said the older of the two women, and counted the baskets again. "
    "There were 48 of them, four more than yesterday. Nobody asked where the others had gone; the "
    "storm of the week before was answer enough. At half past six the bell of the church began to "
    "ring, the lamps along the pier went out one after the other, and the day began as every day "
    "had begun in this town for as long as anyone could remember.";

/* Models without a tokenizer read numbers. */
enum {
    NUMBERS = 160
};

static int tokens_of(struct session *s, struct session_tokens *out)
{
    if (s->llama->api.llama_vocab_type(s->vocab) != LLAMA_VOCAB_TYPE_NONE)
        return session_tokenize(s, text, sizeof(text) - 1, true, out);
    *out = (struct session_tokens){cli_alloc(NUMBERS, sizeof(*out->ids)), NUMBERS};
    for (size_t i = 0; i < out->n; i++)
        out->ids[i] = (llama_token)(i * i * 31 % s->n_vocab);
    return CLI_OK;
}

static void keep(void *user, const float *logits, size_t i, size_t n)
{
    struct harden_logits *out = user;
    memcpy(out->rows + i * out->n_vocab, logits, n * out->n_vocab * sizeof(*logits));
}

static int read_text(struct harden_logits *out, struct session *s)
{
    struct session_tokens tokens = {0};
    struct session_cache cache = {NULL, GGML_TYPE_F16};
    int rc = tokens_of(s, &tokens);
    out->ids = tokens.ids;
    if (rc != CLI_OK)
        return rc;
    struct llama_context *ctx = session_context(s, &cache, tokens.n);
    if (ctx) {
        out->n_rows = tokens.n;
        out->rows = cli_alloc(tokens.n * s->n_vocab, sizeof(*out->rows));
        rc = session_decode(s, ctx, tokens.ids, tokens.n, keep, out);
        session_free(s, ctx);
    } else {
        rc = CLI_DATA;
    }
    return rc;
}

int harden_logits_of(struct harden_logits *out, struct cli_llama *l, const char *path,
                     int n_threads)
{
    struct session s;
    *out = (struct harden_logits){0};
    int rc = session_open(&s, l, path, n_threads);
    if (rc == CLI_OK) {
        out->n_vocab = s.n_vocab;
        out->rope = l->api.llama_model_rope_type(s.model);
        rc = read_text(out, &s);
    }
    session_close(&s);
    return rc;
}

void harden_logits_free(struct harden_logits *logits)
{
    free(logits->rows);
    free(logits->ids);
    *logits = (struct harden_logits){0};
}

static double log_sum(const float *x, size_t n)
{
    double most = (double)x[session_argmax(x, n)], sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

/* What the tokens that follow cost more than with the reference. */
static struct stats_mean nll_change_of(const struct harden_logits *reference,
                                       const struct harden_logits *other)
{
    size_t n = reference->n_vocab, n_changes = reference->n_rows - 1;
    float *changes = cli_alloc(n_changes, sizeof(*changes));
    for (size_t row = 0; row < n_changes; row++) {
        const float *a = reference->rows + row * n, *b = other->rows + row * n;
        size_t next = (size_t)reference->ids[row + 1];
        changes[row] = (float)((double)a[next] - log_sum(a, n) - (double)b[next] + log_sum(b, n));
    }
    struct stats_mean mean = stats_mean_of_runs(changes, 1, n_changes);
    free(changes);
    return mean;
}

struct harden_difference harden_compare(const struct harden_logits *reference,
                                        const struct harden_logits *other)
{
    struct harden_difference d = {0};
    size_t n = reference->n_vocab;
    for (size_t row = 0; row < reference->n_rows; row++) {
        const float *a = reference->rows + row * n, *b = other->rows + row * n;
        double log_a = log_sum(a, n), log_b = log_sum(b, n);
        for (size_t i = 0; i < n; i++)
            d.kld_mean += exp((double)a[i] - log_a) * ((double)a[i] - log_a - (double)b[i] + log_b);
        d.same_top1 += session_argmax(a, n) == session_argmax(b, n);
    }
    d.kld_mean /= (double)reference->n_rows;
    d.same_top1 /= (double)reference->n_rows;
    struct stats_mean nll_change = nll_change_of(reference, other);
    d.ppl_change = expm1(nll_change.mean);
    d.ppl_change_ci = (struct stats_interval){expm1(nll_change.ci.low), expm1(nll_change.ci.high)};
    return d;
}
