/* tightkv bench encode: how fast keys and values are coded, on one thread. */
#include <cjson/cJSON.h>
#include <stdlib.h>

#include "bench_tools.h"
#include "cli.h"

enum { N_TOKENS = 4096, N_ROUNDS = 9 };

static const double round_seconds = 0.1; /* of one kind in one round */

struct job {
    tkv_context *ctx;
    tkv_codec codecs[2]; /* of TKV_K and TKV_V */
    uint32_t head_dim;
    uint16_t *rows;
    size_t row_bytes;
    void *pages;
    size_t capacity;
};

/* f16 rows out of f32 ones, through the f16 codec: the library rounds, not we. */
static tkv_status make_rows(struct job *j, tkv_error *err)
{
    float *x = cli_alloc((size_t)N_TOKENS * j->head_dim, sizeof(*x));
    bench_fill_rows(x, N_TOKENS, j->head_dim, j->head_dim, 4);
    tkv_codec f16;
    tkv_status status = tkv_codec_find("f16", &f16, err);
    size_t bytes = N_TOKENS / TKV_PAGE_TOKENS * tkv_page_bytes(f16, TKV_K, j->head_dim);
    void *pages = cli_alloc(bytes, 1);
    if (status == TKV_OK)
        status = tkv_encode(j->ctx, f16, TKV_K, j->head_dim, x, TKV_F32, j->head_dim * sizeof(*x),
                            N_TOKENS, pages, bytes, err);
    if (status == TKV_OK)
        status = tkv_decode(j->ctx, f16, TKV_K, j->head_dim, pages, bytes, j->rows, TKV_F16,
                            j->row_bytes, N_TOKENS, err);
    free(pages);
    free(x);
    return status;
}

static tkv_status encode(struct job *j, tkv_kind kind, tkv_error *err)
{
    return tkv_encode(j->ctx, j->codecs[kind], kind, j->head_dim, j->rows, TKV_F16, j->row_bytes,
                      N_TOKENS, j->pages, j->capacity, err);
}

/* GB of f16 a second, medians of rounds that go over both kinds in turn. */
static tkv_status measure(struct job *j, double gb_per_s[2], tkv_error *err)
{
    double times[2][N_ROUNDS], gb = 1e-9 * (double)N_TOKENS * (double)j->row_bytes;
    for (int round = 0; round < N_ROUNDS; round++) {
        for (int kind = TKV_K; kind <= TKV_V; kind++) {
            uint32_t n = 0;
            double start = cli_now(), seconds;
            do {
                tkv_status status = encode(j, (tkv_kind)kind, err);
                if (status != TKV_OK)
                    return status;
                n++;
            } while ((seconds = cli_now() - start) < round_seconds);
            times[kind][round] = seconds / n;
        }
    }
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        gb_per_s[kind] = gb / bench_median(times[kind], N_ROUNDS);
    return TKV_OK;
}

static int print_result(const struct cli_common *common, const char *kv, uint32_t head_dim,
                        const double gb_per_s[2])
{
    double both = 2 / (1 / gb_per_s[TKV_K] + 1 / gb_per_s[TKV_V]);
    if (!common->json) {
        printf("%s, head size %u, one thread: %.2f GB/s of f16 (keys %.2f, values %.2f)\n", kv,
               head_dim, both, gb_per_s[TKV_K], gb_per_s[TKV_V]);
        return fflush(stdout) == 0 ? CLI_OK : cli_fail("cannot write to stdout");
    }
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "bench encode", common);
    cli_json_text(root, "kv", kv);
    cli_json_number(root, "head_dim", head_dim);
    cli_json_number(root, "f16_gb_per_s", both);
    cli_json_number(root, "k_f16_gb_per_s", gb_per_s[TKV_K]);
    cli_json_number(root, "v_f16_gb_per_s", gb_per_s[TKV_V]);
    return cli_json_print(root);
}

static int bench(const struct cli_common *common, const char *kv, const tkv_spec *spec,
                 uint32_t head_dim)
{
    struct job j = {.codecs = {spec->k, spec->v},
                    .head_dim = head_dim,
                    .row_bytes = head_dim * sizeof(uint16_t)};
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        size_t page = tkv_page_bytes(j.codecs[kind], (tkv_kind)kind, head_dim);
        if (!page)
            return cli_fail("%s cannot code heads of %u values; see tightkv codecs --head-dim %u",
                            kv, head_dim, head_dim);
        size_t bytes = N_TOKENS / TKV_PAGE_TOKENS * page;
        j.capacity = bytes > j.capacity ? bytes : j.capacity;
    }
    tkv_context_params params;
    tkv_error err;
    tkv_context_params_default(&params);
    params.cpu_mask = common->cpu_mask;
    if (tkv_context_create(&params, &j.ctx, &err) != TKV_OK)
        return cli_fail("%s", err.text);
    j.rows = cli_alloc(N_TOKENS, j.row_bytes);
    j.pages = cli_alloc(j.capacity, 1);
    double gb_per_s[2];
    tkv_status status = make_rows(&j, &err);
    if (status == TKV_OK)
        status = measure(&j, gb_per_s, &err);
    free(j.rows);
    free(j.pages);
    tkv_context_destroy(j.ctx);
    return status == TKV_OK ? print_result(common, kv, head_dim, gb_per_s)
                            : cli_fail("%s", err.text);
}

int cmd_bench_encode(int argc, char **argv)
{
    const char *kv = NULL;
    int64_t head_dim = 128;
    const struct cli_option options[] = {
        {"kv", 0, CLI_TEXT, &kv, "SPEC", "spec or preset (default: the default preset)", 0, 0,
         false},
        {"head-dim", 0, CLI_COUNT, &head_dim, "D", "head size (128)", 1, TKV_MAX_HEAD_DIM, false},
    };
    const struct cli_syntax syntax = {
        "bench encode", "[options]",
        "Times the encoders of a spec on one thread, whatever --threads says.", options,
        sizeof(options) / sizeof(options[0])};
    struct cli_common common;
    int first = cli_parse(&syntax, &common, argc, argv);
    if (first < 0)
        return -1 - first;
    if (first < argc)
        return cli_misuse(syntax.command, "'%s' is not expected", argv[first]);
    tkv_spec spec;
    if (!bench_parse_spec(syntax.command, &kv, &spec))
        return CLI_USAGE;
    return bench(&common, kv, &spec, (uint32_t)head_dim);
}
