/* tightkv bench model: prefill and decode speed of a model with a coded cache and with stock
 * llama.cpp's f16. */
#include <cjson/cJSON.h>
#include <stdlib.h>

#include "bench_tools.h"
#include "speed.h"

enum {
    MAX_DEPTHS = 16,
    MAX_RUNS = 99
};

/* What is measured, in the order of the JSON keys. */
enum {
    PP,
    TG,
    STOCK_PP,
    STOCK_TG,
    N_SPEEDS
};

struct model_bench {
    struct cli_common common;
    const char *model, *kv, *depth_text;
    int64_t n_runs, n_decode;
    int64_t depths[MAX_DEPTHS];
    size_t n_depths;
    double median[MAX_DEPTHS][N_SPEEDS];

    struct session session;
    struct llama_context *coded, *stock;
    llama_token *ids;
    struct cli_progress progress;
};

static const char about[] = "Tokens a second of a prefill of 512 tokens and of decoding, at each "
                            "depth of context, with a coded cache and\n"
                            "with stock llama.cpp's f16 cache in the same process: medians of "
                            "alternating runs. Each depth is filled once\n"
                            "and restored before every measurement.";

static int parse_options(struct model_bench *b, int argc, char **argv)
{
    *b = (struct model_bench){.depth_text = "0,4096,16384", .n_runs = 3, .n_decode = 16};
    const struct cli_option options[] = {
        {"model", 'm', CLI_TEXT, &b->model, "FILE", "GGUF model", 0, 0, false},
        {"kv", 0, CLI_TEXT, &b->kv, "SPEC", "spec or preset of the cache (the default preset)", 0,
         0, false},
        {"depth", 'd', CLI_TEXT, &b->depth_text, "LIST", "tokens in the cache (0,4096,16384)", 0, 0,
         false},
        {"runs", 'r', CLI_COUNT, &b->n_runs, "N", "runs of each kind (3)", 1, MAX_RUNS, false},
        {"predict", 'n', CLI_COUNT, &b->n_decode, "N", "tokens decoded in a run (16)", 1, 4096,
         false},
    };
    const struct cli_syntax syntax = {"bench model",
                                      "-m MODEL [--kv SPEC] [--depth LIST] [options]", about,
                                      options, sizeof(options) / sizeof(options[0])};
    int first = cli_parse(&syntax, &b->common, argc, argv);
    if (first < 0)
        return first;
    tkv_spec spec;
    if (first < argc)
        return -1 - cli_misuse("bench model", "what is '%s'?", argv[first]);
    if (!b->model)
        return -1 - cli_misuse("bench model", "-m MODEL is missing");
    if (!bench_parse_spec("bench model", &b->kv, &spec))
        return -1 - CLI_USAGE;
    b->n_depths = cli_parse_numbers(b->depth_text, 1 << 24, b->depths, MAX_DEPTHS);
    if (b->n_depths == 0)
        return -1 - cli_misuse("bench model", "--depth is up to %d numbers with commas, not '%s'",
                               MAX_DEPTHS, b->depth_text);
    return first;
}

static int64_t deepest(const struct model_bench *b)
{
    int64_t max = 0;
    for (size_t i = 0; i < b->n_depths; i++)
        max = b->depths[i] > max ? b->depths[i] : max;
    return max;
}

/* Fills the coded context from empty: the fastest way there is to a deep context, stock or not. */
static int fill(struct model_bench *b, struct speed_depth *depth)
{
    const struct llama_api *api = &b->session.llama->api;
    api->llama_memory_clear(api->llama_get_memory(b->coded), true);
    if (depth->n_tokens == 0)
        return CLI_OK;
    int rc = session_decode(&b->session, b->coded, b->ids, depth->n_tokens, NULL, NULL);
    return rc == CLI_OK ? session_save(&b->session, b->coded, &depth->state) : rc;
}

static int run_once(struct model_bench *b, const struct speed_depth *depth, double speeds[N_SPEEDS])
{
    struct session *s = &b->session;
    size_t n_decode = (size_t)b->n_decode;
    int rc = speed_prefill(s, b->coded, depth, b->ids, SPEED_PREFILL, &speeds[PP]);
    if (rc == CLI_OK)
        rc = speed_prefill(s, b->stock, depth, b->ids, SPEED_PREFILL, &speeds[STOCK_PP]);
    if (rc == CLI_OK)
        rc = speed_decode(s, b->coded, depth, b->ids, n_decode, &speeds[TG]);
    if (rc == CLI_OK)
        rc = speed_decode(s, b->stock, depth, b->ids, n_decode, &speeds[STOCK_TG]);
    return rc;
}

static int run_depth(struct model_bench *b, size_t i_depth)
{
    struct speed_depth depth = {.n_tokens = (size_t)b->depths[i_depth]};
    double speeds[MAX_RUNS][N_SPEEDS], column[MAX_RUNS];
    char label[64];
    snprintf(label, sizeof(label), "depth %zu", depth.n_tokens);
    cli_progress_step(&b->progress, 0, label);
    int rc = fill(b, &depth);
    cli_progress_step(&b->progress, 1, NULL);
    for (int64_t run = 0; run < b->n_runs && rc == CLI_OK; run++) {
        rc = run_once(b, &depth, speeds[run]);
        cli_progress_step(&b->progress, 1, NULL);
    }
    for (int what = 0; what < N_SPEEDS && rc == CLI_OK; what++) {
        for (int64_t run = 0; run < b->n_runs; run++)
            column[run] = speeds[run][what];
        b->median[i_depth][what] = bench_median(column, (size_t)b->n_runs);
    }
    free(depth.state.data);
    return rc;
}

static int run_bench(struct model_bench *b)
{
    size_t n_ctx = (size_t)deepest(b) + (size_t)b->n_decode + SPEED_PREFILL + 1;
    const struct session_cache stock_f16 = {.type = GGML_TYPE_F16};
    b->ids = speed_tokens(&b->session, n_ctx);
    b->coded = session_context(&b->session, &(struct session_cache){.spec = b->kv}, n_ctx);
    b->stock = b->coded ? session_context(&b->session, &stock_f16, n_ctx) : NULL;
    int rc = b->stock ? CLI_OK : CLI_DATA;
    cli_progress_begin(&b->progress, b->common.level,
                       (double)b->n_depths * (double)(b->n_runs + 1));
    for (size_t i = 0; i < b->n_depths && rc == CLI_OK; i++)
        rc = run_depth(b, i);
    cli_progress_end(&b->progress);
    session_free(&b->session, b->stock);
    session_free(&b->session, b->coded);
    free(b->ids);
    return rc;
}

static int print_json(const struct model_bench *b)
{
    static const char *const keys[N_SPEEDS] = {"pp_tok_s", "tg_tok_s", "stock_pp_tok_s",
                                               "stock_tg_tok_s"};
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "bench model", &b->common);
    cli_json_base_name(root, "model", b->model);
    cli_json_text(root, "kv", b->kv);
    cli_json_number(root, "threads", (double)b->common.n_threads);
    cJSON *rows = cli_json_array(root, "rows");
    for (size_t i = 0; i < b->n_depths; i++) {
        cJSON *row = cli_json_object(rows, NULL);
        cli_json_number(row, "depth", (double)b->depths[i]);
        for (int what = 0; what < N_SPEEDS; what++)
            cli_json_number(row, keys[what], b->median[i][what]);
    }
    return cli_json_print(root);
}

static int print_text(const struct model_bench *b)
{
    printf("%s, %s, %d threads; tokens a second\n", b->model, b->kv, (int)b->common.n_threads);
    printf("%8s  %9s %9s %7s   %9s %9s %7s\n", "depth", "prefill", "stock", "ratio", "decode",
           "stock", "ratio");
    for (size_t i = 0; i < b->n_depths; i++) {
        const double *m = b->median[i];
        printf("%8lld  %9.1f %9.1f %6.2fx   %9.2f %9.2f %6.2fx\n", (long long)b->depths[i], m[PP],
               m[STOCK_PP], m[PP] / m[STOCK_PP], m[TG], m[STOCK_TG], m[TG] / m[STOCK_TG]);
    }
    return CLI_OK;
}

int cmd_bench_model(int argc, char **argv)
{
    struct model_bench b;
    int first = parse_options(&b, argc, argv);
    if (first < 0)
        return -1 - first;
    struct cli_llama llama;
    int rc = cli_llama_open(&llama, &b.common, true);
    if (rc == CLI_OK)
        rc = session_open(&b.session, &llama, b.model, (int)b.common.n_threads);
    if (rc == CLI_OK)
        rc = run_bench(&b);
    session_close(&b.session);
    if (rc != CLI_OK)
        return rc;
    return b.common.json ? print_json(&b) : print_text(&b);
}
