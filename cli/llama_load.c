/* Loads llama.cpp and the plug-in; keeps llama.cpp's log off the terminal, but not that a
 * book is missing: what is measured then is another code. */
#include "llama_load.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* llama.cpp's log callback has to remember the first error, for our own one-line message. */
static struct log_state {
    char first_error[256];
    bool verbose, quiet, told;
} log_state;

/* Once: every cache of a model says the same. */
static void tell_missing_book(struct log_state *log, const char *text)
{
    static const char missing[] = "tightkv: no book";
    if (log->quiet || log->told || strncmp(text, missing, sizeof(missing) - 1) != 0)
        return;
    log->told = true;
    fputs(text, stderr);
}

static void on_log(enum ggml_log_level level, const char *text, void *user)
{
    struct log_state *log = user;
    if (log->verbose)
        fputs(text, stderr);
    else if (level == GGML_LOG_LEVEL_WARN)
        tell_missing_book(log, text);
    if (level != GGML_LOG_LEVEL_ERROR || log->first_error[0])
        return;
    snprintf(log->first_error, sizeof(log->first_error), "%s", text);
    log->first_error[strcspn(log->first_error, "\n")] = '\0';
}

const char *cli_llama_error(bool clear)
{
    if (clear)
        log_state.first_error[0] = '\0';
    return log_state.first_error;
}

static int resolve(struct llama_api *api, void *lib, const char *bin)
{
#define LLAMA_FN(name)                                                                             \
    {                                                                                              \
        void *symbol = dlsym(lib, #name);                                                          \
        if (!symbol)                                                                               \
            return cli_fail("llama.cpp in %s has no %s; tightkv needs " TKV_LLAMA_VERSION, bin,    \
                            #name);                                                                \
        memcpy(&api->name, &symbol, sizeof(symbol));                                               \
    }
#include "llama_api.def"
#undef LLAMA_FN
    return CLI_OK;
}

static int load_library(struct cli_llama *l)
{
    char *path = cli_format("%s/libllama.so", l->bin);
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    free(path);
    if (!lib)
        return cli_fail("cannot load llama.cpp: %s", dlerror());
    int rc = resolve(&l->api, lib, l->bin);
    if (rc != CLI_OK)
        return rc;
    /* llama.cpp's parameter structs are passed by value: another version would read garbage. */
    const char *version = l->api.ggml_version();
    if (strcmp(version, TKV_GGML_VERSION) != 0)
        return cli_fail("ggml in %s is %s, tightkv was built for " TKV_GGML_VERSION
                        "; name a build of llama.cpp " TKV_LLAMA_VERSION " in TIGHTKV_LLAMA_DIR",
                        l->bin, version);
    return CLI_OK;
}

static void *plugin_proc(const struct cli_llama *l, const char *name)
{
    return l->api.ggml_backend_reg_get_proc_address(l->reg, name);
}

static int load_plugin(struct cli_llama *l)
{
    char *path = cli_find_plugin();
    if (!path)
        return CLI_DATA;
    cli_llama_error(true);
    l->reg = l->api.ggml_backend_load(path);
    if (!l->reg) {
        const char *why = cli_llama_error(false);
        int rc = cli_fail("%s does not load in llama.cpp at %s: %s", path, l->bin,
                          *why ? why : "see tightkv doctor -v");
        free(path);
        return rc;
    }
    free(path);
    void *procs[] = {plugin_proc(l, "tightkv_ggml_configure"), plugin_proc(l, "tightkv_ggml_stats"),
                     plugin_proc(l, "tightkv_ggml_measure"),
                     plugin_proc(l, "tightkv_ggml_fingerprint"),
                     plugin_proc(l, "tightkv_ggml_has_book")};
    memcpy(&l->configure, &procs[0], sizeof(procs[0]));
    memcpy(&l->stats, &procs[1], sizeof(procs[1]));
    memcpy(&l->measure, &procs[2], sizeof(procs[2]));
    memcpy(&l->fingerprint, &procs[3], sizeof(procs[3]));
    memcpy(&l->has_book, &procs[4], sizeof(procs[4]));
    if (!l->configure || !l->stats || !l->measure || !l->fingerprint || !l->has_book)
        return cli_fail("the plug-in is of another version than this command; build both together");
    return CLI_OK;
}

int cli_llama_open(struct cli_llama *l, const struct cli_common *common, bool with_plugin)
{
    *l = (struct cli_llama){.level = common->level};
    char *bin = cli_find_llama_bin();
    if (!bin)
        return CLI_DATA;
    snprintf(l->bin, sizeof(l->bin), "%s", bin);
    free(bin);
    int rc = load_library(l);
    if (rc != CLI_OK)
        return rc;
    log_state.verbose = common->level >= CLI_VERBOSE;
    log_state.quiet = common->level <= CLI_QUIET;
    l->api.ggml_log_set(on_log, &log_state);
    l->api.llama_log_set(on_log, &log_state);
    cli_export_cpu(common);
    /* The plug-in is loaded below, by path: not a second time through llama.cpp's own variable. */
    unsetenv("GGML_BACKEND_PATH");
    l->built_in = l->api.ggml_backend_reg_count() > 0;
    l->api.ggml_backend_load_all_from_path(l->bin);
    l->api.llama_backend_init();
    return with_plugin ? load_plugin(l) : CLI_OK;
}
