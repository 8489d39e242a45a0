/* check_device.c: the device seen through ggml's public interface, without llama.cpp. Programs that
 * take any GPU put their weights into its memory: the graph must then run there, with the CPU
 * backend's results. And the entry points of tightkv-ggml.h.
 *
 * usage: check_device PLUGIN FOLDER_OF_CPU_BACKENDS, with GGML_BACKEND_PATH unset */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "tightkv-ggml.h"

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum {
    N_IN = 64,
    N_OUT = 48,
    N_COLS = 5
};

struct graph {
    struct ggml_context *ctx;
    struct ggml_tensor *weight, *bias, *input, *output;
    struct ggml_cgraph *cgraph;
    ggml_backend_buffer_t buffer;
};

static void fill(struct ggml_tensor *t, float phase)
{
    float values[N_IN * N_OUT];
    const size_t n = (size_t)ggml_nelements(t);
    for (size_t i = 0; i < n; i++) {
        values[i] = sinf((float)i * 0.37f + phase);
    }
    ggml_backend_tensor_set(t, values, 0, n * sizeof(float));
}

static struct graph build(ggml_backend_t backend)
{
    struct graph g = {
        .ctx = ggml_init((struct ggml_init_params){
            .mem_size = 32 * ggml_tensor_overhead() + ggml_graph_overhead(), .no_alloc = true})};
    g.weight = ggml_new_tensor_2d(g.ctx, GGML_TYPE_F32, N_IN, N_OUT);
    ggml_set_name(g.weight, "v.blk.0.ffn_up.weight");
    g.bias = ggml_new_tensor_1d(g.ctx, GGML_TYPE_F32, N_OUT);
    g.input = ggml_new_tensor_2d(g.ctx, GGML_TYPE_F32, N_IN, N_COLS);
    g.output = ggml_add(g.ctx, ggml_mul_mat(g.ctx, g.weight, g.input), g.bias);
    g.cgraph = ggml_new_graph(g.ctx);
    ggml_build_forward_expand(g.cgraph, g.output);
    g.buffer = ggml_backend_alloc_ctx_tensors(g.ctx, backend);
    CHECK(g.buffer != NULL);
    fill(g.weight, 0.1f);
    fill(g.bias, 0.2f);
    fill(g.input, 0.3f);
    return g;
}

static void compute(ggml_backend_t backend, float *out)
{
    struct graph g = build(backend);
    for (int i = 0; i < ggml_graph_n_nodes(g.cgraph); i++) {
        CHECK(ggml_backend_supports_op(backend, ggml_graph_node(g.cgraph, i)));
    }
    CHECK(ggml_backend_graph_compute(backend, g.cgraph) == GGML_STATUS_SUCCESS);
    ggml_backend_tensor_get(g.output, out, 0, ggml_nbytes(g.output));
    ggml_backend_buffer_free(g.buffer);
    ggml_free(g.ctx);
}

static void check_delegation(ggml_backend_dev_t device)
{
    static float ours[N_OUT * N_COLS], theirs[N_OUT * N_COLS];
    ggml_backend_t backend = ggml_backend_dev_init(device, NULL);
    ggml_backend_t cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    CHECK(backend != NULL && cpu != NULL);
    compute(backend, ours);
    compute(cpu, theirs);
    CHECK(memcmp(ours, theirs, sizeof(ours)) == 0);
    ggml_backend_free(backend);
    ggml_backend_free(cpu);
}

/* Weights that llama.cpp only asks about stay with the CPU. */
static void check_probe(ggml_backend_dev_t device)
{
    struct ggml_context *ctx = ggml_init(
        (struct ggml_init_params){.mem_size = 8 * ggml_tensor_overhead(), .no_alloc = true});
    struct ggml_tensor *w = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, N_IN, N_OUT);
    struct ggml_tensor *x = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, N_IN, N_COLS);
    struct ggml_tensor *y = ggml_mul_mat(ctx, w, x);
    ggml_set_name(w, "blk.3.attn_q.weight");
    w->buffer = ggml_backend_buft_alloc_buffer(ggml_backend_dev_buffer_type(device), 0);
    CHECK(!ggml_backend_dev_supports_op(device, y));
    ggml_set_name(w, "conv_states_all-1");
    CHECK(ggml_backend_dev_supports_op(device, y));
    ggml_backend_buffer_free(w->buffer);
    ggml_free(ctx);
}

static void *entry(ggml_backend_reg_t reg, const char *name)
{
    void *p = ggml_backend_reg_get_proc_address(reg, name);
    CHECK(p != NULL);
    return p;
}

static void check_entries(ggml_backend_reg_t reg)
{
    void *p[3] = {entry(reg, "tightkv_ggml_configure"), entry(reg, "tightkv_ggml_stats"),
                  entry(reg, "tightkv_ggml_measure")};
    tightkv_ggml_configure_fn configure;
    tightkv_ggml_stats_fn stats;
    tightkv_ggml_measure_fn measure;
    memcpy(&configure, &p[0], sizeof(configure));
    memcpy(&stats, &p[1], sizeof(stats));
    memcpy(&measure, &p[2], sizeof(measure));
    CHECK(configure("k=f16,v=f16") == 0);
    CHECK(configure("k=nonsense") != 0);
    CHECK(configure(NULL) == 0);
    struct tightkv_ggml_stats s = {.struct_size = 4};
    CHECK(stats(&s) != 0);
    s.struct_size = sizeof(s);
    CHECK(stats(&s) == 0 && s.n_caches == 0 && s.n_values == 0);
    CHECK(measure(1) == 0 && measure(0) == 0);
    CHECK(ggml_backend_reg_get_proc_address(reg, "nonsense") == NULL);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    ggml_backend_load_all_from_path(argv[2]);
    ggml_backend_reg_t reg = ggml_backend_load(argv[1]);
    CHECK(reg != NULL && strcmp(ggml_backend_reg_name(reg), TIGHTKV_GGML_REG_NAME) == 0);
    CHECK(ggml_backend_reg_dev_count(reg) == 1);
    const ggml_backend_dev_t device = ggml_backend_reg_dev_get(reg, 0);
    check_delegation(device);
    check_probe(device);
    check_entries(reg);
    return 0;
}
