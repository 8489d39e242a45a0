/* Dot products of f32 rows with one vector. D a multiple of 16.
 *
 * Order: 16 lanes, lane i sums elements i, i + 16, ... by fmaf; then lanes i and i + 8, + 4, + 2, +
 * 1 are added. */
#include <math.h>

#include "kernels/kernels.h"

static void dot(const float *a, const float *q, size_t q_stride, uint32_t n_rows, uint32_t D,
                float *out)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        const float *row = q + r * q_stride;
        float lane[16] = {0};
        for (uint32_t c = 0; c < D; c++)
            lane[c % 16] = fmaf(a[c], row[c], lane[c % 16]);
        for (uint32_t half = 8; half; half /= 2)
            for (uint32_t i = 0; i < half; i++)
                lane[i] += lane[i + half];
        out[r] = lane[0];
    }
}

void tkv_dot_ref(struct tkv_kernels *k);

void tkv_dot_ref(struct tkv_kernels *k)
{
    k->dot = dot;
}
