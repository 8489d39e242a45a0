/* tightkv bench encode */
#include "cli.h"

int cmd_bench_encode(int argc, char **argv) {
    (void)argc, (void)argv;
    return cli_fail("bench encode is not there yet");
}
