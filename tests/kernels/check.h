/* The kernel checker: every kernel of every CPU level against the reference, bit for bit, and
 * the reference against a slow oracle. A family is one file, check_<family>.c, and one line in
 * families.def. */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

struct check {
    struct tkv_kernels ref;
    struct tkv_kernels now; /* of the level under test; the reference itself on the first round */
    const char *level;
    const char *only;       /* --test: part of a kernel's name, or NULL */
    struct tkv_ahead ahead; /* for kernels that want one */
    bool bench;
    bool is_ref;
    uint64_t rng;
    unsigned n_checks, n_failures;
};

/* A buffer whose last byte is followed by an unmapped page; freed by check_free. n * size bytes:
 * 64-byte aligned when that is a multiple of 64. */
void *check_alloc(size_t n, size_t size);
void check_free(void *p, size_t n, size_t size);

uint32_t check_random(struct check *c);
/* Uniform in [-1, 1). */
float check_uniform(struct check *c);

/* Input shapes for f32 arrays; check_fill_name() says which. */
enum {
    FILL_UNIFORM,
    FILL_ZERO,
    FILL_SUBNORMAL,
    FILL_BIG,
    FILL_OUTLIER,
    FILL_HEAVY,
    FILL_NAN,
    FILL_COUNT
};
const char *check_fill_name(int fill);
void check_fill(struct check *c, float *x, size_t n, int fill);
void check_fill_bytes(struct check *c, void *x, size_t n);

/* Whether this kernel is to be checked (--test). */
bool check_wanted(const struct check *c, const char *kernel);

/* One comparison; a failure prints kernel, level, `what` and the first difference. NaNs are
 * equal. */
void check_f32(struct check *c, const char *kernel, const char *what, const float *got,
               const float *want, size_t n);
void check_bytes(struct check *c, const char *kernel, const char *what, const void *got,
                 const void *want, size_t n);
void check_true(struct check *c, const char *kernel, const char *what, bool ok);

/* Runs fn(arg) again and again and prints the best time of a call; `unit` names what a call
 * does. */
void check_bench(struct check *c, const char *kernel, const char *unit, void (*fn)(void *arg),
                 void *arg);

#define FAMILY(name) void check_##name(struct check *c);
#include "families.def"
#undef FAMILY

#endif
