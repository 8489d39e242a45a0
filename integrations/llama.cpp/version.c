/* version.c: ggml's backend structures change within one API version, and every build has the same
 * soname. Only the version string tells them apart, so the plug-in takes exactly the ggml it was
 * built against. */
#include <string.h>

#include "plugin.h"

bool tkg_version_matches(void)
{
    const char *running = ggml_version();
    /* Builds between releases append "-dev" or a commit to the number. */
    const size_t n = strlen(TKG_GGML_VERSION);
    if (strncmp(running, TKG_GGML_VERSION, n) == 0 && (running[n] == '\0' || running[n] == '-')) {
        return true;
    }
    tkg_log(GGML_LOG_LEVEL_ERROR,
            "not loaded: this plug-in was built for ggml " TKG_GGML_VERSION
            ", the program has ggml %s; "
            "build it against that source (cmake -DLLAMA_CPP_DIR=... -DLLAMA_CPP_BUILD=...)",
            running);
    return false;
}
