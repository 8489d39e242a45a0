/* What the benchmarks share: caches of the machine, memory bandwidth, threads, random rows. */
#ifndef TKV_CLI_BENCH_TOOLS_H
#define TKV_CLI_BENCH_TOOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <tightkv/tightkv.h>

/* Buffers that one engine steps through are this many times the last-level cache. */
enum { BENCH_LLC_TIMES = 4 };

/* One decode step: a query token over `n_tokens` cached ones. */
struct bench_shape {
    uint32_t n_tokens;
    uint32_t n_kv_heads;
    uint32_t group; /* query heads that read one KV head */
    uint32_t head_dim;
    uint32_t n_threads;
};

/* Size of the last-level cache as the system tells it; 32 MiB where it does not. */
size_t bench_llc_bytes(void);

/* Fills `executor` to run on `*n_threads` threads, the ones that ggml uses as well: OpenMP's.
 * `n_threads` must outlive it. For one thread, or without OpenMP, the executor is empty: the
 * calling thread. */
void bench_executor(tkv_executor *executor, uint32_t *n_threads);

/* Can more than one thread be used? */
bool bench_has_threads(void);

/* One pass over `bytes` bytes at `buffer` by a plain sum: seconds it took. */
double bench_read_pass(const void *buffer, size_t bytes, uint32_t n_threads);

/* The median; sorts x. NaN for n = 0. */
double bench_median(double *x, size_t n);

/* Rows as a model makes them: Gaussian, some channels much larger than the others.
 * Deterministic. */
void bench_fill_rows(float *x, size_t n_rows, size_t row_elems, uint32_t head_dim, uint64_t seed);

/* Parses a spec of the command line; NULL becomes the name of the default preset. False after a
 * line on stderr. */
bool bench_parse_spec(const char *command, const char **kv, tkv_spec *spec);

#endif
