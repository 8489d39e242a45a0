/* Page decode: any bytes are safe to decode, and decode to the same floats on every CPU level. What
 * was decoded can be encoded again, to the same bytes on every CPU level, and stays put where the
 * codec promises that. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static const uint16_t head_dims[] = {16,  32,  48,  64, 80, 96, 112, 128,
                                     192, 256, 512, 0,  8,  17, 513};

struct page_case {
    tkv_context *ref, *native;
    tkv_codec_info info;
    tkv_codec codec;
    tkv_kind kind;
    uint32_t head_dim;
    size_t n_tokens, bytes, n_values;
};

/* The page: what the input says, and noise after its end. */
static uint8_t *page_bytes(struct fuzz_input *in, size_t bytes)
{
    uint8_t *page = fuzz_alloc(bytes);
    size_t n = in->size < bytes ? in->size : bytes;
    uint64_t state = 0x9e3779b97f4a7c15ull + n;
    memcpy(page, in->data, n);
    for (size_t i = n; i < bytes; i++)
        page[i] = (uint8_t)fuzz_random(&state);
    return page;
}

static tkv_status decode(tkv_context *ctx, const struct page_case *c, const uint8_t *page,
                         size_t bytes, void *rows, tkv_type type)
{
    size_t stride = c->head_dim * (type == TKV_F32 ? sizeof(float) : sizeof(uint16_t));
    return tkv_decode(ctx, c->codec, c->kind, c->head_dim, page, bytes, rows, type, stride,
                      c->n_tokens, NULL);
}

static tkv_status encode(tkv_context *ctx, const struct page_case *c, const void *rows,
                         tkv_type type, uint8_t *page)
{
    size_t stride = c->head_dim * (type == TKV_F32 ? sizeof(float) : sizeof(uint16_t));
    return tkv_encode(ctx, c->codec, c->kind, c->head_dim, rows, type, stride, c->n_tokens, page,
                      c->bytes, NULL);
}

static void check_same_floats(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        FUZZ_CHECK(memcmp(&a[i], &b[i], sizeof a[i]) == 0 || (isnan(a[i]) && isnan(b[i])));
}

/* A page cut short is refused and its rows are left alone. */
static void check_short(const struct page_case *c, const uint8_t *page)
{
    float *rows = fuzz_alloc(c->n_values * sizeof *rows);
    memset(rows, 0xa5, c->n_values * sizeof *rows);
    FUZZ_CHECK(decode(c->native, c, page, c->bytes - 1, rows, TKV_F32) == TKV_ERR_RANGE);
    for (size_t i = 0; i < c->n_values * sizeof *rows; i++)
        FUZZ_CHECK(((unsigned char *)rows)[i] == 0xa5);
    free(rows);
}

/* Rows as an engine saves them, f16: coded, restored and coded again they are the same bytes. */
static void check_idempotent(const struct page_case *c, const uint8_t *page)
{
    uint8_t *first = fuzz_alloc(c->bytes), *second = fuzz_alloc(c->bytes);
    uint16_t *half = fuzz_alloc(c->n_values * sizeof *half);
    FUZZ_CHECK(decode(c->native, c, page, c->bytes, half, TKV_F16) == TKV_OK);
    if (encode(c->native, c, half, TKV_F16, first) == TKV_OK) {
        FUZZ_CHECK(decode(c->native, c, first, c->bytes, half, TKV_F16) == TKV_OK);
        /* Rounding up to an infinity is all that may stop it now. */
        if (encode(c->native, c, half, TKV_F16, second) == TKV_OK)
            FUZZ_CHECK(memcmp(first, second, c->bytes) == 0);
    }
    free(half);
    free(second);
    free(first);
}

static void check_encode(const struct page_case *c, const float *rows)
{
    uint8_t *first = fuzz_alloc(c->bytes), *second = fuzz_alloc(c->bytes);
    bool codable = true;
    for (size_t i = 0; i < c->n_values; i++)
        codable = codable && fabsf(rows[i]) <= 65504.0f;
    tkv_status status = encode(c->ref, c, rows, TKV_F32, first);
    FUZZ_CHECK(status == (codable ? TKV_OK : TKV_ERR_NONFINITE));
    FUZZ_CHECK(encode(c->native, c, rows, TKV_F32, second) == status);
    if (codable)
        FUZZ_CHECK(memcmp(first, second, c->bytes) == 0);
    free(second);
    free(first);
}

static void check_page(const struct page_case *c, struct fuzz_input *in)
{
    uint8_t *page = page_bytes(in, c->bytes);
    float *rows = fuzz_alloc(c->n_values * sizeof *rows),
          *same = fuzz_alloc(c->n_values * sizeof *same);
    FUZZ_CHECK(decode(c->ref, c, page, c->bytes, rows, TKV_F32) == TKV_OK);
    FUZZ_CHECK(decode(c->native, c, page, c->bytes, same, TKV_F32) == TKV_OK);
    check_same_floats(rows, same, c->n_values);
    check_short(c, page);
    check_encode(c, rows);
    if (c->info.idempotent)
        check_idempotent(c, page);
    free(same);
    free(rows);
    free(page);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct page_case c = {.info = {.struct_size = sizeof c.info}};
    FUZZ_CHECK(tkv_codec_describe(fuzz_below(&in, tkv_codec_count()), &c.info) == TKV_OK);
    uint32_t flags = fuzz_u8(&in);
    c.codec = (tkv_codec){c.info.id, flags & 1 ? TKV_CODEC_NO_ROTATION : 0};
    c.kind = flags & 2 ? TKV_V : TKV_K;
    c.head_dim = head_dims[fuzz_below(&in, sizeof head_dims / sizeof head_dims[0])];
    c.n_tokens = 1 + fuzz_below(&in, TKV_PAGE_TOKENS);
    c.n_values = c.n_tokens * c.head_dim;
    /* Pages that need a book to be read are refused: fuzz_book reads those. */
    c.bytes = c.info.needs_book ? 0 : tkv_page_bytes(c.codec, c.kind, c.head_dim);
    c.ref = fuzz_context(0);
    c.native = fuzz_context(TKV_CPU_ALL);
    if (c.bytes) {
        check_page(&c, &in);
    } else {
        float none;
        uint8_t byte = 0;
        FUZZ_CHECK(tkv_decode(c.native, c.codec, c.kind, c.head_dim, &byte, 1, &none, TKV_F32, 0, 1,
                              NULL) == TKV_ERR_UNSUPPORTED);
    }
    tkv_context_destroy(c.native);
    tkv_context_destroy(c.ref);
    return 0;
}
