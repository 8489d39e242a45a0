/* root_io.c: a root as ggml sees it, bytes of f16 rows. llama.cpp saves, restores and copies caches
 * by byte ranges of them, mostly whole rows; what is not whole is read, changed and written back.
 * Rows that come this way carry no position: memo.c knows those that went out before. */
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

/* Rows handled at once: bounds the temporary memory. */
#define CHUNK_ROWS 256

static int64_t n_rows_of(const struct tkg_root *root)
{
    return root->n_slots * root->n_streams;
}

static bool failed(const struct tkg_root *root, const char *what, const tkv_error *err)
{
    if (tkg_first_time(TKG_ONCE_WRITE_FAILED)) {
        tkg_log(GGML_LOG_LEVEL_ERROR, "%s: %s: %s", root->name, what, err->text);
    }
    return false;
}

bool tkg_rows_put(struct tkg_root *root, const struct tkg_rows *rows)
{
    tkv_error err = {{0}};
    const tkv_rows some = {rows->data, rows->type, rows->stride};
    const tkv_rows none = {NULL, rows->type, 0};
    const bool is_k = root->kind == TKV_K;
    const tkv_status status =
        tkv_cache_write(root->buffer->cache, root->layer, rows->n, rows->slots, rows->pos,
                        rows->klass, is_k ? some : none, is_k ? none : some, &err);
    if (status != TKV_OK) {
        return failed(root, "rows not written", &err);
    }
    if (is_k) {
        tkg_watch_rows(root, rows);
    }
    return true;
}

bool tkg_rows_seal(struct tkg_root *root)
{
    tkv_error err = {{0}};
    const tkv_status status = tkv_cache_seal(root->buffer->cache, root->layer, &err);
    if (tkg_is_disk_error(status)) {
        tkg_log(GGML_LOG_LEVEL_ERROR, "%s: pages not stored: %s", root->name, err.text);
        return false;
    }
    if (status != TKV_OK && tkg_first_time(TKG_ONCE_SEAL_NOMEM)) {
        tkg_log(GGML_LOG_LEVEL_WARN, "%s: pages stay f16 for now: %s", root->name, err.text);
    }
    return true;
}

/* ---- reading ---------------------------------------------------------------------------- */

static void first_slots(int64_t *slots, int64_t first, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        slots[i] = first + (int64_t)i;
    }
}

static bool get_rows(struct tkg_root *root, int64_t first, size_t n, void *out)
{
    int64_t slots[CHUNK_ROWS];
    tkv_error err = {{0}};
    first_slots(slots, first, n);
    if (tkv_cache_read(root->buffer->cache, root->layer, root->kind, n, slots, out, TKV_F16,
                       root->row_bytes, &err) != TKV_OK) {
        return failed(root, "rows not read", &err);
    }
    if (root == root->cells->first) {
        for (size_t i = 0; i < n; i++) {
            struct tkg_cell cell;
            tkg_cell_get(root->cells, first + (int64_t)i, &cell);
            if (cell.pos[0] >= 0) {
                tkg_memo_add(root->cells->memo, (const char *)out + i * root->row_bytes,
                             root->row_bytes, cell);
            }
        }
    }
    return true;
}

/* Calls get_rows() for whole rows in place, and through `edge` for the partial ones at both ends.
 */
static bool read_coded(struct tkg_root *root, size_t offset, size_t bytes, char *out, char *edge)
{
    while (bytes > 0) {
        const int64_t row = (int64_t)(offset / root->row_bytes);
        const size_t skip = offset % root->row_bytes;
        size_t n_bytes;
        if (skip != 0 || bytes < root->row_bytes) {
            n_bytes = root->row_bytes - skip < bytes ? root->row_bytes - skip : bytes;
            if (!get_rows(root, row, 1, edge)) {
                return false;
            }
            memcpy(out, edge + skip, n_bytes);
        } else {
            size_t n = bytes / root->row_bytes;
            n = n < CHUNK_ROWS ? n : CHUNK_ROWS;
            n_bytes = n * root->row_bytes;
            if (!get_rows(root, row, n, out)) {
                return false;
            }
        }
        out += n_bytes;
        offset += n_bytes;
        bytes -= n_bytes;
    }
    return true;
}

static bool in_range(const struct tkg_root *root, size_t offset, size_t bytes)
{
    const size_t all = root->row_bytes * (size_t)n_rows_of(root);
    return offset <= all && bytes <= all - offset;
}

bool tkg_rows_read(struct tkg_root *root, size_t offset, size_t bytes, void *out)
{
    tkg_buffer_settle(root->buffer);
    if (!in_range(root, offset, bytes)) {
        return false;
    }
    if (root->storage == TKG_PLAIN) {
        if (root->plain != NULL) {
            memcpy(out, root->plain + offset, bytes);
        }
        return root->plain != NULL;
    }
    char *edge = malloc(root->row_bytes);
    const bool ok = edge != NULL && read_coded(root, offset, bytes, out, edge);
    free(edge);
    return ok;
}

/* ---- writing ---------------------------------------------------------------------------- */

/* Positions and classes of restored rows: found by their bytes for the first root of the cells, and
 * taken over by the others. */
static void restore_cells(struct tkg_root *root, int64_t first, size_t n, const char *rows)
{
    struct tkg_cells *cells = root->cells;
    for (size_t i = 0; i < n && root == cells->first; i++) {
        struct tkg_cell cell;
        if (!tkg_memo_find(cells->memo, rows + i * root->row_bytes, root->row_bytes, &cell)) {
            cell = (struct tkg_cell){{-1}, TKV_SPAN_TEXT};
        }
        tkg_cell_set(cells, first + (int64_t)i, &cell);
    }
}

/* What a write needs beside the rows themselves. */
struct writer {
    char *edge;   /* [1] row of the root that is written in part */
    char *values; /* [CHUNK_ROWS] rows of V that go along with K */
};

/* Keys come layer by layer before any values do. They are written together with the values that
 * are there, so that pages are whole and seal: otherwise a restored cache would be all f16 until
 * its last layer has come. */
static bool put_keys(struct tkg_root *k, const struct tkg_rows *keys, char *values)
{
    const struct tkg_root *v = k->pair;
    tkv_cache *cache = k->buffer->cache;
    tkv_error err = {{0}};
    if (tkv_cache_read(cache, k->layer, TKV_V, keys->n, keys->slots, values, TKV_F16, v->row_bytes,
                       &err) != TKV_OK ||
        tkv_cache_write(cache, k->layer, keys->n, keys->slots, keys->pos, keys->klass,
                        (tkv_rows){keys->data, keys->type, keys->stride},
                        (tkv_rows){values, TKV_F16, v->row_bytes}, &err) != TKV_OK) {
        return failed(k, "rows not written", &err);
    }
    tkg_watch_rows(k, keys);
    return true;
}

static bool put_rows(struct tkg_root *root, int64_t first, size_t n, const char *rows,
                     const struct writer *w)
{
    int64_t slots[CHUNK_ROWS];
    int32_t pos[TKG_AXES * CHUNK_ROWS];
    first_slots(slots, first, n);
    const struct tkg_rows put = {
        .n = n,
        .slots = slots,
        .pos = tkg_cells_get(root->cells, slots, n, pos) ? pos : NULL,
        .klass = root->cells->klass + first,
        .data = rows,
        .type = TKV_F16,
        .stride = root->row_bytes,
    };
    const bool ok =
        root->kind == TKV_K ? put_keys(root, &put, w->values) : tkg_rows_put(root, &put);
    return tkg_rows_seal(root) && ok;
}

/* Writes what fits into one row (a part of it) or one chunk that ends with a page; returns the
 * bytes done, 0 on failure. */
static size_t write_some(struct tkg_root *root, size_t offset, size_t bytes, const char *in,
                         const struct writer *w)
{
    const int64_t row = (int64_t)(offset / root->row_bytes);
    const size_t skip = offset % root->row_bytes;
    if (skip != 0 || bytes < root->row_bytes) {
        const size_t rest = root->row_bytes - skip;
        const size_t n_bytes = rest < bytes ? rest : bytes;
        if (!get_rows(root, row, 1, w->edge)) {
            return 0;
        }
        memcpy(w->edge + skip, in, n_bytes);
        return put_rows(root, row, 1, w->edge, w) ? n_bytes : 0;
    }
    const size_t to_page_end = CHUNK_ROWS - (size_t)row % TKV_PAGE_TOKENS;
    size_t n = bytes / root->row_bytes;
    n = n < to_page_end ? n : to_page_end;
    restore_cells(root, row, n, in);
    return put_rows(root, row, n, in, w) ? n * root->row_bytes : 0;
}

static bool write_coded(struct tkg_root *root, size_t offset, size_t bytes, const char *in)
{
    struct writer w = {malloc(root->row_bytes), malloc(CHUNK_ROWS * root->pair->row_bytes)};
    bool ok = w.edge != NULL && w.values != NULL;
    while (ok && bytes > 0) {
        const size_t done = write_some(root, offset, bytes, in, &w);
        ok = done > 0;
        in += done;
        offset += done;
        bytes -= done;
    }
    free(w.edge);
    free(w.values);
    return ok;
}

bool tkg_rows_write(struct tkg_root *root, size_t offset, size_t bytes, const void *in)
{
    tkg_buffer_settle(root->buffer);
    if (!in_range(root, offset, bytes)) {
        return false;
    }
    if (root->storage == TKG_PLAIN) {
        if (root->plain != NULL) {
            memcpy(root->plain + offset, in, bytes);
        }
        return root->plain != NULL;
    }
    return write_coded(root, offset, bytes, in);
}

/* ---- copying, forgetting ---------------------------------------------------------------- */

static bool ranges_meet(int64_t a, int64_t b, int64_t n)
{
    return a < b + n && b < a + n;
}

bool tkg_rows_copy(struct tkg_root *root, int64_t dst, int64_t src, int64_t n)
{
    tkg_buffer_settle(root->buffer);
    if (root->storage == TKG_PLAIN) {
        if (root->plain != NULL) {
            memmove(root->plain + (size_t)dst * root->row_bytes,
                    root->plain + (size_t)src * root->row_bytes, (size_t)n * root->row_bytes);
        }
        return root->plain != NULL;
    }
    if (ranges_meet(dst, src, n)) {
        return dst == src;
    }
    /* The library copies keys and values together, llama.cpp asks for keys and then for values.
     * Values alone go the long way, as rows. */
    if (root->kind == TKV_V) {
        struct tkg_root *k = root->pair;
        const bool done = k->copied.n == n && k->copied.dst == dst && k->copied.src == src;
        k->copied.n = 0;
        return done;
    }
    tkv_error err = {{0}};
    if (tkv_cache_copy(root->buffer->cache, root->layer, dst, src, (size_t)n, &err) != TKV_OK) {
        return failed(root, "rows not copied", &err);
    }
    root->copied.dst = dst;
    root->copied.src = src;
    root->copied.n = n;
    tkg_watch_forget(root);
    for (uint32_t axis = 0; axis < root->cells->n_axes; axis++) {
        int32_t *pos = root->cells->pos + axis * n_rows_of(root);
        memmove(pos + dst, pos + src, (size_t)n * sizeof(*pos));
    }
    memmove(root->cells->klass + dst, root->cells->klass + src, (size_t)n);
    return true;
}

void tkg_rows_forget(struct tkg_root *root)
{
    if (root->storage == TKG_PLAIN) {
        tkg_map_clear(root->plain, root->plain_mapped);
    } else if (root->storage == TKG_CODED && root->kind == TKV_K) {
        tkg_watch_forget(root);
        tkv_error err = {{0}};
        if (tkv_cache_forget(root->buffer->cache, root->layer, 0, (size_t)n_rows_of(root), &err) !=
            TKV_OK) {
            (void)failed(root, "rows not forgotten", &err);
        }
    }
}
