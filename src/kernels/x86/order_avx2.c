/* Row order to tile order and back (format/row_order.h), AVX2: see order_avx512.c. Cells of 32 bits
 * of four rows are transposed; of values, the bytes within them too, and shifts transpose the fields
 * of bytes. */
#include <immintrin.h>
#include <string.h>

#include "format/row_order.h"
#include "kernels/kernels.h"
#include "kernels/x86/cells_avx2.h"

#define TOKENS TKV_PAGE_TOKENS
#define PIECE  16

void tkv_order_avx2(struct tkv_kernels *k);

/* n bytes; n is PIECE, as a constant, but at a row's end. */
TKV_INLINE __m128i load_part(const uint8_t *p, size_t n)
{
    uint8_t buf[PIECE] = {0};
    if (n == PIECE)
        return _mm_loadu_si128((const __m128i *)(const void *)p);
    memcpy(buf, p, n);
    return _mm_loadu_si128((const __m128i *)(const void *)buf);
}

TKV_INLINE void store_part(uint8_t *p, __m128i v, size_t n)
{
    uint8_t buf[PIECE];
    _mm_storeu_si128((__m128i *)(void *)(n == PIECE ? p : buf), v);
    if (n != PIECE)
        memcpy(p, buf, n);
}

/* Four rows' pieces to cells: v[i] is cell i of each. */
TKV_INLINE void load_cells(__m128i v[4], const uint8_t *const *rows, size_t at, size_t n)
{
    for (size_t i = 0; i < 4; i++)
        v[i] = load_part(rows[i] + at, n);
    tkv_transpose_cells(v);
}

TKV_INLINE void store_cells(__m128i v[4], uint8_t *rows, size_t stride, size_t n)
{
    tkv_transpose_cells(v);
    for (size_t i = 0; i < 4; i++)
        store_part(rows + i * stride, v[i], n);
}

/* --- low bits --- */

/* Four rows are a quarter of each of n / 4 units. */
TKV_INLINE void keys_to_tile(const uint8_t *const *rows, size_t at, size_t n, uint8_t *codes)
{
    __m128i v[4];
    load_cells(v, rows, at, n);
    for (size_t i = 0; i < 4 && 4 * i < n; i++)
        store_part(codes + 64 * i, v[i], PIECE);
}

TKV_INLINE void keys_to_rows(const uint8_t *codes, size_t n, uint8_t *rows, size_t stride)
{
    __m128i v[4];
    for (size_t i = 0; i < 4; i++)
        v[i] = 4 * i < n ? load_part(codes + 64 * i, PIECE) : _mm_setzero_si128();
    store_cells(v, rows, stride, n);
}

/* mask ? a : b */
TKV_INLINE __m128i choose(__m128i mask, __m128i a, __m128i b)
{
    return _mm_or_si128(_mm_and_si128(mask, a), _mm_andnot_si128(mask, b));
}

/* Bytes in fields of 2 * shift bits: the upper halves of a's become the lower ones of b's and the
 * other way round. `low` are the lower halves. Shifts are immediates. */
#define SWAP_FIELDS(name, shift, low)                                                              \
    TKV_INLINE void name(__m128i *a, __m128i *b)                                                   \
    {                                                                                              \
        const __m128i mask = _mm_set1_epi8(low);                                                   \
        const __m128i up = _mm_slli_epi16(*b, shift), down = _mm_srli_epi16(*a, shift);            \
        *a = choose(mask, *a, up);                                                                 \
        *b = choose(mask, down, *b);                                                               \
    }
SWAP_FIELDS(swap_4, 4, 0x0f)
SWAP_FIELDS(swap_2, 2, 0x33)
SWAP_FIELDS(swap_1, 1, 0x55)

/* Field j of v[4 * i] becomes field i of v[4 * j]. */
TKV_INLINE void transpose_fields(__m128i *v, uint32_t n_fields)
{
    if (n_fields == 2)
        swap_4(&v[0], &v[4]);
    if (n_fields < 4)
        return;
    swap_4(&v[0], &v[8]), swap_4(&v[4], &v[12]);
    swap_2(&v[0], &v[4]), swap_2(&v[8], &v[12]);
}

/* A piece of 4 * n_fields rows of n_bytes; codes: the run's, at the piece. */
TKV_INLINE void values_to_tile(const uint8_t *const *rows, size_t at, size_t n, size_t n_bytes,
                               uint32_t n_fields, uint8_t *codes)
{
    __m128i v[16];
    for (size_t field = 0; field < n_fields; field++)
        load_cells(v + 4 * field, rows + 4 * field, at, n);
    for (size_t i = 0; i < 4 && 4 * i < n; i++) {
        transpose_fields(v + i, n_fields);
        for (size_t field = 0; field < n_fields; field++)
            store_part(codes + field * 4 * n_bytes + 16 * i, tkv_transpose_bytes(v[4 * field + i]),
                       PIECE);
    }
}

TKV_INLINE void values_to_rows(const uint8_t *codes, size_t n, size_t n_bytes, uint32_t n_fields,
                               uint8_t *rows, size_t stride)
{
    __m128i v[16];
    for (size_t i = 0; i < 4; i++) {
        for (size_t field = 0; field < n_fields; field++)
            v[4 * field + i] =
                4 * i < n
                    ? tkv_transpose_bytes(load_part(codes + field * 4 * n_bytes + 16 * i, PIECE))
                    : _mm_setzero_si128();
        transpose_fields(v + i, n_fields);
    }
    for (size_t field = 0; field < n_fields; field++)
        store_cells(v + 4 * field, rows + 4 * field * stride, stride, n);
}

/* --- third bits --- */

/* Four rows are two bytes of each of 2 * n groups: the bytes of a cell transposed, then two tokens'
 * low halves to a byte, and their high ones. */
TKV_INLINE void third_keys_to_tile(const uint8_t *const *rows, size_t at, size_t n, uint8_t *third)
{
    const __m128i half = _mm_set1_epi8(15), pair = _mm_set1_epi16(0x1001); /* 1, 16 */
    __m128i v[4];
    load_cells(v, rows, at, n);
    for (size_t i = 0; i < 4; i++) {
        const __m128i x = tkv_transpose_bytes(v[i]);
        const __m128i low = _mm_and_si128(x, half),
                      high = _mm_and_si128(_mm_srli_epi16(x, 4), half);
        uint8_t bytes[16]; /* [low, high][4 of the cell][2] */
        store_part(bytes,
                   _mm_packus_epi16(_mm_maddubs_epi16(low, pair), _mm_maddubs_epi16(high, pair)),
                   PIECE);
        for (size_t j = 0; j < 4 && 4 * i + j < n; j++) {
            memcpy(third + (4 * i + j) * 16, bytes + 2 * j, 2);
            memcpy(third + (4 * i + j) * 16 + 8, bytes + 8 + 2 * j, 2);
        }
    }
}

TKV_INLINE void third_keys_to_rows(const uint8_t *third, size_t n, uint8_t *rows, size_t stride)
{
    const __m128i even = _mm_set1_epi16(15), odd = _mm_set1_epi16(0x0f00);
    __m128i v[4];
    for (size_t i = 0; i < 4; i++) {
        uint8_t bytes[16] = {0};
        for (size_t j = 0; j < 4 && 4 * i + j < n; j++) {
            memcpy(bytes + 2 * j, third + (4 * i + j) * 16, 2);
            memcpy(bytes + 8 + 2 * j, third + (4 * i + j) * 16 + 8, 2);
        }
        const __m128i groups = load_part(bytes, PIECE), zero = _mm_setzero_si128();
        const __m128i low = _mm_unpacklo_epi8(groups, zero), high = _mm_unpackhi_epi8(groups, zero);
        const __m128i low_halves =
            _mm_or_si128(_mm_and_si128(low, even), _mm_and_si128(_mm_slli_epi16(low, 4), odd));
        const __m128i high_halves =
            _mm_or_si128(_mm_and_si128(high, even), _mm_and_si128(_mm_slli_epi16(high, 4), odd));
        v[i] = tkv_transpose_bytes(_mm_or_si128(low_halves, _mm_slli_epi16(high_halves, 4)));
    }
    store_cells(v, rows, stride, n);
}

/* Half bytes of four tokens as rows of bits: v[i] becomes bit i of all. Its own inverse. */
TKV_INLINE void transpose_bits(__m128i v[4])
{
    swap_2(&v[0], &v[2]), swap_2(&v[1], &v[3]);
    swap_1(&v[0], &v[1]), swap_1(&v[2], &v[3]);
}

/* Words [4][2 units] of a cell to [2 units][4], and back. */
TKV_INLINE __m128i split_units(__m128i v)
{
    return _mm_shuffle_epi8(v, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
}

TKV_INLINE __m128i join_units(__m128i v)
{
    return _mm_shuffle_epi8(v, _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
}

/* Four rows are a group of each of n / 2 units, 32 bytes apart. */
TKV_INLINE void third_values_to_tile(const uint8_t *const *rows, size_t at, size_t n,
                                     uint8_t *third)
{
    __m128i v[4];
    for (size_t i = 0; i < 4; i++)
        v[i] = load_part(rows[i] + at, n);
    transpose_bits(v);
    tkv_transpose_cells(v);
    for (size_t i = 0; i < 4 && 4 * i < n; i++) {
        const __m128i units = split_units(v[i]);
        _mm_storel_epi64((__m128i *)(void *)(third + 64 * i), units);
        if (4 * i + 2 < n)
            _mm_storel_epi64((__m128i *)(void *)(third + 64 * i + 32),
                             _mm_unpackhi_epi64(units, units));
    }
}

TKV_INLINE __m128i load_half(const uint8_t *p)
{
    return _mm_loadl_epi64((const __m128i *)(const void *)p);
}

TKV_INLINE void third_values_to_rows(const uint8_t *third, size_t n, uint8_t *rows, size_t stride)
{
    __m128i v[4];
    for (size_t i = 0; i < 4; i++) {
        const __m128i zero = _mm_setzero_si128();
        const __m128i first = 4 * i < n ? load_half(third + 64 * i) : zero,
                      second = 4 * i + 2 < n ? load_half(third + 64 * i + 32) : zero;
        v[i] = join_units(_mm_unpacklo_epi64(first, second));
    }
    tkv_transpose_cells(v);
    transpose_bits(v);
    for (size_t i = 0; i < 4; i++)
        store_part(rows + i * stride, v[i], n);
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
    for (size_t t = 0; t < TOKENS; t += 4 * n_fields, codes += 4 * n_bytes * n_fields) {
#define CALL(at, n) values_to_tile(rows + t, at, n, n_bytes, n_fields, codes + 4 * (at))
        EACH_PIECE(n_bytes, CALL);
#undef CALL
    }
}

TKV_INLINE void all_values_to_rows(const uint8_t *codes, size_t n_bytes, uint32_t n_fields,
                                   uint8_t *rows, size_t stride)
{
    for (size_t t = 0; t < TOKENS; t += 4 * n_fields, codes += 4 * n_bytes * n_fields) {
#define CALL(at, n)                                                                                \
    values_to_rows(codes + 4 * (at), n, n_bytes, n_fields, rows + t * stride + (at), stride)
        EACH_PIECE(n_bytes, CALL);
#undef CALL
    }
}

static void third_to_tile(const uint8_t *const *rows, size_t first, uint32_t D, tkv_kind kind,
                          uint8_t *third)
{
    for (size_t t = 0; t < TOKENS; t += 4) {
        uint8_t *block = third + t / 16 * 2 * D;
#define CALL(at, n) third_keys_to_tile(rows + t, first + (at), n, block + t % 16 / 2 + 16 * (at))
        if (kind == TKV_K)
            EACH_PIECE(D / 8, CALL);
#undef CALL
#define CALL(at, n) third_values_to_tile(rows + t, first + (at), n, block + t % 16 * 2 + 16 * (at))
        if (kind == TKV_V)
            EACH_PIECE(D / 8, CALL);
#undef CALL
    }
}

static void third_to_rows(const uint8_t *third, uint32_t D, tkv_kind kind, uint8_t *rows,
                          size_t stride)
{
    for (size_t t = 0; t < TOKENS; t += 4, rows += 4 * stride) {
        const uint8_t *block = third + t / 16 * 2 * D;
#define CALL(at, n) third_keys_to_rows(block + t % 16 / 2 + 16 * (at), n, rows + (at), stride)
        if (kind == TKV_K)
            EACH_PIECE(D / 8, CALL);
#undef CALL
#define CALL(at, n) third_values_to_rows(block + t % 16 * 2 + 16 * (at), n, rows + (at), stride)
        if (kind == TKV_V)
            EACH_PIECE(D / 8, CALL);
#undef CALL
    }
}

static void order_tile_avx2(const uint8_t *const *rows, uint32_t D, tkv_kind kind, uint32_t bits,
                            uint8_t *codes)
{
    const size_t low = tkv_row_low_bytes(bits, D);
    if (kind == TKV_K) {
        for (size_t t = 0; t < TOKENS; t += 4) {
            uint8_t *block = codes + t / 16 * 16 * low + t % 16 * 4;
#define CALL(at, n) keys_to_tile(rows + t, at, n, block + 16 * (at))
            EACH_PIECE(low, CALL);
#undef CALL
        }
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

static void order_rows_avx2(const uint8_t *codes, uint32_t D, tkv_kind kind, uint32_t bits,
                            uint8_t *rows, size_t stride)
{
    const size_t low = tkv_row_low_bytes(bits, D);
    if (kind == TKV_K) {
        for (size_t t = 0; t < TOKENS; t += 4) {
            const uint8_t *block = codes + t / 16 * 16 * low + t % 16 * 4;
#define CALL(at, n) keys_to_rows(block + 16 * (at), n, rows + t * stride + (at), stride)
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

void tkv_order_avx2(struct tkv_kernels *k)
{
    k->order_tile = order_tile_avx2;
    k->order_rows = order_rows_avx2;
}
