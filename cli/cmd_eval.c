/* tightkv eval: quality of coded caches through the real plug-in. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bench_tools.h"
#include "eval.h"

/* The parts, in the order in which they run and their keys stand in the results. */
static const struct eval_part_ops *const part_ops[] = {
    &eval_text_ops, &eval_greedy_ops, &eval_recall_ops, &eval_visual_ops, &eval_layers_ops};

enum {
    N_PARTS = sizeof(part_ops) / sizeof(part_ops[0])
};

static const char about[] =
    "Compares caches with stock llama.cpp's own f16 cache on the same model: divergence, perplexity "
    "and\n"
    "agreement on windows of a text, greedy text, recall of facts, questions about pictures, errors "
    "of layers.\n"
    "Coded caches run through the real plug-in and strictly: a query reads exact values only within "
    "sink and tail.";

static int check_parts(const struct eval_options *o)
{
    if (!o->text && !o->recall && !o->visual)
        return cli_misuse("eval", "give --text FILE, --recall FILE, --visual BASE or several");
    if (o->n_greedy > 0 && !o->text)
        return cli_misuse("eval", "--greedy takes its prompts from --text FILE, which is missing");
    if (o->layers && !o->text)
        return cli_misuse("eval", "--layers needs --text FILE");
    if (o->n_greedy > 0 && o->n_greedy_tokens >= o->n_ctx)
        return cli_misuse("eval", "--greedy-tokens %lld leaves no room for prompts in --ctx %lld",
                          (long long)o->n_greedy_tokens, (long long)o->n_ctx);
    return CLI_OK;
}

static int parse_options(struct eval_options *o, int argc, char **argv)
{
    *o = (struct eval_options){
        .n_ctx = 2048, .n_chunks = 10, .n_ubatch = SESSION_UBATCH, .n_greedy_tokens = 64};
    const struct cli_option options[] = {
        {"model", 'm', CLI_TEXT, &o->model, "FILE", "GGUF model", 0, 0, false},
        {"kv", 0, CLI_LIST, &o->kv, "SPEC",
         "a coded cache; may be given again (default: the default preset)", 0, 0, false},
        {"stock", 0, CLI_LIST, &o->stock, "TYPES", "stock cache types, as q8_0,q4_0", 0, 0, true},
        {"text", 0, CLI_TEXT, &o->text, "FILE", "text to score", 0, 0, false},
        {"recall", 0, CLI_TEXT, &o->recall, "FILE",
         "questions to ask: JSON lines of context and questions", 0, 0, false},
        {"visual", 0, CLI_TEXT, &o->visual, "BASE",
         "pictures to ask about: embeddings in BASE.npy, questions in BASE.json", 0, 0, false},
        {"visual-items", 0, CLI_TEXT, &o->visual_items, "LIST",
         "of them, these only, as in 0-11,15; the first is 0", 0, 0, false},
        {"greedy", 0, CLI_COUNT, &o->n_greedy, "N",
         "compare what is written after N prompts from the text", 1, 1 << 20, false},
        {"greedy-tokens", 0, CLI_COUNT, &o->n_greedy_tokens, "T",
         "tokens to write after each, within --ctx (64)", 1, 1 << 20, false},
        {"layers", 0, CLI_FLAG, &o->layers, NULL,
         "errors of every layer, on one window of the text", 0, 0, false},
        {"ctx", 'c', CLI_COUNT, &o->n_ctx, "N", "tokens of a window of the text (2048)", 16,
         1 << 24, false},
        {"chunks", 0, CLI_COUNT, &o->n_chunks, "C", "windows of the text (10)", 1, INT32_MAX,
         false},
        {"ubatch", 0, CLI_COUNT, &o->n_ubatch, "N", "tokens of a batch (512)", 1, 1 << 16, false},
        {"output", 'o', CLI_TEXT, &o->out, "FILE",
         "write JSON there; a run that is cut goes on from FILE.partial", 0, 0, false},
    };
    const struct cli_syntax syntax = {"eval", "-m MODEL [--text FILE] [--recall FILE] [--visual BASE] [options]",
                                      about, options, sizeof(options) / sizeof(options[0])};
    int first = cli_parse(&syntax, &o->common, argc, argv);
    if (first < 0)
        return first;
    if (first < argc)
        return -1 - cli_misuse("eval", "what is '%s'?", argv[first]);
    if (!o->model)
        return -1 - cli_misuse("eval", "-m MODEL is missing");
    int rc = check_parts(o);
    return rc == CLI_OK ? first : -1 - rc;
}

/* The spec with strict=1, in canonical form. */
static int set_spec(struct eval_row *row, const char *kv)
{
    tkv_spec spec;
    if (!bench_parse_spec("eval", &kv, &spec))
        return CLI_USAGE;
    spec.strict = 1;
    row->strict_spec = cli_alloc(TKV_SPEC_TEXT, 1);
    if (tkv_spec_print(&spec, row->strict_spec, TKV_SPEC_TEXT) != TKV_OK)
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

/* Rows for each --kv as given, then each --stock; with neither, the default preset. With the
 * plug-in, its f16 codec as the noise floor comes last. */
static int make_rows(struct eval *e, struct eval_options *o, const struct cli_llama *l)
{
    size_t n_kv = o->kv.n || o->stock.n ? o->kv.n : 1;
    e->rows = cli_alloc(n_kv + o->stock.n + 1, sizeof(*e->rows));
    int rc = CLI_OK;
    for (size_t i = 0; i < n_kv && rc == CLI_OK; i++)
        rc = set_spec(&e->rows[e->n_rows++], o->kv.n ? o->kv.items[i] : NULL);
    for (size_t i = 0; i < o->stock.n && rc == CLI_OK; i++)
        rc = set_stock(&e->rows[e->n_rows++], l, o->stock.items[i]);
    if (rc != CLI_OK || !l->reg)
        return rc;
    struct eval_row *floor = &e->rows[e->n_rows++];
    floor->is_floor = true;
    return set_spec(floor, "kv=f16,sink=0,tail=0");
}

/* ---- what the journal is of ------------------------------------------------------------------ */

/* The model by its size, and by its first and last MiB: header, tokenizer and some weights. */
static int identify_model(struct eval *e)
{
    enum {
        SAMPLE = 1 << 20
    };
    FILE *f = fopen(e->session->path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        if (f)
            fclose(f);
        return cli_fail("cannot read model %s: %s", e->session->path, strerror(errno));
    }
    long size = ftell(f);
    char *bytes = cli_alloc(SAMPLE, 1);
    eval_identify(e, &size, sizeof(size));
    rewind(f);
    eval_identify(e, bytes, fread(bytes, 1, SAMPLE, f));
    fseek(f, size > SAMPLE ? size - SAMPLE : 0, SEEK_SET);
    eval_identify(e, bytes, fread(bytes, 1, SAMPLE, f));
    free(bytes);
    fclose(f);
    return CLI_OK;
}

static void identify_text(struct eval *e, const char *text)
{
    eval_identify(e, text, strlen(text) + 1);
}

/* A plug-in that was built anew may compute otherwise. */
static void identify_plugin(struct eval *e)
{
    char *path = cli_look_for_plugin();
    struct stat st;
    if (path && stat(path, &st) == 0) {
        const int64_t what[] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
        eval_identify(e, what, sizeof(what));
    }
    free(path);
}

static int identify(struct eval *e, const struct eval_options *o)
{
    const char *kernels = getenv("TIGHTKV_CPU");
    identify_text(e, tkv_version());
    identify_text(e, cli_commit());
    identify_text(e, TKV_LLAMA_VERSION);
    identify_text(e, e->session->llama->api.ggml_version());
    identify_text(e, kernels ? kernels : "");
    identify_plugin(e);
    eval_identify(e, &e->session->n_threads, sizeof(e->session->n_threads));
    eval_identify(e, &o->n_ubatch, sizeof(o->n_ubatch));
    for (size_t i = 0; i < e->n_parts; i++)
        identify_text(e, e->parts[i].ops->name);
    for (size_t i = 0; i < e->n_rows; i++)
        identify_text(e, e->rows[i].strict_spec ? e->rows[i].strict_spec : e->rows[i].kv);
    return identify_model(e);
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

static void say_estimate(const struct eval *e, cli_level level)
{
    const struct eval_row *slowest = NULL;
    double longest = 2 * eval_left_of(e, NULL);
    for (size_t i = 0; i < e->n_rows && e->costs; i++) {
        double left = eval_left_of(e, &e->rows[i]);
        slowest = left > longest ? &e->rows[i] : slowest;
        longest = left > longest ? left : longest;
    }
    if (!e->costs)
        return;
    double minutes = eval_left(e) / 60;
    if (slowest)
        cli_say(level, CLI_NORMAL, "about %.1f minutes, of which %s %.1f", minutes, slowest->kv,
                longest / 60);
    else
        cli_say(level, CLI_NORMAL, "about %.1f minutes", minutes);
}

static void say_stopped(const struct eval *e)
{
    size_t n_done, n = eval_count(e, &n_done);
    if (e->journal)
        cli_say(CLI_NORMAL, CLI_NORMAL,
                "stopped with %zu of %zu units done; the same command goes on from %s", n_done, n,
                e->journal->path);
    else
        cli_say(CLI_NORMAL, CLI_NORMAL,
                "stopped with %zu of %zu units done, nothing kept; -o FILE keeps them", n_done, n);
}

static int run_all(struct eval *e, const struct eval_options *o)
{
    eval_prepare(e);
    if (e->journal) {
        eval_resume(e);
        size_t n_done, n = eval_count(e, &n_done);
        if (n_done > 0)
            cli_say(o->common.level, CLI_NORMAL, "resuming: %zu of %zu units are there", n_done, n);
    }
    session_catch_signals(e->session);
    int rc = eval_left(e) > 0 ? eval_estimate(e) : CLI_OK;
    if (rc == CLI_OK) {
        say_estimate(e, o->common.level);
        cli_progress_begin(e->progress, o->common.level, eval_left(e));
        rc = eval_run(e);
        cli_progress_end(e->progress);
    }
    if (rc == CLI_STOPPED)
        say_stopped(e);
    return rc;
}

static int write_results(const struct eval *e, const struct eval_options *o)
{
    cJSON *json = eval_json(e, o);
    int rc = o->out ? cli_json_write(json, o->out) : CLI_OK;
    if (rc == CLI_OK && o->common.json)
        return cli_json_print(json);
    if (rc == CLI_OK)
        rc = eval_print_table(json);
    cJSON_Delete(json);
    return rc;
}

static bool any_failed(const struct eval *e)
{
    for (size_t i = 0; i < e->n_parts; i++)
        if (e->parts[i].failed)
            return true;
    for (size_t i = 0; i < e->n_rows; i++)
        if (e->rows[i].error && !e->rows[i].is_floor)
            return true;
    return false;
}

/* Results go out although a row or part failed; the exit code tells. */
static int run_eval(struct eval *e, const struct eval_options *o)
{
    int rc = run_all(e, o);
    if (rc == CLI_OK)
        rc = write_results(e, o);
    return rc == CLI_OK && any_failed(e) ? CLI_DATA : rc;
}

/* The journal stays when anything is left to do. */
static int run_journaled(struct eval *e, const struct eval_options *o)
{
    if (!o->out)
        return run_eval(e, o);
    struct journal journal;
    char *path = cli_format("%s.partial", o->out);
    int rc = identify(e, o);
    bool opened = false;
    if (rc == CLI_OK) {
        rc = journal_open(&journal, path, e->fingerprint);
        opened = rc == CLI_OK;
        e->journal = &journal;
        if (opened)
            rc = run_eval(e, o);
        journal_close(&journal, !opened || rc != CLI_OK);
    }
    free(path);
    return rc;
}

static int load_and_run(struct eval *e, const struct eval_options *o)
{
    struct eval_part parts[N_PARTS] = {{0}};
    e->parts = parts;
    int rc = load_parts(e, o);
    if (rc == CLI_OK)
        rc = run_journaled(e, o);
    eval_free_parts(e);
    return rc;
}

/* The plug-in is needed for coded rows; with stock ones alone it is for the noise floor. */
static bool wants_plugin(const struct eval_options *o)
{
    char *path = cli_look_for_plugin();
    bool found = path != NULL;
    free(path);
    return found || o->kv.n > 0 || o->stock.n == 0;
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
    int rc = cli_llama_open(&llama, &o.common, wants_plugin(&o));
    if (rc == CLI_OK)
        rc = make_rows(&e, &o, &llama);
    if (rc == CLI_OK)
        rc = session_open(&session, &llama, o.model, (int)o.common.n_threads);
    if (rc == CLI_OK) {
        session.n_ubatch = (uint32_t)o.n_ubatch;
        rc = load_and_run(&e, &o);
    }
    session_close(&session);
    eval_free_rows(&e);
    cli_list_free(&o.kv);
    cli_list_free(&o.stock);
    return rc;
}
