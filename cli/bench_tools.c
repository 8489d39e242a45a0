/* What the benchmarks share. */
#include "bench_tools.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "cli.h"

size_t bench_llc_bytes(void)
{
    size_t largest = 0;
    for (int i = 0; i < 8; i++) {
        char path[80];
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        FILE *f = fopen(path, "r");
        if (!f)
            break;
        unsigned long n = 0;
        char unit = 'K';
        int got = fscanf(f, "%lu%c", &n, &unit);
        fclose(f);
        size_t bytes = got < 1 ? 0 : (size_t)n << (unit == 'M' ? 20 : 10);
        largest = bytes > largest ? bytes : largest;
    }
    return largest ? largest : (size_t)32 << 20;
}

bool bench_has_threads(void)
{
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

static void run_threads(void *user, void (*fn)(void *arg, uint32_t ith, uint32_t nth), void *arg)
{
#ifdef _OPENMP
    const uint32_t *n_threads = user;
#pragma omp parallel num_threads((int)*n_threads)
    fn(arg, (uint32_t)omp_get_thread_num(), (uint32_t)omp_get_num_threads());
#else
    (void)user;
    fn(arg, 0, 1);
#endif
}

void bench_executor(tkv_executor *executor, uint32_t *n_threads)
{
    *executor = (tkv_executor){0};
    if (*n_threads > 1 && bench_has_threads())
        *executor = (tkv_executor){n_threads, *n_threads, run_threads};
}

struct read_job {
    const uint64_t *words;
    size_t n_words;
    uint64_t *sums; /* [n_threads], so that no read can be left out */
};

enum { LANES = 32 }; /* independent sums: enough for any vector width */

/* Wider loads read up to a fifth faster from one core; the compiler makes a version of each
 * width. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) &&                             \
    !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
sum_words(const uint64_t *words, size_t n_words)
{
    uint64_t sums[LANES] = {0};
    for (size_t i = 0; i < n_words; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            sums[lane] += words[i + lane];
    for (size_t lane = 1; lane < LANES; lane++)
        sums[0] += sums[lane];
    return sums[0];
}

static void read_share(void *arg, uint32_t ith, uint32_t nth)
{
    const struct read_job *job = arg;
    size_t share = job->n_words / nth / LANES * LANES;
    job->sums[ith] = sum_words(job->words + share * ith, share);
}

double bench_read_pass(const void *buffer, size_t bytes, uint32_t n_threads)
{
    uint64_t *sums = cli_alloc(n_threads, sizeof(*sums));
    struct read_job job = {buffer, bytes / sizeof(uint64_t), sums};
    tkv_executor executor;
    bench_executor(&executor, &n_threads);
    double start = cli_now();
    if (executor.run)
        executor.run(executor.user, read_share, &job);
    else
        read_share(&job, 0, 1);
    double seconds = cli_now() - start;
    volatile uint64_t kept = sums[0];
    (void)kept;
    free(sums);
    return seconds;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *x, size_t n)
{
    if (n == 0)
        return NAN;
    qsort(x, n, sizeof(*x), compare);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

/* splitmix64. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In (0, 1). */
static double uniform(uint64_t *state)
{
    return ((double)(next_random(state) >> 11) + 0.5) * 0x1p-53;
}

void bench_fill_rows(float *x, size_t n_rows, size_t row_elems, uint32_t head_dim, uint64_t seed)
{
    enum {
        OUTLIER_EVERY = 29
    }; /* channels; the sort of share and size that keys of small models show */
    const double outlier_gain = 8;
    for (size_t i = 0; i < n_rows * row_elems; i++) {
        double radius = sqrt(-2 * log(uniform(&seed))), angle = 6.283185307179586 * uniform(&seed);
        size_t channel = i % row_elems % head_dim;
        x[i] = (float)(radius * cos(angle) * (channel % OUTLIER_EVERY == 5 ? outlier_gain : 1));
    }
}

bool bench_parse_spec(const char *command, const char **kv, tkv_spec *spec)
{
    const char *text, *summary;
    tkv_error err = {"no such spec"};
    *spec = (tkv_spec){.struct_size = sizeof(*spec)};
    if ((*kv || tkv_spec_preset(0, kv, &text, &summary) == TKV_OK) &&
        tkv_spec_parse(*kv, spec, &err) == TKV_OK)
        return true;
    cli_misuse(command, "--kv: %s", err.text);
    return false;
}
