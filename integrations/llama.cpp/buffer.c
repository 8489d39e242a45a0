/* buffer.c: the buffer type and its buffers. Memory is reserved and commits itself where it is
 * touched. A buffer in which llama.cpp places cache tensors gets a root for each; their addresses
 * are names only, and the bytes go through root_io.c. Everything else (outputs of attention, states
 * of recurrent layers) is plain memory.
 *
 * What a buffer reports as its size is what its coded tensors are estimated to need. ggml asserts
 * in debug builds that a tensor takes at least its nominal size; TIGHTKV_SIZE=nominal reports that
 * instead. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "plugin.h"

#define TENSOR_ALIGN 64

char *tkg_map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p != MAP_FAILED ? p : NULL;
}

void tkg_unmap(char *p, size_t bytes)
{
    if (p != NULL) {
        munmap(p, bytes);
    }
}

void tkg_map_clear(char *p, size_t bytes)
{
    if (p != NULL && madvise(p, bytes, MADV_DONTNEED) != 0) {
        memset(p, 0, bytes);
    }
}

/* ---- one buffer ------------------------------------------------------------------------- */

static void unlink_buffer(struct tkg_buffer *buffer)
{
    pthread_mutex_lock(&tkg_plugin.lock);
    for (struct tkg_buffer **b = &tkg_plugin.buffers; *b != NULL; b = &(*b)->next) {
        if (*b == buffer) {
            *b = buffer->next;
            break;
        }
    }
    pthread_mutex_unlock(&tkg_plugin.lock);
}

static void buffer_free(ggml_backend_buffer_t b)
{
    struct tkg_buffer *buffer = b->context;
    unlink_buffer(buffer);
    tkv_cache_destroy(buffer->cache);
    tkg_book_close(buffer);
    free(buffer->model);
    tkv_context_destroy(buffer->ctx);
    for (struct tkg_root *r = buffer->roots, *next; r != NULL; r = next) {
        next = r->next;
        tkg_root_destroy(r);
    }
    for (struct tkg_cells *c = buffer->cells, *next; c != NULL; c = next) {
        next = c->next;
        tkg_unmap((char *)c->pos, TKG_AXES * (size_t)(c->n_slots * c->n_streams) * sizeof(*c->pos));
        tkg_unmap((char *)c->klass, (size_t)(c->n_slots * c->n_streams));
        tkg_memo_destroy(c->memo);
        free(c);
    }
    tkg_unmap(buffer->base, buffer->mapped);
    free(buffer);
}

static void *buffer_base(ggml_backend_buffer_t b)
{
    const struct tkg_buffer *buffer = b->context;
    return buffer->base;
}

static enum ggml_status buffer_init_tensor(ggml_backend_buffer_t b, struct ggml_tensor *t)
{
    struct tkg_buffer *buffer = b->context;
    if (t->view_src != NULL) {
        t->extra = t->view_src->extra;
        return GGML_STATUS_SUCCESS;
    }
    t->extra = NULL;
    if (b->usage == GGML_BACKEND_BUFFER_USAGE_COMPUTE || !tkg_is_named_like_cache(t)) {
        return GGML_STATUS_SUCCESS;
    }
    if (t->type != GGML_TYPE_F16) {
        if (tkg_first_time(TKG_ONCE_TYPE)) {
            tkg_log(GGML_LOG_LEVEL_WARN,
                    "%s and others are %s: only f16 caches are coded, these stay as they are",
                    t->name, ggml_type_name(t->type));
        }
        return GGML_STATUS_SUCCESS;
    }
    if (buffer->ggml == NULL) {
        buffer->ggml = b;
        pthread_mutex_lock(&tkg_plugin.lock);
        buffer->spec = tkg_plugin.spec;
        buffer->next = tkg_plugin.buffers;
        tkg_plugin.buffers = buffer;
        pthread_mutex_unlock(&tkg_plugin.lock);
    }
    t->extra = tkg_root_create(buffer, t);
    return t->extra != NULL ? GGML_STATUS_SUCCESS : GGML_STATUS_ALLOC_FAILED;
}

/* ---- bytes in and out ------------------------------------------------------------------- */

static void buffer_get(ggml_backend_buffer_t b, const struct ggml_tensor *t, void *data,
                       size_t offset, size_t size)
{
    (void)b;
    struct tkg_root *root = tkg_root_of(t);
    if (root == NULL) {
        memcpy(data, (const char *)t->data + offset, size);
    } else if (!tkg_rows_read(root, t->view_offs + offset, size, data)) {
        tkg_log(GGML_LOG_LEVEL_ERROR, "%s could not be read; zeros instead", root->name);
        memset(data, 0, size);
    }
}

static void buffer_set(ggml_backend_buffer_t b, struct ggml_tensor *t, const void *data,
                       size_t offset, size_t size)
{
    (void)b;
    struct tkg_root *root = tkg_root_of(t);
    if (root == NULL) {
        memcpy((char *)t->data + offset, data, size);
    } else if (!tkg_rows_write(root, t->view_offs + offset, size, data)) {
        tkg_log(GGML_LOG_LEVEL_ERROR, "%s could not be written", root->name);
    }
}

static void buffer_get_2d(ggml_backend_buffer_t b, const struct ggml_tensor *t, void *data,
                          size_t offset, size_t size, size_t n_copies, size_t stride_tensor,
                          size_t stride_data)
{
    for (size_t i = 0; i < n_copies; i++) {
        buffer_get(b, t, (char *)data + i * stride_data, offset + i * stride_tensor, size);
    }
}

static void buffer_set_2d(ggml_backend_buffer_t b, struct ggml_tensor *t, const void *data,
                          size_t offset, size_t size, size_t n_copies, size_t stride_tensor,
                          size_t stride_data)
{
    for (size_t i = 0; i < n_copies; i++) {
        buffer_set(b, t, (const char *)data + i * stride_data, offset + i * stride_tensor, size);
    }
}

static void buffer_memset(ggml_backend_buffer_t b, struct ggml_tensor *t, uint8_t value,
                          size_t offset, size_t size)
{
    if (tkg_root_of(t) == NULL) {
        memset((char *)t->data + offset, value, size);
        return;
    }
    char block[4096];
    memset(block, value, sizeof(block));
    for (size_t done = 0; done < size; done += sizeof(block)) {
        const size_t n = size - done < sizeof(block) ? size - done : sizeof(block);
        buffer_set(b, t, block, offset + done, n);
    }
}

/* Both ends in our memory, same layout (ggml checks). Streams of one coded root copy as coded
 * pages. */
static bool buffer_cpy(ggml_backend_buffer_t b, const struct ggml_tensor *src,
                       struct ggml_tensor *dst)
{
    if (!tkg_buffer_is_ours(src->buffer)) {
        return false;
    }
    struct tkg_root *from = tkg_root_of(src);
    struct tkg_root *to = tkg_root_of(dst);
    const size_t bytes = ggml_nbytes(dst);
    if (from == NULL) {
        buffer_set(b, dst, src->data, 0, bytes);
        return true;
    }
    if (to == NULL) {
        buffer_get(src->buffer, src, dst->data, 0, bytes);
        return true;
    }
    if (from != to || bytes % to->row_bytes != 0 || src->view_offs % to->row_bytes != 0 ||
        dst->view_offs % to->row_bytes != 0) {
        return false;
    }
    return tkg_rows_copy(to, (int64_t)(dst->view_offs / to->row_bytes),
                         (int64_t)(src->view_offs / to->row_bytes),
                         (int64_t)(bytes / to->row_bytes));
}

static void buffer_clear(ggml_backend_buffer_t b, uint8_t value)
{
    struct tkg_buffer *buffer = b->context;
    for (struct tkg_root *r = buffer->roots; r != NULL; r = r->next) {
        tkg_rows_forget(r);
    }
    for (struct tkg_cells *c = buffer->cells; c != NULL; c = c->next) {
        tkg_map_clear((char *)c->pos,
                      TKG_AXES * (size_t)(c->n_slots * c->n_streams) * sizeof(*c->pos));
    }
    if (value == 0) {
        tkg_map_clear(buffer->base, buffer->mapped);
    } else {
        memset(buffer->base, value, buffer->mapped);
    }
}

static const struct ggml_backend_buffer_i buffer_iface = {
    .free_buffer = buffer_free,
    .get_base = buffer_base,
    .init_tensor = buffer_init_tensor,
    .memset_tensor = buffer_memset,
    .set_tensor = buffer_set,
    .get_tensor = buffer_get,
    .set_tensor_2d = buffer_set_2d,
    .get_tensor_2d = buffer_get_2d,
    .cpy_tensor = buffer_cpy,
    .clear = buffer_clear,
};

bool tkg_buffer_is_ours(const struct ggml_backend_buffer *buffer)
{
    return buffer != NULL && buffer->buft == &tkg_plugin.buft;
}

ggml_backend_buffer_t tkg_buffer_alloc(ggml_backend_buffer_type_t buft, size_t bytes)
{
    struct tkg_buffer *buffer = calloc(1, sizeof(*buffer));
    if (buffer == NULL) {
        return NULL;
    }
    buffer->n_threads = 1;
    buffer->mapped = bytes;
    buffer->base = tkg_map(bytes);
    if (buffer->base == NULL) {
        free(buffer);
        return NULL;
    }
    return ggml_backend_buffer_init(buft, buffer_iface, buffer, bytes);
}

/* ---- the buffer type -------------------------------------------------------------------- */

static const char *buft_name(ggml_backend_buffer_type_t buft)
{
    (void)buft;
    return "TIGHTKV";
}

static size_t buft_alignment(ggml_backend_buffer_type_t buft)
{
    (void)buft;
    return TENSOR_ALIGN;
}

static size_t buft_alloc_size(ggml_backend_buffer_type_t buft, const struct ggml_tensor *t)
{
    (void)buft;
    if (tkg_plugin.nominal_size || !tkg_is_cache_tensor(t)) {
        return ggml_nbytes(t);
    }
    const size_t coded = tkg_root_estimate(t);
    return coded < ggml_nbytes(t) ? coded : ggml_nbytes(t);
}

void tkg_buft_init(struct ggml_backend_buffer_type *buft, struct ggml_backend_device *device)
{
    /* is_host stays NULL: with it ggml would read coded tensors through their addresses. */
    *buft = (struct ggml_backend_buffer_type){
        .iface =
            {
                .get_name = buft_name,
                .alloc_buffer = tkg_buffer_alloc,
                .get_alignment = buft_alignment,
                .get_alloc_size = buft_alloc_size,
            },
        .device = device,
    };
}
