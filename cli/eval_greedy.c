/* Greedy decoding: how long a cache keeps to the text that the f16 cache writes. Each token is
 * decoded from a cache that holds the ones before it, so that errors feed on themselves. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"

struct prompts {
    const struct session_tokens *text;
    size_t n, n_prompt, n_tokens; /* prompts, the length of each, tokens to write after it */
};

/* ---- the part: a unit is a prompt ----------------------------------------------------------- */

static int load(struct eval *e, struct eval_part *part, const struct eval_options *o)
{
    if (o->n_greedy == 0)
        return CLI_OK;
    struct prompts *p = part->state = cli_alloc(1, sizeof(*p));
    p->n = (size_t)o->n_greedy;
    p->n_tokens = (size_t)o->n_greedy_tokens;
    p->n_prompt = (size_t)o->n_ctx - p->n_tokens;
    const size_t shape[] = {p->n, p->n_tokens, p->n_prompt};
    p->text = &e->text;
    int rc = eval_read_text(e, o);
    eval_identify(e, shape, sizeof(shape));
    eval_identify(e, e->text.ids, e->text.n * sizeof(*e->text.ids));
    return rc;
}

static void free_state(struct eval_part *part)
{
    free(part->state);
    part->state = NULL;
}

static size_t n_units(const struct eval_part *part)
{
    return ((const struct prompts *)part->state)->n;
}

static struct eval_work work(const struct eval_part *part, size_t unit)
{
    const struct prompts *p = part->state;
    (void)unit;
    return (struct eval_work){.n_batched = p->n_prompt, .n_single = p->n_tokens};
}

/* Prompts begin at evenly spread places. */
static llama_token *make_prompt(struct session *s, const struct prompts *p, size_t unit)
{
    const struct llama_api *api = &s->llama->api;
    size_t first = (p->text->n - p->n_prompt) * unit / p->n;
    llama_token *ids = cli_alloc(p->n_prompt, sizeof(*ids));
    memcpy(ids, p->text->ids + first, p->n_prompt * sizeof(*ids));
    if (api->llama_vocab_get_add_bos(s->vocab))
        ids[0] = api->llama_vocab_bos(s->vocab);
    return ids;
}

/* Writes after the logits of the prompt, n tokens at most: all into `out`, or, where `out` is
 * NULL, as long as they are those of `expected`. How many came is in n_written. */
static int write_on(struct session *s, struct llama_context *ctx, const float *logits, size_t n,
                    const llama_token *expected, llama_token *out, size_t *n_written)
{
    int rc = CLI_OK;
    for (*n_written = 0; *n_written < n; ++*n_written) {
        llama_token id = (llama_token)session_argmax(logits, s->n_vocab);
        if (out)
            out[*n_written] = id;
        else if (id != expected[*n_written])
            return CLI_OK;
        if (*n_written + 1 < n)
            rc = session_decode_last(s, ctx, &id, 1, &logits);
        if (rc != CLI_OK)
            return rc;
    }
    return CLI_OK;
}

/* The reference's record is what it wrote, a row's how many tokens were the same. */
static int continue_prompt(struct eval *e, const struct eval_part *part, size_t unit,
                           struct llama_context *ctx, const float *logits,
                           const struct eval_row *row, struct eval_record *out)
{
    const struct prompts *p = part->state;
    size_t n_written;
    if (!row)
        return write_on(e->session, ctx, logits, p->n_tokens, NULL,
                        eval_keep(out, p->n_tokens * sizeof(llama_token)), &n_written);
    const llama_token *expected = eval_record_of(e, part, unit, NULL)->data;
    eval_measure_begin(e, row);
    int rc = write_on(e->session, ctx, logits, p->n_tokens, expected, NULL, &n_written);
    if (rc == CLI_OK)
        rc = eval_measure_end(e, row, &out->held);
    if (rc == CLI_OK)
        rc = eval_add_held(e, row, ctx, &out->held);
    *(size_t *)eval_keep(out, sizeof(size_t)) = n_written;
    return rc;
}

static int run(struct eval *e, struct eval_part *part, size_t unit, const struct eval_row *row,
               struct eval_record *out)
{
    const struct prompts *p = part->state;
    struct llama_context *ctx = eval_context(e, row, p->n_prompt + p->n_tokens);
    if (!ctx)
        return CLI_DATA;
    const float *logits;
    llama_token *ids = make_prompt(e->session, p, unit);
    int rc = session_decode_last(e->session, ctx, ids, p->n_prompt, &logits);
    if (rc == CLI_OK)
        rc = continue_prompt(e, part, unit, ctx, logits, row, out);
    free(ids);
    session_free(e->session, ctx);
    return rc;
}

/* ---- results -------------------------------------------------------------------------------- */

static void add_json(const struct eval *e, const struct eval_part *part, const struct eval_row *row,
                     cJSON *json)
{
    const struct prompts *p = part->state;
    float *agree = cli_alloc(part->n_units + 1, sizeof(*agree));
    size_t n = 0, n_full = 0;
    for (size_t unit = 0; unit < part->n_units; unit++) {
        const struct eval_record *record = eval_record_of(e, part, unit, row);
        if (!record)
            continue;
        size_t n_agreed = *(const size_t *)record->data;
        agree[n++] = (float)n_agreed;
        n_full += n_agreed == p->n_tokens;
    }
    if (n == 0) {
        cJSON_AddNullToObject(json, "greedy");
    } else {
        struct stats_mean mean = stats_mean_of_runs(agree, n, 1);
        cJSON *greedy = cli_json_object(json, "greedy");
        cli_json_number(greedy, "n_prompts", (double)n);
        cli_json_number(greedy, "n_tokens", (double)p->n_tokens);
        cli_json_number(greedy, "mean_agree", mean.mean);
        eval_add_interval(greedy, "mean_agree_ci", stats_within(mean.ci, 0, (double)p->n_tokens));
        cli_json_number(greedy, "full_agree", (double)n_full / (double)n);
    }
    free(agree);
}

/* On quantised weights even the plug-in's f16 does not keep to stock f16 for long. */
const struct eval_part_ops eval_greedy_ops = {.name = "greedy",
                                              .n_floor_units = SIZE_MAX,
                                              .load = load,
                                              .free = free_state,
                                              .n_units = n_units,
                                              .work = work,
                                              .run = run,
                                              .add_json = add_json};
