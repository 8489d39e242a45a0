/* tightkv estimate */
#include "cli.h"

int cmd_estimate(int argc, char **argv) {
    (void)argc, (void)argv;
    return cli_fail("estimate is not there yet");
}
