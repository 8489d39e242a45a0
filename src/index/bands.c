/* Bands of distances, and how a query is turned for the keys of one. */
#include <math.h>

#include "base/bits.h"
#include "index/index.h"

uint32_t tkv_index_band(uint64_t distance)
{
    const uint64_t times = distance / TKV_INDEX_NEAR;
    const uint32_t band = times ? tkv_highest_bit(times) : 0;
    return band < TKV_INDEX_BANDS ? band : TKV_INDEX_BANDS - 1;
}

uint64_t tkv_index_band_from(uint32_t band)
{
    return (uint64_t)TKV_INDEX_NEAR << band;
}

/* The mean of exp(i * freq * distance) over n distances from `from` on: a geometric sum. */
void tkv_index_band_turn(uint32_t band, const float *freq, uint32_t n_pairs, float (*turn)[2])
{
    const double from = (double)tkv_index_band_from(band), n = from;
    for (uint32_t i = 0; i < n_pairs; i++) {
        const double f = (double)freq[i], middle = f * (from + (n - 1) / 2), step = sin(f / 2);
        const double size = fabs(step) < 1e-9 ? 1 : sin(n * f / 2) / (n * step);
        turn[i][0] = (float)(size * cos(middle));
        turn[i][1] = (float)(size * sin(middle));
    }
}
