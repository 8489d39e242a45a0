/* Completion of prompts on a coded cache, in this process. */
#ifndef TKV_CLI_COMPLETE_H
#define TKV_CLI_COMPLETE_H

#include "cli.h"

#define CLI_MODEL "tightkv-lm-46m-q4_k_m.gguf"

struct complete_options {
    struct cli_common common;
    const char *model;  /* NULL: the embedded one */
    const char *kv;     /* NULL: the default preset */
    const char *prompt; /* NULL: lines of stdin, a prompt each */
    int64_t n_predict, seed;
    double temperature;
};

/* Prints what the model makes of the prompts to stdout. Returns an exit code. */
int complete_run(const struct complete_options *o);

#endif
