/* Contexts: defaults, the kernel table, the rotation's signs. */
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "cache/context.h"
#include "cpu/features.h"

void tkv_context_params_default(tkv_context_params *p)
{
    *p = (tkv_context_params){.struct_size = sizeof *p, .cpu_mask = TKV_CPU_ALL};
}

/* SplitMix64 from a fixed seed: part of the format (FORMAT.md, rotation). */
static void fill_signs(float *sign)
{
    uint64_t state = 0x74696768746b7631u; /* "tightkv1" */
    for (uint32_t i = 0; i < TKV_MAX_HEAD_DIM; i++) {
        state += 0x9e3779b97f4a7c15u;
        uint64_t z = state;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        sign[i] = (z ^ (z >> 31)) >> 63 ? -1.0f : 1.0f;
    }
}

static bool params_valid(const tkv_context_params *p, tkv_error *err)
{
    const tkv_allocator *a = &p->allocator;
    if (p->struct_size != sizeof *p)
        tkv_fail(err, TKV_ERR_INVALID,
                 "context params of %u bytes, expected %zu: call tkv_context_params_default()",
                 p->struct_size, sizeof *p);
    else if (!a->alloc != !a->free)
        tkv_fail(err, TKV_ERR_INVALID, "an allocator needs both alloc and free");
    else
        return true;
    return false;
}

tkv_status tkv_context_create(const tkv_context_params *p, tkv_context **out, tkv_error *err)
{
    tkv_context_params defaults;
    tkv_context_params_default(&defaults);
    if (!p)
        p = &defaults;
    if (!out)
        return tkv_fail(err, TKV_ERR_INVALID, "out is NULL");
    if (!params_valid(p, err))
        return TKV_ERR_INVALID;
    const tkv_allocator allocator = p->allocator.alloc ? p->allocator : tkv_allocator_default();
    tkv_context *ctx = tkv_alloc_zero(&allocator, sizeof *ctx);
    if (!ctx)
        return tkv_fail_nomem(err, sizeof *ctx, "a context");
    ctx->allocator = allocator;
    ctx->executor = p->executor;
    ctx->cpu = tkv_cpu_features() & p->cpu_mask;
    tkv_kernels_init(&ctx->kernels, ctx->cpu);
    fill_signs(ctx->sign);
    *out = ctx;
    return TKV_OK;
}

void tkv_context_destroy(tkv_context *ctx)
{
    if (!ctx)
        return;
    const tkv_allocator allocator = ctx->allocator;
    tkv_free(&allocator, ctx, sizeof *ctx);
}

tkv_status tkv_context_set_executor(tkv_context *ctx, const tkv_executor *executor)
{
    if (!ctx || !executor)
        return TKV_ERR_INVALID;
    ctx->executor = *executor;
    return TKV_OK;
}

uint32_t tkv_context_cpu(const tkv_context *ctx)
{
    return ctx->cpu;
}
