/* llama.cpp, loaded at run time from a build of its own (never linked), and our plug-in in it. */
#ifndef TKV_CLI_LLAMA_LOAD_H
#define TKV_CLI_LLAMA_LOAD_H

#include <llama.h>
#include <tightkv-ggml.h>

#include "cli.h"

/* Every field bears the name of the function that it points to. */
struct llama_api {
#define LLAMA_FN(name) __typeof__(&name) name;
#include "llama_api.def"
#undef LLAMA_FN
};

/* What is loaded: one a process, because ggml's registry is one a process. Never unloaded. */
struct cli_llama {
    struct llama_api api;
    char bin[4096];         /* folder of libllama.so and the programs */
    bool built_in;          /* its backends came with libllama, none was loaded */
    ggml_backend_reg_t reg; /* the plug-in; NULL when it was not asked for */
    tightkv_ggml_configure_fn configure;
    tightkv_ggml_fingerprint_fn fingerprint;
    tightkv_ggml_has_book_fn has_book;
    tightkv_ggml_stats_fn stats;
    tightkv_ggml_measure_fn measure;
    cli_level level;
};

/* Loads libllama, its backends and, when asked, the plug-in. CLI_OK, or CLI_DATA after a line on
 * stderr. */
int cli_llama_open(struct cli_llama *l, const struct cli_common *common, bool with_plugin);

/* The first error that llama.cpp or the plug-in logged since the last call with clear, without
 * its line feed; "" when there was none. Static storage. */
const char *cli_llama_error(bool clear);

#endif
