/* positions.c: the positions of the rows that a node writes or asks for. The graph does not hand
 * them to us, but the ROPE node that made the rows has them. Models without ROPE, or with one
 * behind operations not listed here, give none. */
#include "plugin.h"

/* True for operations that pass the rows of their first operand on. */
static bool carries_rows(const struct ggml_tensor *t)
{
    switch (t->op) {
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
    case GGML_OP_CONT:
    case GGML_OP_CPY:
    case GGML_OP_DUP:
    case GGML_OP_CONCAT:
    case GGML_OP_SCALE:
    case GGML_OP_MUL:
    case GGML_OP_NORM:
    case GGML_OP_RMS_NORM:
    case GGML_OP_L2_NORM:
    case GGML_OP_PAD:
        return true;
    default:
        return false;
    }
}

struct ggml_tensor *tkg_positions_tensor(const struct ggml_tensor *t)
{
    for (int depth = 0; t != NULL && depth < 16; depth++) {
        if (t->op == GGML_OP_ROPE) {
            return t->src[1];
        }
        t = carries_rows(t) ? t->src[0] : NULL;
    }
    return NULL;
}

const int32_t *tkg_positions(const struct ggml_tensor *t, int64_t n)
{
    const struct ggml_tensor *pos = tkg_positions_tensor(t);
    /* Multi-axis positions come as planes of n; the first is the one that counts along the text. */
    const bool usable = pos != NULL && pos->type == GGML_TYPE_I32 && pos->ne[0] >= n &&
                        pos->data != NULL && pos->buffer != NULL &&
                        ggml_backend_buffer_is_host(pos->buffer);
    return usable ? pos->data : NULL;
}
