/* What a context holds; constant while calls run. */
#ifndef TKV_CACHE_CONTEXT_H
#define TKV_CACHE_CONTEXT_H

#include "kernels/kernels.h"
#include "tightkv/tightkv.h"

struct tkv_context {
    struct tkv_kernels kernels;
    tkv_allocator allocator;
    tkv_executor executor;
    uint32_t cpu;
    float
        sign[TKV_MAX_HEAD_DIM]; /* +-1: the random half of the rotation, the same for every head */
};

#endif
