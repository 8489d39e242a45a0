/* Quantiles, and intervals that hold the true value in 95 cases of 100. */
#ifndef TKV_CLI_STATS_H
#define TKV_CLI_STATS_H

#include <stddef.h>

struct stats_interval {
    double low, high; /* NaN: too little was measured for one */
};

struct stats_mean {
    double mean, se; /* standard error; NaN: too little was measured for one */
    struct stats_interval ci;
};

/* The mean of n_runs runs of run_length consecutive values each. Neighbours resemble each other
 * (hard passages, topics), so the error comes from the means of blocks of consecutive values,
 * about as many blocks as values in one: batch means as Flegal and Jones recommend them, "Batch
 * means and spectral variance estimators in Markov chain Monte Carlo", Annals of Statistics 38
 * (2010), doi:10.1214/09-AOS735. For independent values take run_length 1: every value is then a
 * block. */
struct stats_mean stats_mean_of_runs(const float *values, size_t n_runs, size_t run_length);

/* The interval without what lies outside [low, high]. */
struct stats_interval stats_within(struct stats_interval i, double low, double high);

/* A share of n independent cases, by Wilson's interval: right also near 0 and 1. (E. B. Wilson,
 * "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.) */
struct stats_interval stats_wilson(size_t n_right, size_t n);

/* The q-quantile of n values, interpolated linearly; NaN when there are none. Sorts them. */
double stats_quantile(float *values, size_t n, double q);

#endif
