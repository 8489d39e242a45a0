/* Recall: facts put into a context, asked for at its end. */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"

size_t recall_item_tokens(const struct recall_item *item)
{
    size_t n = item->context.n;
    for (size_t i = 0; i < item->n_questions; i++)
        n += item->questions[i].prompt.n + item->questions[i].answer.n;
    return n;
}

void recall_free(struct recall_set *set)
{
    for (size_t i = 0; i < set->n; i++) {
        for (size_t q = 0; q < set->items[i].n_questions; q++) {
            free(set->items[i].questions[q].prompt.ids);
            free(set->items[i].questions[q].answer.ids);
        }
        free(set->items[i].questions);
        free(set->items[i].context.ids);
    }
    free(set->items);
    *set = (struct recall_set){0};
}

/* Tokens of the string at `key`; CLI_DATA without a line when it is missing or empty. */
static int take_text(struct session *s, const cJSON *object, const char *key, bool bos,
                     struct session_tokens *out)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
    if (!text || !*text)
        return CLI_DATA;
    return session_tokenize(s, text, strlen(text), bos, out);
}

static int take_item(struct session *s, const cJSON *line, struct recall_item *item)
{
    const cJSON *questions = cJSON_GetObjectItemCaseSensitive(line, "questions"), *question;
    int n = cJSON_GetArraySize(questions);
    if (n < 1 || take_text(s, line, "context", true, &item->context) != CLI_OK)
        return CLI_DATA;
    item->questions = cli_alloc((size_t)n, sizeof(*item->questions));
    cJSON_ArrayForEach(question, questions)
    {
        struct recall_question *q = &item->questions[item->n_questions++];
        if (take_text(s, question, "prompt", false, &q->prompt) != CLI_OK ||
            take_text(s, question, "answer", false, &q->answer) != CLI_OK)
            return CLI_DATA;
    }
    return CLI_OK;
}

int recall_parse(struct session *s, const char *text, const char *name, struct recall_set *out)
{
    *out = (struct recall_set){0};
    for (size_t n_lines = 1; *text; n_lines++) {
        size_t n = strcspn(text, "\n");
        if (n > 0) {
            cJSON *line = cJSON_ParseWithLength(text, n);
            out->items = cli_grow(out->items, out->n + 1, sizeof(*out->items));
            out->items[out->n++] = (struct recall_item){0};
            int rc = take_item(s, line, &out->items[out->n - 1]);
            cJSON_Delete(line);
            if (rc != CLI_OK)
                return cli_fail("%s:%zu is not {\"context\": text, \"questions\": [{\"prompt\": "
                                "text, \"answer\": "
                                "text}]}",
                                name, n_lines);
        }
        text += n + (text[n] == '\n');
    }
    return out->n ? CLI_OK : cli_fail("%s holds no items", name);
}

struct answer_check {
    const struct session_tokens *answer;
    size_t n_vocab;
    bool right;
};

/* Row i of the logits is to predict token i of the answer. */
static void check_answer(void *user, const float *logits, size_t i, size_t n)
{
    struct answer_check *c = user;
    for (size_t row = 0; row < n; row++)
        if (session_argmax(logits + row * c->n_vocab, c->n_vocab) !=
            (size_t)c->answer->ids[i + row])
            c->right = false;
}

/* Asks one question: the prompt but for its last token, then the tokens whose rows are to
 * predict the answer. Of the answer, all but the last token is in the context afterwards. */
static int ask(struct eval *e, struct llama_context *ctx, const struct recall_question *q,
               struct eval_row *row, bool *right)
{
    struct session *s = e->session;
    size_t n_prompt = q->prompt.n, n_answer = q->answer.n;
    int rc = session_decode(s, ctx, q->prompt.ids, n_prompt - 1, NULL, NULL);
    if (rc != CLI_OK)
        return rc;
    llama_token *scored = cli_alloc(n_answer, sizeof(*scored));
    scored[0] = q->prompt.ids[n_prompt - 1];
    memcpy(scored + 1, q->answer.ids, (n_answer - 1) * sizeof(*scored));
    struct answer_check check = {&q->answer, s->n_vocab, true};
    if (row)
        eval_measure_begin(e, row);
    rc = session_decode(s, ctx, scored, n_answer, check_answer, &check);
    if (rc == CLI_OK && row)
        rc = eval_measure_end(e, row);
    free(scored);
    *right = check.right;
    return rc;
}

/* All questions of an item in one context. */
static int ask_all(struct eval *e, struct llama_context *ctx, const struct recall_item *item,
                   struct eval_row *row, size_t *n_right)
{
    int rc = session_decode(e->session, ctx, item->context.ids, item->context.n, NULL, NULL);
    for (size_t i = 0; i < item->n_questions && rc == CLI_OK; i++) {
        const struct recall_question *q = &item->questions[i];
        bool right = false;
        rc = ask(e, ctx, q, row, &right);
        *n_right += right;
        if (rc == CLI_OK)
            rc = session_decode(e->session, ctx, q->answer.ids + q->answer.n - 1, 1, NULL, NULL);
    }
    return rc == CLI_OK && row ? eval_add_usage(e, row, ctx, &row->recall_usage) : rc;
}

static int run_item(struct eval *e, const struct recall_item *item, struct eval_row *row,
                    size_t *n_right)
{
    const struct session_cache stock_f16 = {.type = GGML_TYPE_F16};
    size_t n_tokens = recall_item_tokens(item);
    struct llama_context *ctx =
        session_context(e->session, row ? &row->cache : &stock_f16, n_tokens);
    if (!ctx)
        return CLI_DATA;
    int rc = ask_all(e, ctx, item, row, n_right);
    session_free(e->session, ctx);
    cli_progress_step(e->progress, (double)n_tokens, NULL);
    return rc;
}

int eval_recall(struct eval *e, const struct recall_set *set)
{
    int rc = CLI_OK;
    for (size_t i = 0; i < set->n && rc == CLI_OK; i++) {
        char label[64];
        snprintf(label, sizeof(label), "recall, item %zu of %zu", i + 1, set->n);
        cli_progress_step(e->progress, 0, label);
        e->n_asked += set->items[i].n_questions;
        rc = run_item(e, &set->items[i], NULL, &e->n_recalled_f16);
        for (size_t r = 0; r < e->n_rows && rc == CLI_OK; r++)
            rc = run_item(e, &set->items[i], &e->rows[r], &e->rows[r].n_recalled);
    }
    return rc;
}
