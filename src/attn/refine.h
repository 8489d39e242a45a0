/* A second look: of the rows that codes propose to a KV head, the keys are read and scored as
 * attention scores them, and the values of the best only. */
#ifndef TKV_REFINE_H
#define TKV_REFINE_H

#include "attn/attn.h"

/* Of one query and KV head. */
struct tkv_refinement {
    const struct tkv_attend_job *job; /* with blocks of one query */
    size_t query;
    uint32_t head;
    const uint64_t *candidates; /* [n_pages] rows that may be left out */
    uint64_t n_values;          /* so many of them are read whole */
    uint64_t
        *picked; /* [n_pages] in: what the codes pick, and what is read anyway; out: what is read
                       * whole */
    uint64_t *asked; /* [n_pages] out: rows of which only the keys were read */
    struct tkv_rest
        *rest; /* [group] in: of rows that the codes do not pick; out: of all that is not
                            * read whole; NULL: not wanted */
};

size_t tkv_refine_bytes(const struct tkv_attend_job *job);
/* Of rows that weigh alike, the last are read. Where a score is not a number, all are. scratch:
 * tkv_refine_bytes(), aligned. */
void tkv_refine(const struct tkv_refinement *r, uint8_t *scratch);

#endif
