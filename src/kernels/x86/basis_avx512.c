/* Learned bases and turns: the steps of basis_steps.h, built for AVX-512. Pairs of neighbours are
 * turned by hand, 8 at a time, and tiles 16 tokens at a time. */
#include <immintrin.h>

#include "kernels/basis_steps.h"

void tkv_basis_avx512(struct tkv_kernels *k);

static void basis_avx512(const float *x, size_t n, uint32_t D, const float *m, float *y)
{
    tkv_basis_all(x, n, D, 64, m, y);
}

/* Even lanes a * c - b * s, odd ones a * s + b * c; sums commute. */
TKV_INLINE __m512 turn_neighbours(__m512 x, __m512 c, __m512 s)
{
    const __m512 straight = _mm512_mul_ps(x, c);
    const __m512 crossed = _mm512_mul_ps(_mm512_permute_ps(x, 0xb1), s);
    return _mm512_mask_sub_ps(_mm512_add_ps(straight, crossed), 0x5555, straight, crossed);
}

static void turn_avx512(float *x, size_t n, uint32_t D, uint32_t half, uint32_t n_pairs,
                        const float (*turn)[2])
{
    if (half) {
        tkv_turn_all(x, n, D, half, n_pairs, turn);
        return;
    }
    for (uint32_t i = 0; i < 2 * n_pairs; i += 16) {
        const uint32_t left = 2 * n_pairs - i;
        const __mmask16 live = (__mmask16)(left >= 16 ? 0xffffu : (1u << left) - 1);
        const __m512 both = _mm512_maskz_loadu_ps(live, &turn[i / 2][0]);
        const __m512 c = _mm512_moveldup_ps(both), s = _mm512_movehdup_ps(both);
        for (size_t r = 0; r < n; r++) {
            const __m512 y = turn_neighbours(_mm512_maskz_loadu_ps(live, x + r * D + i), c, s);
            _mm512_mask_storeu_ps(x + r * D + i, live, y);
        }
    }
}

/* Tile and angles are more than L1 holds: lines come and go whole, each once. */
static void turn_tile_avx512(float *tile, uint32_t half, uint32_t n_pairs, const float *cos,
                             const float *sin, size_t stride)
{
    const size_t step = half ? 1 : 2, apart = (half ? half : 1) * (size_t)TKV_PAGE_TOKENS;
    for (size_t i = 0; i < n_pairs; i++) {
        float *x = tile + i * step * TKV_PAGE_TOKENS;
        for (size_t t = 0; t < TKV_PAGE_TOKENS; t += 16) {
            const __m512 a = _mm512_load_ps(x + t), b = _mm512_load_ps(x + apart + t);
            const __m512 c = _mm512_loadu_ps(cos + i * stride + t);
            const __m512 s = _mm512_loadu_ps(sin + i * stride + t);
            _mm512_store_ps(x + t, _mm512_sub_ps(_mm512_mul_ps(a, c), _mm512_mul_ps(b, s)));
            _mm512_store_ps(x + apart + t, _mm512_add_ps(_mm512_mul_ps(a, s), _mm512_mul_ps(b, c)));
        }
    }
}

void tkv_basis_avx512(struct tkv_kernels *k)
{
    k->basis = basis_avx512;
    k->turn = turn_avx512;
    k->turn_tile = turn_tile_avx512;
}
