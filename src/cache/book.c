/* Books: what a model's calibration learned, and the models that a layer's codecs read there. */
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "cache/cache.h"

#define BOOK_ARCHITECTURE "tightkv-book"
#define BOOK_VERSION      1

tkv_status tkv_book_open(tkv_context *ctx, const void *bytes, size_t n_bytes, tkv_book **out,
                         tkv_error *err)
{
    if (!ctx || !bytes || !out)
        return tkv_fail(err, TKV_ERR_INVALID, "ctx, bytes and out must not be NULL");
    struct tkv_gguf file;
    const tkv_status status = tkv_gguf_open(bytes, n_bytes, &file, err);
    if (status != TKV_OK)
        return status;
    char architecture[32];
    uint32_t version;
    if (!tkv_gguf_text(&file, "general.architecture", architecture, sizeof architecture) ||
        strcmp(architecture, BOOK_ARCHITECTURE) != 0)
        return tkv_fail(err, TKV_ERR_CORRUPT,
                        "a GGUF file, but no book: make one with tightkv calibrate");
    if (!tkv_gguf_u32(&file, "book.version", &version) || version != BOOK_VERSION)
        return tkv_fail(err, TKV_ERR_VERSION,
                        "a book of another version; this reads version %d: calibrate again",
                        BOOK_VERSION);
    tkv_book *book = tkv_alloc(&ctx->allocator, sizeof *book);
    if (!book)
        return tkv_fail_nomem(err, sizeof *book, "a book");
    *book = (tkv_book){ctx, file};
    *out = book;
    return TKV_OK;
}

void tkv_book_close(tkv_book *book)
{
    if (book)
        tkv_free(&book->ctx->allocator, book, sizeof *book);
}

tkv_status tkv_book_text(const tkv_book *book, const char *key, char *buf, size_t capacity)
{
    if (!book || !key || !buf)
        return TKV_ERR_INVALID;
    return tkv_gguf_text(&book->file, key, buf, capacity) ? TKV_OK : TKV_ERR_RANGE;
}

static const char *type_name(enum tkv_gguf_type type)
{
    switch (type) {
    case TKV_GGUF_F32:
        return "f32";
    case TKV_GGUF_F16:
        return "f16";
    case TKV_GGUF_I8:
        return "i8";
    case TKV_GGUF_I16:
        return "i16";
    case TKV_GGUF_I32:
        return "i32";
    }
    return "?";
}

tkv_status tkv_book_get_tensor(const tkv_book *book, uint64_t i, tkv_book_tensor *out)
{
    if (!book || !out || out->struct_size < sizeof *out)
        return TKV_ERR_INVALID;
    tkv_book_tensor found = {.struct_size = out->struct_size};
    struct tkv_gguf_tensor t;
    if (!tkv_gguf_tensor_name(&book->file, i, found.name, sizeof found.name) ||
        !tkv_gguf_tensor(&book->file, found.name, &t))
        return TKV_ERR_RANGE;
    found.type = type_name(t.type);
    memcpy(found.dims, t.dims, sizeof found.dims);
    found.n_values = t.n_values;
    found.n_bytes = tkv_gguf_bytes(&t);
    *out = found;
    return TKV_OK;
}

tkv_status tkv_book_read(const tkv_book *book, const char *name, size_t first, size_t n, float *out)
{
    struct tkv_gguf_tensor t;
    if (!book || !name || !out)
        return TKV_ERR_INVALID;
    if (!tkv_gguf_tensor(&book->file, name, &t) || first > t.n_values || n > t.n_values - first)
        return TKV_ERR_RANGE;
    tkv_gguf_read_f32(&t, first, n, out);
    return TKV_OK;
}

tkv_status tkv_cache_set_book(tkv_cache *cache, const tkv_book *book, tkv_error *err)
{
    if (!cache || cache->n_layers)
        return tkv_fail(err, TKV_ERR_INVALID, "a book comes before the first layer");
    cache->book = book;
    return TKV_OK;
}

static tkv_status bind_codec(tkv_cache *cache, struct tkv_layer *layer, uint8_t klass,
                             tkv_kind kind, tkv_error *err)
{
    struct tkv_layer_codec *codec = &layer->codec[klass][kind];
    const uint32_t n_heads = layer->shape.n_kv_heads;
    if (!cache->book && !(codec->ops->caps & TKV_CAP_BOOKLESS))
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "%s needs a book of this model: run tightkv calibrate MODEL --train %s",
                        codec->ops->name, codec->ops->trainer);
    codec->models = tkv_alloc_zero(&cache->ctx->allocator, n_heads * codec->model_bytes);
    if (!codec->models)
        return tkv_fail_nomem(err, n_heads * codec->model_bytes, "models from a book");
    const struct tkv_gguf *file = cache->book ? &cache->book->file : NULL;
    for (uint32_t head = 0; head < n_heads; head++) {
        const struct tkv_codec_env env = tkv_layer_env(cache, layer, klass, kind, head);
        const struct tkv_place place = {layer->shape.model_layer, head, n_heads, klass,
                                        cache->ctx->sign};
        const tkv_status status =
            codec->ops->bind(&env, file, &place, codec->models + head * codec->model_bytes, err);
        if (status != TKV_OK)
            return status;
    }
    return TKV_OK;
}

tkv_status tkv_layer_bind(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err)
{
    for (uint8_t klass = 0; klass < TKV_N_CLASSES; klass++)
        for (int kind = TKV_K; kind <= TKV_V; kind++) {
            if (!(layer->codec[klass][kind].ops->caps & TKV_CAP_BOOK))
                continue;
            const tkv_status status = bind_codec(cache, layer, klass, (tkv_kind)kind, err);
            if (status != TKV_OK)
                return status;
        }
    return TKV_OK;
}
