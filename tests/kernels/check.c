#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static size_t mapped_bytes(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

void *check_alloc(size_t n, size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), mapped = mapped_bytes(n * size);
    char *base =
        mmap(NULL, mapped + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + mapped, page, PROT_NONE) != 0) {
        perror("check_alloc");
        exit(1);
    }
    return base + mapped - n * size;
}

void check_free(void *p, size_t n, size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), mapped = mapped_bytes(n * size);
    munmap((char *)p + n * size - mapped, mapped + page);
}

/* splitmix64 */
uint32_t check_random(struct check *c)
{
    uint64_t z = c->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

float check_uniform(struct check *c)
{
    return (float)(int32_t)check_random(c) * 0x1p-31f;
}

const char *check_fill_name(int fill)
{
    static const char *const names[FILL_COUNT] = {"uniform", "zero",  "subnormal", "big",
                                                  "outlier", "heavy", "nan"};
    return names[fill];
}

void check_fill(struct check *c, float *x, size_t n, int fill)
{
    for (size_t i = 0; i < n; i++) {
        const float u = check_uniform(c);
        switch (fill) {
        case FILL_ZERO:
            x[i] = 0.0f;
            break;
        case FILL_SUBNORMAL:
            x[i] = u * 0x1p-130f;
            break;
        case FILL_BIG:
            x[i] = u * 0x1p100f;
            break;
        case FILL_HEAVY:
            x[i] = ldexpf(u, (int)(check_random(c) % 24) - 16);
            break;
        default:
            x[i] = u;
            break;
        }
    }
    if (n == 0)
        return;
    if (fill == FILL_OUTLIER)
        x[check_random(c) % n] = 1e4f;
    if (fill == FILL_NAN)
        x[check_random(c) % n] = NAN;
}

void check_fill_bytes(struct check *c, void *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)x)[i] = (unsigned char)check_random(c);
}

bool check_wanted(const struct check *c, const char *kernel)
{
    return !c->only || strstr(kernel, c->only);
}

static void failed(struct check *c, const char *kernel, const char *what)
{
    c->n_failures++;
    printf("FAIL %s %s: %s", kernel, c->level, what);
}

void check_f32(struct check *c, const char *kernel, const char *what, const float *got,
               const float *want, size_t n)
{
    c->n_checks++;
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) == 0 || (isnan(got[i]) && isnan(want[i])))
            continue;
        failed(c, kernel, what);
        printf(", element %zu of %zu: %a, not %a\n", i, n, (double)got[i], (double)want[i]);
        return;
    }
}

void check_bytes(struct check *c, const char *kernel, const char *what, const void *got,
                 const void *want, size_t n)
{
    const unsigned char *g = got, *w = want;
    c->n_checks++;
    for (size_t i = 0; i < n; i++)
        if (g[i] != w[i]) {
            failed(c, kernel, what);
            printf(", byte %zu of %zu: %u, not %u\n", i, n, g[i], w[i]);
            return;
        }
}

void check_true(struct check *c, const char *kernel, const char *what, bool ok)
{
    c->n_checks++;
    if (!ok) {
        failed(c, kernel, what);
        printf("\n");
    }
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

void check_bench(struct check *c, const char *kernel, const char *unit, void (*fn)(void *arg),
                 void *arg)
{
    double best = HUGE_VAL;
    size_t n = 1;
    for (int round = 0; round < 1500; round++) {
        const double start = now_ns();
        for (size_t i = 0; i < n; i++)
            fn(arg);
        const double took = now_ns() - start;
        best = took / (double)n < best ? took / (double)n : best;
        if (took < 1e4) /* short samples: the best of them was not interrupted */
            n *= 2;
    }
    printf("%-17s %-8s %-14s %10.1f ns\n", kernel, c->level, unit, best);
}
