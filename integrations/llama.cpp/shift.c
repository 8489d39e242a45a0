/* shift.c: context shift. llama.cpp rotates the keys of a whole layer in place, most of them by
 * nothing. Only rows that move are decoded, rotated by ggml's own ROPE and written back, with their
 * new positions. */
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

#define CHUNK_ROWS 512

static bool shift_fits(const struct tkg_root *root, const struct ggml_tensor *node)
{
    const struct ggml_tensor *rows = node->src[0], *shifts = node->src[1];
    const int64_t n_rows = root->n_slots * root->n_streams;
    return tkg_root_of(rows) == root && rows->view_offs == node->view_offs && root->kind == TKV_K &&
           node->type == GGML_TYPE_F16 && node->view_offs < root->row_bytes &&
           node->ne[2] == n_rows && node->nb[2] == root->row_bytes && node->ne[3] == 1 &&
           shifts->type == GGML_TYPE_I32 && shifts->ne[0] == n_rows;
}

struct chunk {
    size_t n;
    int64_t slots[CHUNK_ROWS];
    int32_t shifts[CHUNK_ROWS];
    int32_t pos[TKG_AXES * CHUNK_ROWS];
    uint8_t klass[CHUNK_ROWS];
    bool pos_known;
    char *rows;
};

/* Every layer of a cache is shifted by the same amounts; the first one moves the positions. */
static void move_positions(struct tkg_root *root, const int32_t *shifts)
{
    struct tkg_cells *cells = root->cells;
    root->n_shifts++;
    if (root->n_shifts <= cells->n_shifts) {
        return;
    }
    cells->n_shifts = root->n_shifts;
    for (int64_t i = 0; i < cells->n_slots * cells->n_streams; i++) {
        if (shifts[i] != 0 && cells->pos[i] > 0) {
            struct tkg_cell cell;
            tkg_cell_get(cells, i, &cell);
            for (uint32_t axis = 0; axis < cells->n_axes; axis++) {
                cell.pos[axis] += shifts[i];
            }
            cell.pos[0] = cell.pos[0] >= 0 ? cell.pos[0] : -1;
            tkg_cell_set(cells, i, &cell);
        }
    }
}

static bool rotate(struct tkg_backend *be, const struct tkg_root *root,
                   const struct ggml_tensor *node, struct chunk *c)
{
    struct ggml_tensor shifts = *node->src[1];
    shifts.ne[0] = (int64_t)c->n;
    shifts.nb[1] = shifts.nb[2] = shifts.nb[3] = c->n * sizeof(int32_t);
    shifts.data = c->shifts;
    struct ggml_tensor rope = *node;
    rope.ne[2] = (int64_t)c->n;
    rope.nb[3] = c->n * root->row_bytes;
    rope.data = c->rows + node->view_offs;
    rope.buffer = NULL;
    rope.extra = NULL;
    struct ggml_tensor rows = rope;
    rows.op = GGML_OP_NONE;
    rope.src[0] = &rows;
    rope.src[1] = &shifts;
    return tkg_cpu_compute(be, &rope) == GGML_STATUS_SUCCESS;
}

static bool shift_chunk(struct tkg_backend *be, struct tkg_root *root,
                        const struct ggml_tensor *node, struct chunk *c)
{
    const struct tkg_rows rows = {
        c->n, c->slots, c->pos_known ? c->pos : NULL, c->klass, c->rows, TKV_F16, root->row_bytes};
    tkv_error err = {{0}};
    return tkv_cache_read(root->buffer->cache, root->layer, TKV_K, c->n, c->slots, c->rows, TKV_F16,
                          root->row_bytes, &err) == TKV_OK &&
           rotate(be, root, node, c) && tkg_rows_put(root, &rows);
}

static bool shift_all(struct tkg_backend *be, struct tkg_root *root, const struct ggml_tensor *node,
                      struct chunk *c)
{
    const int32_t *shifts = node->src[1]->data;
    const int64_t n_rows = node->src[1]->ne[0];
    for (int64_t slot = 0; slot < n_rows;) {
        c->n = 0;
        for (; slot < n_rows && c->n < CHUNK_ROWS; slot++) {
            if (shifts[slot] != 0) {
                c->slots[c->n] = slot;
                c->shifts[c->n] = shifts[slot];
                c->klass[c->n] = root->cells->klass[slot];
                c->n++;
            }
        }
        c->pos_known = tkg_cells_get(root->cells, c->slots, c->n, c->pos);
        if (c->n > 0 && !shift_chunk(be, root, node, c)) {
            return false;
        }
        /* Pages close again as the shift goes on, so that no layer is ever all exact. */
        if (!tkg_rows_seal(root)) {
            return false;
        }
    }
    return true;
}

enum ggml_status tkg_shift(struct tkg_backend *be, struct ggml_tensor *node)
{
    struct tkg_root *root = tkg_root_of(node);
    if (!shift_fits(root, node)) {
        return tkg_fallback(be, node);
    }
    struct chunk *c = malloc(sizeof(*c));
    if (c != NULL) {
        c->rows = malloc(CHUNK_ROWS * root->row_bytes);
    }
    if (c == NULL || c->rows == NULL) {
        free(c);
        return GGML_STATUS_ALLOC_FAILED;
    }
    tkg_buffer_threads(root->buffer, be->n_threads);
    move_positions(root, node->src[1]->data);
    const bool ok = shift_all(be, root, node, c);
    free(c->rows);
    free(c);
    return ok ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
}
