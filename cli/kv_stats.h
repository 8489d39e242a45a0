/* What keys or values of one head look like to a codec. */
#ifndef TKV_CLI_KV_STATS_H
#define TKV_CLI_KV_STATS_H

#include <stddef.h>
#include <stdint.h>

struct kv_stats {
    /* Constant part against what varies: sqrt(sum of squared channel means / sum of channel
     * variances). Rotation spreads the constant part over all channels, where it takes levels
     * that the rest would need. */
    double offset;
    double worst_offset; /* largest |mean| / deviation of one channel */
    double outlier;      /* largest deviation of a channel over the median one */
    double kurtosis;     /* of the values less their channels' means; 3: as a normal one's */
    double norm_spread;  /* deviation of the rows' norms over their mean */
};

/* Of n_rows rows of n_channels values, `stride` floats apart. NaN where a divisor is zero. */
void kv_stats_of(const float *rows, size_t n_rows, size_t n_channels, size_t stride,
                 struct kv_stats *out);

#endif
