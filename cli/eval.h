/* Quality of caches against stock llama.cpp's f16 cache.
 *
 * An evaluation is a list of *parts* (text, recall, ...), each in a file of its own, eval_<part>.c,
 * registered in one line of cmd_eval.c. A part's work comes in *units* (a window of a text, an
 * item of questions): eval_run() runs each for the reference, stock llama.cpp's f16 cache, and
 * then for every row, and keeps one *record* of each run: a few numbers or a flat array, without
 * pointers, because records also go to the journal, from which an evaluation that was cut goes
 * on. Results are made from records alone, after all have run. To add a part, fill one struct
 * eval_part_ops. */
#ifndef TKV_CLI_EVAL_H
#define TKV_CLI_EVAL_H

#include "journal.h"
#include "session.h"
#include "stats.h"

struct cJSON;
struct eval;
struct eval_cost;
struct eval_part;

/* What the command line asks for. */
struct eval_options {
    struct cli_common common;
    const char *model, *text, *recall, *visual, *visual_items, *out;
    struct cli_list kv, stock;
    int64_t n_ctx, n_chunks, n_ubatch, n_greedy, n_greedy_tokens;
    bool layers;
};

/* One cache under evaluation. */
struct eval_row {
    const char *kv; /* as given, or "stock:q4_0"; owned */
    struct session_cache cache;
    char *strict_spec; /* what cache.spec points to; owned */
    char *error;       /* why this row stopped, in one line; NULL: it did not. Owned */
    bool is_floor;     /* the noise floor: runs beside the others, is no row of the results */
};

/* What a cache holds at the end of a unit, and what was read while rows were scored. All are
 * sums, so that those of units add up. */
struct eval_held {
    double n_contexts;
    double n_values;
    double codes, side, exact_pages, tables, plain; /* bytes; side: scales, means, headers */
    double books;                                   /* bytes beside these */
    double visual_values, visual_bytes;             /* of these, what visual rows are and take */
    double exact, read, n_measured;  /* fractions, weighted by the rows they are means of */
    double tier_hits, tier_misses;   /* blocks; the cache has no tiers: 0 */
    double tier_read, tier_resident; /* bytes */
    double tier_stall_seconds;
    double forward_seconds; /* inside llama.cpp */
};

/* What one unit gave for one cache. */
struct eval_record {
    struct eval_held held;
    void *data; /* the part's own; NULL: not run yet */
    size_t n_bytes;
};

/* Tokens that a unit decodes for one cache. */
struct eval_work {
    size_t n_batched; /* in batches, from an empty cache on */
    size_t n_single;  /* after those, one at a time */
};

struct eval_part_ops {
    const char *name;
    /* The reference leaves more than its record for the rows of a unit to compare with: it runs
     * again when rows of a unit are missing after a cut. */
    bool reference_runs_again;
    /* A reference that fails costs the results of this part alone. */
    bool may_fail;
    /* Units that the noise floor is measured on; 0: none. */
    size_t n_floor_units;

    /* Reads what the options ask for into part->state; leaves it NULL when they ask for nothing.
     * CLI_OK, or an exit code after a line on stderr; free() comes after either. */
    int (*load)(struct eval *e, struct eval_part *part, const struct eval_options *o);
    void (*free)(struct eval_part *part);

    /* Only for parts with a state. */
    size_t (*n_units)(const struct eval_part *part);
    struct eval_work (*work)(const struct eval_part *part, size_t unit);

    /* Runs a unit on a row's cache, or as the reference (row NULL), which always comes first:
     * eval_context() gives a fresh context, eval_measure_begin() and _end() go around what is
     * scored, eval_add_held() comes at the end, and eval_keep() takes the result. An error of a
     * row ends that row only. CLI_OK, or an exit code after a line on stderr. */
    int (*run)(struct eval *e, struct eval_part *part, size_t unit, const struct eval_row *row,
               struct eval_record *out);

    /* Adds the part's keys to a row's JSON, all of them: null where nothing was measured, also
     * without a state. */
    void (*add_json)(const struct eval *e, const struct eval_part *part, const struct eval_row *row,
                     struct cJSON *json);
};

struct eval_part {
    const struct eval_part_ops *ops;
    void *state;
    struct eval_record *records; /* [n_units][1 + n_rows], the reference first; of eval_run() */
    size_t n_units;
    bool failed; /* with a line on stderr: has no results */
};

struct eval {
    struct session *session;
    struct cli_progress *progress;
    struct eval_row *rows;
    size_t n_rows;
    struct eval_part *parts;
    size_t n_parts;
    struct session_tokens text; /* of --text, for all parts; freed by eval_free_parts() */
    uint64_t fingerprint;       /* of all that decides the results */
    struct journal *journal;    /* NULL: none */
    struct eval_cost *costs;    /* [1 + n_rows], the reference first; NULL: not measured */
};

/* ---- eval.c: runs parts, and what they share ------------------------------------------------ */

/* Makes room for the records of the parts, whose material is loaded. */
void eval_prepare(struct eval *e);

/* Takes what the journal has of them. */
void eval_resume(struct eval *e);

/* Runs what is left to run. CLI_DATA when the reference failed, but where a part may;
 * CLI_STOPPED when session->stop came true. A row that fails has an `error` and no more records. */
int eval_run(struct eval *e);

/* How many runs of a unit on a cache there are, and how many of them have a record. */
size_t eval_count(const struct eval *e, size_t *n_done);

/* What is left to run, in the unit that eval_run() tells the progress bar in: seconds where
 * costs are known, else tokens. */
double eval_left(const struct eval *e);

/* The same of one cache (row NULL: the reference). */
double eval_left_of(const struct eval *e, const struct eval_row *row);

/* Adds to the fingerprint. Parts do so with what they loaded. */
void eval_identify(struct eval *e, const void *bytes, size_t n);

/* After a row's run that returned `rc`: keeps the error with the row and gives CLI_OK, so that
 * the others go on. */
int eval_row_failed(struct eval_row *row, int rc);

void eval_free_parts(struct eval *e);
void eval_free_rows(struct eval *e);

/* A context on a row's cache, or on the reference's (row NULL); NULL after a line on stderr.
 * Freed with session_free(). */
struct llama_context *eval_context(struct eval *e, const struct eval_row *row, size_t n_tokens);

/* CLI_OK when the model was trained for contexts of n tokens; else a line that names `what`. */
int eval_check_length(const struct eval *e, size_t n_tokens, const char *what);

/* Around scored rows: collect which rows they read, then add that to `held`. Nothing for the
 * reference (row NULL). */
void eval_measure_begin(struct eval *e, const struct eval_row *row);
int eval_measure_end(struct eval *e, const struct eval_row *row, struct eval_held *held);

/* At the end of a context: adds what the row's cache holds. Nothing for the reference. */
int eval_add_held(struct eval *e, const struct eval_row *row, struct llama_context *ctx,
                  struct eval_held *held);

/* Room for a record's result: n_bytes zeros. */
void *eval_keep(struct eval_record *record, size_t n_bytes);

/* The record of a unit for a row, or for the reference (row NULL); NULL when there is none. */
const struct eval_record *eval_record_of(const struct eval *e, const struct eval_part *part,
                                         size_t unit, const struct eval_row *row);

/* What a row's cache held in the units of one part; zeros when none ran. */
struct eval_held eval_held_in(const struct eval *e, const struct eval_part *part,
                              const struct eval_row *row);

/* ---- eval_estimate.c ------------------------------------------------------------------------ */

/* Measures e->costs, where there is enough to do to be worth it. An exit code as eval_run(). */
int eval_estimate(struct eval *e);

/* Tokens of the longest unit. */
size_t eval_longest(const struct eval *e);

/* Seconds of `work` on a cache: row 0 is the reference. Needs e->costs. */
double eval_seconds(const struct eval *e, size_t row, struct eval_work work);

/* ---- eval_results.c ------------------------------------------------------------------------- */

/* The results as JSON, and as a table on stdout: CLI_OK, or CLI_DATA after a line on stderr. */
struct cJSON *eval_json(const struct eval *e, const struct eval_options *o);
int eval_print_table(const struct cJSON *json);

/* {low, high}, or null. */
void eval_add_interval(struct cJSON *json, const char *key, struct stats_interval interval);

/* ---- eval_text.c: windows of a text --------------------------------------------------------- */

extern const struct eval_part_ops eval_text_ops;

/* Reads --text, which has --ctx tokens or more, into e->text; once, since it may be a pipe. CLI_OK,
 * or CLI_DATA after a line on stderr. */
int eval_read_text(struct eval *e, const struct eval_options *o);

/* Scores `n_windows` windows of `n_ctx` tokens as llama-perplexity does: BOS first, second half
 * scored. Borrows the tokens. */
void eval_text_set(struct eval_part *part, const struct session_tokens *text, size_t n_ctx,
                   size_t n_windows);

/* What the tokens of a row score, second halves only. NaN and no intervals: not measured. */
struct eval_text_figures {
    struct stats_mean kld, same_top, nll, nll_change; /* nll_change: row minus reference */
    double nll_reference, top5_overlap;
    double kld_median, kld_p99, kld_p999, kld_max;
    size_t n_tokens;
};
struct eval_text_figures eval_text_figures(const struct eval *e, const struct eval_part *part,
                                           const struct eval_row *row);

/* Mean divergence of a row in the windows that `other` has run too; NaN where there are none. */
double eval_text_kld_beside(const struct eval *e, const struct eval_part *part,
                            const struct eval_row *row, const struct eval_row *other);

/* ---- eval_layers.c: errors of every layer ---------------------------------------------------- */

extern const struct eval_part_ops eval_layers_ops;

/* ---- eval_recall.c: facts put into a context, asked for at its end -------------------------- */

extern const struct eval_part_ops eval_recall_ops;

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

/* Asks every question of every item, right answers kept in; an answer counts when every token of
 * it is the most likely one. Takes what the set points to. */
void eval_recall_set(struct eval_part *part, const struct recall_set *set);

/* Right answers of a row, or of the reference (row NULL), among n_asked. */
size_t eval_recall_right(const struct eval *e, const struct eval_part *part,
                         const struct eval_row *row, size_t *n_asked);

/* Adds recall by depth and by distance to a row's JSON (eval_recall_depth.c). */
void eval_recall_add_places(const struct eval *e, const struct eval_part *part,
                            const struct eval_row *row, struct cJSON *json);

void recall_free(struct recall_set *set);
size_t recall_item_tokens(const struct recall_item *item);

/* ---- eval_visual.c: questions about pictures that come as embeddings ------------------------- */

extern const struct eval_part_ops eval_visual_ops;

/* ---- eval_greedy.c: how long a cache keeps to the text that the f16 cache writes -------------- */

extern const struct eval_part_ops eval_greedy_ops;

#endif
