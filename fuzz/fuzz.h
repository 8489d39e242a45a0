/* What the fuzz targets share. A target reads its input as a stream of small decisions and checks
 * what it did with FUZZ_CHECK; reading past the end gives zeros, so that every input is a valid
 * one. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "tightkv/tightkv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_input {
    const uint8_t *data;
    size_t size;
};

uint8_t fuzz_u8(struct fuzz_input *in);
uint16_t fuzz_u16(struct fuzz_input *in);

/* A number below n, of one byte (n <= 256). */
static inline uint32_t fuzz_below(struct fuzz_input *in, uint32_t n)
{
    return fuzz_u8(in) % n;
}

/* xorshift64*: values that an input need not spell out. The state must not be 0. */
uint64_t fuzz_random(uint64_t *state);
float fuzz_uniform(uint64_t *state); /* [-1, 1) */

/* malloc that never returns NULL; exact sizes, so that a sanitizer sees every over-read. */
void *fuzz_alloc(size_t bytes);

/* A context with these CPU levels, memory checked: freeing with another size than was asked for is
 * a failure. */
tkv_context *fuzz_context(uint32_t cpu_mask);

_Noreturn void fuzz_fail(const char *file, int line, const char *what);

#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fuzz_fail(__FILE__, __LINE__, #condition);                                             \
    } while (0)

#endif
