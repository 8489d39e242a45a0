/* tightkv run: any llama.cpp program with the plug-in; without one, completion with the embedded
 * model. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_tools.h"
#include "complete.h"

static const char about[] = "Starts PROGRAM (of PATH, or of the llama.cpp that tightkv was built "
                            "with) with the plug-in loaded and -m\n"
                            "MODEL before its other arguments, and returns its exit code. Without "
                            "PROGRAM it completes prompts with the\n"
                            "embedded model: --prompt, or a line of stdin each.";

static int parse_options(struct complete_options *o, int argc, char **argv)
{
    *o = (struct complete_options){.n_predict = 128, .seed = 1, .temperature = 0.8};
    const struct cli_option options[] = {
        {"model", 'm', CLI_TEXT, &o->model, "FILE",
         "GGUF model (without PROGRAM: the embedded one)", 0, 0, false},
        {"kv", 0, CLI_TEXT, &o->kv, "SPEC", "spec or preset of the cache (the default preset)", 0,
         0, false},
        {"prompt", 'p', CLI_TEXT, &o->prompt, "TEXT", "without PROGRAM: the text to complete", 0, 0,
         false},
        {"predict", 'n', CLI_COUNT, &o->n_predict, "N",
         "without PROGRAM: tokens of a completion (128)", 1, 1 << 20, false},
        {"seed", 's', CLI_COUNT, &o->seed, "N", "without PROGRAM: of the sampler (1)", 0,
         UINT32_MAX, false},
        {"temp", 0, CLI_REAL, &o->temperature, "T",
         "without PROGRAM: temperature (0.8); 0 is greedy", 0, 0, false},
    };
    const struct cli_syntax syntax = {"run", "[-m MODEL] [--kv SPEC] [-- PROGRAM ARGS...]", about,
                                      options, sizeof(options) / sizeof(options[0])};
    return cli_parse(&syntax, &o->common, argc, argv);
}

/* argv of PROGRAM: its name, -m MODEL, -t N, its own arguments. */
static char **make_argv(const struct complete_options *o, int argc, char **argv, char *n_threads)
{
    char **out = cli_alloc((size_t)argc + 5, sizeof(*out));
    size_t n = 0;
    out[n++] = argv[0];
    if (o->model) {
        out[n++] = "-m";
        out[n++] = (char *)o->model;
    }
    if (o->common.threads_given) {
        out[n++] = "-t";
        out[n++] = n_threads;
    }
    for (int i = 1; i < argc; i++)
        out[n++] = argv[i];
    return out;
}

/* Becomes PROGRAM; returns only on failure. */
static int start_program(const struct complete_options *o, int argc, char **argv)
{
    char *program = cli_find_program(argv[0]);
    char *plugin = program ? cli_find_plugin() : NULL;
    int rc = CLI_DATA;
    if (plugin) {
        char n_threads[16];
        snprintf(n_threads, sizeof(n_threads), "%d", (int)o->common.n_threads);
        char **program_argv = make_argv(o, argc, argv, n_threads);
        setenv("GGML_BACKEND_PATH", plugin, 1);
        if (o->kv)
            setenv("TIGHTKV_KV", o->kv, 1);
        cli_export_cpu(&o->common);
        cli_say(o->common.level, CLI_VERBOSE, "GGML_BACKEND_PATH=%s TIGHTKV_KV=%s %s", plugin,
                o->kv ? o->kv : "", program);
        execv(program, program_argv);
        rc = cli_fail("cannot start %s: %s", program, strerror(errno));
        free(program_argv);
    }
    free(plugin);
    free(program);
    return rc;
}

int cmd_run(int argc, char **argv)
{
    struct complete_options o;
    int first = parse_options(&o, argc, argv);
    if (first < 0)
        return -1 - first;
    const char *kv = o.kv;
    tkv_spec spec;
    if (!bench_parse_spec("run", &kv, &spec))
        return CLI_USAGE;
    if (o.model && access(o.model, R_OK) != 0)
        return cli_fail("cannot open model %s: %s", o.model, strerror(errno));
    if (first < argc)
        return start_program(&o, argc - first, argv + first);
#if TKV_CLI_LLAMA
    return complete_run(&o);
#else
    return cli_fail(
        "a completion needs llama.cpp, which was absent when tightkv was built; run make build");
#endif
}
