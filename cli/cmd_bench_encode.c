/* tightkv bench encode: how fast keys and values are coded, on one thread. */
#include <cjson/cJSON.h>
#include <stdlib.h>

#include "bench_book.h"
#include "bench_tools.h"
#include "cli.h"

enum {
    N_TOKENS = 4096,
    N_ROUNDS = 9
};

static const double round_seconds = 0.1; /* of one kind in one round */

struct job {
    tkv_context *ctx;
    tkv_codec codecs[2]; /* of TKV_K and TKV_V */
    struct bench_book book;
    tkv_cache *caches[2]; /* for codecs that need a book: the other kind is f16 there */
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

/* Codecs that need a book code in a cache only. */
static tkv_status open_cache(struct job *j, const tkv_spec *spec, tkv_kind kind, tkv_error *err)
{
    tkv_spec only = *spec;
    tkv_codec *other = kind == TKV_K ? &only.v : &only.k;
    only.sink = only.tail = 0;
    tkv_status status = tkv_codec_find("f16", other, err);
    if (status == TKV_OK)
        status = tkv_cache_create(j->ctx, &only, &j->caches[kind], err);
    if (status == TKV_OK)
        status = tkv_cache_set_book(j->caches[kind], j->book.book, err);
    tkv_layer_params layer = {.struct_size = sizeof(layer),
                              .n_kv_heads = 1,
                              .k_head_dim = j->head_dim,
                              .v_head_dim = j->head_dim,
                              .n_slots = N_TOKENS,
                              .n_streams = 1};
    uint32_t index;
    return status == TKV_OK ? tkv_cache_add_layer(j->caches[kind], &layer, &index, err) : status;
}

/* Seconds that sealing all rows takes; putting them there is not counted. */
static tkv_status seal(struct job *j, tkv_kind kind, double *seconds, tkv_error *err)
{
    int64_t slots[N_TOKENS];
    int32_t pos[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++)
        slots[i] = pos[i] = i;
    const tkv_rows rows = {j->rows, TKV_F16, j->row_bytes};
    tkv_status status =
        tkv_cache_write(j->caches[kind], 0, N_TOKENS, slots, pos, NULL, rows, rows, err);
    const double start = cli_now();
    if (status == TKV_OK)
        status = tkv_cache_seal(j->caches[kind], 0, err);
    *seconds = cli_now() - start;
    return status;
}

static tkv_status encode(struct job *j, tkv_kind kind, double *seconds, tkv_error *err)
{
    if (j->caches[kind])
        return seal(j, kind, seconds, err);
    const double start = cli_now();
    tkv_status status = tkv_encode(j->ctx, j->codecs[kind], kind, j->head_dim, j->rows, TKV_F16,
                                   j->row_bytes, N_TOKENS, j->pages, j->capacity, err);
    *seconds = cli_now() - start;
    return status;
}

/* GB of f16 a second, medians of rounds that go over both kinds in turn. */
static tkv_status measure(struct job *j, double gb_per_s[2], tkv_error *err)
{
    double times[2][N_ROUNDS], gb = 1e-9 * (double)N_TOKENS * (double)j->row_bytes;
    for (int round = 0; round < N_ROUNDS; round++) {
        for (int kind = TKV_K; kind <= TKV_V; kind++) {
            uint32_t n = 0;
            double sum = 0, seconds;
            do {
                tkv_status status = encode(j, (tkv_kind)kind, &seconds, err);
                if (status != TKV_OK)
                    return status;
                n++;
                sum += seconds;
            } while (sum < round_seconds);
            times[kind][round] = sum / n;
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
    double vectors_per_s = 1e9 * both / (head_dim * sizeof(uint16_t));
    if (!common->json) {
        printf("%s, head size %u, one thread: %.3f GB/s of f16 (keys %.3f, values %.3f), %.0f "
               "vectors/s\n",
               kv, head_dim, both, gb_per_s[TKV_K], gb_per_s[TKV_V], vectors_per_s);
        return fflush(stdout) == 0 ? CLI_OK : cli_fail("cannot write to stdout");
    }
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "bench encode", common);
    cli_json_text(root, "kv", kv);
    cli_json_number(root, "head_dim", head_dim);
    cli_json_number(root, "f16_gb_per_s", both);
    cli_json_number(root, "k_f16_gb_per_s", gb_per_s[TKV_K]);
    cli_json_number(root, "v_f16_gb_per_s", gb_per_s[TKV_V]);
    cli_json_number(root, "vectors_per_s", vectors_per_s);
    return cli_json_print(root);
}

static tkv_status run(struct job *j, const tkv_spec *spec, double gb_per_s[2], tkv_error *err)
{
    tkv_status status = TKV_OK;
    j->rows = cli_alloc(N_TOKENS, j->row_bytes);
    j->pages = cli_alloc(j->capacity, 1);
    for (int kind = TKV_K; kind <= TKV_V && status == TKV_OK; kind++)
        if (bench_needs_book(j->codecs[kind]))
            status = open_cache(j, spec, (tkv_kind)kind, err);
    if (status == TKV_OK)
        status = make_rows(j, err);
    return status == TKV_OK ? measure(j, gb_per_s, err) : status;
}

static void close_job(struct job *j)
{
    free(j->rows);
    free(j->pages);
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        tkv_cache_destroy(j->caches[kind]);
    bench_book_close(&j->book);
    tkv_context_destroy(j->ctx);
}

static int bench(const struct cli_common *common, const char *kv, const tkv_spec *spec,
                 uint32_t head_dim)
{
    struct job j = {.codecs = {spec->k, spec->v},
                    .head_dim = head_dim,
                    .row_bytes = head_dim * sizeof(uint16_t)};
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        if (bench_needs_book(j.codecs[kind]))
            continue;
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
    double gb_per_s[2] = {0};
    int rc = bench_book_open(j.ctx, spec, 1, head_dim, &j.book);
    if (rc == CLI_OK && run(&j, spec, gb_per_s, &err) != TKV_OK)
        rc = cli_fail("%s", err.text);
    close_job(&j);
    return rc == CLI_OK ? print_result(common, kv, head_dim, gb_per_s) : rc;
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
