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

bool tkg_book_open(struct tkg_buffer *buffer, tkv_error *err)
{
    const char *name = buffer->spec.book;
    if (*name == '\0') {
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
