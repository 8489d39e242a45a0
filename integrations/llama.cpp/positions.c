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

static const struct ggml_tensor *rope_above(const struct ggml_tensor *t)
{
    for (int depth = 0; t != NULL && depth < 16; depth++) {
        if (t->op == GGML_OP_ROPE) {
            return t;
        }
        t = carries_rows(t) ? t->src[0] : NULL;
    }
    return NULL;
}

struct ggml_tensor *tkg_positions_tensor(const struct ggml_tensor *t)
{
    const struct ggml_tensor *rope = rope_above(t);
    return rope != NULL ? rope->src[1] : NULL;
}

uint32_t tkg_position_axes(const struct ggml_tensor *t)
{
    const struct ggml_tensor *rope = rope_above(t);
    return rope != NULL && (rope->op_params[2] & GGML_ROPE_TYPE_MROPE) != 0 ? TKG_AXES : 1;
}

const int32_t *tkg_positions(const struct ggml_tensor *t, int64_t n)
{
    const struct ggml_tensor *pos = tkg_positions_tensor(t);
    const bool usable = pos != NULL && pos->type == GGML_TYPE_I32 && pos->ne[0] >= n &&
                        pos->data != NULL && pos->buffer != NULL &&
                        ggml_backend_buffer_is_host(pos->buffer);
    return usable ? pos->data : NULL;
}

static size_t n_cells(const struct tkg_cells *cells)
{
    return (size_t)(cells->n_slots * cells->n_streams);
}

bool tkg_cells_get(const struct tkg_cells *cells, const int64_t *slots, size_t n, int32_t *pos)
{
    for (size_t i = 0; i < n; i++) {
        struct tkg_cell cell;
        tkg_cell_get(cells, slots[i], &cell);
        if (cell.pos[0] < 0) {
            return false;
        }
        for (uint32_t axis = 0; axis < cells->n_axes; axis++) {
            pos[axis * n + i] = cell.pos[axis];
        }
    }
    return true;
}

void tkg_cell_get(const struct tkg_cells *cells, int64_t slot, struct tkg_cell *out)
{
    *out = (struct tkg_cell){{cells->pos[slot] - 1}, cells->klass[slot]};
    for (uint32_t axis = 1; axis < cells->n_axes; axis++) {
        out->pos[axis] = cells->pos[axis * n_cells(cells) + (size_t)slot];
    }
}

void tkg_cell_set(struct tkg_cells *cells, int64_t slot, const struct tkg_cell *cell)
{
    cells->pos[slot] = cell->pos[0] + 1;
    cells->klass[slot] = cell->klass;
    for (uint32_t axis = 1; axis < cells->n_axes; axis++) {
        cells->pos[axis * n_cells(cells) + (size_t)slot] = cell->pos[axis];
    }
}
