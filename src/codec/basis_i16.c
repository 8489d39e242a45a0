/* Columns to integers. */
#include "codec/basis_i16.h"

#include <math.h>

#include "kernels/kernels.h"

void tkv_basis_quantize(const float *m, uint32_t D, int16_t *codes, float *scale)
{
    /* |sum of c * code| <= |c| * |codes| (Cauchy), |c| <= TKV_BASIS_MOST * sqrt(D); rounding adds at
     * most half a code to each of D. */
    const double norm = fmin(32000, 2.1e9 / (TKV_BASIS_MOST * sqrt(D)) - 0.5 * sqrt(D));
    for (uint32_t j = 0; j < D; j++) {
        double square = 0;
        for (uint32_t i = 0; i < D; i++)
            square += (double)m[(size_t)i * D + j] * (double)m[(size_t)i * D + j];
        const double unit = square > 1e-60 ? sqrt(square) / norm : 1;
        scale[j] = (float)unit;
        for (uint32_t i = 0; i < D; i++)
            codes[((size_t)(i / 2) * D + j) * 2 + i % 2] =
                (int16_t)rint((double)m[(size_t)i * D + j] / unit);
    }
}
