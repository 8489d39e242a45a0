/* What a codec looks for in a book: the tensors of a layer's keys or values. */
#ifndef TKV_BOOK_TENSOR_H
#define TKV_BOOK_TENSOR_H

#include "codec/codec.h"

enum {
    TKV_BOOK_NAME = 96 /* room for a tensor's name */
};

/* Finds "<prefix>blk.3.attn_k.<what>", or "attn_k.visual" for visual spans where the book was
 * calibrated for them: they share the text's otherwise. `name` receives what was found, or the
 * text's where nothing was. */
bool tkv_book_tensor_of(const struct tkv_gguf *book, const char *prefix, tkv_kind kind,
                        const struct tkv_place *place, const char *what, char name[TKV_BOOK_NAME],
                        struct tkv_gguf_tensor *out);

#endif
