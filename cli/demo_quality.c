/* tightkv demo: divergence and recall on one window. */
#include <stdlib.h>
#include <string.h>

#include "demo.h"
#include "facts.h"

enum { N_FACTS = 16, SEED = 7 };

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
        row->kv = d->rows[i + 1].name;
        row->cache = d->rows[i + 1].cache;
        if (row->cache.spec)
            row->cache.spec = row->strict_spec = cli_format("%s,strict=1", row->cache.spec);
    }
}

static void take_results(struct demo *d, struct eval *e)
{
    double n_asked = (double)e->n_asked;
    d->rows[0].kld = 0;
    d->rows[0].same_top = 1;
    d->rows[0].recall = (double)e->n_recalled_f16 / n_asked;
    for (size_t i = 0; i < e->n_rows; i++) {
        const struct metrics *m = &e->rows[i].text;
        d->rows[i + 1].kld = m->kld / (double)m->n;
        d->rows[i + 1].same_top = (double)m->n_same_top / (double)m->n;
        d->rows[i + 1].recall = (double)e->rows[i].n_recalled / n_asked;
    }
}

int demo_quality(struct demo *d)
{
    struct recall_set set = {cli_alloc(1, sizeof(struct recall_item)), 1};
    int rc = facts_make(&d->session, d->filler, DEMO_WINDOW, N_FACTS, SEED, set.items);
    struct eval e = {.session = &d->session, .progress = &d->progress};
    struct session_tokens window = {0};
    make_rows(d, &e);
    if (rc == CLI_OK) {
        window = flatten(set.items);
        rc = eval_text(&e, &window, window.n, 1);
    }
    if (rc == CLI_OK)
        rc = eval_recall(&e, &set);
    if (rc == CLI_OK)
        take_results(d, &e);
    free(window.ids);
    for (size_t i = 0; i < e.n_rows; i++) {
        free(e.rows[i].strict_spec);
        metrics_free(&e.rows[i].text);
    }
    free(e.rows);
    recall_free(&set);
    return rc;
}
