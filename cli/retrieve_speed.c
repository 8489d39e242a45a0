/* Decode steps over all layers: with the index, without, and stock llama.cpp's over f16. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cli.h"
#include "retrieve.h"

enum {
    MAX_STEPS = 256,
    WARM_STEPS = 2
};

struct stepper {
    const struct retrieve_cache *c;
    const struct retrieve_rows *rows;
    float *q, *out;
    size_t next; /* query */
};

/* Seconds of one step; every step has the next query. */
static int step(struct stepper *s, uint32_t flags, double *seconds)
{
    double sum = 0;
    for (size_t i = 0; i < s->c->n_layers; i++) {
        int32_t pos;
        tkv_error err;
        tkv_attend_params p = retrieve_call(s->c, s->rows, i, s->next, &pos, s->q, s->out);
        p.flags = flags;
        const double start = cli_now();
        if (tkv_attend(s->c->cache, &p, &err) != TKV_OK)
            return cli_fail("attention: %s", err.text);
        sum += cli_now() - start;
    }
    s->next = (s->next + 1) % RETRIEVE_QUERIES;
    *seconds = sum;
    return CLI_OK;
}

static double stock_step(struct stock_engine *stock, size_t n_layers)
{
    double sum = 0;
    for (size_t i = 0; i < n_layers && stock; i++)
        sum += stock_engine_step(stock, STOCK_F16);
    return stock ? sum : NAN;
}

static double read_fraction(struct stepper *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->c->n_layers; i++) {
        int32_t pos;
        double exact, read;
        tkv_attend_params p = retrieve_call(s->c, s->rows, i, s->next, &pos, s->q, s->out);
        p.flags = TKV_ATTEND_SELECT;
        if (tkv_attend_fractions(s->c->cache, &p, &exact, &read, NULL) != TKV_OK)
            return NAN;
        sum += read;
    }
    return sum / (double)s->c->n_layers;
}

static void measure_size(const struct retrieve_cache *c, struct retrieve_speed *out)
{
    tkv_cache_stats stats = {.struct_size = sizeof(stats)};
    struct rusage usage;
    if (tkv_cache_get_stats(c->cache, &stats) == TKV_OK && stats.n_values) {
        out->bits_per_value = 8 *
                              (double)(stats.sealed_bytes + stats.open_bytes + stats.meta_bytes) /
                              (double)stats.n_values;
        out->index_bits = 8 * (double)stats.index_bytes / (double)stats.f16_bytes;
        out->book_mib = (double)stats.book_bytes / (1 << 20);
    }
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        out->resident_mib = (double)usage.ru_maxrss / 1024;
}

static void measure_tiers(const struct retrieve_cache *c, const tkv_tier_stats *before, size_t n,
                          struct retrieve_speed *out)
{
    tkv_tier_stats after = {.struct_size = sizeof(after)};
    if (!c->spec.ram || tkv_cache_get_tier_stats(c->cache, &after) != TKV_OK)
        return;
    const double hits = (double)(after.hits - before->hits),
                 misses = (double)(after.misses - before->misses);
    out->page_bytes = (double)(after.bytes_read - before->bytes_read) / (double)n;
    out->stall_ms = 1e-6 * (double)(after.stall_ns - before->stall_ns) / (double)n;
    out->hit_rate = hits / (hits + misses);
    out->disk_gb_per_s = out->stall_ms > 0 ? 1e-6 * out->page_bytes / out->stall_ms : NAN;
}

int retrieve_measure_speed(const struct retrieve_cache *c, const struct retrieve_rows *rows,
                           const struct retrieve_options *o, struct stock_engine *stock,
                           struct cli_progress *progress, struct retrieve_speed *out)
{
    const struct retrieve_layer *l = &rows->layers[0];
    const size_t n_q = (size_t)l->n_kv_heads * l->group * l->head_dim;
    struct stepper s = {c, rows, cli_alloc(n_q, sizeof(float)), cli_alloc(n_q, sizeof(float)), 0};
    double select[MAX_STEPS], dense[MAX_STEPS], of_stock[MAX_STEPS], unused;
    const size_t n = (size_t)o->n_steps;
    const bool spilled = c->spec.ram != 0; /* reading everything would only measure the disk */
    int rc = CLI_OK;
    *out = (struct retrieve_speed){.hit_rate = NAN, .disk_gb_per_s = NAN};
    for (int i = 0; i < WARM_STEPS && rc == CLI_OK; i++)
        rc = step(&s, TKV_ATTEND_SELECT, &unused);
    tkv_tier_stats before = {.struct_size = sizeof(before)};
    if (spilled)
        tkv_cache_get_tier_stats(c->cache, &before);
    for (size_t i = 0; i < n && rc == CLI_OK; i++) {
        rc = step(&s, TKV_ATTEND_SELECT, &select[i]);
        dense[i] = of_stock[i] = NAN;
        if (rc == CLI_OK && !spilled)
            rc = step(&s, TKV_ATTEND_DENSE, &dense[i]);
        of_stock[i] = stock_step(stock, c->n_layers);
        cli_progress_step(progress, 1.0 / (double)n, NULL);
    }
    if (rc == CLI_OK) {
        measure_tiers(c, &before, n, out);
        out->read_fraction = read_fraction(&s);
        out->select_ms = 1e3 * bench_median(select, n);
        out->dense_ms = spilled ? NAN : 1e3 * bench_median(dense, n);
        out->stock_ms = stock ? 1e3 * bench_median(of_stock, n) : NAN;
        measure_size(c, out);
    }
    free(s.q), free(s.out);
    return rc;
}
