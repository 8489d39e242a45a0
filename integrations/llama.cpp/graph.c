/* graph.c: the backend that computes our part of a graph, one node after the other, in the calling
 * thread. */
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

void *tkg_scratch(struct tkg_scratch *s, size_t bytes)
{
    if (s->bytes < bytes) {
        free(s->data);
        s->data = malloc(bytes);
        s->bytes = s->data != NULL ? bytes : 0;
    }
    return s->data;
}

static const char *backend_name(ggml_backend_t backend)
{
    (void)backend;
    return "TIGHTKV";
}

static void backend_free(ggml_backend_t backend)
{
    struct tkg_backend *be = backend->context;
    if (be->cpu != NULL) {
        ggml_backend_free(be->cpu);
    }
    ggml_free(be->graph_ctx);
    free(be->slots.data);
    free(be->pos.data);
    free(be->klass.data);
    free(be->slopes.data);
    free(be);
    free(backend);
}

static struct tkg_root *coded_root(const struct ggml_tensor *t)
{
    struct tkg_root *root = t != NULL ? tkg_root_of(t) : NULL;
    if (root == NULL) {
        return NULL;
    }
    tkg_buffer_settle(root->buffer);
    return root->storage == TKG_CODED ? root : NULL;
}

static enum ggml_status compute_node(struct tkg_backend *be, struct ggml_tensor *node)
{
    switch (node->op) {
    case GGML_OP_NONE:
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return GGML_STATUS_SUCCESS;
    case GGML_OP_SET_ROWS:
        return coded_root(node) != NULL ? tkg_set_rows(be, node) : tkg_fallback(be, node);
    case GGML_OP_ROPE:
        return coded_root(node) != NULL ? tkg_shift(be, node) : tkg_fallback(be, node);
    case GGML_OP_FLASH_ATTN_EXT: {
        const struct tkg_root *k = coded_root(node->src[1]);
        const bool ours =
            k != NULL && k->pair == coded_root(node->src[2]) && tkg_flash_attn_fits(node);
        return ours ? tkg_flash_attn(be, node) : tkg_fallback(be, node);
    }
    default:
        return tkg_fallback(be, node);
    }
}

static enum ggml_status backend_compute(ggml_backend_t backend, struct ggml_cgraph *graph)
{
    struct tkg_backend *be = backend->context;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        struct ggml_tensor *node = ggml_graph_node(graph, i);
        if ((node->flags & GGML_TENSOR_FLAG_COMPUTE) == 0) {
            continue;
        }
        const enum ggml_status status = compute_node(be, node);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    return GGML_STATUS_SUCCESS;
}

/* Positions are read long after the last ROPE node: keeps the allocator from reusing their memory
 * before that. */
static void backend_optimize(ggml_backend_t backend, struct ggml_cgraph *graph,
                             struct ggml_backend_graph_optimize_params *params)
{
    (void)backend;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        struct ggml_tensor *node = ggml_graph_node(graph, i);
        if (node->op != GGML_OP_SET_ROWS && node->op != GGML_OP_FLASH_ATTN_EXT) {
            continue;
        }
        struct ggml_tensor *pos = tkg_positions_tensor(node->src[0]);
        if (pos != NULL) {
            params->add_alloc_dep(params->user_data, pos, node);
        }
    }
}

void tkg_backend_set_n_threads(ggml_backend_t backend, int n_threads)
{
    struct tkg_backend *be = backend->context;
    be->n_threads = n_threads > 0 ? (uint32_t)n_threads : 1;
}

ggml_backend_t tkg_backend_create(struct ggml_backend_device *device)
{
    static ggml_guid guid = {0x74, 0x69, 0x67, 0x68, 0x74, 0x6b, 0x76, 0x00,
                             0x9c, 0x1d, 0x4e, 0x52, 0xb3, 0x0a, 0x6f, 0x01};
    struct ggml_backend *backend = calloc(1, sizeof(*backend));
    struct tkg_backend *be = calloc(1, sizeof(*be));
    if (backend == NULL || be == NULL) {
        free(backend);
        free(be);
        return NULL;
    }
    be->n_threads = GGML_DEFAULT_N_THREADS;
    *backend = (struct ggml_backend){
        .guid = &guid,
        .iface =
            {
                .get_name = backend_name,
                .free = backend_free,
                .graph_compute = backend_compute,
                .graph_optimize = backend_optimize,
            },
        .device = device,
        .context = be,
    };
    return backend;
}
