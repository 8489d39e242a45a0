/* tightkv demo */
#include "cli.h"

int cmd_demo(int argc, char **argv) {
    (void)argc, (void)argv;
    return cli_fail("demo is not there yet");
}
