/* Residual codebooks for AVX2: the search, and pages to rows.
 *
 * Search: codes go in blocks of 128 that stay in L1 while all residuals pass, turned so that a lane
 * is a code and a register holds two dims of each. Where neither products nor sums can overflow,
 * which is so for nearly all but the first stage of books, a lane is a word and vpmaddubsw takes
 * bytes; else a lane is twice as wide. Lanes i modulo 16 are class i. */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "base/compiler.h"
#include "format/rvq.h"
#include "kernels/kernels.h"
#include "kernels/x86/rvq_sums.h"

#define T TKV_PAGE_TOKENS

enum {
    BLOCK = 128, /* codes */
    ROWS = 4,    /* residuals side by side */
    SETS = 64,   /* of ROWS residuals, for one round of blocks */
    PAIRS = TKV_RVQ_DIM / 2
};

void tkv_rvq_avx2(struct tkv_kernels *k);

/* ---- the search ---------------------------------------------------------------------------- */

struct block {
    __m256i pair[BLOCK / 8][PAIRS]; /* words */
    __m256i half[BLOCK / 8];        /* -floor(|c|^2 / 2) */
    int32_t most, norm;             /* the largest magnitude of a dim, and square of a code */
    /* The same in fewer bits, for residuals to which `bias` is added as vpmaddubsw wants one side
     * unsigned: what that adds is part of the halves, whose upper bits do not count. */
    __m256i bytes[BLOCK / 16][PAIRS];
    __m256i low_half[BLOCK / 16];
    int32_t bias;
};

/* Eight codes as words, pairs of dims: rows become columns. */
TKV_INLINE void turn_half(const int8_t *codes, __m256i out[8])
{
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i++)
        a[i] = _mm256_cvtepi8_epi16(
            _mm_loadu_si128((const __m128i *)(const void *)(codes + i * TKV_RVQ_DIM)));
    for (int i = 0; i < 8; i += 4) {
        const __m256i p = _mm256_unpacklo_epi32(a[i], a[i + 1]);
        const __m256i q = _mm256_unpackhi_epi32(a[i], a[i + 1]);
        const __m256i r = _mm256_unpacklo_epi32(a[i + 2], a[i + 3]);
        const __m256i s = _mm256_unpackhi_epi32(a[i + 2], a[i + 3]);
        b[i] = _mm256_unpacklo_epi64(p, r), b[i + 1] = _mm256_unpackhi_epi64(p, r);
        b[i + 2] = _mm256_unpacklo_epi64(q, s), b[i + 3] = _mm256_unpackhi_epi64(q, s);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_permute2x128_si256(b[i], b[4 + i], 0x20);
        out[4 + i] = _mm256_permute2x128_si256(b[i], b[4 + i], 0x31);
    }
}

static int32_t largest(__m256i x)
{
    int32_t lanes[8], most = 0;
    _mm256_storeu_si256((__m256i *)(void *)lanes, x);
    for (int i = 0; i < 8; i++)
        most = lanes[i] > most ? lanes[i] : most;
    return most;
}

static void load_words(const int8_t *codes, struct block *b)
{
    __m256i most = _mm256_setzero_si256(), most_half = most;
    for (int i = 0; i < BLOCK / 8; i++, codes += 8 * TKV_RVQ_DIM) {
        turn_half(codes, b->pair[i]);
        turn_half(codes + PAIRS, b->pair[i] + PAIRS / 2);
        __m256i norm = _mm256_setzero_si256();
        for (int p = 0; p < PAIRS; p++) {
            norm = _mm256_add_epi32(norm, _mm256_madd_epi16(b->pair[i][p], b->pair[i][p]));
            most = _mm256_max_epi16(most, _mm256_abs_epi16(b->pair[i][p]));
        }
        const __m256i half = _mm256_srli_epi32(norm, 1);
        most_half = _mm256_max_epi32(most_half, half);
        b->half[i] = _mm256_sub_epi32(_mm256_setzero_si256(), half);
    }
    const __m256i odd = _mm256_srli_epi32(most, 16), even = _mm256_slli_epi32(most, 16);
    b->most = largest(_mm256_max_epi32(odd, _mm256_srli_epi32(even, 16)));
    b->norm = 2 * largest(most_half) + 1;
}

/* Twice eight lanes of 32 bits to sixteen, with what `pack` makes of them in order. */
#define IN_ORDER(packed) _mm256_permute4x64_epi64(packed, 0xd8)

static void load_bytes(struct block *b)
{
    const __m256i one = _mm256_set1_epi16(1), low = _mm256_set1_epi32(0xffff);
    b->bias = b->most <= 64 ? 128 : 8191 / b->most; /* 2 * (2 * bias) * most is a word */
    for (int i = 0; i < BLOCK / 16; i++) {
        __m256i half[2];
        for (int j = 0; j < 2; j++) {
            __m256i sum = _mm256_setzero_si256();
            for (int p = 0; p < PAIRS; p++)
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(b->pair[2 * i + j][p], one));
            const __m256i biased = _mm256_mullo_epi32(sum, _mm256_set1_epi32(b->bias));
            half[j] = _mm256_and_si256(_mm256_sub_epi32(b->half[2 * i + j], biased), low);
        }
        b->low_half[i] = IN_ORDER(_mm256_packus_epi32(half[0], half[1]));
        for (int p = 0; p < PAIRS; p++)
            b->bytes[i][p] = IN_ORDER(_mm256_packs_epi16(b->pair[2 * i][p], b->pair[2 * i + 1][p]));
    }
}

/* What ROWS residuals have in common. */
struct set {
    int32_t most, norm; /* as of a block */
};

static struct set measure(const int8_t *r)
{
    struct set s = {0, 0};
    for (int i = 0; i < ROWS; i++) {
        int32_t norm = 0;
        for (int d = 0; d < TKV_RVQ_DIM; d++, r++) {
            const int32_t far = *r < 0 ? -*r : *r;
            s.most = far > s.most ? far : s.most;
            norm += far * far;
        }
        s.norm = norm > s.norm ? norm : s.norm;
    }
    return s;
}

/* Scores r c - |c|^2 / 2 are at most |r|^2 / 2 and at least (|r|^2 - (|r| + |c|)^2) / 2: they fit in
 * a word, with an offset, if (|r| + |c|)^2 does in 17 bits. */
static bool fits(const struct block *b, const struct set *s)
{
    const int64_t room = (1 << 17) - 3 - s->norm - b->norm;
    return s->most <= b->bias && room >= 0 && 4 * (int64_t)s->norm * b->norm <= room * room;
}

/* Where a row's classes have found more, that and its code. */
TKV_INLINE void keep(__m256i score, __m256i code, int32_t *best, uint32_t *at)
{
    __m256i *most = (__m256i *)(void *)best, *where = (__m256i *)(void *)at;
    const __m256i before = _mm256_loadu_si256(most), more = _mm256_cmpgt_epi32(score, before);
    _mm256_storeu_si256(most, _mm256_max_epi32(score, before));
    _mm256_storeu_si256(where, _mm256_blendv_epi8(_mm256_loadu_si256(where), code, more));
}

/* The residuals of a set against a block whose first code is `first`. */
TKV_INLINE void search_words(const struct block *b, uint32_t first, const int8_t *r, int32_t *best,
                             uint32_t *at)
{
    int16_t wide[ROWS][TKV_RVQ_DIM];
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (size_t d = 0; d < (size_t)ROWS * TKV_RVQ_DIM; d++)
        wide[d / TKV_RVQ_DIM][d % TKV_RVQ_DIM] = r[d];
    for (int eight = 0; eight < BLOCK / 8; eight += 2) {
        __m256i sum[ROWS][2];
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < 2; j++)
                sum[i][j] = b->half[eight + j];
        TKV_UNROLL
        for (int p = 0; p < PAIRS; p++)
            for (int i = 0; i < ROWS; i++) {
                int32_t two;
                memcpy(&two, &wide[i][2 * p], sizeof two);
                const __m256i dims = _mm256_set1_epi32(two);
                for (int j = 0; j < 2; j++) {
                    const __m256i product = _mm256_madd_epi16(b->pair[eight + j][p], dims);
                    sum[i][j] = _mm256_add_epi32(sum[i][j], product);
                    TKV_HOLD(sum[i][j]);
                }
            }
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < 2; j++) {
                const __m256i at_first = _mm256_set1_epi32((int)first + 8 * (eight + j));
                const int own = i * TKV_RVQ_CLASSES + 8 * j;
                keep(sum[i][j], _mm256_add_epi32(at_first, lane), best + own, at + own);
            }
    }
}

/* Pairs of dims plus the bias, each twice: words are not broadcast as readily as 32 bits. */
TKV_INLINE void pairs_of(const int8_t *r, int32_t bias, uint32_t twice[PAIRS])
{
    const __m256i x = _mm256_add_epi8(_mm256_loadu_si256((const __m256i *)(const void *)r),
                                      _mm256_set1_epi8((char)bias));
    for (int i = 0; i < 2; i++) {
        const __m256i once =
            _mm256_cvtepu16_epi32(i ? _mm256_extracti128_si256(x, 1) : _mm256_castsi256_si128(x));
        _mm256_storeu_si256((__m256i *)(void *)(twice + 8 * i),
                            _mm256_or_si256(once, _mm256_slli_epi32(once, 16)));
    }
}

/* The same for a set that fits. */
TKV_INLINE void search_bytes(const struct block *b, uint32_t first, const int8_t *r, int32_t norm,
                             int32_t *best, uint32_t *at)
{
    const int32_t lift = INT16_MAX - (norm + 1) / 2;
    uint32_t twice[ROWS][PAIRS];
    __m256i most[ROWS], where[ROWS];
    __m256i code =
        _mm256_add_epi16(_mm256_set1_epi16((short)first),
                         _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (int i = 0; i < ROWS; i++) {
        pairs_of(r + i * TKV_RVQ_DIM, b->bias, twice[i]);
        most[i] = _mm256_set1_epi16(INT16_MIN);
        where[i] = code;
    }
    for (int s = 0; s < BLOCK / 16; s++) {
        __m256i sum[ROWS];
        for (int i = 0; i < ROWS; i++)
            sum[i] = _mm256_add_epi16(b->low_half[s], _mm256_set1_epi16((short)lift));
        TKV_UNROLL
        for (int p = 0; p < PAIRS; p++)
            for (int i = 0; i < ROWS; i++) {
                const __m256i dims = _mm256_set1_epi32((int)twice[i][p]);
                sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(dims, b->bytes[s][p]));
                TKV_HOLD(sum[i]);
            }
        for (int i = 0; i < ROWS; i++) {
            const __m256i more = _mm256_cmpgt_epi16(sum[i], most[i]);
            most[i] = _mm256_max_epi16(sum[i], most[i]);
            where[i] = _mm256_blendv_epi8(where[i], code, more);
        }
        code = _mm256_add_epi16(code, _mm256_set1_epi16(16));
    }
    for (int i = 0; i < ROWS; i++, best += TKV_RVQ_CLASSES, at += TKV_RVQ_CLASSES) {
        const __m256i offset = _mm256_set1_epi32(lift);
        const __m256i m[2] = {_mm256_cvtepi16_epi32(_mm256_castsi256_si128(most[i])),
                              _mm256_cvtepi16_epi32(_mm256_extracti128_si256(most[i], 1))};
        const __m256i w[2] = {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(where[i])),
                              _mm256_cvtepu16_epi32(_mm256_extracti128_si256(where[i], 1))};
        for (int j = 0; j < 2; j++)
            keep(_mm256_sub_epi32(m[j], offset), w[j], best + 8 * j, at + 8 * j);
    }
}

static void search_sets(const int8_t *restrict codes, const int8_t *restrict r, size_t n_sets,
                        int32_t *restrict best, uint32_t *restrict at)
{
    struct block block;
    struct set sets[SETS];
    for (size_t i = 0; i < n_sets; i++)
        sets[i] = measure(r + i * ROWS * TKV_RVQ_DIM);
    for (uint32_t first = 0; first < TKV_RVQ_CODES; first += BLOCK) {
        load_words(codes + (size_t)first * TKV_RVQ_DIM, &block);
        load_bytes(&block);
        for (size_t i = 0; i < n_sets; i++) {
            const int8_t *rows = r + i * ROWS * TKV_RVQ_DIM;
            const size_t own = i * ROWS * TKV_RVQ_CLASSES;
            if (fits(&block, &sets[i]))
                search_bytes(&block, first, rows, sets[i].norm, best + own, at + own);
            else
                search_words(&block, first, rows, best + own, at + own);
        }
    }
}

static void rvq_nearest_avx2(const int8_t *restrict codes, const int8_t *restrict r, size_t n,
                             int32_t *restrict best, uint32_t *restrict at)
{
    for (size_t i = 0; i < n * TKV_RVQ_CLASSES; i++)
        best[i] = INT32_MIN;
    for (size_t i = 0; i < n; i += SETS * ROWS) {
        const size_t n_sets = n - i < SETS * ROWS ? (n - i) / ROWS : SETS;
        search_sets(codes, r + i * TKV_RVQ_DIM, n_sets, best + i * TKV_RVQ_CLASSES,
                    at + i * TKV_RVQ_CLASSES);
    }
}

/* ---- pages to rows ------------------------------------------------------------------------- */

TKV_INLINE void offsets(const uint8_t *unit, uint16_t out[T])
{
    for (uint32_t t = 0; t < T; t += 8) {
        uint64_t high = 0;
        for (uint32_t plane = 0; plane < 3; plane++)
            high |= _pdep_u64(unit[T + 8 * plane + t / 8], 0x0101010101010101u) << plane;
        const __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)(unit + t));
        const __m128i code = _mm_unpacklo_epi8(low, _mm_cvtsi64_si128((long long)high));
        _mm_storeu_si128((__m128i *)(void *)(out + t), _mm_slli_epi16(code, 5));
    }
}

static void rvq_rows_avx2(const uint8_t *restrict codes, const int8_t *restrict books,
                          uint32_t n_stages, uint32_t D, tkv_kind kind, uint8_t flip,
                          uint8_t *restrict rows)
{
    tkv_rvq_sum_rows(codes, books, n_stages, D, kind, flip, rows, offsets);
}

void tkv_rvq_avx2(struct tkv_kernels *k)
{
    k->rvq_nearest = rvq_nearest_avx2;
    k->rvq_rows = rvq_rows_avx2;
}
