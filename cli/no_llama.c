/* The commands that need llama.cpp, in a build that had none at hand. */
#include "cli.h"

#define NEEDS_LLAMA(function, words)                                                                     \
    int cmd_##function(int argc, char **argv) {                                                          \
        (void)argc, (void)argv;                                                                          \
        return cli_fail("%s needs llama.cpp, which was absent when tightkv was built; run make build", words); \
    }

NEEDS_LLAMA(eval, "eval")
NEEDS_LLAMA(demo, "demo")
NEEDS_LLAMA(bench_model, "bench model")
NEEDS_LLAMA(bench_attend, "bench attend")
