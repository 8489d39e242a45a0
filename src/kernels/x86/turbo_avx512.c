/* Turbo codes with AVX-512 BW and VBMI: a unit of 64 code bytes is one register, which permutations
 * turn into the levels of two or four groups. Bit-exact with the reference. */
#include <immintrin.h>
#include <string.h>

#include "kernels/ahead.h"
#include "kernels/x86/turbo_levels_avx512.h"

void tkv_turbo_avx512(struct tkv_kernels *k);

TKV_INLINE void unpack_width(const uint8_t *restrict codes, struct tkv_turbo_walk walk, uint32_t D,
                             uint32_t bits, int bias, uint8_t *restrict tile,
                             struct tkv_ahead *ahead)
{
    const struct tkv_levels levels = tkv_levels_avx512(bits, bias);
    const uint32_t n_groups = tkv_turbo_groups_per_unit(bits);
    const uint8_t *third = codes + 16 * (size_t)D;
    for (size_t r = 0; r < walk.n_runs; r++, tile += walk.run_step) {
        uint8_t *out = tile;
        for (size_t u = 0; u < walk.n_units; u++, codes += 64, third += 32, out += walk.unit_step) {
            tkv_step_ahead(ahead);
            for (uint32_t j = 0; j < n_groups; j++)
                _mm512_store_si512(out + j * walk.group_step,
                                   tkv_group_levels(&levels, bits, codes, third, j));
        }
    }
}

static void unpack(const uint8_t *restrict codes, uint32_t D, tkv_kind kind, uint32_t bits,
                   int bias, uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    const struct tkv_turbo_walk walk = tkv_turbo_walk(kind, D, bits);
    struct tkv_ahead cursor = *ahead;
    if (bits == 4)
        unpack_width(codes, walk, D, 4, bias, tile, &cursor);
    else if (bits == 3)
        unpack_width(codes, walk, D, 3, bias, tile, &cursor);
    else
        unpack_width(codes, walk, D, 2, bias, tile, &cursor);
    *ahead = cursor;
}

static void turbo_tile_k_avx512(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                                uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    unpack(codes, D, TKV_K, bits, 128, tile, ahead);
}

static void turbo_tile_v_avx512(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                                int8_t *restrict tile, struct tkv_ahead *ahead)
{
    unpack(codes, D, TKV_V, bits, 0, (uint8_t *)tile, ahead);
}

/* The codes of one unit's groups, in their places in the byte; `width` bits each. */
static inline __m512i pack_unit(const uint8_t *tile, size_t step, uint32_t n_groups, uint32_t width)
{
    const __m512i mask = _mm512_set1_epi8((char)((1 << width) - 1));
    __m512i unit = _mm512_setzero_si512();
    for (uint32_t j = 0; j < n_groups; j++) {
        const __m512i group = _mm512_and_si512(_mm512_load_si512(tile + j * step), mask);
        unit = _mm512_or_si512(unit, _mm512_sll_epi16(group, _mm_cvtsi32_si128((int)(width * j))));
    }
    return unit;
}

static void turbo_pack_avx512(const uint8_t *restrict tile, uint32_t D, tkv_kind kind,
                              uint32_t bits, uint8_t *restrict codes)
{
    const struct tkv_turbo_walk walk = tkv_turbo_walk(kind, D, bits);
    uint8_t *third = codes + 16 * (size_t)D;
    for (size_t r = 0; r < walk.n_runs; r++)
        for (size_t u = 0; u < walk.n_units; u++, codes += 64) {
            const uint8_t *in = tile + r * walk.run_step + u * walk.unit_step;
            if (bits == 4) {
                _mm512_storeu_si512(codes, pack_unit(in, walk.group_step, 2, 4));
                continue;
            }
            _mm512_storeu_si512(codes, pack_unit(in, walk.group_step, 4, 2));
            for (size_t j = 0; bits == 3 && j < 4; j++, third += 8) {
                const __m512i group = _mm512_load_si512(in + j * walk.group_step);
                const uint64_t mask = _mm512_test_epi8_mask(group, _mm512_set1_epi8(4));
                memcpy(third, &mask, sizeof mask);
            }
        }
}

/* What the quantiser looks up. Entry i of `threshold` is threshold i - 1; first and second are
 * those of the first steps of the search, which need no permutation. */
struct tables {
    __m512 threshold, first, second_low, second_high;
    __m512i magnitude; /* of the level of a code, in every lane */
};

static inline struct tables make_tables(uint32_t bits)
{
    _Alignas(64) float threshold[16] = {0};
    _Alignas(16) uint8_t magnitude[16] = {0};
    const int8_t *level = tkv_turbo_levels(bits);
    const uint32_t n = 1u << bits;
    for (uint32_t i = 0; i < n; i++) {
        threshold[i] = i > 0 ? tkv_turbo_threshold(bits, i - 1) : 0.0f;
        magnitude[i] = (uint8_t)(level[i] < 0 ? -level[i] : level[i]);
    }
    return (struct tables){
        .threshold = _mm512_load_ps(threshold),
        .first = _mm512_set1_ps(threshold[n / 2]),
        .second_low = _mm512_set1_ps(threshold[n / 4]),
        .second_high = _mm512_set1_ps(threshold[n / 2 + n / 4]),
        .magnitude = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)magnitude)),
    };
}

/* The number of thresholds below y, by binary search. Comparisons and permutations share one port,
 * so the first two steps choose their thresholds by blending. */
static inline __m512i search(__m512 y, const struct tables *t, uint32_t bits)
{
    const int top = 1 << (bits - 1);
    __mmask16 above = _mm512_cmp_ps_mask(y, t->first, _CMP_GT_OQ);
    __m512i code = _mm512_maskz_mov_epi32(above, _mm512_set1_epi32(top));
    const __m512 second = _mm512_mask_mov_ps(t->second_low, above, t->second_high);
    above = _mm512_cmp_ps_mask(y, second, _CMP_GT_OQ);
    code = _mm512_mask_or_epi32(code, above, code, _mm512_set1_epi32(top >> 1));
    for (int bit = top >> 2; bit > 0; bit >>= 1) {
        const __m512i next = _mm512_or_si512(code, _mm512_set1_epi32(bit));
        const __m512 threshold = _mm512_permutexvar_ps(next, t->threshold);
        code = _mm512_mask_mov_epi32(code, _mm512_cmp_ps_mask(y, threshold, _CMP_GT_OQ), next);
    }
    return code;
}

/* Codes 64 values, or n = 16, 32 or 48; adds their squared levels to *energy. */
static inline void code_run(const float *x, size_t n, __m512 factor, const struct tables *t,
                            uint32_t bits, __m512i order, uint8_t *codes, __m512i *energy)
{
    __m512i merged = _mm512_setzero_si512(); /* byte j of cell i: code i of vector j */
    for (size_t j = 0; j < 4 && 16 * j < n; j++) {
        const __m512 y = _mm512_mul_ps(_mm512_loadu_ps(x + 16 * j), factor);
        const __m512i code = search(y, t, bits);
        merged = _mm512_or_si512(merged, _mm512_slli_epi32(code, (unsigned)(8 * j)));
    }
    const __mmask64 live = n >= 64 ? ~0ull : (1ull << n) - 1;
    const __m512i run = _mm512_maskz_permutexvar_epi8(live, order, merged);
    const __m512i level = _mm512_maskz_shuffle_epi8(live, t->magnitude, run);
    *energy = _mm512_dpbusd_epi32(*energy, level, level);
    _mm512_mask_storeu_epi8(codes, live, run);
}

static inline void code_rows(const float *restrict x, const float *restrict inv, uint32_t D,
                             uint32_t bits, uint8_t *restrict codes, int32_t *restrict energy)
{
    const struct tables tables = make_tables(bits);
    _Alignas(64) uint8_t cell_byte[64];
    for (size_t i = 0; i < 64; i++)
        cell_byte[i] = (uint8_t)(i % 16 * 4 + i / 16);
    const __m512i order = _mm512_load_si512(cell_byte);
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        const __m512 factor = _mm512_set1_ps(inv[t]);
        __m512i sum = _mm512_setzero_si512();
        size_t d = t * D;
        for (; d + 64 <= (t + 1) * D; d += 64)
            code_run(x + d, 64, factor, &tables, bits, order, codes + d, &sum);
        if (d < (t + 1) * D)
            code_run(x + d, (t + 1) * D - d, factor, &tables, bits, order, codes + d, &sum);
        energy[t] = _mm512_reduce_add_epi32(sum);
    }
}

static void turbo_codes_avx512(const float *restrict x, const float *restrict inv, uint32_t D,
                               uint32_t bits, uint8_t *restrict codes, int32_t *restrict energy)
{
    if (bits == 4)
        code_rows(x, inv, D, 4, codes, energy);
    else if (bits == 3)
        code_rows(x, inv, D, 3, codes, energy);
    else
        code_rows(x, inv, D, 2, codes, energy);
}

static void turbo_dots_avx512(const float *restrict x, const uint8_t *restrict codes, uint32_t D,
                              uint32_t bits, float *restrict dot)
{
    const uint32_t n_levels = 1u << bits;
    const __m128i bytes =
        _mm_maskz_loadu_epi8((__mmask16)((1u << n_levels) - 1u), tkv_turbo_levels(bits));
    const __m512 level = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        __m512 sum = _mm512_setzero_ps();
        for (size_t d = t * D; d < (t + 1) * D; d += 16) {
            const __m128i code = _mm_loadu_si128((const __m128i *)(const void *)(codes + d));
            const __m512 chosen = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(code), level);
            sum = _mm512_fmadd_ps(chosen, _mm512_loadu_ps(x + d), sum);
        }
        const __m256 by8 =
            _mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps(sum, 1));
        const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
        const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
        dot[t] = _mm_cvtss_f32(_mm_add_ss(by2, _mm_movehdup_ps(by2)));
    }
}

void tkv_turbo_avx512(struct tkv_kernels *k)
{
    k->turbo_dots = turbo_dots_avx512;
    k->turbo_tile_k = turbo_tile_k_avx512;
    k->turbo_tile_v = turbo_tile_v_avx512;
    k->turbo_pack = turbo_pack_avx512;
    k->turbo_codes = turbo_codes_avx512;
}
