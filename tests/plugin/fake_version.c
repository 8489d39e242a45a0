/* fake_version.c: a program whose ggml says it is another version (LD_PRELOAD). */
#include "ggml.h"

const char *ggml_version(void)
{
    return "0.99.0";
}
