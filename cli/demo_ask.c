/* tightkv demo: one question at the end of a long context, asked of two caches. */
#include <stdlib.h>
#include <string.h>

#include "demo.h"
#include "facts.h"

/* One question in many facts is asked; about so many tokens of the others stay out. */
enum { N_FACTS = 24, SEED = 12, MAX_ANSWER = 12, ASKING_TOKENS = 32 * N_FACTS };

/* Appends a token's text; true when it ends a sentence or a line. */
static bool append(struct session *s, llama_token id, char *text, size_t capacity)
{
    size_t n = strlen(text);
    int32_t got = s->llama->api.llama_token_to_piece(s->vocab, id, text + n,
                                                     (int32_t)(capacity - n - 1), 0, false);
    text[n + (got > 0 ? (size_t)got : 0)] = '\0';
    return strpbrk(text + n, ".\n") != NULL;
}

static int answer(struct demo *d, struct llama_context *ctx, const struct session_tokens *all,
                  struct demo_answer *out)
{
    struct session *s = &d->session;
    double start = cli_now();
    const float *logits;
    int rc = session_decode_last(s, ctx, all->ids, all->n, &logits);
    out->first_s = cli_now() - start;
    for (int i = 0; i < MAX_ANSWER && rc == CLI_OK; i++) {
        llama_token id = (llama_token)session_argmax(logits, s->n_vocab);
        if (append(s, id, out->text, sizeof(out->text)))
            break;
        rc = session_decode_last(s, ctx, &id, 1, &logits);
    }
    return rc;
}

static int ask_one(struct demo *d, const struct demo_row *row, const struct session_tokens *all,
                   struct demo_answer *out)
{
    char label[64];
    snprintf(label, sizeof(label), "a question at 12K, %s", row->name);
    cli_progress_step(&d->progress, 0, label);
    out->name = row->name;
    struct llama_context *ctx = session_context(&d->session, &row->cache, all->n + MAX_ANSWER);
    int rc = ctx ? answer(d, ctx, all, out) : CLI_DATA;
    if (rc == CLI_OK)
        out->kv_mib = demo_mib(d, row, ctx);
    session_free(&d->session, ctx);
    cli_progress_step(&d->progress, DEMO_QUESTION, NULL);
    return rc;
}

int demo_ask(struct demo *d)
{
    struct recall_set set = {cli_alloc(1, sizeof(struct recall_item)), 1};
    struct recall_item *item = set.items;
    int rc = facts_make(&d->session, d->filler, DEMO_QUESTION + ASKING_TOKENS, N_FACTS, SEED, item);
    if (rc == CLI_OK) {
        const struct session_tokens *prompt = &item->questions[0].prompt;
        struct session_tokens all = {cli_alloc(item->context.n + prompt->n, sizeof(llama_token)),
                                     0};
        memcpy(all.ids, item->context.ids, item->context.n * sizeof(llama_token));
        memcpy(all.ids + item->context.n, prompt->ids, prompt->n * sizeof(llama_token));
        all.n = item->context.n + prompt->n;
        for (size_t i = 0; i < prompt->n; i++)
            append(&d->session, prompt->ids[i], d->question, sizeof(d->question));
        d->n_question_tokens = all.n;
        rc = ask_one(d, &d->rows[0], &all, &d->answers[0]);
        if (rc == CLI_OK)
            rc = ask_one(d, &d->rows[DEMO_ROWS - DEMO_PRESETS], &all, &d->answers[1]);
        free(all.ids);
    }
    recall_free(&set);
    return rc;
}
