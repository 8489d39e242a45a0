/* Turbo codes with AVX2: half a unit of codes is one register, levels come from byte shuffles, and
 * the quantiser searches its thresholds with 8-entry permutations. Bit-exact with the reference. */
#include <immintrin.h>
#include <string.h>

#include "format/turbo.h"
#include "kernels/ahead.h"

void tkv_turbo_avx2(struct tkv_kernels *k);

/* Entry i, in both lanes: the level of code base + (i >> shift & mask), plus bias. */
static inline __m256i level_table(uint32_t bits, int bias, uint32_t base, uint32_t shift)
{
    const int8_t *level = tkv_turbo_levels(bits);
    const uint32_t mask = bits == 4 ? 15 : 3;
    _Alignas(16) uint8_t table[16];
    for (uint32_t i = 0; i < 16; i++)
        table[i] = (uint8_t)(level[base + (i >> shift & mask)] + bias);
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)table));
}

static inline __m256i low_nibbles(__m256i v)
{
    return _mm256_and_si256(v, _mm256_set1_epi8(15));
}

static inline __m256i high_nibbles(__m256i v)
{
    return low_nibbles(_mm256_srli_epi16(v, 4));
}

static inline __m256i load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void store(uint8_t *p, __m256i v)
{
    _mm256_store_si256((__m256i *)p, v);
}

TKV_INLINE void unpack4(const uint8_t *restrict codes, struct tkv_turbo_walk walk, int bias,
                        uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    const __m256i table = level_table(4, bias, 0, 0);
    for (size_t r = 0; r < walk.n_runs; r++, tile += walk.run_step) {
        uint8_t *out = tile;
        for (size_t u = 0; u < walk.n_units; u++, codes += 64, out += walk.unit_step)
            for (size_t i = 0; i < 64; i += 32) {
                const __m256i v = load(codes + i);
                tkv_step_ahead(ahead);
                store(out + i, _mm256_shuffle_epi8(table, low_nibbles(v)));
                store(out + walk.group_step + i, _mm256_shuffle_epi8(table, high_nibbles(v)));
            }
    }
}

TKV_INLINE void unpack2(const uint8_t *restrict codes, struct tkv_turbo_walk walk, int bias,
                        uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    const __m256i even = level_table(2, bias, 0, 0), odd = level_table(2, bias, 0, 2);
    const size_t step = walk.group_step;
    for (size_t r = 0; r < walk.n_runs; r++, tile += walk.run_step) {
        uint8_t *out = tile;
        for (size_t u = 0; u < walk.n_units; u++, codes += 64, out += walk.unit_step)
            for (size_t i = 0; i < 64; i += 32) {
                const __m256i v = load(codes + i), low = low_nibbles(v), high = high_nibbles(v);
                tkv_step_ahead(ahead);
                store(out + i, _mm256_shuffle_epi8(even, low));
                store(out + step + i, _mm256_shuffle_epi8(odd, low));
                store(out + 2 * step + i, _mm256_shuffle_epi8(even, high));
                store(out + 3 * step + i, _mm256_shuffle_epi8(odd, high));
            }
    }
}

/* Bit i of the 32 at `bits` to byte i, all ones or zeros. */
static inline __m256i spread_bits(const uint8_t *bits)
{
    int32_t word;
    memcpy(&word, bits, sizeof word);
    const __m256i byte = _mm256_shuffle_epi8(
        _mm256_set1_epi32(word),
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    return _mm256_cmpeq_epi8(_mm256_and_si256(byte, bit), bit);
}

/* The third bit chooses between the tables of negative and positive levels. */
static inline __m256i lookup3(__m256i negative, __m256i positive, __m256i index,
                              const uint8_t *third)
{
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(negative, index),
                              _mm256_shuffle_epi8(positive, index), spread_bits(third));
}

TKV_INLINE void unpack3(const uint8_t *restrict codes, const uint8_t *restrict third,
                        struct tkv_turbo_walk walk, int bias, uint8_t *restrict tile,
                        struct tkv_ahead *ahead)
{
    const __m256i even0 = level_table(3, bias, 0, 0), odd0 = level_table(3, bias, 0, 2);
    const __m256i even1 = level_table(3, bias, 4, 0), odd1 = level_table(3, bias, 4, 2);
    const size_t step = walk.group_step;
    for (size_t r = 0; r < walk.n_runs; r++, tile += walk.run_step) {
        uint8_t *out = tile;
        for (size_t u = 0; u < walk.n_units; u++, codes += 64, third += 32, out += walk.unit_step)
            for (size_t i = 0; i < 64; i += 32) {
                const __m256i v = load(codes + i), low = low_nibbles(v), high = high_nibbles(v);
                tkv_step_ahead(ahead);
                const uint8_t *t = third + i / 8;
                store(out + i, lookup3(even0, even1, low, t));
                store(out + step + i, lookup3(odd0, odd1, low, t + 8));
                store(out + 2 * step + i, lookup3(even0, even1, high, t + 16));
                store(out + 3 * step + i, lookup3(odd0, odd1, high, t + 24));
            }
    }
}

TKV_INLINE void unpack(const uint8_t *restrict codes, uint32_t D, tkv_kind kind, uint32_t bits,
                       int bias, uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    const struct tkv_turbo_walk walk = tkv_turbo_walk(kind, D, bits);
    struct tkv_ahead cursor = *ahead;
    if (bits == 4)
        unpack4(codes, walk, bias, tile, &cursor);
    else if (bits == 3)
        unpack3(codes, codes + 16 * (size_t)D, walk, bias, tile, &cursor);
    else
        unpack2(codes, walk, bias, tile, &cursor);
    *ahead = cursor;
}

static void turbo_tile_k_avx2(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                              uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    unpack(codes, D, TKV_K, bits, 128, tile, ahead);
}

static void turbo_tile_v_avx2(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                              int8_t *restrict tile, struct tkv_ahead *ahead)
{
    unpack(codes, D, TKV_V, bits, 0, (uint8_t *)tile, ahead);
}

/* The codes of half a unit's groups, in their places in the byte; `width` bits each. */
static inline __m256i pack_half(const uint8_t *tile, size_t step, int n_groups, int width)
{
    const __m256i mask = _mm256_set1_epi8((char)((1 << width) - 1));
    __m256i half = _mm256_setzero_si256();
    for (int j = 0; j < n_groups; j++) {
        const __m256i group = _mm256_and_si256(load(tile + (size_t)j * step), mask);
        half = _mm256_or_si256(half, _mm256_slli_epi16(group, width * j));
    }
    return half;
}

static void turbo_pack_avx2(const uint8_t *restrict tile, uint32_t D, tkv_kind kind, uint32_t bits,
                            uint8_t *restrict codes)
{
    const struct tkv_turbo_walk walk = tkv_turbo_walk(kind, D, bits);
    const size_t step = walk.group_step;
    uint8_t *third = codes + 16 * (size_t)D;
    for (size_t r = 0; r < walk.n_runs; r++)
        for (size_t u = 0; u < walk.n_units; u++, codes += 64) {
            const uint8_t *in = tile + r * walk.run_step + u * walk.unit_step;
            for (size_t i = 0; i < 64; i += 32)
                _mm256_storeu_si256((__m256i *)(codes + i), bits == 4
                                                                ? pack_half(in + i, step, 2, 4)
                                                                : pack_half(in + i, step, 4, 2));
            for (size_t j = 0; bits == 3 && j < 4; j++)
                for (size_t i = 0; i < 64; i += 32, third += 4) {
                    const __m256i top = _mm256_slli_epi16(load(in + j * step + i), 5);
                    const int32_t mask = _mm256_movemask_epi8(top);
                    memcpy(third, &mask, sizeof mask);
                }
        }
}

/* Tables of 2^bits entries: those of the lower half of the codes, and of the upper (4 bits only).
 * */
struct tables {
    __m256 threshold[2]; /* entry i is threshold i - 1 */
    __m256i square[2];
};

static struct tables make_tables(uint32_t bits)
{
    _Alignas(32) float threshold[16] = {0};
    _Alignas(32) int32_t square[16] = {0};
    const int8_t *level = tkv_turbo_levels(bits);
    for (uint32_t i = 0; i < 1u << bits; i++) {
        threshold[i] = i > 0 ? tkv_turbo_threshold(bits, i - 1) : 0.0f;
        square[i] = level[i] * level[i];
    }
    return (struct tables){
        {_mm256_load_ps(threshold), _mm256_load_ps(threshold + 8)},
        {_mm256_load_si256((__m256i *)square), _mm256_load_si256((__m256i *)(square + 8))},
    };
}

/* The number of thresholds below y, by binary search; adds the squared levels to *energy. */
static inline __m256i search(__m256 y, const struct tables *t, uint32_t bits, __m256i *energy)
{
    __m256i code = _mm256_setzero_si256();
    __m256 table = t->threshold[0];
    __m256 upper = _mm256_setzero_ps();
    if (bits == 4) /* entry 8, the threshold in the middle, is 0 */
        upper = _mm256_cmp_ps(y, upper, _CMP_GT_OQ);
    for (int bit = bits == 2 ? 2 : 4; bit > 0; bit >>= 1) {
        const __m256i next = _mm256_or_si256(code, _mm256_set1_epi32(bit));
        __m256 threshold = _mm256_permutevar8x32_ps(table, next);
        if (bits == 4)
            threshold =
                _mm256_blendv_ps(threshold, _mm256_permutevar8x32_ps(t->threshold[1], next), upper);
        const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(y, threshold, _CMP_GT_OQ));
        code = _mm256_or_si256(code, _mm256_and_si256(above, _mm256_set1_epi32(bit)));
    }
    __m256i square = _mm256_permutevar8x32_epi32(t->square[0], code);
    if (bits == 4) {
        const __m256i top = _mm256_castps_si256(upper);
        square = _mm256_blendv_epi8(square, _mm256_permutevar8x32_epi32(t->square[1], code), top);
        code = _mm256_or_si256(code, _mm256_and_si256(top, _mm256_set1_epi32(8)));
    }
    *energy = _mm256_add_epi32(*energy, square);
    return code;
}

static inline void code_rows(const float *restrict x, const float *restrict inv, uint32_t D,
                             uint32_t bits, uint8_t *restrict codes, int32_t *restrict energy)
{
    const struct tables tables = make_tables(bits);
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        const __m256 factor = _mm256_set1_ps(inv[t]);
        __m256i sum = _mm256_setzero_si256();
        for (size_t d = t * D; d < (t + 1) * D; d += 16) {
            const __m256i a =
                search(_mm256_mul_ps(_mm256_loadu_ps(x + d), factor), &tables, bits, &sum);
            const __m256i b =
                search(_mm256_mul_ps(_mm256_loadu_ps(x + d + 8), factor), &tables, bits, &sum);
            const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
            _mm_storeu_si128((__m128i *)(codes + d),
                             _mm_packus_epi16(_mm256_castsi256_si128(words),
                                              _mm256_extracti128_si256(words, 1)));
        }
        _Alignas(32) int32_t lane[8];
        _mm256_store_si256((__m256i *)lane, sum);
        energy[t] = 0;
        for (size_t i = 0; i < 8; i++)
            energy[t] += lane[i];
    }
}

static void turbo_codes_avx2(const float *restrict x, const float *restrict inv, uint32_t D,
                             uint32_t bits, uint8_t *restrict codes, int32_t *restrict energy)
{
    if (bits == 4)
        code_rows(x, inv, D, 4, codes, energy);
    else if (bits == 3)
        code_rows(x, inv, D, 3, codes, energy);
    else
        code_rows(x, inv, D, 2, codes, energy);
}

void tkv_turbo_avx2(struct tkv_kernels *k)
{
    k->turbo_tile_k = turbo_tile_k_avx2;
    k->turbo_tile_v = turbo_tile_v_avx2;
    k->turbo_pack = turbo_pack_avx2;
    k->turbo_codes = turbo_codes_avx2;
}
