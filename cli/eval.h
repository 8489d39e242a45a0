/* Quality of caches against stock llama.cpp's f16 cache, by text and by recall of facts. */
#ifndef TKV_CLI_EVAL_H
#define TKV_CLI_EVAL_H

#include "metrics.h"
#include "session.h"

/* What a cache holds at the end of a context; sums over contexts. */
struct eval_usage {
    double bytes, n_values;
    size_t n_contexts;
};

/* One cache under evaluation. */
struct eval_row {
    const char *kv; /* as given, or "stock:q4_0"; owned */
    struct session_cache cache;
    char *strict_spec; /* what cache.spec points to; owned */
    struct eval_usage text_usage, recall_usage;
    double exact_sum, read_sum, n_measured; /* fractions, weighted by the rows they are means of */
    struct metrics text;
    size_t n_recalled;
};

struct eval {
    struct session *session;
    struct cli_progress *progress;
    struct eval_row *rows;
    size_t n_rows;
    size_t n_asked, n_recalled_f16; /* recall */
};

/* Scores `n_chunks` chunks of `n_ctx` tokens as llama-perplexity does: BOS first, second half
 * scored. */
int eval_text(struct eval *e, const struct session_tokens *text, size_t n_ctx, size_t n_chunks);

/* A question about the context of its item. */
struct recall_question {
    struct session_tokens prompt, answer;
};

struct recall_item {
    struct session_tokens context;
    struct recall_question *questions;
    size_t n_questions;
};

struct recall_set {
    struct recall_item *items;
    size_t n;
};

/* Reads JSON lines {"context", "questions": [{"prompt", "answer"}]}; `name` is for messages. */
int recall_parse(struct session *s, const char *text, const char *name, struct recall_set *out);
void recall_free(struct recall_set *set);
size_t recall_item_tokens(const struct recall_item *item);

/* Asks every question of every item, right answers kept in; an answer counts when every token of
 * it is the most likely one. */
int eval_recall(struct eval *e, const struct recall_set *set);

/* Around scored rows: collect which rows they read, then add that to the row's fractions. */
void eval_measure_begin(struct eval *e, struct eval_row *row);
int eval_measure_end(struct eval *e, struct eval_row *row);

/* At the end of a context: adds what the row's cache holds. */
int eval_add_usage(struct eval *e, struct eval_row *row, struct llama_context *ctx,
                   struct eval_usage *usage);

#endif
