/* Visual answers: questions about pictures that come as embeddings, as libmtmd feeds them to
 * llama.cpp. The plug-in sees from the batch that these are visual rows, and codes them by the
 * spec's visual codecs. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "npy.h"

/* Tokens [first, first + n) of a picture's text. */
struct visual_answer {
    size_t first, n;
};

struct picture {
    struct session_tokens text; /* questions and right answers */
    struct visual_answer *answers;
    size_t n_answers;
};

struct visual_set {
    struct npy embeddings; /* [n][tokens][values] */
    struct picture *pictures;
    size_t n;
};

/* ---- reading BASE.npy and BASE.json --------------------------------------------------------- */

static void free_set(struct visual_set *set)
{
    for (size_t i = 0; i < set->n; i++) {
        free(set->pictures[i].text.ids);
        free(set->pictures[i].answers);
    }
    free(set->pictures);
    free(set->embeddings.values);
    *set = (struct visual_set){.n = 0};
}

/* A whole number in [0, limit). */
static bool take_index(const cJSON *item, size_t limit, size_t *out)
{
    double value = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (!(value >= 0 && value < (double)limit) || value != floor(value))
        return false;
    *out = (size_t)value;
    return true;
}

static bool take_ids(const cJSON *list, size_t n_vocab, struct session_tokens *out)
{
    const cJSON *item;
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (n < 2)
        return false;
    out->ids = cli_alloc((size_t)n, sizeof(*out->ids));
    cJSON_ArrayForEach(item, list)
    {
        size_t id;
        if (!take_index(item, n_vocab, &id))
            return false;
        out->ids[out->n++] = (llama_token)id;
    }
    return true;
}

/* An answer's first token is predicted by a token of text before it. */
static bool take_answers(const cJSON *list, struct picture *out)
{
    const cJSON *pair;
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (n < 1)
        return false;
    out->answers = cli_alloc((size_t)n, sizeof(*out->answers));
    cJSON_ArrayForEach(pair, list)
    {
        struct visual_answer *a = &out->answers[out->n_answers++];
        if (!cJSON_IsArray(pair) || cJSON_GetArraySize(pair) != 2 ||
            !take_index(cJSON_GetArrayItem(pair, 0), out->text.n, &a->first) ||
            !take_index(cJSON_GetArrayItem(pair, 1), out->text.n - a->first + 1, &a->n) ||
            a->first == 0 || a->n == 0)
            return false;
    }
    return true;
}

static int take_pictures(struct session *s, const cJSON *list, const char *path,
                         struct visual_set *set)
{
    const cJSON *item;
    size_t n = cJSON_IsArray(list) ? (size_t)cJSON_GetArraySize(list) : 0;
    if (n != set->embeddings.shape[0])
        return cli_fail("%s describes %zu pictures; its .npy holds %zu", path, n,
                        set->embeddings.shape[0]);
    set->pictures = cli_alloc(n, sizeof(*set->pictures));
    cJSON_ArrayForEach(item, list)
    {
        struct picture *p = &set->pictures[set->n++];
        if (!take_ids(cJSON_GetObjectItemCaseSensitive(item, "text_ids"), s->n_vocab, &p->text))
            return cli_fail("%s: text_ids of picture %zu are not two or more token ids of a model "
                            "with %zu",
                            path, set->n, s->n_vocab);
        if (!take_answers(cJSON_GetObjectItemCaseSensitive(item, "answers"), p))
            return cli_fail("%s: answers of picture %zu are not pairs [first, length] within its "
                            "text_ids, from 1 on",
                            path, set->n);
    }
    return CLI_OK;
}

static int load_json(struct eval *e, const char *path, struct visual_set *set)
{
    size_t n_bytes;
    char *text = cli_read_file(path, &n_bytes);
    if (!text)
        return CLI_DATA;
    eval_identify(e, text, n_bytes);
    cJSON *list = cJSON_ParseWithLength(text, n_bytes);
    int rc = list ? take_pictures(e->session, list, path, set)
                  : cli_fail("%s is not JSON, or is cut short", path);
    cJSON_Delete(list);
    free(text);
    return rc;
}

static int load_npy(struct eval *e, const char *path, struct visual_set *set)
{
    const struct session *s = e->session;
    int n_embd = s->llama->api.llama_model_n_embd_inp(s->model);
    int rc = npy_read(path, 3, &set->embeddings);
    if (rc == CLI_OK)
        eval_identify(e, set->embeddings.values,
                      set->embeddings.shape[0] * set->embeddings.shape[1] *
                          set->embeddings.shape[2] * sizeof(float));
    if (rc == CLI_OK && set->embeddings.shape[2] != (size_t)n_embd)
        rc = cli_fail("%s holds embeddings of %zu values; %s takes %d", path,
                      set->embeddings.shape[2], s->path, n_embd);
    return rc;
}

static size_t picture_tokens(const struct visual_set *set, size_t i)
{
    return 1 + set->embeddings.shape[1] + set->pictures[i].text.n;
}

static int check_lengths(const struct eval *e, const struct visual_set *set, const char *path)
{
    int rc = CLI_OK;
    for (size_t i = 0; i < set->n && rc == CLI_OK; i++) {
        char *what = cli_format("%s: picture %zu", path, i + 1);
        rc = eval_check_length(e, picture_tokens(set, i), what);
        free(what);
    }
    return rc;
}

static int load(struct eval *e, struct eval_part *part, const struct eval_options *o)
{
    if (!o->visual)
        return CLI_OK;
    struct session *s = e->session;
    if (s->llama->api.llama_vocab_bos(s->vocab) == LLAMA_TOKEN_NULL)
        return cli_fail("%s has no token to begin with (BOS), as --visual needs", s->path);
    struct visual_set *set = part->state = cli_alloc(1, sizeof(*set));
    char *npy = cli_format("%s.npy", o->visual), *json = cli_format("%s.json", o->visual);
    int rc = load_npy(e, npy, set);
    if (rc == CLI_OK)
        rc = load_json(e, json, set);
    if (rc == CLI_OK)
        rc = check_lengths(e, set, json);
    free(npy);
    free(json);
    return rc;
}

/* ---- the part: a unit is a picture, its record says of each answer whether it was right ------ */

static void free_state(struct eval_part *part)
{
    if (part->state)
        free_set(part->state);
    free(part->state);
    part->state = NULL;
}

static size_t n_units(const struct eval_part *part)
{
    return ((const struct visual_set *)part->state)->n;
}

static struct eval_work work(const struct eval_part *part, size_t unit)
{
    return (struct eval_work){.n_batched = picture_tokens(part->state, unit)};
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
    size_t n_rows = set->embeddings.shape[1], n_values = set->embeddings.shape[2];
    llama_token bos = s->llama->api.llama_vocab_bos(s->vocab);
    struct answers_check check = {p, s->n_vocab, eval_keep(out, p->n_answers)};
    memset(check.right, true, p->n_answers);
    int rc = session_decode(s, ctx, &bos, 1, NULL, NULL);
    if (rc == CLI_OK)
        rc = session_decode_embeddings(s, ctx, set->embeddings.values + unit * n_rows * n_values,
                                       n_rows);
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
    struct llama_context *ctx = eval_context(e, row, picture_tokens(part->state, unit));
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
