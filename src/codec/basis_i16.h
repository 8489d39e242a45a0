/* A learned basis in integers, for queries (kernels.h, basis_i16). */
#ifndef TKV_BASIS_I16_H
#define TKV_BASIS_I16_H

#include <stdint.h>

/* m: [D][D], m[i][j] = factor of input i in output j; codes and scale as in tkv_basis_i16. */
void tkv_basis_quantize(const float *m, uint32_t D, int16_t *codes, float *scale);

#endif
