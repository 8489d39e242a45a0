/* book.c: the file that a spec names with book=. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

static bool read_file(const char *name, char **bytes, size_t *n_bytes)
{
    FILE *f = fopen(name, "rb");
    if (f == NULL) {
        return false;
    }
    long size = -1;
    if (fseek(f, 0, SEEK_END) == 0) {
        size = ftell(f);
    }
    *bytes = size > 0 && fseek(f, 0, SEEK_SET) == 0 ? malloc((size_t)size) : NULL;
    *n_bytes = *bytes != NULL ? fread(*bytes, 1, (size_t)size, f) : 0;
    fclose(f);
    return *bytes != NULL && *n_bytes == (size_t)size;
}

static bool wants_book(tkv_codec codec)
{
    for (uint32_t i = 0; i < tkv_codec_count(); i++) {
        tkv_codec_info info = {.struct_size = sizeof(info)};
        if (tkv_codec_describe(i, &info) == TKV_OK && info.id == codec.id) {
            return info.needs_book;
        }
    }
    return false;
}

/* Codecs that can do without say so once; the others fail with a message of their own. */
static void tell_missing(const tkv_spec *spec)
{
    if (wants_book(spec->k) || wants_book(spec->v)) {
        tkg_log(
            GGML_LOG_LEVEL_WARN,
            "no book for this model: keys and values are coded in a fixed rotation, which "
            "loses four times as much or more; run tightkv calibrate MODEL --text FILE -o BOOK and "
            "add book=BOOK to the spec");
    }
}

bool tkg_book_open(struct tkg_buffer *buffer, tkv_error *err)
{
    const char *name = buffer->spec.book;
    if (*name == '\0') {
        tell_missing(&buffer->spec);
        return true;
    }
    if (!read_file(name, &buffer->book_bytes, &buffer->book_n_bytes)) {
        snprintf(err->text, sizeof(err->text), "cannot read the book %.180s: %s", name,
                 strerror(errno));
        return false;
    }
    return tkv_book_open(buffer->ctx, buffer->book_bytes, buffer->book_n_bytes, &buffer->book,
                         err) == TKV_OK &&
           tkv_cache_set_book(buffer->cache, buffer->book, err) == TKV_OK;
}

void tkg_book_close(struct tkg_buffer *buffer)
{
    tkv_book_close(buffer->book);
    free(buffer->book_bytes);
    buffer->book = NULL;
    buffer->book_bytes = NULL;
}
