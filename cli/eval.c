/* Runs the parts of an evaluation, and what they share. */
#include "eval.h"

#include <stdlib.h>
#include <string.h>

/* ---- records -------------------------------------------------------------------------------- */

static size_t row_index(const struct eval *e, const struct eval_row *row)
{
    return row ? 1 + (size_t)(row - e->rows) : 0;
}

static struct eval_record *slot_of(const struct eval *e, const struct eval_part *part, size_t unit,
                                   const struct eval_row *row)
{
    return &part->records[unit * (1 + e->n_rows) + row_index(e, row)];
}

const struct eval_record *eval_record_of(const struct eval *e, const struct eval_part *part,
                                         size_t unit, const struct eval_row *row)
{
    if (!part->records || unit >= part->n_units)
        return NULL;
    const struct eval_record *record = slot_of(e, part, unit, row);
    return record->data ? record : NULL;
}

void *eval_keep(struct eval_record *record, size_t n_bytes)
{
    free(record->data);
    record->data = cli_alloc(n_bytes, 1);
    record->n_bytes = n_bytes;
    return record->data;
}

static void add_held(struct eval_held *sum, const struct eval_held *more)
{
    sum->n_contexts += more->n_contexts;
    sum->n_values += more->n_values;
    sum->codes += more->codes;
    sum->side += more->side;
    sum->exact_pages += more->exact_pages;
    sum->tables += more->tables;
    sum->books += more->books;
    sum->plain += more->plain;
    sum->visual_values += more->visual_values;
    sum->visual_bytes += more->visual_bytes;
    sum->exact += more->exact;
    sum->read += more->read;
    sum->n_measured += more->n_measured;
    sum->tier_hits += more->tier_hits;
    sum->tier_misses += more->tier_misses;
    sum->tier_read += more->tier_read;
    sum->tier_resident += more->tier_resident;
    sum->tier_stall_seconds += more->tier_stall_seconds;
    sum->forward_seconds += more->forward_seconds;
}

struct eval_held eval_held_in(const struct eval *e, const struct eval_part *part,
                              const struct eval_row *row)
{
    struct eval_held sum = {0};
    for (size_t unit = 0; unit < part->n_units; unit++) {
        const struct eval_record *record = eval_record_of(e, part, unit, row);
        if (record)
            add_held(&sum, &record->held);
    }
    return sum;
}

static void free_records(const struct eval *e, struct eval_part *part)
{
    for (size_t i = 0; part->records && i < part->n_units * (1 + e->n_rows); i++)
        free(part->records[i].data);
    free(part->records);
    part->records = NULL;
}

/* ---- what there is to run ------------------------------------------------------------------- */

void eval_prepare(struct eval *e)
{
    for (size_t i = 0; i < e->n_parts; i++) {
        struct eval_part *part = &e->parts[i];
        part->n_units = part->state ? part->ops->n_units(part) : 0;
        part->records = cli_alloc(part->n_units * (1 + e->n_rows), sizeof(*part->records));
    }
}

/* A row or part that has failed runs no more. */
static bool has_run(const struct eval_part *part, size_t unit, const struct eval_row *row)
{
    if (part->failed)
        return false;
    return !row || (!row->error && !(row->is_floor && unit >= part->ops->n_floor_units));
}

static bool is_wanted(const struct eval *e, const struct eval_part *part, size_t unit,
                      const struct eval_row *row)
{
    return has_run(part, unit, row) && !eval_record_of(e, part, unit, row);
}

size_t eval_count(const struct eval *e, size_t *n_done)
{
    size_t n = 0;
    *n_done = 0;
    for (size_t i = 0; i < e->n_parts; i++) {
        const struct eval_part *part = &e->parts[i];
        for (size_t k = 0; k < part->n_units * (1 + e->n_rows); k++) {
            size_t unit = k / (1 + e->n_rows), index = k % (1 + e->n_rows);
            const struct eval_row *row = index ? &e->rows[index - 1] : NULL;
            bool done = eval_record_of(e, part, unit, row) != NULL;
            n += done || has_run(part, unit, row);
            *n_done += done;
        }
    }
    return n;
}

static bool rows_are_wanted(const struct eval *e, const struct eval_part *part, size_t unit)
{
    for (size_t i = 0; i < e->n_rows; i++)
        if (is_wanted(e, part, unit, &e->rows[i]))
            return true;
    return false;
}

static bool will_run(const struct eval *e, const struct eval_part *part, size_t unit,
                     const struct eval_row *row)
{
    if (is_wanted(e, part, unit, row))
        return true;
    return !row && part->ops->reference_runs_again && rows_are_wanted(e, part, unit);
}

static double weight(const struct eval *e, const struct eval_part *part, size_t unit,
                     const struct eval_row *row)
{
    struct eval_work work = part->ops->work(part, unit);
    return e->costs ? eval_seconds(e, row_index(e, row), work)
                    : (double)(work.n_batched + work.n_single);
}

double eval_left_of(const struct eval *e, const struct eval_row *row)
{
    double left = 0;
    for (size_t i = 0; i < e->n_parts; i++)
        for (size_t unit = 0; unit < e->parts[i].n_units; unit++)
            if (will_run(e, &e->parts[i], unit, row))
                left += weight(e, &e->parts[i], unit, row);
    return left;
}

double eval_left(const struct eval *e)
{
    double left = eval_left_of(e, NULL);
    for (size_t i = 0; i < e->n_rows; i++)
        left += eval_left_of(e, &e->rows[i]);
    return left;
}

/* ---- the journal ---------------------------------------------------------------------------- */

/* A record as the journal has it; the part's own bytes come behind. */
struct journaled {
    uint32_t part, unit, row, reserved; /* row 0: the reference */
    struct eval_held held;
};

void eval_identify(struct eval *e, const void *bytes, size_t n)
{
    e->fingerprint = journal_hash(e->fingerprint ? e->fingerprint : JOURNAL_HASH, bytes, n);
}

static int to_journal(struct eval *e, const struct eval_part *part, size_t unit,
                      const struct eval_row *row)
{
    if (!e->journal)
        return CLI_OK;
    const struct eval_record *record = slot_of(e, part, unit, row);
    size_t n_bytes = sizeof(struct journaled) + record->n_bytes;
    struct journaled *j = cli_alloc(n_bytes, 1);
    j->part = (uint32_t)(part - e->parts);
    j->unit = (uint32_t)unit;
    j->row = (uint32_t)row_index(e, row);
    j->held = record->held;
    memcpy(j + 1, record->data, record->n_bytes);
    int rc = journal_add(e->journal, j, n_bytes);
    free(j);
    return rc;
}

static void from_journal(struct eval *e, const struct journaled *j, size_t n_bytes)
{
    if (n_bytes < sizeof(*j) || j->part >= e->n_parts || j->row > e->n_rows ||
        j->unit >= e->parts[j->part].n_units)
        return;
    const struct eval_part *part = &e->parts[j->part];
    struct eval_record *record = slot_of(e, part, j->unit, j->row ? &e->rows[j->row - 1] : NULL);
    memcpy(eval_keep(record, n_bytes - sizeof(*j)), j + 1, n_bytes - sizeof(*j));
    record->held = j->held;
}

void eval_resume(struct eval *e)
{
    size_t n_bytes;
    void *record;
    while ((record = journal_next(e->journal, &n_bytes))) {
        from_journal(e, record, n_bytes);
        free(record);
    }
}

/* ---- running -------------------------------------------------------------------------------- */

int eval_row_failed(struct eval_row *row, int rc)
{
    if (rc == CLI_OK || rc == CLI_STOPPED)
        return rc;
    free(row->error);
    row->error = cli_format("%s", cli_last_failure());
    return CLI_OK;
}

static int run_one(struct eval *e, struct eval_part *part, size_t unit, struct eval_row *row)
{
    struct eval_record *record = slot_of(e, part, unit, row);
    bool journaled = record->data != NULL; /* the reference, run again */
    free(record->data);
    *record = (struct eval_record){0};
    double before = e->session->decode_seconds;
    int rc = part->ops->run(e, part, unit, row, record);
    record->held.forward_seconds = e->session->decode_seconds - before;
    cli_progress_step(e->progress, weight(e, part, unit, row), NULL);
    if (rc == CLI_OK)
        return journaled ? CLI_OK : to_journal(e, part, unit, row);
    free(record->data);
    *record = (struct eval_record){0};
    if (row && row->cache.spec)
        e->session->llama->measure(0); /* it may have failed between begin and end */
    if (row)
        return eval_row_failed(row, rc);
    part->failed = rc != CLI_STOPPED && part->ops->may_fail;
    return part->failed ? CLI_OK : rc;
}

static int run_unit(struct eval *e, struct eval_part *part, size_t unit)
{
    int rc = will_run(e, part, unit, NULL) ? run_one(e, part, unit, NULL) : CLI_OK;
    for (size_t i = 0; i < e->n_rows && rc == CLI_OK; i++)
        if (will_run(e, part, unit, &e->rows[i]))
            rc = run_one(e, part, unit, &e->rows[i]);
    return rc;
}

static int run_part(struct eval *e, struct eval_part *part)
{
    int rc = CLI_OK;
    for (size_t unit = 0; unit < part->n_units && rc == CLI_OK; unit++) {
        char label[64];
        snprintf(label, sizeof(label), "%s, %zu of %zu", part->ops->name, unit + 1, part->n_units);
        cli_progress_step(e->progress, 0, label);
        rc = run_unit(e, part, unit);
    }
    return rc;
}

int eval_run(struct eval *e)
{
    int rc = CLI_OK;
    for (size_t i = 0; i < e->n_parts && rc == CLI_OK; i++)
        rc = run_part(e, &e->parts[i]);
    return rc;
}

void eval_free_parts(struct eval *e)
{
    for (size_t i = 0; i < e->n_parts; i++) {
        free_records(e, &e->parts[i]);
        e->parts[i].ops->free(&e->parts[i]);
    }
    free(e->text.ids);
    e->text = (struct session_tokens){0};
    free(e->costs);
    e->costs = NULL;
}

void eval_free_rows(struct eval *e)
{
    for (size_t i = 0; i < e->n_rows; i++) {
        free((char *)e->rows[i].kv);
        free(e->rows[i].strict_spec);
        free(e->rows[i].error);
    }
    free(e->rows);
}

/* ---- what parts share ----------------------------------------------------------------------- */

struct llama_context *eval_context(struct eval *e, const struct eval_row *row, size_t n_tokens)
{
    const struct session_cache stock_f16 = {.type = GGML_TYPE_F16};
    return session_context(e->session, row ? &row->cache : &stock_f16, n_tokens);
}

int eval_check_length(const struct eval *e, size_t n_tokens, const char *what)
{
    size_t most = e->session->n_ctx_train;
    if (most == 0 || n_tokens <= most)
        return CLI_OK;
    return cli_fail("%s: %zu tokens are more than the %zu that %s was trained for; take fewer",
                    what, n_tokens, most, e->session->path);
}

void eval_measure_begin(struct eval *e, const struct eval_row *row)
{
    if (row && row->cache.spec)
        e->session->llama->measure(1);
}

static int plugin_stats(struct eval *e, const struct eval_row *row, struct tightkv_ggml_stats *out)
{
    *out = (struct tightkv_ggml_stats){.struct_size = sizeof(*out)};
    if (e->session->llama->stats(out) == TKV_OK && out->n_caches > 0 && out->n_values > 0)
        return CLI_OK;
    const bool known = out->why_plain[0] != '\0';
    return cli_fail("%s: the plug-in codes no layer of %s%s%s", row->kv, e->session->path,
                    known ? ": " : "; tightkv doctor tells why", out->why_plain);
}

int eval_measure_end(struct eval *e, const struct eval_row *row, struct eval_held *held)
{
    if (!row)
        return CLI_OK;
    if (!row->cache.spec) {
        /* Stock attention reads every row, as the cache holds it. */
        held->exact += row->cache.type == GGML_TYPE_F16 || row->cache.type == GGML_TYPE_F32;
        held->read += 1;
        held->n_measured += 1;
        return CLI_OK;
    }
    struct tightkv_ggml_stats st;
    int rc = plugin_stats(e, row, &st);
    e->session->llama->measure(0);
    held->exact += st.exact_fraction * (double)st.n_scored;
    held->read += st.read_fraction * (double)st.n_scored;
    held->n_measured += (double)st.n_scored;
    return rc;
}

int eval_add_held(struct eval *e, const struct eval_row *row, struct llama_context *ctx,
                  struct eval_held *held)
{
    if (!row)
        return CLI_OK;
    held->n_contexts++;
    if (!row->cache.spec) {
        /* What llama.cpp would save of a stock cache is its rows, and a few bytes a token for
         * positions. */
        double bytes = (double)e->session->llama->api.llama_state_seq_get_size(ctx, 0);
        double bits = session_type_bits(e->session, row->cache.type);
        double code_bits = session_type_code_bits(row->cache.type);
        held->codes += bytes * code_bits / bits;
        held->side += bytes * (bits - code_bits) / bits;
        held->n_values += 8 * bytes / bits;
        return CLI_OK;
    }
    struct tightkv_ggml_stats st;
    int rc = plugin_stats(e, row, &st);
    held->codes += (double)(st.sealed_bytes - st.side_bytes);
    held->side += (double)st.side_bytes;
    held->exact_pages += (double)st.open_bytes;
    held->tables += (double)st.meta_bytes;
    held->books += (double)st.book_bytes;
    held->tier_hits += (double)st.tier_hits;
    held->tier_misses += (double)st.tier_misses;
    held->tier_read += (double)st.tier_read_bytes;
    held->tier_resident += (double)st.tier_resident_bytes;
    held->tier_stall_seconds += 1e-9 * (double)st.tier_stall_ns;
    /* What the plug-in could not code counts as the f16 that it is. */
    held->plain += (double)st.plain_bytes;
    held->n_values += (double)st.n_values + (double)st.plain_bytes / 2;
    /* Page tables serve all rows alike. */
    held->visual_values += (double)st.visual_values;
    if (st.visual_values > 0)
        held->visual_bytes += (double)st.visual_bytes + (double)st.meta_bytes *
                                                            (double)st.visual_values /
                                                            (double)st.n_values;
    return rc;
}
