/* Picked rows of sealed pages, made pages of: gather.c. */
#ifndef TKV_GATHER_H
#define TKV_GATHER_H

#include "attn/attn.h"

/* Whether a call reads sealed pages so: its items are then of one query each. */
bool tkv_gathers(const struct tkv_attend_job *job);
/* Begins to gather: who reads the rows, and how many bytes of each. */
void tkv_gather_for(struct tkv_worker *w, tkv_gather_fn read, void *arg, size_t row_bytes);
/* Reads them into the running state. */
void tkv_gather_attend(struct tkv_worker *w);
/* Takes rows of a sealed page; the last ones are read at tkv_gather_end(). */
void tkv_gather_page(struct tkv_worker *w, size_t i_page, uint64_t picked);
void tkv_gather_end(struct tkv_worker *w);

#endif
