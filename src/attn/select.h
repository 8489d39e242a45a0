/* Which rows the queries of a call read, where the index decides. */
#ifndef TKV_SELECT_H
#define TKV_SELECT_H

#include "attn/attn.h"

struct tkv_select_query {
    uint64_t n_live, n_candidates;
    uint32_t n_bands;
    bool all; /* reads everything */
};

struct tkv_selection {
    const tkv_cache *cache;
    const struct tkv_attend_job *job;
    struct tkv_attend_job single;     /* the same, cut into blocks of one query */
    struct tkv_select_query *queries; /* [n_q] */
    uint64_t *live;                   /* [n_q][n_pages] */
    uint64_t *candidates;             /* [n_q][n_pages] */
    uint32_t n_places;                /* of one band */
    uint32_t n_bands;                 /* at most */
    const struct tkv_tally *tally;    /* of the only query; NULL: none */
    uint8_t *scratch;
    size_t scratch_bytes; /* of one thread */
};

/* Leaves job->picked NULL where everything is read. Errors: TKV_ERR_NOMEM. */
tkv_status tkv_select(tkv_cache *cache, struct tkv_attend_job *job, tkv_error *err);

/* --- tally.c: rows that may be picked, by band of distance and code --- */

/* Rows of a page at positions [from, to). */
uint64_t tkv_rows_at(const struct tkv_page *page, int64_t from, int64_t to);
/* Takes those of one band out of `rows`, which are of a page and all far enough before q_pos: the band
 * of the lowest one. */
uint64_t tkv_take_band(const tkv_cache *cache, const struct tkv_page *page, int64_t q_pos,
                       uint64_t *rows, uint32_t *band);
/* Counts the candidates of a query: counts [n_bands][n_places]. */
void tkv_count_candidates(const struct tkv_selection *s, size_t i, uint32_t head, uint32_t *counts);
/* The same for all heads, from what the layer knows of the step before; without memory for that
 * nothing happens. */
void tkv_tally_update(tkv_cache *cache, struct tkv_selection *s);
/* How far its query heads went below their best scores, [group], to be updated; and one head's counts.
 * NULL: there is no tally. */
float *tkv_tally_reach(const struct tkv_selection *s, uint32_t head);
const uint32_t *tkv_tally_of(const struct tkv_selection *s, uint32_t head);

#endif
