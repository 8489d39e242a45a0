/* Fetching what comes next while computing: see struct tkv_ahead. */
#ifndef TKV_AHEAD_H
#define TKV_AHEAD_H

#include "base/compiler.h"
#include "kernels/kernels.h"

/* Asks for the line at the cursor and moves it on. Kernels call this about every eight cycles, on a
 * copy of their caller's cursor, so that it lives in registers. */
TKV_INLINE void tkv_step_ahead(struct tkv_ahead *ahead)
{
    TKV_PREFETCH((const void *)ahead->at);
    ahead->at += ahead->step;
}

#endif
