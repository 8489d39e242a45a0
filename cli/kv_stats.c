/* Moments of keys and values, in double, in two passes. */
#include "kv_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the values. */
static double median(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static double norm_spread(const float *rows, size_t n_rows, size_t n_channels, size_t stride)
{
    double sum = 0, square = 0;
    for (size_t i = 0; i < n_rows; i++) {
        double norm2 = 0;
        for (size_t c = 0; c < n_channels; c++)
            norm2 += (double)rows[i * stride + c] * (double)rows[i * stride + c];
        sum += sqrt(norm2);
        square += norm2;
    }
    double mean = sum / (double)n_rows, variance = square / (double)n_rows - mean * mean;
    return sqrt(variance > 0 ? variance : 0) / mean;
}

/* Channel means, channel variances and, returned, the kurtosis of what is left of the means. */
static double moments(const float *rows, size_t n_rows, size_t n_channels, size_t stride,
                      double *mean, double *variance)
{
    double n = (double)n_rows, second = 0, fourth = 0;
    for (size_t i = 0; i < n_rows; i++)
        for (size_t c = 0; c < n_channels; c++)
            mean[c] += (double)rows[i * stride + c] / n;
    for (size_t i = 0; i < n_rows; i++) {
        for (size_t c = 0; c < n_channels; c++) {
            double d = (double)rows[i * stride + c] - mean[c], d2 = d * d;
            variance[c] += d2 / n;
            second += d2;
            fourth += d2 * d2;
        }
    }
    return fourth * n * (double)n_channels / (second * second);
}

void kv_stats_of(const float *rows, size_t n_rows, size_t n_channels, size_t stride,
                 struct kv_stats *out)
{
    double *mean = cli_alloc(n_channels, sizeof(*mean));
    double *deviation = cli_alloc(n_channels, sizeof(*deviation));
    *out = (struct kv_stats){0};
    out->kurtosis = moments(rows, n_rows, n_channels, stride, mean, deviation);
    double constant = 0, varying = 0;
    for (size_t c = 0; c < n_channels; c++) {
        constant += mean[c] * mean[c];
        varying += deviation[c];
        deviation[c] = sqrt(deviation[c]);
        double ratio = fabs(mean[c]) / deviation[c];
        out->worst_offset = ratio > out->worst_offset ? ratio : out->worst_offset;
    }
    out->offset = sqrt(constant / varying);
    out->norm_spread = norm_spread(rows, n_rows, n_channels, stride);
    double middle = median(deviation, n_channels);
    out->outlier = deviation[n_channels - 1] / middle;
    free(mean);
    free(deviation);
}
