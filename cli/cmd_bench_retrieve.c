/* tightkv bench retrieve: how much of the attention an index finds, and how fast. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "retrieve.h"

struct report {
    const struct retrieve_options *o;
    const struct cli_common *common;
    const struct retrieve_cache *c;
    const struct retrieve_rows *rows;
    bool has_mass;
    struct retrieve_mass mass;
    struct retrieve_speed speed;
};

static double write_us(const struct report *r)
{
    return 1e6 * r->c->write_seconds /
           ((double)r->c->n_tokens * (double)r->c->n_layers * r->rows->layers[0].n_kv_heads);
}

static int print_json(const struct report *r)
{
    const struct retrieve_speed *s = &r->speed;
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "bench retrieve", r->common);
    cli_json_text(root, "kv", r->o->kv);
    cli_json_number(root, "n_tokens", (double)r->c->n_tokens);
    cli_json_number(root, "n_layers", (double)r->c->n_layers);
    cli_json_number(root, "n_kv_heads", r->rows->layers[0].n_kv_heads);
    cli_json_number(root, "group", r->rows->layers[0].group);
    cli_json_number(root, "head_dim", r->rows->layers[0].head_dim);
    cli_json_number(root, "threads", (double)r->common->n_threads);
    cli_json_number(root, "bits_per_value", s->bits_per_value);
    cli_json_number(root, "index_share_of_f16", s->index_bits / 8);
    cli_json_number(root, "book_mib", s->book_mib);
    cli_json_number(root, "write_us_per_row", write_us(r));
    cli_json_number(root, "read_fraction", s->read_fraction);
    cli_json_number(root, "step_ms", s->select_ms);
    cli_json_number(root, "dense_step_ms", s->dense_ms);
    cli_json_number(root, "stock_f16_step_ms", s->stock_ms);
    cli_json_number(root, "resident_mib", s->resident_mib);
    if (r->c->spec.ram) {
        cJSON *tier = cli_json_object(root, "tier");
        cli_json_number(tier, "hit_rate", s->hit_rate);
        cli_json_number(tier, "bytes_read_per_step", s->page_bytes);
        cli_json_number(tier, "stall_ms_per_step", s->stall_ms);
        cli_json_number(tier, "read_gb_per_s", s->disk_gb_per_s);
    }
    if (r->has_mass) {
        cJSON *mass = cli_json_object(root, "mass");
        cli_json_number(mass, "read_fraction", r->mass.read_fraction);
        cJSON *read = cli_json_array(mass, "read_quantiles");
        for (int i = 0; i < RETRIEVE_QUANTILES; i++)
            cJSON_AddItemToArray(read, cJSON_CreateNumber(r->mass.read[i]));
        cli_json_number(mass, "sink_and_window", r->mass.near);
        cli_json_number(mass, "index", r->mass.index);
        for (int peer = 0; peer < PEER_COUNT; peer++)
            cli_json_number(mass, retrieve_peer_name((enum retrieve_peer)peer), r->mass.peer[peer]);
    }
    return cli_json_print(root);
}

static void print_mass(const struct report *r)
{
    const struct retrieve_mass *m = &r->mass;
    const double exact = m->peer[PEER_EXACT];
    printf("attention read at %.3f of the rows, beside sinks and window (which draw %.3f)\n",
           m->read_fraction, m->near);
    printf("a head and query reads %.3f at least, %.3f, %.3f, %.3f at 10%%, 50%%, 90%%, %.3f at "
           "most\n",
           m->read[0], m->read[1], m->read[2], m->read[3], m->read[4]);
    printf("%-12s %10s %8s %10s\n", "selection", "bits/key", "mass", "of exact");
    printf("%-12s %10.1f %8.4f %10.4f\n", "index", 16.0, m->index, m->index / exact);
    for (int peer = 0; peer < PEER_COUNT; peer++)
        printf("%-12s %10.1f %8.4f %10.4f\n", retrieve_peer_name((enum retrieve_peer)peer),
               retrieve_peer_bits((enum retrieve_peer)peer, r->rows->layers[0].head_dim),
               m->peer[peer], m->peer[peer] / exact);
    printf("\n");
}

static int print_table(const struct report *r)
{
    const struct retrieve_speed *s = &r->speed;
    if (r->has_mass)
        print_mass(r);
    printf("%zu tokens x %zu layers, %.2f bits a value, index %.2f%% of f16, codebooks %.1f MiB\n",
           r->c->n_tokens, r->c->n_layers, s->bits_per_value, 100 * s->index_bits / 8, s->book_mib);
    printf("written in %.2f us a row and KV head; %.0f MiB resident at most\n", write_us(r),
           s->resident_mib);
    printf("%-12s %10s %10s %10s\n", "step", "ms", "reads", "speed-up");
    printf("%-12s %10.3f %10.3f %10.2f\n", "index", s->select_ms, s->read_fraction,
           s->dense_ms / s->select_ms);
    if (!isnan(s->dense_ms))
        printf("%-12s %10.3f %10.3f %10.2f\n", "everything", s->dense_ms, 1.0, 1.0);
    if (!isnan(s->stock_ms))
        printf("%-12s %10.3f %10.3f %10.3f\n", "stock f16", s->stock_ms, 1.0,
               s->dense_ms / s->stock_ms);
    if (r->c->spec.ram)
        printf(
            "tiers: %.1f steps/s, hits %.3f, %.1f MiB read and %.1f ms waited a step, %.2f GB/s\n",
            1e3 / s->select_ms, s->hit_rate, s->page_bytes / (1 << 20), s->stall_ms,
            s->disk_gb_per_s);
    return fflush(stdout) == 0 ? CLI_OK : cli_fail("cannot write to stdout");
}

static int read_window(struct session *s, const struct retrieve_options *o,
                       struct session_tokens *window)
{
    size_t n_bytes;
    char *text = cli_read_text(o->text, &n_bytes);
    if (!text)
        return CLI_DATA;
    int rc = session_tokenize(s, text, n_bytes, true, window);
    free(text);
    const size_t wanted = (size_t)(o->n_tokens < o->n_window ? o->n_tokens : o->n_window);
    if (rc == CLI_OK && window->n < wanted) {
        rc = cli_fail("%s has %zu tokens, --window asks for %zu: give a longer text", o->text,
                      window->n, wanted);
        free(window->ids);
        window->ids = NULL;
    }
    window->n = window->n < wanted ? window->n : wanted;
    return rc;
}

static int open_stock(const struct retrieve_options *o, const struct cli_common *common,
                      const struct retrieve_layer *l, struct stock_engine **stock)
{
    const struct bench_shape shape = {(uint32_t)o->n_tokens, l->n_kv_heads, l->group, l->head_dim,
                                      (uint32_t)common->n_threads};
    if (!o->against)
        return CLI_OK;
    *stock = stock_engine_open(common, shape.n_threads);
    return *stock ? stock_engine_add(*stock, STOCK_F16, &shape, BENCH_LLC_TIMES * bench_llc_bytes())
                  : CLI_DATA;
}

static int measure(const struct retrieve_options *o, const struct cli_common *common,
                   const tkv_spec *spec, const struct retrieve_rows *rows,
                   struct cli_progress *progress)
{
    struct retrieve_cache c;
    struct stock_engine *stock = NULL;
    struct report r = {.o = o, .common = common, .c = &c, .rows = rows};
    const size_t wanted = o->n_layers ? (size_t)o->n_layers : rows->n_layers;
    const size_t n_layers = wanted < rows->n_layers ? wanted : rows->n_layers;
    r.has_mass = !o->speed_only && (size_t)o->n_tokens == rows->n_tokens && spec->index;
    cli_progress_step(progress, 0, "filling the cache");
    int rc = retrieve_cache_open(&c, common, spec, rows, (size_t)o->n_tokens, n_layers, progress);
    if (rc == CLI_OK && r.has_mass) {
        cli_progress_step(progress, 0, "comparing");
        rc = retrieve_measure_mass(&c, rows, progress, &r.mass);
    }
    if (rc == CLI_OK)
        rc = open_stock(o, common, &rows->layers[0], &stock);
    if (rc == CLI_OK) {
        cli_progress_step(progress, 0, "timing");
        rc = retrieve_measure_speed(&c, rows, o, stock, progress, &r.speed);
    }
    cli_progress_end(progress);
    if (rc == CLI_OK)
        rc = common->json ? print_json(&r) : print_table(&r);
    stock_engine_close(stock);
    retrieve_cache_close(&c);
    return rc;
}

static int run(const struct retrieve_options *o, const struct cli_common *common,
               const tkv_spec *spec)
{
    struct cli_llama llama;
    struct session session;
    struct session_tokens window = {0};
    struct retrieve_rows rows = {0};
    struct cli_progress progress;
    int rc = cli_llama_open(&llama, common, false);
    if (rc != CLI_OK)
        return rc;
    rc = session_open(&session, &llama, o->model, (int)common->n_threads);
    if (rc != CLI_OK)
        return rc;
    cli_progress_begin(&progress, common->level, 4);
    cli_progress_step(&progress, 0, "reading");
    rc = read_window(&session, o, &window);
    if (rc == CLI_OK)
        rc = retrieve_rows_capture(&session, &window, &rows);
    cli_progress_step(&progress, 1, NULL);
    session_close(&session);
    if (rc == CLI_OK)
        rc = measure(o, common, spec, &rows, &progress);
    else
        cli_progress_end(&progress);
    retrieve_rows_free(&rows);
    free(window.ids);
    return rc;
}

int cmd_bench_retrieve(int argc, char **argv)
{
    struct retrieve_options o = {.n_tokens = 8192, .n_window = 8192, .n_steps = 16};
    const struct cli_option options[] = {
        {"model", 'm', CLI_TEXT, &o.model, "FILE", "GGUF model that the rows come from", 0, 0,
         false},
        {"text", 0, CLI_TEXT, &o.text, "FILE", "text that it reads", 0, 0, false},
        {"kv", 0, CLI_TEXT, &o.kv, "SPEC", "spec with index=qvq, keep=, book=FILE", 0, 0, false},
        {"tokens", 0, CLI_COUNT, &o.n_tokens, "N", "tokens of the cache (8192)", 256, 1 << 23,
         false},
        {"window", 0, CLI_COUNT, &o.n_window, "N",
         "tokens of the text; a longer cache is made of pieces of them (8192)", 256, 1 << 20,
         false},
        {"layers", 0, CLI_COUNT, &o.n_layers, "N", "layers (all)", 1, 1024, false},
        {"steps", 0, CLI_COUNT, &o.n_steps, "N", "decode steps to time (16)", 1, 256, false},
        {"against", 0, CLI_TEXT, &o.against, "llama", "time stock llama.cpp as well", 0, 0, false},
        {"speed-only", 0, CLI_FLAG, &o.speed_only, NULL, "no comparison of selections", 0, 0,
         false},
    };
    const struct cli_syntax syntax = {
        "bench retrieve", "-m MODEL --text FILE --kv SPEC [options]",
        "How much of the attention the index of a spec finds, beside other selections of as many "
        "rows, and how long a decode\nstep takes with it and without.",
        options, sizeof(options) / sizeof(options[0])};
    struct cli_common common;
    tkv_spec spec;
    const int first = cli_parse(&syntax, &common, argc, argv);
    if (first < 0)
        return -1 - first;
    if (first < argc)
        return cli_misuse(syntax.command, "'%s' is not expected", argv[first]);
    if (!o.model || !o.text)
        return cli_misuse(syntax.command, "%s is missing", o.model ? "--text FILE" : "-m MODEL");
    if (o.against && strcmp(o.against, "llama") != 0)
        return cli_misuse(syntax.command, "--against knows only llama, not '%s'", o.against);
    if (!bench_parse_spec(syntax.command, &o.kv, &spec))
        return CLI_USAGE;
    if (spec.index && !*spec.book)
        return cli_misuse(syntax.command, "--kv %s: name the book that has the index, book=FILE",
                          o.kv);
    return run(&o, &common, &spec);
}
