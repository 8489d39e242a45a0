/* tightkv bench retrieve: what is measured. */
#ifndef TKV_CLI_RETRIEVE_H
#define TKV_CLI_RETRIEVE_H

#include <tightkv/tightkv.h>

#include "bench_book.h"
#include "bench_stock.h"
#include "retrieve_peers.h"
#include "retrieve_rows.h"

struct retrieve_options {
    const char *model, *text, *kv, *against;
    int64_t n_tokens, n_layers, n_steps, n_window;
    bool speed_only;
};

/* A coded cache of the first layers, filled. */
struct retrieve_cache {
    tkv_context *ctx;
    struct bench_book book;
    tkv_cache *cache;
    tkv_spec spec;
    uint32_t n_threads;
    size_t n_tokens, n_layers;
    double write_seconds; /* of all rows of all layers, index and sealing too */
};

int retrieve_cache_open(struct retrieve_cache *c, const struct cli_common *common,
                        const tkv_spec *spec, const struct retrieve_rows *rows, size_t n_tokens,
                        size_t n_layers, struct cli_progress *progress);
void retrieve_cache_close(struct retrieve_cache *c);

/* The call of one query: number i of the text's last, behind the whole cache. `q` and `out` are of one
 * value for each of the layer's query heads and dims; they and `pos` must outlive the call. */
tkv_attend_params retrieve_call(const struct retrieve_cache *c, const struct retrieve_rows *rows,
                                size_t i_layer, size_t i, int32_t *pos, float *q, float *out);

/* ---- retrieve_mass.c: how much of the attention is read ---------------------------------------- */

enum {
    RETRIEVE_QUANTILES = 5
};
/* Least, a tenth, half, nine tenths, most. */
extern const double retrieve_quantiles[RETRIEVE_QUANTILES];

struct retrieve_mass {
    double read_fraction;            /* of live rows, sinks and window apart */
    double read[RETRIEVE_QUANTILES]; /* the same, quantiles over layers, heads and queries */
    double near;                     /* attention that sinks and window draw */
    double index;                    /* what is read with the index */
    double peer[PEER_COUNT];         /* with others, at as many rows */
};

/* Means over layers, heads and queries. The cache must be no longer than the text. */
int retrieve_measure_mass(const struct retrieve_cache *c, const struct retrieve_rows *rows,
                          struct cli_progress *progress, struct retrieve_mass *out);

/* ---- retrieve_speed.c -------------------------------------------------------------------------- */

struct retrieve_speed {
    double select_ms, dense_ms, stock_ms; /* a step of all layers, medians; NaN: not measured */
    double read_fraction;
    double bits_per_value;
    double index_bits; /* of codes, a key */
    double book_mib;
    double resident_mib; /* of the process, at most */
    double page_bytes;   /* read from disk, a step */
    double stall_ms;     /* waited for it, a step */
    double hit_rate;
    double disk_gb_per_s; /* of these reads */
};

int retrieve_measure_speed(const struct retrieve_cache *c, const struct retrieve_rows *rows,
                           const struct retrieve_options *o, struct stock_engine *stock,
                           struct cli_progress *progress, struct retrieve_speed *out);

#endif
