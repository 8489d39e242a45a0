/* Learned bases and turns: the steps of basis_steps.h, built for the reference. */
#include "kernels/basis_steps.h"

void tkv_basis_ref(struct tkv_kernels *k);

static void basis_ref(const float *x, size_t n, uint32_t D, const float *m, float *y)
{
    tkv_basis_all(x, n, D, 32, m, y);
}

static void turn_ref(float *x, size_t n, uint32_t D, uint32_t half, uint32_t n_pairs,
                      const float (*turn)[2])
{
    tkv_turn_all(x, n, D, half, n_pairs, turn);
}

static void turn_tile_ref(float *tile, uint32_t half, uint32_t n_pairs, const float *cos,
                          const float *sin, size_t stride)
{
    tkv_turn_tile_all(tile, half, n_pairs, cos, sin, stride);
}

void tkv_basis_ref(struct tkv_kernels *k)
{
    k->basis = basis_ref;
    k->turn = turn_ref;
    k->turn_tile = turn_tile_ref;
}
