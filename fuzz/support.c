#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

enum { ALIGNMENT = 64 };

uint8_t fuzz_u8(struct fuzz_input *in)
{
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

uint16_t fuzz_u16(struct fuzz_input *in)
{
    uint32_t low = fuzz_u8(in);
    return (uint16_t)(low | (uint32_t)fuzz_u8(in) << 8);
}

uint64_t fuzz_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

float fuzz_uniform(uint64_t *state)
{
    return (float)(fuzz_random(state) >> 40) * 0x1p-23f - 1.0f;
}

void *fuzz_alloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    FUZZ_CHECK(p != NULL);
    return p;
}

/* Blocks remember their size in front of them, one alignment unit long. */
static void *sized_alloc(void *user, size_t bytes)
{
    (void)user;
    size_t whole = (bytes + 2 * ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    char *p = aligned_alloc(ALIGNMENT, whole);
    if (!p)
        return NULL;
    memcpy(p, &bytes, sizeof bytes);
    return p + ALIGNMENT;
}

static void sized_free(void *user, void *ptr, size_t bytes)
{
    (void)user;
    if (!ptr)
        return;
    char *p = (char *)ptr - ALIGNMENT;
    size_t asked;
    memcpy(&asked, p, sizeof asked);
    FUZZ_CHECK(asked == bytes);
    free(p);
}

tkv_context *fuzz_context(uint32_t cpu_mask)
{
    tkv_context_params params;
    tkv_context *ctx = NULL;
    tkv_context_params_default(&params);
    params.cpu_mask = cpu_mask;
    params.allocator = (tkv_allocator){NULL, sized_alloc, sized_free};
    FUZZ_CHECK(tkv_context_create(&params, &ctx, NULL) == TKV_OK);
    return ctx;
}

void fuzz_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    abort();
}
