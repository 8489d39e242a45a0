/* Visual answers: questions about pictures that come as embeddings, as libmtmd feeds them to
 * llama.cpp. The plug-in sees from the batch that these are visual rows, and codes them by the
 * spec's visual codecs. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "visual_set.h"

static int check_lengths(const struct eval *e, const struct visual_set *set, const char *path)
{
    int rc = CLI_OK;
    for (size_t i = 0; i < set->n && rc == CLI_OK; i++) {
        char *what = cli_format("%s.json: picture %zu", path, set->pictures[i].number + 1);
        rc = eval_check_length(e, visual_set_tokens(set, i), what);
        free(what);
    }
    return rc;
}

static int load(struct eval *e, struct eval_part *part, const struct eval_options *o)
{
    if (!o->visual)
        return CLI_OK;
    struct visual_set *set = part->state = cli_alloc(1, sizeof(*set));
    int rc = visual_set_read(set, e->session, o->visual, o->visual_items);
    eval_identify(e, &set->hash, sizeof(set->hash));
    return rc == CLI_OK ? check_lengths(e, set, o->visual) : rc;
}

/* ---- the part: a unit is a picture, its record says of each answer whether it was right ------ */

static void free_state(struct eval_part *part)
{
    if (part->state)
        visual_set_free(part->state);
    free(part->state);
    part->state = NULL;
}

static size_t n_units(const struct eval_part *part)
{
    return ((const struct visual_set *)part->state)->n;
}

static struct eval_work work(const struct eval_part *part, size_t unit)
{
    return (struct eval_work){.n_batched = visual_set_tokens(part->state, unit)};
}

struct answers_check {
    const struct picture *picture;
    size_t n_vocab;
    bool *right;
};

/* The row of token i of the text is to predict token i + 1. */
static void check_answers(void *user, const float *logits, size_t i, size_t n)
{
    struct answers_check *c = user;
    const struct picture *p = c->picture;
    for (size_t a = 0; a < p->n_answers; a++)
        for (size_t at = p->answers[a].first; at < p->answers[a].first + p->answers[a].n; at++) {
            if (at - 1 < i || at - 1 >= i + n)
                continue;
            const float *row = logits + (at - 1 - i) * c->n_vocab;
            if (session_argmax(row, c->n_vocab) != (size_t)p->text.ids[at])
                c->right[a] = false;
        }
}

static int ask(struct eval *e, struct llama_context *ctx, const struct visual_set *set, size_t unit,
               const struct eval_row *row, struct eval_record *out)
{
    struct session *s = e->session;
    const struct picture *p = &set->pictures[unit];
    size_t n_rows = set->embeddings.shape[1];
    llama_token bos = s->llama->api.llama_vocab_bos(s->vocab);
    struct answers_check check = {p, s->n_vocab, eval_keep(out, p->n_answers)};
    memset(check.right, true, p->n_answers);
    int rc = session_decode(s, ctx, &bos, 1, NULL, NULL);
    if (rc == CLI_OK)
        rc = session_decode_embeddings(s, ctx, visual_set_rows(set, unit), n_rows);
    if (rc != CLI_OK)
        return rc;
    eval_measure_begin(e, row);
    rc = session_decode(s, ctx, p->text.ids, p->text.n - 1, check_answers, &check);
    if (rc == CLI_OK)
        rc = eval_measure_end(e, row, &out->held);
    return rc == CLI_OK ? eval_add_held(e, row, ctx, &out->held) : rc;
}

static int run(struct eval *e, struct eval_part *part, size_t unit, const struct eval_row *row,
               struct eval_record *out)
{
    struct llama_context *ctx = eval_context(e, row, visual_set_tokens(part->state, unit));
    int rc = ctx ? ask(e, ctx, part->state, unit, row, out) : CLI_DATA;
    session_free(e->session, ctx);
    return rc;
}

/* ---- results -------------------------------------------------------------------------------- */

/* On the pictures that `beside` was asked about too. */
static size_t count_right(const struct eval *e, const struct eval_part *part,
                          const struct eval_row *row, const struct eval_row *beside, size_t *n)
{
    const struct visual_set *set = part->state;
    size_t n_right = 0;
    *n = 0;
    for (size_t unit = 0; unit < part->n_units; unit++) {
        const struct eval_record *record = eval_record_of(e, part, unit, row);
        bool both = record && eval_record_of(e, part, unit, beside);
        const bool *right = both ? record->data : NULL;
        for (size_t i = 0; right && i < set->pictures[unit].n_answers; i++) {
            n_right += right[i];
            ++*n;
        }
    }
    return n_right;
}

static void add_json(const struct eval *e, const struct eval_part *part, const struct eval_row *row,
                     cJSON *json)
{
    size_t n, n_f16;
    size_t n_right = count_right(e, part, row, row, &n),
           n_right_f16 = count_right(e, part, NULL, row, &n_f16);
    cli_json_number(json, "visual", n ? (double)n_right / (double)n : NAN);
    cli_json_number(json, "visual_f16", n_f16 ? (double)n_right_f16 / (double)n_f16 : NAN);
    eval_add_interval(json, "visual_ci", stats_wilson(n_right, n));
    cli_json_number(json, "n_answers", n ? (double)n : NAN);
}

const struct eval_part_ops eval_visual_ops = {.name = "visual",
                                              .load = load,
                                              .free = free_state,
                                              .n_units = n_units,
                                              .work = work,
                                              .run = run,
                                              .add_json = add_json};
