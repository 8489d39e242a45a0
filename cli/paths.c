/* Where things are: beside the executable, in the build tree, in the per-user cache. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLUGIN_NAME "libggml-tightkv.so"

/* The folder of the running executable; "." where the system does not tell. */
static char *executable_dir(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (n <= 0)
        return cli_format(".");
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    *slash = '\0';
    return cli_format("%s", path);
}

static bool exists(const char *path)
{
    return access(path, R_OK) == 0;
}

/* Takes `path`: gives its shortest absolute form back when there is such a file, else NULL. */
static char *if_exists(char *path)
{
    char *resolved = exists(path) ? realpath(path, NULL) : NULL;
    free(path);
    return resolved;
}

char *cli_look_for_plugin(void)
{
    const char *given = getenv("TIGHTKV_PLUGIN");
    if (given && *given)
        return if_exists(cli_format("%s", given));
    static const char *const beside[] = {"", "../lib/", "../" TKV_INSTALL_LIBDIR "/",
                                         "../lib/tightkv/"};
    char *dir = executable_dir(), *found = NULL;
    for (size_t i = 0; !found && i < sizeof(beside) / sizeof(beside[0]); i++)
        found = if_exists(cli_format("%s/%s%s", dir, beside[i], PLUGIN_NAME));
    free(dir);
    return found;
}

char *cli_find_plugin(void)
{
    char *found = cli_look_for_plugin();
    if (!found)
        cli_fail(
            "no plug-in %s beside the command or in ../lib; build it (make build), or name it in "
            "TIGHTKV_PLUGIN",
            PLUGIN_NAME);
    return found;
}

char *cli_find_data(const char *name)
{
    const char *given = getenv("TIGHTKV_DATA");
    if (given && *given) {
        char *found = if_exists(cli_format("%s/%s", given, name));
        if (!found)
            cli_fail("no %s in TIGHTKV_DATA=%s", name, given);
        return found;
    }
    char *dir = executable_dir();
    char *found = if_exists(cli_format("%s/../share/tightkv/models/%s", dir, name));
    if (!found)
        found = if_exists(cli_format("%s/%s", TKV_MODELS_DIR, name));
    free(dir);
    if (!found)
        cli_fail("no models/%s; run from a complete checkout, or name the folder that has it in "
                 "TIGHTKV_DATA",
                 name);
    return found;
}

char *cli_find_report(void)
{
    char *dir = executable_dir();
    char *found = if_exists(cli_format("%s/../share/tightkv/report.html", dir));
    free(dir);
    if (!found)
        cli_fail("no ../share/tightkv/report.html beside the command: it was built without the "
                 "page; run make build where npm and its registry are at hand");
    return found;
}

/* The folder of libllama.so in a build, a build's bin, or a prefix. */
static char *llama_bin_in(const char *dir)
{
    static const char *const below[] = {"", "/bin", "/build/bin", "/lib"};
    for (size_t i = 0; i < sizeof(below) / sizeof(below[0]); i++) {
        char *lib = cli_format("%s%s/libllama.so", dir, below[i]);
        bool found = exists(lib);
        free(lib);
        if (found)
            return cli_format("%s%s", dir, below[i]);
    }
    return NULL;
}

char *cli_look_for_llama_bin(void)
{
    const char *given = getenv("TIGHTKV_LLAMA_DIR");
    if (given && *given)
        return llama_bin_in(given);
    char *found = TKV_LLAMA_BUILD[0] ? llama_bin_in(TKV_LLAMA_BUILD) : NULL;
    if (found)
        return found;
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *dir = cache && *cache
                    ? cli_format("%s/tightkv/llama.cpp-" TKV_LLAMA_VERSION "/build", cache)
                    : cli_format("%s/.cache/tightkv/llama.cpp-" TKV_LLAMA_VERSION "/build",
                                 home ? home : "");
    found = llama_bin_in(dir);
    free(dir);
    return found;
}

char *cli_find_llama_bin(void)
{
    char *found = cli_look_for_llama_bin();
    const char *given = getenv("TIGHTKV_LLAMA_DIR");
    if (!found && given && *given)
        cli_fail(
            "no libllama.so in TIGHTKV_LLAMA_DIR=%s; name a build of llama.cpp " TKV_LLAMA_VERSION
            " with shared libraries",
            given);
    else if (!found)
        cli_fail("llama.cpp " TKV_LLAMA_VERSION
                 " is not built; run make build, or name a build of it in "
                 "TIGHTKV_LLAMA_DIR");
    return found;
}

/* A name with a slash is a path; else PATH is searched, as execvp(3) does. */
static char *program_in_path(const char *name)
{
    if (strchr(name, '/'))
        return access(name, X_OK) == 0 ? cli_format("%s", name) : NULL;
    const char *path = getenv("PATH");
    while (path && *path) {
        size_t n = strcspn(path, ":");
        char *candidate = cli_format("%.*s%s%s", (int)n, path, n ? "/" : "", name);
        if (access(candidate, X_OK) == 0)
            return candidate;
        free(candidate);
        path += n + (path[n] == ':');
    }
    return NULL;
}

char *cli_find_program(const char *name)
{
    char *found = program_in_path(name);
    if (found)
        return found;
    char *bin = cli_look_for_llama_bin();
    if (bin && !strchr(name, '/')) {
        char *candidate = cli_format("%s/%s", bin, name);
        if (access(candidate, X_OK) == 0)
            found = candidate;
        else
            free(candidate);
    }
    if (!found)
        cli_fail("no program '%s' in PATH%s%s; give its path", name, bin ? " or in " : "",
                 bin ? bin : "");
    free(bin);
    return found;
}
