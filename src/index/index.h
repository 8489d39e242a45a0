/* The retrieval index of A2ATS (arXiv 2502.12665): one code a key tells how far queries will score
 * it. Codes are those of keys as they were before RoPE, from one codebook a head, nearest where
 * distance is the mean square error of those queries' scores. A far query is one turned as if it
 * stood a constant number of tokens behind every key.
 *
 * Nothing here knows where rows live: the caller has codes, counts and bits of slots, and may keep
 * the rows themselves in another memory or on another machine.
 */
#ifndef TKV_INDEX_H
#define TKV_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/gguf.h"
#include "kernels/kernels.h"
#include "tightkv/tightkv.h"

#define TKV_NO_CODE          UINT16_MAX
#define TKV_INDEX_MOST_CODES 32768

/* What a book knows of one head. H = E[q'q] over far queries is L L', L lower; a key's coefficients
 * are (k - mean) * to, to = L * U with U orthonormal, in steps: |difference of coefficients|^2 is
 * the mean square difference of scores, in steps squared. */
struct tkv_index_model {
    uint32_t head_dim, n_codes;
    float far;         /* tokens that far queries stand behind their keys */
    float share[2];    /* [tkv_kind] rows whose keys, and values, this head reads: times the mean */
    const float *mean; /* [D] */
    const float *to;   /* [D][D] */
    const float *ask;  /* [D][D] inverse of `to`, transposed: q * ask are a query's weights of the
                          * coefficients */
    const uint8_t *codes; /* coefficients: i8 tiles of K, the last one filled up with zeros */
    const int32_t *half;  /* of each place in the tiles: floor(|c|^2 / 2), or TKV_INDEX_NEVER */
};

/* --- model.c --- */

/* Bytes that the models of a layer's heads take; 0: the book has no index for this layer. */
size_t tkv_index_model_bytes(const struct tkv_gguf *book, uint32_t layer, uint32_t n_heads,
                             uint32_t head_dim);
/* Fills models [n_heads] that lie in `room`, 64-byte aligned, of that many bytes. Errors:
 * TKV_ERR_CORRUPT: tensors that are missing or do not fit. */
tkv_status tkv_index_bind(const struct tkv_gguf *book, uint32_t layer, uint32_t n_heads,
                          uint32_t head_dim, void *room, struct tkv_index_model *models,
                          tkv_error *err);

/* The nearest code of each of n <= 64 keys as before RoPE, [n][D] f32; the first of equals. The same
 * on every CPU. */
void tkv_index_encode(const struct tkv_kernels *k, const struct tkv_index_model *m,
                      const float *keys, size_t n, uint16_t *codes);

/* Codes come in tiles: places of a table, or of a set, of so many codes. */
static inline uint32_t tkv_index_places(uint32_t n_codes)
{
    return (n_codes + TKV_PAGE_TOKENS - 1) / TKV_PAGE_TOKENS * TKV_PAGE_TOKENS;
}

/* What n <= 16 far queries [n][D], times the scale of logits, score each code: table
 * [n][tkv_index_places()], 64-byte aligned; a place without a code gets some score. Queries are
 * rounded to 8 bits, which moves a score by a fiftieth of what a code does. The same on every
 * CPU. */
void tkv_index_table(const struct tkv_kernels *k, const struct tkv_index_model *m, const float *q,
                     size_t n, float *table);

/* --- bands.c --- */

/* Distances by which a far query stands behind keys, in bands: the first begins where the window
 * ends, each reaches twice as far as the one before, the last one to the end. For the keys of a
 * band a query is turned, pair by pair, by the mean over its distances: the expected score, in
 * which pairs that turn fast fade out. A2ATS has one constant distance for all keys instead; what
 * either finds: docs/retrieval.md. */
#define TKV_INDEX_NEAR  64
#define TKV_INDEX_BANDS 16

/* The band of a distance from TKV_INDEX_NEAR on, and where one begins. */
uint32_t tkv_index_band(uint64_t distance);
uint64_t tkv_index_band_from(uint32_t band);
/* tkv_kernels.turn for queries as before RoPE. freq: [n_pairs] */
void tkv_index_band_turn(uint32_t band, const float *freq, uint32_t n_pairs, float (*turn)[2]);

#endif
