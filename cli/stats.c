/* Quantiles and intervals. */
#include "stats.h"

#include <math.h>
#include <stdlib.h>

enum {
    MIN_BLOCKS = 4
};

static const double NORMAL_975 = 1.959963984540054;

/* The 97.5% quantile of Student's t, by its expansion in 1 / df (Abramowitz and Stegun, 26.7.5):
 * within 0.3% from 4 blocks on. */
static double student_975(double df)
{
    double z = NORMAL_975, z2 = z * z;
    double g1 = z * (z2 + 1) / 4;
    double g2 = z * ((5 * z2 + 16) * z2 + 3) / 96;
    double g3 = z * (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384;
    double g4 = z * ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92160;
    return z + (g1 + (g2 + (g3 + g4 / df) / df) / df) / df;
}

static double mean_of(const float *values, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)values[i];
    return sum / (double)n;
}

/* Blocks of one run: no block crosses from one run to the next. */
static size_t blocks_of_run(size_t n_runs, size_t run_length)
{
    size_t block = (size_t)sqrt((double)(n_runs * run_length));
    if (run_length == 1 || run_length < block)
        return 1;
    return run_length / block;
}

struct stats_mean stats_mean_of_runs(const float *values, size_t n_runs, size_t run_length)
{
    struct stats_mean m = {NAN, NAN, {NAN, NAN}};
    if (n_runs * run_length == 0)
        return m;
    m.mean = mean_of(values, n_runs * run_length);
    size_t n_blocks = blocks_of_run(n_runs, run_length), n = n_runs * n_blocks;
    if (n < MIN_BLOCKS)
        return m;
    double squares = 0;
    for (size_t run = 0; run < n_runs; run++) {
        for (size_t i = 0; i < n_blocks; i++) {
            size_t first = run_length * i / n_blocks, last = run_length * (i + 1) / n_blocks;
            double off = mean_of(values + run * run_length + first, last - first) - m.mean;
            squares += off * off;
        }
    }
    m.se = sqrt(squares / ((double)(n - 1) * (double)n));
    double half = student_975((double)(n - 1)) * m.se;
    m.ci = (struct stats_interval){m.mean - half, m.mean + half};
    return m;
}

struct stats_interval stats_within(struct stats_interval i, double low, double high)
{
    /* NaN compares as false and stays. */
    return (struct stats_interval){i.low < low ? low : i.low, i.high > high ? high : i.high};
}

struct stats_interval stats_wilson(size_t n_right, size_t n_cases)
{
    if (n_cases == 0)
        return (struct stats_interval){NAN, NAN};
    double n = (double)n_cases, p = (double)n_right / n, z2 = NORMAL_975 * NORMAL_975;
    double centre = (p + z2 / (2 * n)) / (1 + z2 / n);
    double half = NORMAL_975 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n));
    return (struct stats_interval){n_right == 0 ? 0 : centre - half,
                                   n_right == n_cases ? 1 : centre + half};
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

double stats_quantile(float *values, size_t n, double q)
{
    if (n == 0)
        return NAN;
    qsort(values, n, sizeof(*values), compare_floats);
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    double low = (double)values[i], high = (double)values[i + 1 < n ? i + 1 : i];
    return low + (at - (double)i) * (high - low);
}
