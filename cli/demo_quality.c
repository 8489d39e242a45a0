/* tightkv demo: divergence and recall on one window. */
#include <stdlib.h>
#include <string.h>

#include "demo.h"
#include "facts.h"

enum {
    N_FACTS = 16,
    SEED = 7
};

/* The item as it is asked: context, questions and right answers. */
static struct session_tokens flatten(const struct recall_item *item)
{
    struct session_tokens all = {cli_alloc(recall_item_tokens(item), sizeof(llama_token)), 0};
    const struct session_tokens *part = &item->context;
    for (size_t i = 0;; i++) {
        memcpy(all.ids + all.n, part->ids, part->n * sizeof(llama_token));
        all.n += part->n;
        if (i == 2 * item->n_questions)
            return all;
        part = i % 2 ? &item->questions[i / 2].answer : &item->questions[i / 2].prompt;
    }
}

/* Rows of an evaluation for every cache but stock f16, its reference. */
static void make_rows(struct demo *d, struct eval *e)
{
    e->n_rows = DEMO_ROWS - 1;
    e->rows = cli_alloc(e->n_rows, sizeof(*e->rows));
    for (size_t i = 0; i < e->n_rows; i++) {
        struct eval_row *row = &e->rows[i];
        row->kv = cli_format("%s", d->rows[i + 1].name);
        row->cache = d->rows[i + 1].cache;
        if (row->cache.spec)
            row->cache.spec = row->strict_spec = cli_format("%s,strict=1", row->cache.spec);
    }
}

static void take_results(struct demo *d, const struct eval *e)
{
    const struct eval_part *text = &e->parts[0], *recall = &e->parts[1];
    size_t n_asked, n_right = eval_recall_right(e, recall, NULL, &n_asked);
    d->rows[0].kld = 0;
    d->rows[0].same_top = 1;
    d->rows[0].recall = (double)n_right / (double)n_asked;
    for (size_t i = 0; i < e->n_rows; i++) {
        const struct eval_row *row = &e->rows[i];
        struct eval_text_figures f = eval_text_figures(e, text, row);
        n_right = eval_recall_right(e, recall, row, &n_asked);
        d->rows[i + 1].kld = f.kld.mean;
        d->rows[i + 1].same_top = f.same_top.mean;
        d->rows[i + 1].recall = (double)n_right / (double)n_asked;
    }
}

static int run_eval(struct demo *d, const struct recall_set *set)
{
    struct session_tokens window = flatten(set->items);
    struct eval_part parts[] = {{.ops = &eval_text_ops}, {.ops = &eval_recall_ops}};
    struct eval e = {.session = &d->session, .progress = &d->progress, .parts = parts};
    e.n_parts = sizeof(parts) / sizeof(parts[0]);
    make_rows(d, &e);
    eval_text_set(&parts[0], &window, window.n, 1);
    eval_recall_set(&parts[1], set);
    eval_prepare(&e);
    int rc = eval_run(&e);
    for (size_t i = 0; i < e.n_rows && rc == CLI_OK; i++)
        rc = e.rows[i].error ? CLI_DATA : CLI_OK;
    if (rc == CLI_OK)
        take_results(d, &e);
    eval_free_parts(&e);
    eval_free_rows(&e);
    free(window.ids);
    return rc;
}

int demo_quality(struct demo *d)
{
    struct recall_set set = {cli_alloc(1, sizeof(struct recall_item)), 1};
    int rc = facts_make(&d->session, d->filler, DEMO_WINDOW, N_FACTS, SEED, set.items);
    if (rc == CLI_OK)
        return run_eval(d, &set);
    recall_free(&set);
    return rc;
}
