/* tightkv bench attend: decode steps on a coded cache, with stock llama.cpp's in between. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_book.h"
#include "bench_stock.h"
#include "bench_tools.h"
#include "cli.h"

enum {
    FILL_TOKENS = 512, /* rows a write, as many as llama.cpp's micro-batch */
    MAX_ROUNDS = 25,
    MIN_ROUNDS = 5,
    N_ENGINES = 1 + STOCK_TYPES, /* ours is engine 0 */
    MEMORY_MIB = 6144            /* of all caches together */
};

static const double round_seconds = 0.06; /* of one engine in a round */

struct arguments {
    const char *kv;
    const char *against;
    int64_t ctx, n_kv_heads, group, head_dim;
    int64_t seconds; /* of all rounds together, about */
};

/* The coded side: equal layers that the steps go through in turn. */
struct coded {
    tkv_context *ctx;
    struct bench_book book;
    tkv_cache *cache;
    uint32_t n_threads;
    uint32_t n_layers, next;
    bool visual;
    float *q, *out;
    tkv_attend_params params;
    double bits_per_value;
    double step_bytes; /* that one step reads of the cache */
};

struct result {
    double step_seconds[N_ENGINES]; /* medians; NaN: not measured */
    double read_bytes_per_s;
};

static int status_line(const char *what, const tkv_error *err)
{
    return cli_fail("%s: %s", what, err->text);
}

/* Of a codec that needs a book, no more is known than that a page is smaller than f16's. */
static size_t page_bytes(tkv_codec codec, tkv_kind kind, uint32_t head_dim)
{
    size_t bytes = tkv_page_bytes(codec, kind, head_dim);
    return bytes ? bytes : (size_t)TKV_PAGE_TOKENS * head_dim * sizeof(uint16_t);
}

/* With codecs for visual rows all rows but the last are such: one span. */
static bool is_visual(const tkv_spec *spec)
{
    return spec->visual_k.id || spec->visual_v.id;
}

/* Bytes of one layer when everything but sink and tail is coded. */
static size_t coded_layer_bytes(const tkv_spec *spec, const struct bench_shape *s)
{
    tkv_codec k = spec->visual_k.id ? spec->visual_k : spec->k,
              v = spec->visual_v.id ? spec->visual_v : spec->v;
    size_t page = page_bytes(k, TKV_K, s->head_dim) + page_bytes(v, TKV_V, s->head_dim);
    return page * s->n_kv_heads * ((s->n_tokens + TKV_PAGE_TOKENS - 1) / TKV_PAGE_TOKENS);
}

/* Every engine's layers together hold this many bytes. */
static size_t rotation_bytes(bool with_stock)
{
    size_t wanted = BENCH_LLC_TIMES * bench_llc_bytes();
    size_t most = ((size_t)MEMORY_MIB << 20) / (with_stock ? N_ENGINES : 1);
    return wanted < most ? wanted : most;
}

/* Is there memory for one layer of each engine at least? q8_0 and q4_0 take 17/32 and 9/32 of
 * f16. */
static int check_memory(const tkv_spec *spec, const struct bench_shape *s, bool with_stock)
{
    double f16 = 4.0 * s->head_dim * s->n_kv_heads * s->n_tokens;
    double mib =
        ((double)coded_layer_bytes(spec, s) + (with_stock ? f16 * (1 + 26.0 / 32) : 0)) / (1 << 20);
    if (mib > MEMORY_MIB)
        return cli_fail("one layer of this shape takes %.0f MiB, the benchmark at most %d; take a "
                        "smaller --ctx or "
                        "--n-kv-heads",
                        mib, MEMORY_MIB);
    return CLI_OK;
}

static int fill_layer(struct coded *c, uint32_t layer, const struct bench_shape *s,
                      const float *rows, size_t n_rows)
{
    int64_t slots[FILL_TOKENS];
    int32_t pos[FILL_TOKENS];
    uint8_t klass[FILL_TOKENS];
    size_t stride = (size_t)s->n_kv_heads * s->head_dim * sizeof(float);
    tkv_error err;
    for (uint32_t at = 0; at < s->n_tokens; at += FILL_TOKENS) {
        size_t n = s->n_tokens - at < FILL_TOKENS ? s->n_tokens - at : FILL_TOKENS;
        for (size_t i = 0; i < n; i++) {
            slots[i] = (int64_t)(at + i);
            pos[i] = (int32_t)(at + i);
            klass[i] = c->visual && at + i + 1 < s->n_tokens ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
        }
        /* K and V begin at different rows of the pool, and every batch elsewhere. */
        const char *k = (const char *)rows + at / FILL_TOKENS * 7 % (n_rows - n + 1) * stride;
        const char *v = (const char *)rows + at / FILL_TOKENS * 13 % (n_rows - n + 1) * stride;
        if (tkv_cache_write(c->cache, layer, n, slots, pos, klass, (tkv_rows){k, TKV_F32, stride},
                            (tkv_rows){v, TKV_F32, stride}, &err) != TKV_OK ||
            tkv_cache_seal(c->cache, layer, &err) != TKV_OK)
            return status_line("filling the cache", &err);
    }
    return CLI_OK;
}

static int add_layer(struct coded *c, const struct bench_shape *s)
{
    uint32_t index, n_pages = (s->n_tokens + TKV_PAGE_TOKENS - 1) / TKV_PAGE_TOKENS;
    tkv_layer_params layer = {.struct_size = sizeof(layer),
                              .n_kv_heads = s->n_kv_heads,
                              .k_head_dim = s->head_dim,
                              .v_head_dim = s->head_dim,
                              .n_slots = n_pages * TKV_PAGE_TOKENS,
                              .n_streams = 1};
    tkv_error err;
    if (tkv_cache_add_layer(c->cache, &layer, &index, &err) != TKV_OK)
        return status_line("--head-dim", &err);
    return CLI_OK;
}

static void measure_size(struct coded *c)
{
    tkv_cache_stats stats = {.struct_size = sizeof(stats)};
    if (tkv_cache_get_stats(c->cache, &stats) != TKV_OK || stats.n_values == 0)
        return;
    double rows_bytes = (double)(stats.sealed_bytes + stats.open_bytes);
    c->step_bytes = rows_bytes / c->n_layers;
    c->bits_per_value = 8 * (rows_bytes + (double)stats.meta_bytes) / (double)stats.n_values;
}

/* Layers until all of them hold rotate_bytes: what one takes is known when it is full. */
static int fill_coded(struct coded *c, const struct bench_shape *s, size_t rotate_bytes,
                      struct cli_progress *progress)
{
    size_t n_rows = 2 * FILL_TOKENS, row_elems = (size_t)s->n_kv_heads * s->head_dim;
    float *rows = cli_alloc(n_rows * row_elems, sizeof(*rows));
    bench_fill_rows(rows, n_rows, row_elems, s->head_dim, 3);
    int rc = CLI_OK;
    do {
        rc = add_layer(c, s);
        if (rc == CLI_OK)
            rc = fill_layer(c, c->n_layers++, s, rows, n_rows);
        measure_size(c);
        cli_progress_step(progress, fmin(1, c->step_bytes / (double)rotate_bytes), NULL);
    } while (rc == CLI_OK && c->step_bytes * c->n_layers < (double)rotate_bytes);
    free(rows);
    return rc;
}

static void set_query(struct coded *c, const struct bench_shape *s)
{
    size_t n_heads = (size_t)s->n_kv_heads * s->group, n_elems = n_heads * s->head_dim;
    c->q = cli_alloc(n_elems, sizeof(*c->q));
    c->out = cli_alloc(n_elems, sizeof(*c->out));
    bench_fill_rows(c->q, 1, n_elems, s->head_dim, 2);
    tkv_attend_params_default(&c->params);
    c->params.n_q = 1;
    c->params.n_q_heads = (uint32_t)n_heads;
    c->params.q = c->q;
    c->params.out = c->out;
    c->params.q_head_stride = c->params.out_head_stride = s->head_dim * sizeof(float);
    c->params.q_token_stride = c->params.out_token_stride = n_elems * sizeof(float);
    c->params.n_kv = s->n_tokens;
    c->params.scale = 1.0f / sqrtf((float)s->head_dim);
}

static int create_coded(struct coded *c, const struct cli_common *common, const tkv_spec *spec,
                        const struct bench_shape *s)
{
    tkv_context_params params;
    tkv_error err;
    tkv_context_params_default(&params);
    params.cpu_mask = common->cpu_mask;
    c->n_threads = s->n_threads;
    c->visual = is_visual(spec);
    bench_executor(&params.executor, &c->n_threads);
    if (tkv_context_create(&params, &c->ctx, &err) != TKV_OK)
        return status_line("--kv", &err);
    if (bench_book_open(c->ctx, spec, s->n_kv_heads, s->head_dim, &c->book) != CLI_OK)
        return CLI_DATA;
    if (tkv_cache_create(c->ctx, spec, &c->cache, &err) != TKV_OK ||
        (c->book.book && tkv_cache_set_book(c->cache, c->book.book, &err) != TKV_OK))
        return status_line("--kv", &err);
    return CLI_OK;
}

static void close_coded(struct coded *c)
{
    tkv_cache_destroy(c->cache);
    bench_book_close(&c->book);
    tkv_context_destroy(c->ctx);
    free(c->q);
    free(c->out);
}

/* One decode step of an engine: seconds, NaN when it is not there. */
static double step(struct coded *c, struct stock_engine *stock, int engine)
{
    if (engine > 0)
        return stock ? stock_engine_step(stock, (enum stock_type)(engine - 1)) : NAN;
    c->params.layer = c->next;
    c->next = (c->next + 1) % c->n_layers;
    double start = cli_now();
    tkv_status status = tkv_attend(c->cache, &c->params, NULL);
    return status == TKV_OK ? cli_now() - start : NAN;
}

/* Mean seconds of `n` steps. */
static double steps(struct coded *c, struct stock_engine *stock, int engine, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += step(c, stock, engine);
    return sum / n;
}

/* Every round measures each engine and the memory once, so that all meet the same neighbours. */
static void measure(struct coded *c, struct stock_engine *stock, uint32_t n_threads, double seconds,
                    struct cli_progress *progress, struct result *r)
{
    double times[N_ENGINES][MAX_ROUNDS], round = 0, best_read = INFINITY;
    uint32_t n_steps[N_ENGINES];
    size_t read_bytes = BENCH_LLC_TIMES * bench_llc_bytes() / 4096 * 4096;
    char *buffer = cli_alloc(read_bytes, 1);
    memset(buffer, 1, read_bytes); /* commits it */
    for (int e = 0; e < N_ENGINES; e++) {
        steps(c, stock, e, 1);
        double one = steps(c, stock, e, 2);
        n_steps[e] = one < round_seconds ? (uint32_t)(round_seconds / one) + 1 : 1;
        round += isnan(one) ? 0 : one * n_steps[e];
    }
    round += bench_read_pass(buffer, read_bytes, n_threads);
    double fitting = seconds / round;
    size_t n_rounds = fitting > MAX_ROUNDS   ? MAX_ROUNDS
                      : fitting < MIN_ROUNDS ? MIN_ROUNDS
                                             : (size_t)fitting;
    for (size_t i = 0; i < n_rounds; i++) {
        for (int e = 0; e < N_ENGINES; e++)
            times[e][i] = steps(c, stock, e, n_steps[e]);
        double pass = bench_read_pass(buffer, read_bytes, n_threads);
        best_read = pass < best_read ? pass : best_read;
        cli_progress_step(progress, 1.0 / (double)n_rounds, NULL);
    }
    for (int e = 0; e < N_ENGINES; e++)
        r->step_seconds[e] = isnan(times[e][0]) ? NAN : bench_median(times[e], n_rounds);
    r->read_bytes_per_s = (double)read_bytes / best_read;
    free(buffer);
}

static int print_json(const struct arguments *a, const struct cli_common *common,
                      const struct coded *c, const struct result *r, double per_token)
{
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "bench attend", common);
    cli_json_text(root, "kv", a->kv);
    cli_json_number(root, "n_ctx", (double)a->ctx);
    cli_json_number(root, "n_kv_heads", (double)a->n_kv_heads);
    cli_json_number(root, "group", (double)a->group);
    cli_json_number(root, "head_dim", (double)a->head_dim);
    cli_json_number(root, "threads", (double)common->n_threads);
    cli_json_number(root, "bits_per_value", c->bits_per_value);
    cli_json_number(root, "us_per_kvhead_token", 1e6 * r->step_seconds[0] * per_token);
    cJSON *stock = cli_json_object(root, "stock");
    for (int type = 0; type < STOCK_TYPES; type++)
        cli_json_number(stock, stock_type_name((enum stock_type)type),
                        1e6 * r->step_seconds[1 + type] * per_token);
    cli_json_number(root, "speedup_vs_f16", r->step_seconds[1 + STOCK_F16] / r->step_seconds[0]);
    cli_json_number(root, "read_gb_per_s", 1e-9 * r->read_bytes_per_s);
    cli_json_number(root, "bandwidth_fraction",
                    c->step_bytes / r->step_seconds[0] / r->read_bytes_per_s);
    return cli_json_print(root);
}

static int print_table(const struct arguments *a, const struct coded *c, const struct result *r,
                       double per_token)
{
    printf("%-8s %10s %22s %10s\n", "cache", "bits/value", "us/(KV head x token)", "speed-up");
    for (int type = STOCK_TYPES - 1; type >= 0; type--)
        if (!isnan(r->step_seconds[1 + type]))
            printf("%-8s %10s %22.4f %10.2f\n", stock_type_name((enum stock_type)type), "",
                   1e6 * r->step_seconds[1 + type] * per_token,
                   r->step_seconds[1 + STOCK_F16] / r->step_seconds[1 + type]);
    printf("%-8s %10.2f %22.4f", "coded", c->bits_per_value, 1e6 * r->step_seconds[0] * per_token);
    if (!isnan(r->step_seconds[1 + STOCK_F16]))
        printf(" %10.2f", r->step_seconds[1 + STOCK_F16] / r->step_seconds[0]);
    printf("\n\n%s: reads %.1f GB/s, %.0f%% of the %.1f GB/s that a plain sum reaches\n", a->kv,
           1e-9 * c->step_bytes / r->step_seconds[0],
           100 * c->step_bytes / r->step_seconds[0] / r->read_bytes_per_s,
           1e-9 * r->read_bytes_per_s);
    return fflush(stdout) == 0 ? CLI_OK : cli_fail("cannot write to stdout");
}

static int bench(const struct arguments *a, const struct cli_common *common, const tkv_spec *spec)
{
    struct bench_shape s = {(uint32_t)a->ctx, (uint32_t)a->n_kv_heads, (uint32_t)a->group,
                            (uint32_t)a->head_dim, (uint32_t)common->n_threads};
    size_t rotate_bytes = rotation_bytes(a->against != NULL);
    struct coded c = {0};
    struct stock_engine *stock = NULL;
    struct cli_progress progress;
    cli_progress_begin(&progress, common->level, 2);
    int rc = check_memory(spec, &s, a->against != NULL);
    if (rc == CLI_OK)
        rc = create_coded(&c, common, spec, &s);
    if (rc == CLI_OK) {
        cli_progress_step(&progress, 0, "filling caches");
        rc = fill_coded(&c, &s, rotate_bytes, &progress);
    }
    if (rc == CLI_OK && a->against) {
        stock = stock_engine_open(common, s.n_threads);
        rc = stock ? CLI_OK : CLI_DATA;
        for (int type = 0; type < STOCK_TYPES && rc == CLI_OK; type++)
            rc = stock_engine_add(stock, (enum stock_type)type, &s, rotate_bytes);
    }
    struct result result;
    if (rc == CLI_OK) {
        set_query(&c, &s);
        cli_progress_step(&progress, 0, "measuring");
        measure(&c, stock, s.n_threads, (double)a->seconds, &progress, &result);
    }
    cli_progress_end(&progress);
    double per_token = 1 / ((double)s.n_kv_heads * s.n_tokens);
    if (rc == CLI_OK)
        rc = common->json ? print_json(a, common, &c, &result, per_token)
                          : print_table(a, &c, &result, per_token);
    stock_engine_close(stock);
    close_coded(&c);
    return rc;
}

int cmd_bench_attend(int argc, char **argv)
{
    struct arguments a = {
        .ctx = 16384, .n_kv_heads = 8, .group = 4, .head_dim = 128, .seconds = 10};
    const struct cli_option options[] = {
        {"kv", 0, CLI_TEXT, &a.kv, "SPEC", "spec or preset (default: the default preset)", 0, 0,
         false},
        {"ctx", 'c', CLI_COUNT, &a.ctx, "N", "cached tokens (16384)", TKV_PAGE_TOKENS, 1 << 24,
         false},
        {"n-kv-heads", 0, CLI_COUNT, &a.n_kv_heads, "H", "KV heads (8)", 1, 1024, false},
        {"group", 0, CLI_COUNT, &a.group, "G", "query heads that share a KV head (4)", 1, 64,
         false},
        {"head-dim", 0, CLI_COUNT, &a.head_dim, "D", "head size (128)", 1, TKV_MAX_HEAD_DIM, false},
        {"seconds", 0, CLI_COUNT, &a.seconds, "N", "time to measure for, about (10)", 1, 3600,
         false},
        {"against", 0, CLI_TEXT, &a.against, "llama", "measure stock llama.cpp as well, in turn", 0,
         0, false},
    };
    const struct cli_syntax syntax = {"bench attend", "[options]",
                                      "Times decode steps over caches larger than the processor's.",
                                      options, sizeof(options) / sizeof(options[0])};
    struct cli_common common;
    int first = cli_parse(&syntax, &common, argc, argv);
    if (first < 0)
        return -1 - first;
    if (first < argc)
        return cli_misuse(syntax.command, "'%s' is not expected", argv[first]);
    if (a.against && strcmp(a.against, "llama") != 0)
        return cli_misuse(syntax.command, "--against knows only llama, not '%s'", a.against);
    if (common.n_threads > 1 && !bench_has_threads())
        return cli_misuse(syntax.command, "this build has no OpenMP: --threads must be 1");
    tkv_spec spec;
    if (!bench_parse_spec(syntax.command, &a.kv, &spec))
        return CLI_USAGE;
    return bench(&a, &common, &spec);
}
