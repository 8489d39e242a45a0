/* Where coded pages may be in a file, a call goes over them in rounds: units of (KV head, chunk), head
 * by head, as many as may be in memory at once. While a round is computed, the next one is read. */
#ifndef TKV_ATTN_ROUNDS_H
#define TKV_ATTN_ROUNDS_H

#include "attn/attn.h"

/* Scratch that the rounds of a call need; 0: everything is in memory. */
size_t tkv_rounds_bytes(const struct tkv_attend_job *job);
/* Calls compute() for every round, with the job's units set and their blocks in memory. `scratch` is
 * tkv_rounds_bytes() large. */
tkv_status tkv_run_rounds(tkv_cache *cache, struct tkv_attend_job *job,
                          void (*compute)(struct tkv_attend_job *job), uint8_t *scratch,
                          tkv_error *err);

#endif
