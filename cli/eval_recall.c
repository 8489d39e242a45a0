/* Recall: facts put into a context, asked for at its end. */
#include <cjson/cJSON.h>
#include <math.h>
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

/* Tokens of the string at `key`; CLI_DATA when it is missing or has none. */
static int take_text(struct session *s, const cJSON *object, const char *key, bool bos,
                     struct session_tokens *out)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
    if (!text || !*text)
        return CLI_DATA;
    int rc = session_tokenize(s, text, strlen(text), bos, out);
    return rc == CLI_OK && out->n == 0 ? CLI_DATA : rc;
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

/* Line `n_line` of the file `name`. */
static int parse_line(struct session *s, const char *text, size_t n, struct recall_item *item,
                      const char *name, size_t n_line)
{
    cJSON *line = cJSON_ParseWithLength(text, n);
    if (!line)
        return cli_fail("%s:%zu is no JSON: the line is cut short or damaged", name, n_line);
    int rc = take_item(s, line, item);
    cJSON_Delete(line);
    return rc == CLI_OK ? rc
                        : cli_fail("%s:%zu is not {\"context\": text, \"questions\": "
                                   "[{\"prompt\": text, \"answer\": text}]} with no text empty",
                                   name, n_line);
}

/* JSON lines {"context", "questions": [{"prompt", "answer"}]}; `name` is for messages. */
static int parse_items(const struct eval *e, const char *text, const char *name,
                       struct recall_set *out)
{
    for (size_t n_line = 1; *text; n_line++) {
        size_t n = strcspn(text, "\n");
        if (n > 0) {
            out->items = cli_grow(out->items, out->n + 1, sizeof(*out->items));
            struct recall_item *item = &out->items[out->n++];
            *item = (struct recall_item){0};
            int rc = parse_line(e->session, text, n, item, name, n_line);
            if (rc != CLI_OK)
                return rc;
        }
        text += n + (text[n] == '\n');
    }
    return out->n ? CLI_OK : cli_fail("%s holds no items", name);
}

/* An item whose last questions lie past what the model was trained for still compares caches. */
static void tell_long_items(const struct eval *e, const char *name, const struct recall_set *set)
{
    size_t trained = e->session->n_ctx_train, n = 0, most = 0;
    for (size_t i = 0; i < set->n; i++) {
        size_t n_tokens = recall_item_tokens(&set->items[i]);
        n += trained > 0 && n_tokens > trained;
        most = n_tokens > most ? n_tokens : most;
    }
    if (n > 0)
        cli_say(e->session->llama->level, CLI_NORMAL,
                "%s: %zu of %zu items go past the %zu tokens that the model was trained for, up to "
                "%zu; f16 may miss there too",
                name, n, set->n, trained, most);
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
               const struct eval_row *row, struct eval_record *out, bool *right)
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
    eval_measure_begin(e, row);
    rc = session_decode(s, ctx, scored, n_answer, check_answer, &check);
    if (rc == CLI_OK)
        rc = eval_measure_end(e, row, &out->held);
    free(scored);
    *right = check.right;
    return rc;
}

/* All questions of an item in one context. */
static int ask_all(struct eval *e, struct llama_context *ctx, const struct recall_item *item,
                   const struct eval_row *row, struct eval_record *out)
{
    bool *right = eval_keep(out, item->n_questions * sizeof(*right));
    int rc = session_decode(e->session, ctx, item->context.ids, item->context.n, NULL, NULL);
    for (size_t i = 0; i < item->n_questions && rc == CLI_OK; i++) {
        const struct recall_question *q = &item->questions[i];
        rc = ask(e, ctx, q, row, out, &right[i]);
        if (rc == CLI_OK)
            rc = session_decode(e->session, ctx, q->answer.ids + q->answer.n - 1, 1, NULL, NULL);
    }
    return rc == CLI_OK ? eval_add_held(e, row, ctx, &out->held) : rc;
}

/* ---- the part: a unit is an item, its record says of each question whether it was right ----- */

void eval_recall_set(struct eval_part *part, const struct recall_set *set)
{
    struct recall_set *state = cli_alloc(1, sizeof(*state));
    *state = *set;
    part->state = state;
}

static int load(struct eval *e, struct eval_part *part, const struct eval_options *o)
{
    if (!o->recall)
        return CLI_OK;
    int rc = session_check_tokenizer(e->session);
    if (rc != CLI_OK)
        return rc;
    size_t n_bytes;
    char *text = cli_read_text(o->recall, &n_bytes);
    if (!text)
        return CLI_DATA;
    struct recall_set set = {0};
    rc = parse_items(e, text, o->recall, &set);
    if (rc == CLI_OK)
        tell_long_items(e, o->recall, &set);
    eval_identify(e, text, n_bytes);
    free(text);
    eval_recall_set(part, &set);
    return rc;
}

static void free_state(struct eval_part *part)
{
    if (part->state)
        recall_free(part->state);
    free(part->state);
    part->state = NULL;
}

static size_t n_units(const struct eval_part *part)
{
    return ((const struct recall_set *)part->state)->n;
}

static struct eval_work work(const struct eval_part *part, size_t unit)
{
    const struct recall_set *set = part->state;
    return (struct eval_work){.n_batched = recall_item_tokens(&set->items[unit])};
}

static int run(struct eval *e, struct eval_part *part, size_t unit, const struct eval_row *row,
               struct eval_record *out)
{
    const struct recall_item *item = &((const struct recall_set *)part->state)->items[unit];
    struct llama_context *ctx = eval_context(e, row, recall_item_tokens(item));
    int rc = ctx ? ask_all(e, ctx, item, row, out) : CLI_DATA;
    session_free(e->session, ctx);
    return rc;
}

/* ---- results -------------------------------------------------------------------------------- */

/* In the items that `beside` was asked too. */
static size_t count_right(const struct eval *e, const struct eval_part *part,
                          const struct eval_row *row, const struct eval_row *beside,
                          size_t *n_asked)
{
    const struct recall_set *set = part->state;
    size_t n_right = 0;
    *n_asked = 0;
    for (size_t unit = 0; unit < part->n_units; unit++) {
        const struct eval_record *record = eval_record_of(e, part, unit, row);
        bool both = record && eval_record_of(e, part, unit, beside);
        const bool *right = both ? record->data : NULL;
        for (size_t i = 0; right && i < set->items[unit].n_questions; i++) {
            n_right += right[i];
            ++*n_asked;
        }
    }
    return n_right;
}

size_t eval_recall_right(const struct eval *e, const struct eval_part *part,
                         const struct eval_row *row, size_t *n_asked)
{
    return count_right(e, part, row, row, n_asked);
}

static void add_json(const struct eval *e, const struct eval_part *part, const struct eval_row *row,
                     cJSON *json)
{
    size_t n_asked, n_asked_f16;
    size_t n_right = eval_recall_right(e, part, row, &n_asked);
    size_t n_right_f16 = count_right(e, part, NULL, row, &n_asked_f16);
    cli_json_number(json, "recall", n_asked ? (double)n_right / (double)n_asked : NAN);
    cli_json_number(json, "recall_f16",
                    n_asked_f16 ? (double)n_right_f16 / (double)n_asked_f16 : NAN);
    eval_add_interval(json, "recall_ci", stats_wilson(n_right, n_asked));
    cli_json_number(json, "n_questions", n_asked ? (double)n_asked : NAN);
    eval_recall_add_places(e, part, row, json);
}

const struct eval_part_ops eval_recall_ops = {.name = "recall",
                                              .load = load,
                                              .free = free_state,
                                              .n_units = n_units,
                                              .work = work,
                                              .run = run,
                                              .add_json = add_json};
