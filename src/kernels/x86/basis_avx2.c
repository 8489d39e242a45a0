/* Learned bases and turns: the steps of basis_steps.h, built for AVX2. Pairs of neighbours are
 * turned by hand, 4 at a time. */
#include <immintrin.h>

#include "kernels/basis_steps.h"

void tkv_basis_avx2(struct tkv_kernels *k);

static void basis_avx2(const float *x, size_t n, uint32_t D, const float *m, float *y)
{
    tkv_basis_all(x, n, D, 32, m, y);
}

/* Even lanes a * c - b * s, odd ones a * s + b * c; sums commute. */
static void turn_avx2(float *x, size_t n, uint32_t D, uint32_t half, uint32_t n_pairs,
                      const float (*turn)[2])
{
    const uint32_t whole = half ? 0 : n_pairs / 4 * 4;
    for (uint32_t i = 0; i < 2 * whole; i += 8) {
        const __m256 both = _mm256_loadu_ps(&turn[i / 2][0]);
        const __m256 c = _mm256_moveldup_ps(both), s = _mm256_movehdup_ps(both);
        for (size_t r = 0; r < n; r++) {
            const __m256 v = _mm256_loadu_ps(x + r * D + i);
            const __m256 crossed = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), s);
            _mm256_storeu_ps(x + r * D + i, _mm256_addsub_ps(_mm256_mul_ps(v, c), crossed));
        }
    }
    if (whole < n_pairs)
        tkv_turn_all(x + 2 * whole, n, D, half, n_pairs - whole, turn + whole);
}

static void turn_tile_avx2(float *tile, uint32_t half, uint32_t n_pairs, const float *cos,
                           const float *sin, size_t stride)
{
    tkv_turn_tile_all(tile, half, n_pairs, cos, sin, stride);
}

void tkv_basis_avx2(struct tkv_kernels *k)
{
    k->basis = basis_avx2;
    k->turn = turn_avx2;
    k->turn_tile = turn_tile_avx2;
}
