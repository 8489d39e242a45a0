/* The commands that need llama.cpp, in a build that had none at hand. */
#include "bench_stock.h"
#include "cli.h"

#include <math.h>

#define NEEDS_LLAMA(function, words)                                                               \
    int cmd_##function(int argc, char **argv)                                                      \
    {                                                                                              \
        (void)argc, (void)argv;                                                                    \
        return cli_fail(                                                                           \
            "%s needs llama.cpp, which was absent when tightkv was built; run make build", words); \
    }

NEEDS_LLAMA(eval, "eval")
NEEDS_LLAMA(advise, "advise")
NEEDS_LLAMA(demo, "demo")
NEEDS_LLAMA(bench_model, "bench model")
NEEDS_LLAMA(estimate, "estimate")
NEEDS_LLAMA(harden, "harden")
NEEDS_LLAMA(calibrate, "calibrate")

const char *stock_type_name(enum stock_type type)
{
    static const char *const names[STOCK_TYPES] = {"f16", "q8_0", "q4_0"};
    return names[type];
}

struct stock_engine *stock_engine_open(const struct cli_common *common, uint32_t n_threads)
{
    (void)common, (void)n_threads;
    cli_fail("--against needs llama.cpp, which was absent when tightkv was built; run make build");
    return NULL;
}

int stock_engine_add(struct stock_engine *e, enum stock_type type, const struct bench_shape *shape,
                     size_t rotate_bytes)
{
    (void)e, (void)type, (void)shape, (void)rotate_bytes;
    return CLI_DATA;
}

double stock_engine_step(struct stock_engine *e, enum stock_type type)
{
    (void)e, (void)type;
    return NAN;
}

void stock_engine_close(struct stock_engine *e)
{
    (void)e;
}
