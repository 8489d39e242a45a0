/* Codecs without a cache: describing them, coding and decoding pages. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/status.h"
#include "cache/context.h"
#include "codec/codec.h"
#include "format/rvq.h"

uint32_t tkv_codec_count(void)
{
    return tkv_codec_registry_count();
}

tkv_status tkv_codec_describe(uint32_t i, tkv_codec_info *out)
{
    const struct tkv_codec_ops *ops = tkv_codec_by_index(i);
    if (!ops || !out || out->struct_size != sizeof *out)
        return TKV_ERR_INVALID;
    *out = (tkv_codec_info){
        .struct_size = sizeof *out,
        .id = ops->id,
        .name = ops->name,
        .summary = ops->summary,
        .whole_page = !!(ops->caps & TKV_CAP_WHOLE_PAGE),
        .idempotent = !!(ops->caps & TKV_CAP_IDEMPOTENT),
        .rotates = !!(ops->caps & TKV_CAP_ROTATES),
        .fused = ops->tile_i8 || ops->ranges,
        .needs_book = !!(ops->caps & TKV_CAP_BOOK),
    };
    return TKV_OK;
}

size_t tkv_page_bytes(tkv_codec codec, tkv_kind kind, uint32_t head_dim)
{
    const struct tkv_codec_ops *ops = tkv_codec_by_id(codec.id);
    if (!ops || !ops->supports(head_dim, kind))
        return 0;
    return ops->usual_bytes ? ops->usual_bytes(head_dim, kind) : ops->page_bytes(head_dim, kind);
}

/* One call's codec and working memory. */
struct work {
    const struct tkv_codec_ops *ops;
    struct tkv_codec_env env;
    bool rotates;
    const float *sign;
    size_t page_bytes, scratch_bytes;
    float *x; /* [64][head_dim], codec scratch behind */
};

static tkv_status begin(tkv_context *ctx, tkv_codec codec, tkv_kind kind, uint32_t head_dim,
                        struct work *w, tkv_error *err)
{
    const struct tkv_codec_ops *ops = tkv_codec_by_id(codec.id);
    if (!ctx || !ops)
        return tkv_fail(err, TKV_ERR_INVALID, "no context, or no codec with id %u", codec.id);
    if (kind == TKV_V && ops->caps & TKV_CAP_KEYS_ONLY)
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "%s codes keys only: give values a codec of their own, such as turbo4",
                        ops->name);
    if (ops->caps & TKV_CAP_BOOK)
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "%s codes with a book, in a cache: see tkv_cache_set_book()", ops->name);
    if (!ops->supports(head_dim, kind))
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "%s cannot code head size %u: a multiple of 16 up to %d is needed",
                        ops->name, head_dim, TKV_MAX_HEAD_DIM);
    *w = (struct work){
        .ops = ops,
        .env = {.kernels = &ctx->kernels, .head_dim = head_dim, .kind = kind, .flags = codec.flags},
        .rotates = (ops->caps & TKV_CAP_ROTATES) && !(codec.flags & TKV_CODEC_NO_ROTATION),
        .sign = ctx->sign,
        .page_bytes = ops->page_bytes(head_dim, kind),
    };
    const size_t rows = tkv_align_up(sizeof(float) * TKV_PAGE_TOKENS * head_dim);
    w->scratch_bytes = rows + (ops->scratch_bytes ? ops->scratch_bytes(head_dim) : 0);
    w->x = tkv_alloc(&ctx->allocator, w->scratch_bytes);
    return w->x ? TKV_OK : tkv_fail_nomem(err, w->scratch_bytes, "scratch");
}

static size_t n_pages(size_t n_tokens)
{
    return n_tokens / TKV_PAGE_TOKENS + (n_tokens % TKV_PAGE_TOKENS != 0);
}

static void load_rows(const struct work *w, const uint8_t *rows, tkv_type type, size_t stride,
                      size_t n)
{
    const uint32_t D = w->env.head_dim;
    for (size_t t = 0; t < n; t++) {
        if (type == TKV_F16)
            w->env.kernels->f16_to_f32((const uint16_t *)(const void *)(rows + t * stride),
                                       w->x + t * D, D);
        else
            memcpy(w->x + t * D, rows + t * stride, (size_t)D * sizeof(float));
    }
    memset(w->x + n * D, 0, (TKV_PAGE_TOKENS - n) * (size_t)D * sizeof(float));
}

/* Whether f16 can hold every value of a row: in integers, which compilers turn into vectors. */
static bool fits_f16(const uint8_t *row, tkv_type type, size_t D)
{
    uint32_t bad = 0;
    if (type == TKV_F16)
        for (size_t d = 0; d < D; d++) {
            uint16_t h;
            memcpy(&h, row + d * sizeof h, sizeof h);
            bad |= (h & 0x7fffu) > 0x7bffu; /* beyond 65504: infinity or NaN */
        }
    else
        for (size_t d = 0; d < D; d++) {
            uint32_t u;
            memcpy(&u, row + d * sizeof u, sizeof u);
            bad |= (u & 0x7fffffffu) > 0x477fe000u; /* the same in f32 */
        }
    return bad == 0;
}

static tkv_status check_rows(const uint8_t *rows, tkv_type type, size_t stride, size_t n_tokens,
                             size_t D, tkv_error *err)
{
    for (size_t t = 0; t < n_tokens; t++)
        if (!fits_f16(rows + t * stride, type, D))
            return tkv_fail(err, TKV_ERR_NONFINITE,
                            "a value of token %zu is NaN, infinite or over 65504", t);
    return TKV_OK;
}

static void encode_pages(const struct work *w, const uint8_t *rows, tkv_type type, size_t stride,
                         size_t n_tokens, uint8_t *pages)
{
    const size_t D = w->env.head_dim;
    void *scratch = (uint8_t *)w->x + tkv_align_up(sizeof(float) * TKV_PAGE_TOKENS * D);
    for (size_t p = 0; p < n_pages(n_tokens); p++) {
        const size_t first = p * TKV_PAGE_TOKENS;
        const size_t n = n_tokens - first < TKV_PAGE_TOKENS ? n_tokens - first : TKV_PAGE_TOKENS;
        load_rows(w, rows + first * stride, type, stride, n);
        if (w->rotates)
            w->env.kernels->rotate(w->x, TKV_PAGE_TOKENS, w->env.head_dim, w->sign);
        w->ops->encode(&w->env, w->x, tkv_first_bits(n), pages + p * w->page_bytes, scratch);
    }
}

tkv_status tkv_encode(tkv_context *ctx, tkv_codec codec, tkv_kind kind, uint32_t head_dim,
                      const void *rows, tkv_type type, size_t row_stride, size_t n_tokens,
                      void *pages, size_t capacity, tkv_error *err)
{
    struct work w;
    tkv_status status = begin(ctx, codec, kind, head_dim, &w, err);
    if (status != TKV_OK)
        return status;
    if (n_pages(n_tokens) > capacity / w.page_bytes)
        status = tkv_fail(err, TKV_ERR_RANGE,
                          "%zu tokens need %zu pages of %zu bytes, the buffer has %zu bytes",
                          n_tokens, n_pages(n_tokens), w.page_bytes, capacity);
    if (status == TKV_OK)
        status = check_rows(rows, type, row_stride, n_tokens, head_dim, err);
    if (status == TKV_OK)
        encode_pages(&w, rows, type, row_stride, n_tokens, pages);
    tkv_free(&ctx->allocator, w.x, w.scratch_bytes);
    return status;
}

tkv_status tkv_decode(tkv_context *ctx, tkv_codec codec, tkv_kind kind, uint32_t head_dim,
                      const void *pages, size_t n_bytes, void *rows, tkv_type type,
                      size_t row_stride, size_t n_tokens, tkv_error *err)
{
    struct work w;
    tkv_status status = begin(ctx, codec, kind, head_dim, &w, err);
    if (status != TKV_OK)
        return status;
    if (n_pages(n_tokens) > n_bytes / w.page_bytes)
        status = tkv_fail(err, TKV_ERR_RANGE,
                          "%zu tokens are %zu pages of %zu bytes, there are only %zu bytes",
                          n_tokens, n_pages(n_tokens), w.page_bytes, n_bytes);
    for (size_t t = 0; t < n_tokens && status == TKV_OK; t++) {
        if (t % TKV_PAGE_TOKENS == 0) {
            w.ops->decode(&w.env, (const uint8_t *)pages + t / TKV_PAGE_TOKENS * w.page_bytes, w.x);
            if (w.rotates)
                w.env.kernels->unrotate(w.x, TKV_PAGE_TOKENS, head_dim, w.sign);
        }
        const float *x = w.x + t % TKV_PAGE_TOKENS * head_dim;
        uint8_t *out = (uint8_t *)rows + t * row_stride;
        if (type == TKV_F16)
            w.env.kernels->f32_to_f16(x, (uint16_t *)(void *)out, head_dim);
        else
            memcpy(out, x, head_dim * sizeof(float));
    }
    tkv_free(&ctx->allocator, w.x, w.scratch_bytes);
    return status;
}

tkv_status tkv_rvq_nearest(const tkv_context *ctx, const int8_t *codes, const int8_t *rows,
                           size_t n_rows, uint16_t *nearest)
{
    enum {
        BLOCK = 128
    };
    int8_t some[BLOCK][TKV_RVQ_DIM];
    int32_t best[BLOCK][TKV_RVQ_CLASSES];
    uint32_t at[BLOCK][TKV_RVQ_CLASSES];
    if (!ctx || !codes || ((!rows || !nearest) && n_rows))
        return TKV_ERR_INVALID;
    for (size_t first = 0; first < n_rows; first += BLOCK) {
        const size_t n = n_rows - first < BLOCK ? n_rows - first : BLOCK;
        memset(some, 0, sizeof some); /* the kernel takes rows by four */
        memcpy(some, rows + first * TKV_RVQ_DIM, n * TKV_RVQ_DIM);
        ctx->kernels.rvq_nearest(codes, some[0], (n + 3) / 4 * 4, best[0], at[0]);
        for (size_t i = 0; i < n; i++)
            nearest[first + i] = (uint16_t)tkv_rvq_first(best[i], at[i]);
    }
    return TKV_OK;
}
