/* Which rows the queries of a call read, where the index decides. */
#ifndef TKV_SELECT_H
#define TKV_SELECT_H

#include "attn/attn.h"

/* Leaves job->picked NULL where everything is read. Errors: TKV_ERR_NOMEM. */
tkv_status tkv_select(tkv_cache *cache, struct tkv_attend_job *job, tkv_error *err);

#endif
