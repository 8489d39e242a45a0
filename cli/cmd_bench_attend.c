/* tightkv bench attend */
#include "cli.h"

int cmd_bench_attend(int argc, char **argv) {
    (void)argc, (void)argv;
    return cli_fail("bench attend is not there yet");
}
