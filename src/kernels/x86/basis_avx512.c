/* Learned bases and turns: the steps of basis_steps.h, built for AVX-512. */
#include "kernels/basis_steps.h"

void tkv_basis_avx512(struct tkv_kernels *k);

static void basis_avx512(const float *x, size_t n, uint32_t D, const float *m, float *y)
{
    tkv_basis_all(x, n, D, m, y);
}

static void turn_avx512(float *x, size_t n, uint32_t D, uint32_t half, uint32_t n_pairs,
                      const float (*turn)[2])
{
    tkv_turn_all(x, n, D, half, n_pairs, turn);
}

static void turn_tile_avx512(float *tile, uint32_t half, uint32_t n_pairs, const float *cos,
                          const float *sin, size_t stride)
{
    tkv_turn_tile_all(tile, half, n_pairs, cos, sin, stride);
}

void tkv_basis_avx512(struct tkv_kernels *k)
{
    k->basis = basis_avx512;
    k->turn = turn_avx512;
    k->turn_tile = turn_tile_avx512;
}
