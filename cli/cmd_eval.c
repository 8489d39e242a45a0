/* tightkv eval: quality of coded caches through the real plug-in. */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "bench_tools.h"
#include "eval.h"

/* The parts, in the order in which they run and their keys stand in the results. */
static const struct eval_part_ops *const part_ops[] = {&eval_text_ops, &eval_recall_ops};

enum {
    N_PARTS = sizeof(part_ops) / sizeof(part_ops[0])
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

/* ---- the command --------------------------------------------------------------------------- */

static int load_parts(struct eval *e, const struct eval_options *o)
{
    int rc = CLI_OK;
    e->n_parts = N_PARTS;
    for (size_t i = 0; i < N_PARTS; i++)
        e->parts[i].ops = part_ops[i];
    for (size_t i = 0; i < N_PARTS && rc == CLI_OK; i++)
        rc = part_ops[i]->load(e, &e->parts[i], o);
    return rc;
}

static int print_results(const struct eval *e, const struct eval_options *o)
{
    cJSON *json = eval_json(e, o);
    if (o->common.json)
        return cli_json_print(json);
    eval_print_table(json);
    cJSON_Delete(json);
    return CLI_OK;
}

static int run_eval(struct eval *e, const struct eval_options *o)
{
    struct eval_part parts[N_PARTS] = {{0}};
    e->parts = parts;
    int rc = load_parts(e, o);
    if (rc == CLI_OK) {
        cli_progress_begin(e->progress, o->common.level, eval_total_tokens(e));
        rc = eval_run(e);
        cli_progress_end(e->progress);
    }
    if (rc == CLI_OK)
        rc = print_results(e, o);
    for (size_t i = 0; i < e->n_rows && rc == CLI_OK; i++)
        rc = e->rows[i].error ? CLI_DATA : CLI_OK;
    eval_free_parts(e);
    return rc;
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
    eval_free_rows(&e);
    cli_list_free(&o.kv);
    cli_list_free(&o.stock);
    return rc;
}
