/* Books made up for tests: GGUF files in memory, with what learned codecs read. */
#ifndef MADE_BOOK_H
#define MADE_BOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/gguf.h"

struct made_book;

struct made_book *made_book_new(void);
void made_book_free(struct made_book *b);

/* dims: the contiguous one first, as GGUF has them; copies the data. */
void made_book_add(struct made_book *b, enum tkv_gguf_type type, const uint64_t dims[3],
                   const void *data, const char *name);

/* The file so far; valid until the next call with this book. */
const uint8_t *made_book_bytes(struct made_book *b, size_t *n_bytes);

/* What the tight codecs read of a layer: for K and V bases of D made-up directions for each head,
 * means, falling weights, and bits from 7 down; a coefficient of `rms` counts as of unit variance.
 * The matrices are in f16: small files. */
void made_book_tight(struct made_book *b, uint32_t layer, uint32_t n_heads, uint32_t D, float rms);

/* What the rvq codecs read of a layer: codes of a spread that falls from stage to stage, and a
 * step that makes Gaussian rows of unit variance fit. */
void made_book_rvq(struct made_book *b, uint32_t layer);

/* RoPE for all layers. halves: pair i is values i and i + n_pairs; axis: [n_pairs], or NULL. */
void made_book_rope(struct made_book *b, bool halves, uint32_t n_pairs, const float *freq,
                    const int8_t *axis);

/* What cq4 and cq8 read of a layer: for K and V centroids like Gaussians of deviation `rms`, for
 * each group of channels of each head. */
void made_book_cq(struct made_book *b, uint32_t layer, uint32_t n_heads, uint32_t D, float rms);

/* What the retrieval index reads of a layer: n_codes codes a head, spread like Gaussians of deviation
 * 32, for keys of deviation `rms` about a mean of that size, and a lower triangle for a basis. */
void made_book_index(struct made_book *b, uint32_t layer, uint32_t n_heads, uint32_t D,
                     uint32_t n_codes, float rms);

/* How many keys and values every head of such a layer reads, times the mean. */
void made_book_share(struct made_book *b, uint32_t layer, uint32_t n_heads, float keys,
                     float values);

#endif
