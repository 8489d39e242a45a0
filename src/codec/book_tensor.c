#include "codec/book_tensor.h"

#include <stdio.h>

bool tkv_book_tensor_of(const struct tkv_gguf *book, const char *prefix, tkv_kind kind,
                        const struct tkv_place *place, const char *what, char name[TKV_BOOK_NAME],
                        struct tkv_gguf_tensor *out)
{
    const char letter = kind == TKV_K ? 'k' : 'v';
    const unsigned layer = place->layer;
    snprintf(name, TKV_BOOK_NAME, "%sblk.%u.attn_%c.visual.%s", prefix, layer, letter, what);
    if (place->klass == TKV_SPAN_VISUAL && tkv_gguf_tensor(book, name, out))
        return true;
    snprintf(name, TKV_BOOK_NAME, "%sblk.%u.attn_%c.%s", prefix, layer, letter, what);
    return tkv_gguf_tensor(book, name, out);
}
