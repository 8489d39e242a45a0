/* preload.c: makes test-llama-archs of llama.cpp run on the plug-in (LD_PRELOAD). That program
 * loads no dynamic backends by itself, and its rows for tensor parallelism need two devices that
 * can compute everything. */
#include <stdbool.h>

#include "ggml-backend.h"

/* llama.cpp's bool llm_arch_supports_sm_tensor(const llm_arch &) */
bool _Z27llm_arch_supports_sm_tensorRK8llm_arch(const int *arch);

bool _Z27llm_arch_supports_sm_tensorRK8llm_arch(const int *arch)
{
    (void)arch;
    return false;
}

__attribute__((constructor)) static void load_backends(void)
{
    ggml_backend_load_all();
}
