/* Row order to tile order and back (format/row_order.h), AVX-512 BW and VBMI: rows come in pieces of
 * 16 bytes, four of them to a register. Of keys, cells of 32 bits are transposed; of values, one
 * permutation puts the bytes of four tokens side by side, and shifts transpose the fields in them. */
#include <immintrin.h>
#include <string.h>

#include "format/row_order.h"
#include "kernels/kernels.h"
#include "kernels/x86/cells_avx512.h"

#define TOKENS TKV_PAGE_TOKENS
#define PIECE  16

void tkv_order_avx512(struct tkv_kernels *k);

/* The first n of 64 bytes. */
TKV_INLINE __mmask64 first_bytes(size_t n)
{
    return n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1;
}

/* n bytes of a row from `at` on; n is PIECE, as a constant, but at its end. */
TKV_INLINE __m128i load_piece(const uint8_t *row, size_t at, size_t n)
{
    return n == PIECE ? _mm_loadu_si128((const __m128i *)(const void *)(row + at))
                      : _mm_maskz_loadu_epi8((__mmask16)first_bytes(n), row + at);
}

/* Lane l is of rows[l * step]. By halves: into those, a piece from memory needs no shuffle. */
TKV_INLINE __m512i load_lanes(const uint8_t *const *rows, size_t step, size_t at, size_t n)
{
    const __m256i a = _mm256_castsi128_si256(load_piece(rows[0], at, n));
    const __m256i b = _mm256_castsi128_si256(load_piece(rows[2 * step], at, n));
    const __m256i low = _mm256_inserti128_si256(a, load_piece(rows[step], at, n), 1);
    const __m256i high = _mm256_inserti128_si256(b, load_piece(rows[3 * step], at, n), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

TKV_INLINE void store_lanes(__m512i v, uint8_t *rows, size_t step, size_t n)
{
    const __mmask16 live = (__mmask16)first_bytes(n);
    _mm_mask_storeu_epi8(rows, live, _mm512_castsi512_si128(v));
    _mm_mask_storeu_epi8(rows + step, live, _mm512_extracti32x4_epi32(v, 1));
    _mm_mask_storeu_epi8(rows + 2 * step, live, _mm512_extracti32x4_epi32(v, 2));
    _mm_mask_storeu_epi8(rows + 3 * step, live, _mm512_extracti32x4_epi32(v, 3));
}

/* --- low bits --- */

/* n_pieces pieces of 16 rows, each a cell of n / 4 units. Rows are taken one after the other: to
 * fetch where they begin costs as much as a piece. */
TKV_INLINE void keys_to_tile(const uint8_t *const *rows, size_t at, size_t n, size_t n_pieces,
                             uint8_t *codes)
{
    __m512i v[4][4];
    TKV_UNROLL
    for (size_t i = 0; i < 4; i++) {
        const uint8_t *const four[4] = {rows[i], rows[4 + i], rows[8 + i], rows[12 + i]};
        TKV_UNROLL
        for (size_t piece = 0; piece < n_pieces; piece++)
            v[piece][i] = load_lanes(four, 1, at + piece * PIECE, n);
    }
    TKV_UNROLL
    for (size_t piece = 0; piece < n_pieces; piece++) {
        tkv_transpose_cells(v[piece]);
        for (size_t i = 0; i < 4 && 4 * i < n; i++)
            _mm512_storeu_si512(codes + 256 * piece + 64 * i, v[piece][i]);
    }
}

/* Block of 16 rows of n_bytes. */
TKV_INLINE void block_to_tile(const uint8_t *const *rows, size_t n_bytes, uint8_t *codes)
{
    size_t at = 0;
    for (; at + 4 * PIECE <= n_bytes; at += 4 * PIECE)
        keys_to_tile(rows, at, PIECE, 4, codes + 16 * at);
    for (; at + PIECE <= n_bytes; at += PIECE)
        keys_to_tile(rows, at, PIECE, 1, codes + 16 * at);
    if (at < n_bytes)
        keys_to_tile(rows, at, n_bytes - at, 1, codes + 16 * at);
}

TKV_INLINE void keys_to_rows(const uint8_t *codes, size_t n, uint8_t *rows, size_t stride)
{
    __m512i v[4];
    for (size_t i = 0; i < 4; i++)
        v[i] = 4 * i < n ? _mm512_loadu_si512(codes + 64 * i) : _mm512_setzero_si512();
    tkv_transpose_cells(v);
    for (size_t i = 0; i < 4; i++)
        store_lanes(v[i], rows + i * stride, 4 * stride, n);
}

/* Bytes in fields of 2 * shift bits: the upper halves of a's become the lower ones of b's and the
 * other way round. `low` are the lower halves. Shifts are immediates. */
#define SWAP_FIELDS(name, shift, low)                                                              \
    TKV_INLINE void name(__m512i *a, __m512i *b)                                                   \
    {                                                                                              \
        const __m512i mask = _mm512_set1_epi8(low);                                                \
        const __m512i up = _mm512_slli_epi16(*b, shift), down = _mm512_srli_epi16(*a, shift);      \
        *a = _mm512_ternarylogic_epi64(mask, *a, up, 0xca); /* mask ? a : up */                    \
        *b = _mm512_ternarylogic_epi64(mask, down, *b, 0xca);                                      \
    }
SWAP_FIELDS(swap_4, 4, 0x0f)
SWAP_FIELDS(swap_2, 2, 0x33)
SWAP_FIELDS(swap_1, 1, 0x55)

/* Field j of v[i] becomes field i of v[j]. */
TKV_INLINE void transpose_fields(__m512i v[4], uint32_t n_fields)
{
    if (n_fields == 2)
        swap_4(&v[0], &v[1]);
    if (n_fields < 4)
        return;
    swap_4(&v[0], &v[2]), swap_4(&v[1], &v[3]);
    swap_2(&v[0], &v[1]), swap_2(&v[2], &v[3]);
}

/* A piece of 4 * n_fields rows of n_bytes; codes: the run's, at the piece. */
TKV_INLINE void values_to_tile(const uint8_t *const *rows, size_t at, size_t n, size_t n_bytes,
                               uint32_t n_fields, __m512i interleave, uint8_t *codes)
{
    __m512i v[4];
    for (size_t i = 0; i < n_fields; i++)
        v[i] = _mm512_permutexvar_epi8(interleave, load_lanes(rows + 4 * i, 1, at, n));
    transpose_fields(v, n_fields);
    for (size_t i = 0; i < n_fields; i++)
        _mm512_mask_storeu_epi8(codes + i * 4 * n_bytes, first_bytes(4 * n), v[i]);
}

TKV_INLINE void values_to_rows(const uint8_t *codes, size_t n, size_t n_bytes, uint32_t n_fields,
                               __m512i apart, uint8_t *rows, size_t stride)
{
    __m512i v[4];
    for (size_t i = 0; i < n_fields; i++)
        v[i] = _mm512_maskz_loadu_epi8(first_bytes(4 * n), codes + i * 4 * n_bytes);
    transpose_fields(v, n_fields);
    for (size_t i = 0; i < n_fields; i++)
        store_lanes(_mm512_permutexvar_epi8(apart, v[i]), rows + 4 * i * stride, stride, n);
}

/* --- third bits --- */

/* Half bytes of a row are a token's share of a group: the bytes of 16 tokens side by side, then two
 * tokens' low halves to a byte, and their high ones. */
TKV_INLINE void third_keys_to_tile(const uint8_t *const *rows, size_t at, size_t n, uint8_t *third)
{
    const __m512i apart = tkv_interleave_index(1), half = _mm512_set1_epi8(15);
    const __m512i pair = _mm512_set1_epi16(0x1001); /* 1, 16 */
    __m512i v[4];
    for (size_t i = 0; i < 4; i++)
        v[i] = load_lanes(rows + i, 4, at, n);
    tkv_transpose_cells(v);
    for (size_t i = 0; i < 4 && 4 * i < n; i++) {
        const __m512i x = _mm512_permutexvar_epi8(apart, v[i]);
        const __m512i low = _mm512_and_si512(x, half),
                      high = _mm512_and_si512(_mm512_srli_epi16(x, 4), half);
        const __m512i groups =
            _mm512_packus_epi16(_mm512_maddubs_epi16(low, pair), _mm512_maddubs_epi16(high, pair));
        _mm512_mask_storeu_epi8(third + 64 * i, first_bytes((n - 4 * i) * 16), groups);
    }
}

TKV_INLINE void third_keys_to_rows(const uint8_t *third, size_t n, uint8_t *rows, size_t stride)
{
    const __m512i together = tkv_interleave_index(0), zero = _mm512_setzero_si512();
    const __m512i even = _mm512_set1_epi16(15), odd = _mm512_set1_epi16(0x0f00);
    __m512i v[4];
    for (size_t i = 0; i < 4; i++) {
        const __mmask64 live = 4 * i < n ? first_bytes((n - 4 * i) * 16) : 0;
        const __m512i groups = _mm512_maskz_loadu_epi8(live, third + 64 * i);
        const __m512i low = _mm512_unpacklo_epi8(groups, zero),
                      high = _mm512_unpackhi_epi8(groups, zero);
        const __m512i low_halves = _mm512_or_si512(
            _mm512_and_si512(low, even), _mm512_and_si512(_mm512_slli_epi16(low, 4), odd));
        const __m512i high_halves = _mm512_or_si512(
            _mm512_and_si512(high, even), _mm512_and_si512(_mm512_slli_epi16(high, 4), odd));
        const __m512i x = _mm512_or_si512(low_halves, _mm512_slli_epi16(high_halves, 4));
        v[i] = _mm512_permutexvar_epi8(together, x);
    }
    tkv_transpose_cells(v);
    for (size_t i = 0; i < 4; i++)
        store_lanes(v[i], rows + i * stride, 4 * stride, n);
}

/* Half bytes of four tokens as rows of bits: v[i] becomes bit i of all. Its own inverse. */
TKV_INLINE void transpose_bits(__m512i v[4])
{
    swap_2(&v[0], &v[2]), swap_2(&v[1], &v[3]);
    swap_1(&v[0], &v[1]), swap_1(&v[2], &v[3]);
}

/* Words [4 groups][4 of a group][2 units], as the cells of two units lie, in the order of a tile:
 * [2 units][4 groups][4]; and the other way round. */
TKV_INLINE __m512i third_index(int inverse)
{
    _Alignas(64) uint16_t index[32];
    for (int group = 0; group < 4; group++)
        for (int i = 0; i < 4; i++)
            for (int unit = 0; unit < 2; unit++) {
                const int tile = (unit * 4 + group) * 4 + i, cells = group * 8 + i * 2 + unit;
                index[inverse ? cells : tile] = (uint16_t)(inverse ? tile : cells);
            }
    return _mm512_load_si512(index);
}

/* A piece of 16 rows is n / 2 units, of 32 bytes each. */
TKV_INLINE void third_values_to_tile(const uint8_t *const *rows, size_t at, size_t n,
                                     uint8_t *third)
{
    const __m512i index = third_index(0);
    __m512i v[4];
    for (size_t i = 0; i < 4; i++)
        v[i] = load_lanes(rows + i, 4, at, n);
    transpose_bits(v);
    tkv_transpose_cells(v);
    for (size_t i = 0; i < 4 && 4 * i < n; i++)
        _mm512_mask_storeu_epi8(third + 64 * i, first_bytes((n - 4 * i) * 16),
                                _mm512_permutexvar_epi16(index, v[i]));
}

TKV_INLINE void third_values_to_rows(const uint8_t *third, size_t n, uint8_t *rows, size_t stride)
{
    const __m512i index = third_index(1);
    __m512i v[4];
    for (size_t i = 0; i < 4; i++) {
        const __mmask64 live = 4 * i < n ? first_bytes((n - 4 * i) * 16) : 0;
        v[i] = _mm512_permutexvar_epi16(index, _mm512_maskz_loadu_epi8(live, third + 64 * i));
    }
    tkv_transpose_cells(v);
    transpose_bits(v);
    for (size_t i = 0; i < 4; i++)
        store_lanes(v[i], rows + i * stride, 4 * stride, n);
}

/* --- pages --- */

/* CALL(at, n) for all pieces of n_bytes. */
#define EACH_PIECE(n_bytes, CALL)                                                                  \
    do {                                                                                           \
        size_t piece_at = 0;                                                                       \
        for (; piece_at + PIECE <= (n_bytes); piece_at += PIECE)                                   \
            CALL(piece_at, PIECE);                                                                 \
        if (piece_at < (n_bytes))                                                                  \
            CALL(piece_at, (n_bytes)-piece_at);                                                    \
    } while (0)

TKV_INLINE void all_values_to_tile(const uint8_t *const *rows, size_t n_bytes, uint32_t n_fields,
                                   uint8_t *codes)
{
    const __m512i index = tkv_interleave_index(0);
    for (size_t t = 0; t < TOKENS; t += 4 * n_fields, codes += 4 * n_bytes * n_fields) {
        const uint8_t *run[16]; /* a copy that no store can change */
        memcpy(run, rows + t, 4 * n_fields * sizeof *run);
#define CALL(at, n) values_to_tile(run, at, n, n_bytes, n_fields, index, codes + 4 * (at))
        EACH_PIECE(n_bytes, CALL);
#undef CALL
    }
}

TKV_INLINE void all_values_to_rows(const uint8_t *codes, size_t n_bytes, uint32_t n_fields,
                                   uint8_t *rows, size_t stride)
{
    const __m512i index = tkv_interleave_index(1);
    for (size_t t = 0; t < TOKENS; t += 4 * n_fields, codes += 4 * n_bytes * n_fields) {
#define CALL(at, n)                                                                                \
    values_to_rows(codes + 4 * (at), n, n_bytes, n_fields, index, rows + t * stride + (at), stride)
        EACH_PIECE(n_bytes, CALL);
#undef CALL
    }
}

static void third_to_tile(const uint8_t *const *rows, size_t first, uint32_t D, tkv_kind kind,
                          uint8_t *third)
{
    for (size_t t = 0; t < TOKENS; t += 16, third += 2 * (size_t)D) {
#define CALL(at, n) third_keys_to_tile(rows + t, first + (at), n, third + 16 * (at))
        if (kind == TKV_K)
            EACH_PIECE(D / 8, CALL);
#undef CALL
#define CALL(at, n) third_values_to_tile(rows + t, first + (at), n, third + 16 * (at))
        if (kind == TKV_V)
            EACH_PIECE(D / 8, CALL);
#undef CALL
    }
}

static void third_to_rows(const uint8_t *third, uint32_t D, tkv_kind kind, uint8_t *rows,
                          size_t stride)
{
    for (size_t t = 0; t < TOKENS; t += 16, third += 2 * (size_t)D) {
#define CALL(at, n) third_keys_to_rows(third + 16 * (at), n, rows + t * stride + (at), stride)
        if (kind == TKV_K)
            EACH_PIECE(D / 8, CALL);
#undef CALL
#define CALL(at, n) third_values_to_rows(third + 16 * (at), n, rows + t * stride + (at), stride)
        if (kind == TKV_V)
            EACH_PIECE(D / 8, CALL);
#undef CALL
    }
}

static void order_tile_avx512(const uint8_t *const *rows, uint32_t D, tkv_kind kind, uint32_t bits,
                              uint8_t *codes)
{
    const size_t low = tkv_row_low_bytes(bits, D);
    if (kind == TKV_K) {
        for (size_t t = 0; t < TOKENS; t += 16)
            block_to_tile(rows + t, low, codes + t * low);
    } else if (bits == 8) {
        all_values_to_tile(rows, low, 1, codes);
    } else if (bits == 4) {
        all_values_to_tile(rows, low, 2, codes);
    } else {
        all_values_to_tile(rows, low, 4, codes);
    }
    if (bits == 3)
        third_to_tile(rows, low, D, kind, codes + TOKENS * low);
}

static void order_rows_avx512(const uint8_t *codes, uint32_t D, tkv_kind kind, uint32_t bits,
                              uint8_t *rows, size_t stride)
{
    const size_t low = tkv_row_low_bytes(bits, D);
    if (kind == TKV_K) {
        for (size_t t = 0; t < TOKENS; t += 16) {
#define CALL(at, n) keys_to_rows(codes + t * low + 16 * (at), n, rows + t * stride + (at), stride)
            EACH_PIECE(low, CALL);
#undef CALL
        }
    } else if (bits == 8) {
        all_values_to_rows(codes, low, 1, rows, stride);
    } else if (bits == 4) {
        all_values_to_rows(codes, low, 2, rows, stride);
    } else {
        all_values_to_rows(codes, low, 4, rows, stride);
    }
    if (bits == 3)
        third_to_rows(codes + TOKENS * low, D, kind, rows + low, stride);
}

void tkv_order_avx512(struct tkv_kernels *k)
{
    k->order_tile = order_tile_avx512;
    k->order_rows = order_rows_avx512;
}
