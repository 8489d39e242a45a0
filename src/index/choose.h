/* Which codes a group of query heads reads. A score depends on the code and its band alone, so these
 * are chosen, by how many live keys they have, and rows follow from them. What is called a code here
 * is one of one band: n_codes counts all bands' places. */
#ifndef TKV_INDEX_CHOOSE_H
#define TKV_INDEX_CHOOSE_H

#include "index/index.h"

struct tkv_index_budget {
    uint64_t rows;  /* at most, for the group together */
    float mass;     /* each head stops where its scores promise this share; 0: never */
    uint64_t least; /* rows, whatever the mass */
};

struct tkv_index_choice {
    uint64_t *codes; /* bits of the chosen codes, [n_codes / 64 rounded up] */
    uint64_t n_rows; /* that they have */
    uint32_t cut;    /* of this code, which is not among them, only the last */
    uint64_t n_cut;  /* rows are read; 0: there is none */
};

size_t tkv_index_choice_words(uint32_t n_codes);
size_t tkv_index_choose_scratch(uint32_t n_codes);

/* Heads count alike: each has the same number of its best rows in the union, but for what the code
 * that crosses the budget holds.
 *   table   [n_heads][n_codes] scores, finite; n_codes: a multiple of 16
 *   counts  [n_codes] rows that may be chosen
 *   reach   [n_heads] how far below its best score each head went the last time, for it will be much
 *           the same now; updated. Any numbers do, only time depends on them. NULL: not known
 *   scratch of tkv_index_choose_scratch() bytes, aligned to 8 */
void tkv_index_choose(const struct tkv_kernels *k, const float *table, uint32_t n_heads,
                      const uint32_t *counts, uint32_t n_codes,
                      const struct tkv_index_budget *allowed, float *reach, void *scratch,
                      struct tkv_index_choice *out);

#endif
