/* fallback.c: any operation that has no code here runs as a graph of one node on ggml's CPU
 * backend. Operands in plain memory of ours are handed over as they are; rows of a coded root are
 * decoded for it, and those that it changed are written back. Exact for plain roots, slow for coded
 * ones; the log names each such operation once. */
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

/* ---- the CPU backend -------------------------------------------------------------------- */

static bool open_cpu(struct tkg_backend *be)
{
    const ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (be->cpu == NULL && dev != NULL) {
        be->cpu = ggml_backend_dev_init(dev, NULL);
    }
    if (be->graph_ctx == NULL) {
        be->graph_ctx = ggml_init((struct ggml_init_params){
            .mem_size = ggml_graph_overhead_custom(1, false),
            .no_alloc = true,
        });
        be->graph = be->graph_ctx != NULL ? ggml_new_graph_custom(be->graph_ctx, 1, false) : NULL;
    }
    return be->cpu != NULL && be->graph != NULL;
}

static void set_cpu_threads(struct tkg_backend *be)
{
    if (be->cpu_threads == be->n_threads) {
        return;
    }
    const ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(be->cpu));
    void *p = ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    ggml_backend_set_n_threads_t set_n_threads;
    memcpy(&set_n_threads, &p, sizeof(p));
    if (set_n_threads != NULL) {
        set_n_threads(be->cpu, (int)be->n_threads);
    }
    be->cpu_threads = be->n_threads;
}

enum ggml_status tkg_cpu_compute(struct tkg_backend *be, struct ggml_tensor *node)
{
    if (!open_cpu(be)) {
        return GGML_STATUS_ALLOC_FAILED;
    }
    set_cpu_threads(be);
    node->flags |= GGML_TENSOR_FLAG_COMPUTE;
    ggml_graph_clear(be->graph);
    ggml_graph_add_node(be->graph, node);
    return ggml_backend_graph_compute(be->cpu, be->graph);
}

/* A node and its operands, copied so that they can point elsewhere. */
struct node_copy {
    struct ggml_tensor node;
    struct ggml_tensor src[GGML_MAX_SRC];
};

static void hide_buffer(struct ggml_tensor *t)
{
    if (tkg_buffer_is_ours(t->buffer)) {
        t->buffer = NULL;
        t->extra = NULL;
    }
}

static void copy_node(const struct ggml_tensor *node, struct node_copy *copy)
{
    copy->node = *node;
    hide_buffer(&copy->node);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (node->src[i] != NULL) {
            copy->src[i] = *node->src[i];
            hide_buffer(&copy->src[i]);
            copy->node.src[i] = &copy->src[i];
        }
    }
}

bool tkg_cpu_supports(const struct ggml_tensor *node)
{
    const ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    struct node_copy copy;
    copy_node(node, &copy);
    return dev != NULL && ggml_backend_dev_supports_op(dev, &copy.node);
}

/* ---- operands --------------------------------------------------------------------------- */

/* The rows of one coded root that a node touches, decoded. */
struct window {
    struct tkg_root *root;
    size_t first, end; /* bytes of the root, whole rows */
    char *now;
    char *before; /* as decoded; NULL when the node does not write here */
};

struct windows {
    struct window w[GGML_MAX_SRC + 1];
    int n;
};

static struct window *window_of(struct windows *all, const struct tkg_root *root)
{
    for (int i = 0; i < all->n; i++) {
        if (all->w[i].root == root) {
            return &all->w[i];
        }
    }
    return NULL;
}

static struct tkg_root *coded_root(const struct ggml_tensor *t)
{
    struct tkg_root *root = tkg_root_of(t);
    if (root != NULL) {
        tkg_buffer_settle(root->buffer);
    }
    return root != NULL && root->storage == TKG_CODED ? root : NULL;
}

static void add_operand(struct windows *all, const struct ggml_tensor *t)
{
    struct tkg_root *root = coded_root(t);
    if (root == NULL) {
        return;
    }
    const size_t last = t->view_offs + ggml_nbytes(t) + root->row_bytes - 1;
    const size_t first = t->view_offs / root->row_bytes * root->row_bytes;
    const size_t end = last / root->row_bytes * root->row_bytes;
    struct window *w = window_of(all, root);
    if (w == NULL) {
        w = &all->w[all->n++];
        *w = (struct window){.root = root, .first = first, .end = end};
    }
    w->first = first < w->first ? first : w->first;
    w->end = end > w->end ? end : w->end;
}

static bool decode_windows(struct windows *all, const struct ggml_tensor *node)
{
    const struct tkg_root *written = node->view_src != NULL ? coded_root(node) : NULL;
    for (int i = 0; i < all->n; i++) {
        struct window *w = &all->w[i];
        const size_t bytes = w->end - w->first;
        w->now = malloc(bytes);
        w->before = w->root == written ? malloc(bytes) : NULL;
        if (w->now == NULL || (w->root == written && w->before == NULL) ||
            !tkg_rows_read(w->root, w->first, bytes, w->now)) {
            return false;
        }
        if (w->before != NULL) {
            memcpy(w->before, w->now, bytes);
        }
    }
    return true;
}

/* Writes back the rows that changed, and only those: the others keep their codes. */
static bool write_changes(const struct window *w)
{
    const size_t row = w->root->row_bytes;
    const size_t bytes = w->end - w->first;
    for (size_t at = 0; at < bytes;) {
        size_t n = 0;
        while (at + n < bytes && memcmp(w->now + at + n, w->before + at + n, row) != 0) {
            n += row;
        }
        if (n > 0 && !tkg_rows_write(w->root, w->first + at, n, w->now + at)) {
            return false;
        }
        at += n + row;
    }
    return true;
}

/* Points a copied operand at its memory. */
static bool resolve(struct windows *all, const struct ggml_tensor *original,
                    struct ggml_tensor *copy)
{
    struct tkg_root *root = tkg_root_of(original);
    if (root == NULL) {
        return true;
    }
    tkg_buffer_settle(root->buffer);
    if (root->storage == TKG_PLAIN) {
        copy->data = root->plain != NULL ? root->plain + original->view_offs : NULL;
    } else {
        const struct window *w = window_of(all, root);
        copy->data = w->now + (original->view_offs - w->first);
    }
    return copy->data != NULL;
}

static void log_fallback(const struct ggml_tensor *node, const struct tkg_root *root)
{
    pthread_mutex_lock(&tkg_plugin.lock);
    const uint32_t word = (uint32_t)node->op / 32, bit = 1u << ((uint32_t)node->op % 32);
    const bool first = (tkg_plugin.logged_ops[word] & bit) == 0;
    tkg_plugin.logged_ops[word] |= bit;
    pthread_mutex_unlock(&tkg_plugin.lock);
    if (first) {
        tkg_log(GGML_LOG_LEVEL_WARN,
                "%s on %s has no coded form: its rows are decoded for it each time (slow)",
                ggml_op_name(node->op), root->name);
    }
}

static enum ggml_status run(struct tkg_backend *be, struct ggml_tensor *node, struct windows *all)
{
    struct node_copy copy;
    copy_node(node, &copy);
    bool ok = decode_windows(all, node) && resolve(all, node, &copy.node);
    for (int i = 0; i < GGML_MAX_SRC && ok; i++) {
        ok = node->src[i] == NULL || resolve(all, node->src[i], &copy.src[i]);
    }
    if (!ok) {
        return GGML_STATUS_ALLOC_FAILED;
    }
    enum ggml_status status = tkg_cpu_compute(be, &copy.node);
    for (int i = 0; i < all->n && status == GGML_STATUS_SUCCESS; i++) {
        if (all->w[i].before != NULL && !write_changes(&all->w[i])) {
            status = GGML_STATUS_FAILED;
        }
    }
    return status;
}

enum ggml_status tkg_fallback(struct tkg_backend *be, struct ggml_tensor *node)
{
    struct windows all = {.n = 0};
    add_operand(&all, node);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (node->src[i] != NULL) {
            add_operand(&all, node->src[i]);
        }
    }
    if (all.n > 0) {
        log_fallback(node, all.w[0].root);
    }
    const enum ggml_status status = run(be, node, &all);
    for (int i = 0; i < all.n; i++) {
        free(all.w[i].now);
        free(all.w[i].before);
    }
    return status;
}
