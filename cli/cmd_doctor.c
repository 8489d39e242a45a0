/* tightkv doctor */
#include "cli.h"

int cmd_doctor(int argc, char **argv) {
    (void)argc, (void)argv;
    return cli_fail("doctor is not there yet");
}
