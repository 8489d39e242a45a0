/* Runs a fuzz target over the files of a folder and over some fixed mutations of each: no fuzzer
 * needed.
 *   replay FOLDER */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

enum { MAX_BYTES = 1 << 16, N_MUTATIONS = 24 };

static size_t read_file(const char *folder, const char *name, uint8_t *data)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        return 0;
    size_t n = fread(data, 1, MAX_BYTES, f);
    fclose(f);
    return n;
}

/* The target gets its own copy of exactly the right size, so that a sanitizer sees an over-read. */
static void run(const uint8_t *data, size_t n)
{
    uint8_t *copy = fuzz_alloc(n);
    memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

/* A few bytes changed, and sometimes the end cut off. */
static void run_mutated(uint8_t *data, size_t n, uint64_t *state)
{
    uint8_t *copy = fuzz_alloc(n);
    memcpy(copy, data, n);
    for (uint64_t i = 0; i <= fuzz_random(state) % 4; i++)
        copy[fuzz_random(state) % n] = (uint8_t)fuzz_random(state);
    run(copy, fuzz_random(state) % 4 ? n : (size_t)(fuzz_random(state) % n));
    free(copy);
}

int main(int argc, char **argv)
{
    static uint8_t data[MAX_BYTES];
    unsigned n_files = 0;
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    if (!dir) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        size_t n = e->d_name[0] == '.' ? 0 : read_file(argv[1], e->d_name, data);
        if (n == 0)
            continue;
        uint64_t state = 0x9e3779b97f4a7c15ull ^ n;
        run(data, n);
        for (int i = 0; i < N_MUTATIONS; i++)
            run_mutated(data, n, &state);
        n_files++;
    }
    closedir(dir);
    run(data, 0);
    printf("%u files, %d mutations of each\n", n_files, N_MUTATIONS);
    return n_files ? 0 : 1;
}
