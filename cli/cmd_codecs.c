/* tightkv codecs */
#include "cli.h"

int cmd_codecs(int argc, char **argv) {
    (void)argc, (void)argv;
    return cli_fail("codecs is not there yet");
}
