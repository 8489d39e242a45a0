/* tightkv eval: quality of coded caches through the real plug-in. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_tools.h"
#include "eval.h"

struct eval_options {
    struct cli_common common;
    const char *model, *text, *recall;
    struct cli_list kv, stock;
    int64_t n_ctx, n_chunks, n_ubatch;
};

static const char about[] = "Compares caches with stock llama.cpp's own f16 cache on the same "
                            "model: divergence, perplexity and\n"
                            "agreement on windows of a text, recall of facts. Coded caches run "
                            "through the real plug-in and strictly:\n"
                            "a query reads exact values only within sink and tail.";

static int parse_options(struct eval_options *o, int argc, char **argv)
{
    *o = (struct eval_options){.n_ctx = 2048, .n_chunks = 10, .n_ubatch = SESSION_UBATCH};
    const struct cli_option options[] = {
        {"model", 'm', CLI_TEXT, &o->model, "FILE", "GGUF model", 0, 0, false},
        {"kv", 0, CLI_LIST, &o->kv, "SPEC",
         "a coded cache; may be given again (default: the default preset)", 0, 0, false},
        {"stock", 0, CLI_LIST, &o->stock, "TYPES", "stock cache types, as q8_0,q4_0", 0, 0, true},
        {"text", 0, CLI_TEXT, &o->text, "FILE", "text to score", 0, 0, false},
        {"recall", 0, CLI_TEXT, &o->recall, "FILE",
         "questions to ask: JSON lines of context and questions", 0, 0, false},
        {"ctx", 'c', CLI_COUNT, &o->n_ctx, "N", "tokens of a window of the text (2048)", 16,
         1 << 24, false},
        {"chunks", 0, CLI_COUNT, &o->n_chunks, "C", "windows of the text (10)", 1, INT32_MAX,
         false},
        {"ubatch", 0, CLI_COUNT, &o->n_ubatch, "N", "tokens of a batch (512)", 1, 1 << 16, false},
    };
    const struct cli_syntax syntax = {"eval", "-m MODEL [--text FILE] [--recall FILE] [options]",
                                      about, options, sizeof(options) / sizeof(options[0])};
    int first = cli_parse(&syntax, &o->common, argc, argv);
    if (first < 0)
        return first;
    if (first < argc)
        return -1 - cli_misuse("eval", "what is '%s'?", argv[first]);
    if (!o->model)
        return -1 - cli_misuse("eval", "-m MODEL is missing");
    if (!o->text && !o->recall)
        return -1 - cli_misuse("eval", "give --text FILE, --recall FILE or both");
    return first;
}

/* The spec with strict=1, in canonical form. */
static int set_spec(struct eval_row *row, const char *kv)
{
    tkv_spec spec;
    if (!bench_parse_spec("eval", &kv, &spec))
        return CLI_USAGE;
    spec.strict = 1;
    row->strict_spec = cli_alloc(512, 1);
    if (tkv_spec_print(&spec, row->strict_spec, 512) != TKV_OK)
        return cli_fail("spec %s does not print", kv);
    row->kv = cli_format("%s", kv);
    row->cache.spec = row->strict_spec;
    return CLI_OK;
}

static int set_stock(struct eval_row *row, const struct cli_llama *l, const char *type)
{
    if (!session_find_type(l, type, &row->cache.type))
        return cli_misuse(
            "eval",
            "--stock %s: stock caches are f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl",
            type);
    row->kv = cli_format("stock:%s", type);
    return CLI_OK;
}

/* Rows for each --kv as given, then each --stock; with neither, the default preset. */
static int make_rows(struct eval *e, struct eval_options *o, const struct cli_llama *l)
{
    size_t n_kv = o->kv.n || o->stock.n ? o->kv.n : 1;
    e->n_rows = n_kv + o->stock.n;
    e->rows = cli_alloc(e->n_rows, sizeof(*e->rows));
    int rc = CLI_OK;
    for (size_t i = 0; i < n_kv && rc == CLI_OK; i++) {
        rc = set_spec(&e->rows[i], o->kv.n ? o->kv.items[i] : NULL);
    }
    for (size_t i = 0; i < o->stock.n && rc == CLI_OK; i++)
        rc = set_stock(&e->rows[n_kv + i], l, o->stock.items[i]);
    return rc;
}

static void free_rows(struct eval *e)
{
    for (size_t i = 0; i < e->n_rows; i++) {
        free((char *)e->rows[i].kv);
        free(e->rows[i].strict_spec);
        metrics_free(&e->rows[i].text);
    }
    free(e->rows);
}

/* ---- results ------------------------------------------------------------------------------- */

static double ratio(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

struct figure {
    const char *key;   /* of the JSON */
    const char *title; /* of the table */
    int digits;
    double value;
};

enum { N_FIGURES = 13 };

static void figures_of(const struct eval *e, const struct eval_row *row,
                       struct figure out[N_FIGURES])
{
    const struct metrics *m = &row->text;
    const struct eval_usage *use =
        row->text_usage.n_contexts ? &row->text_usage : &row->recall_usage;
    double n = (double)m->n, n_asked = (double)e->n_asked;
    const struct figure figures[N_FIGURES] = {
        {"bits_per_value", "bits", 3, ratio(8 * use->bytes, use->n_values)},
        {"book_mib", NULL, 0, 0},
        {"kv_mib", "MiB", 2, ratio(use->bytes, (double)use->n_contexts) / (1 << 20)},
        {"exact_fraction", "exact", 3, ratio(row->exact_sum, row->n_measured)},
        {"read_fraction", "read", 3, ratio(row->read_sum, row->n_measured)},
        {"ppl", "ppl", 3, m->n ? exp(m->nll / n) : NAN},
        {"ppl_f16", "ppl f16", 3, m->n ? exp(m->nll_reference / n) : NAN},
        {"kld_mean", "KLD", 6, ratio(m->kld, n)},
        {"kld_median", "median", 6, metrics_quantile(m->klds, m->n, .5)},
        {"kld_p999", "99.9%", 5, metrics_quantile(m->klds, m->n, .999)},
        {"same_top1", "same top", 4, ratio((double)m->n_same_top, n)},
        {"recall", "recall", 4, ratio((double)row->n_recalled, n_asked)},
        {"recall_f16", "recall f16", 4, ratio((double)e->n_recalled_f16, n_asked)},
    };
    memcpy(out, figures, sizeof(figures));
}

static int print_json(const struct eval *e)
{
    cJSON *root = cJSON_CreateObject();
    cli_json_text(root, "model", e->session->path);
    cJSON *rows = cli_json_array(root, "rows");
    for (size_t i = 0; i < e->n_rows; i++) {
        struct figure figures[N_FIGURES];
        figures_of(e, &e->rows[i], figures);
        cJSON *row = cli_json_object(rows, NULL);
        cli_json_text(row, "kv", e->rows[i].kv);
        for (size_t f = 0; f < N_FIGURES; f++)
            cli_json_number(row, figures[f].key, figures[f].value);
    }
    return cli_json_print(root);
}

static int print_table(const struct eval *e)
{
    const char **cells = cli_alloc((e->n_rows + 1) * (N_FIGURES + 1), sizeof(*cells));
    size_t n = 0, n_columns = 0;
    for (size_t row = 0; row <= e->n_rows; row++) {
        struct figure figures[N_FIGURES];
        figures_of(e, &e->rows[row ? row - 1 : 0], figures);
        cells[n++] = cli_format("%s", row ? e->rows[row - 1].kv : "kv");
        for (size_t f = 0; f < N_FIGURES; f++) {
            if (!figures[f].title)
                continue;
            if (row == 0)
                cells[n++] = cli_format("%s", figures[f].title);
            else if (isfinite(figures[f].value))
                cells[n++] = cli_format("%.*f", figures[f].digits, figures[f].value);
            else
                cells[n++] = cli_format("-");
        }
        n_columns = row == 0 ? n : n_columns;
    }
    cli_table_print(cells, e->n_rows + 1, n_columns);
    for (size_t i = 0; i < n; i++)
        free((char *)cells[i]);
    free(cells);
    return CLI_OK;
}

/* ---- the command --------------------------------------------------------------------------- */

/* What is to be scored, in tokens. */
struct material {
    struct session_tokens text;
    size_t n_chunks;
    struct recall_set recall;
};

static int load_text(struct session *s, const struct eval_options *o, struct material *m)
{
    size_t n_bytes;
    char *text = cli_read_file(o->text, &n_bytes);
    if (!text)
        return CLI_DATA;
    int rc = session_tokenize(s, text, n_bytes, true, &m->text);
    free(text);
    if (rc != CLI_OK)
        return rc;
    m->n_chunks = m->text.n / (size_t)o->n_ctx;
    if (m->n_chunks == 0)
        return cli_fail(
            "%s has %zu tokens, less than one window; take a longer text or a smaller --ctx",
            o->text, m->text.n);
    if (m->n_chunks > (size_t)o->n_chunks)
        m->n_chunks = (size_t)o->n_chunks;
    return CLI_OK;
}

static int load_recall(struct session *s, const struct eval_options *o, struct material *m)
{
    size_t n_bytes;
    char *text = cli_read_file(o->recall, &n_bytes);
    if (!text)
        return CLI_DATA;
    int rc = recall_parse(s, text, o->recall, &m->recall);
    free(text);
    return rc;
}

static int run_eval(struct eval *e, const struct eval_options *o)
{
    struct material m = {0};
    int rc = o->text ? load_text(e->session, o, &m) : CLI_OK;
    if (rc == CLI_OK && o->recall)
        rc = load_recall(e->session, o, &m);
    double total = (double)(m.n_chunks * (size_t)o->n_ctx);
    for (size_t i = 0; i < m.recall.n; i++)
        total += (double)recall_item_tokens(&m.recall.items[i]);
    cli_progress_begin(e->progress, rc == CLI_OK ? o->common.level : CLI_QUIET,
                       total * (double)(e->n_rows + 1));
    if (rc == CLI_OK && o->text)
        rc = eval_text(e, &m.text, (size_t)o->n_ctx, m.n_chunks);
    if (rc == CLI_OK && o->recall)
        rc = eval_recall(e, &m.recall);
    cli_progress_end(e->progress);
    recall_free(&m.recall);
    free(m.text.ids);
    if (rc != CLI_OK)
        return rc;
    return o->common.json ? print_json(e) : print_table(e);
}

int cmd_eval(int argc, char **argv)
{
    struct eval_options o;
    int first = parse_options(&o, argc, argv);
    if (first < 0)
        return -1 - first;
    struct cli_llama llama;
    struct session session = {0};
    struct cli_progress progress;
    struct eval e = {.session = &session, .progress = &progress};
    bool coded = o.kv.n > 0 || o.stock.n == 0;
    int rc = cli_llama_open(&llama, &o.common, coded);
    if (rc == CLI_OK)
        rc = make_rows(&e, &o, &llama);
    if (rc == CLI_OK)
        rc = session_open(&session, &llama, o.model, (int)o.common.n_threads);
    if (rc == CLI_OK) {
        session.n_ubatch = (uint32_t)o.n_ubatch;
        rc = run_eval(&e, &o);
    }
    session_close(&session);
    free_rows(&e);
    cli_list_free(&o.kv);
    cli_list_free(&o.stock);
    return rc;
}
