/* tightkv bench model */
#include "cli.h"

int cmd_bench_model(int argc, char **argv) {
    (void)argc, (void)argv;
    return cli_fail("bench model is not there yet");
}
