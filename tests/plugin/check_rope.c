/* check_rope.c: what `tightkv calibrate` reads out of a ROPE node is what ggml's operation does. Rows
 * of noise go through the operation and are turned back by pairs, axes and frequencies. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-backend.h"
#include "ggml.h"
#include "graph_rope.h"

enum {
    D = 128,
    ROWS = 48
};

struct kind {
    const char *name;
    int mode, n_dims, sections[4];
    float base, scale, ext_factor;
    bool factors;
};

static const struct kind kinds[] = {
    {"neighbours", GGML_ROPE_TYPE_NORMAL, D, {0}, 10000, 1, 0, false},
    {"halves", GGML_ROPE_TYPE_NEOX, D, {0}, 500000, 1, 0, false},
    {"partial", GGML_ROPE_TYPE_NEOX, 48, {0}, 10000, 1, 0, false},
    {"partial neighbours", GGML_ROPE_TYPE_NORMAL, 32, {0}, 10000, 1, 0, false},
    {"factors", GGML_ROPE_TYPE_NORMAL, D, {0}, 500000, 1, 0, true},
    {"linear", GGML_ROPE_TYPE_NEOX, D, {0}, 10000, .25f, 0, false},
    {"YaRN", GGML_ROPE_TYPE_NEOX, D, {0}, 10000, .25f, 1, false},
    {"half of YaRN", GGML_ROPE_TYPE_NORMAL, 64, {0}, 10000, .125f, .5f, true},
    {"M-RoPE", GGML_ROPE_TYPE_MROPE, D, {16, 24, 24, 0}, 1000000, 1, 0, false},
    {"M-RoPE in part", GGML_ROPE_TYPE_MROPE, 64, {8, 12, 12, 0}, 10000, 1, 0, false},
    {"interleaved M-RoPE", GGML_ROPE_TYPE_IMROPE, D, {24, 20, 20, 0}, 5000000, 1, 0, false},
    {"interleaved M-RoPE in part", GGML_ROPE_TYPE_IMROPE, 64, {11, 11, 10, 0}, 10000, 1, 0, false},
};

static float noise(void)
{
    return (float)(rand() % 20001 - 10000) / 5000.0f;
}

/* Planes of positions as llama.cpp makes them; the fourth is 0. */
static void fill_positions(int32_t *pos)
{
    for (int t = 0; t < ROWS; t++) {
        pos[t] = 700 + t / 3;
        pos[ROWS + t] = 500 + t % 7;
        pos[2 * ROWS + t] = 900 + t % 11;
        pos[3 * ROWS + t] = 0;
    }
}

static void turn_back(const struct graph_rope *r, const int32_t *pos, int t, float *x)
{
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        const uint32_t a = r->halves ? i : 2 * i, b = r->halves ? i + r->n_pairs : 2 * i + 1;
        const double angle = -(double)r->freq[i] * pos[r->axis[i] * ROWS + t];
        const double u = (double)x[a], v = (double)x[b];
        x[a] = (float)(u * cos(angle) - v * sin(angle));
        x[b] = (float)(u * sin(angle) + v * cos(angle));
    }
}

/* ggml's own length of what it turns, which a turn back leaves. */
static float magnitude(const struct kind *k)
{
    return k->ext_factor != 0.0f ? 1.0f + 0.1f * logf(1.0f / k->scale) : 1.0f;
}

static int compare(const struct kind *k, const struct graph_rope *r, const int32_t *pos,
                   const float *before, float *after)
{
    double most = 0;
    for (int t = 0; t < ROWS; t++) {
        turn_back(r, pos, t, after + t * D);
        for (int i = 0; i < D; i++) {
            const float length = i < k->n_dims ? magnitude(k) : 1.0f;
            most = fmax(most, fabs((double)(after[t * D + i] - length * before[t * D + i])));
        }
    }
    printf("%-28s %.1e\n", k->name, most);
    return most < 2e-3 ? 0 : 1;
}

static int check(const struct kind *k, ggml_backend_t cpu)
{
    struct ggml_init_params params = {ggml_tensor_overhead() * 8 + ggml_graph_overhead(), NULL,
                                      true};
    struct ggml_context *ctx = ggml_init(params);
    const bool axes = k->mode & GGML_ROPE_TYPE_MROPE;
    struct ggml_tensor *x = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, D, 1, ROWS);
    struct ggml_tensor *pos = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, axes ? 4 * ROWS : ROWS);
    struct ggml_tensor *factors =
        k->factors ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, k->n_dims / 2) : NULL;
    int sections[4];
    memcpy(sections, k->sections, sizeof(sections));
    struct ggml_tensor *y =
        axes ? ggml_rope_multi(ctx, x, pos, factors, k->n_dims, sections, k->mode, 4096, k->base,
                               k->scale, k->ext_factor, 1, 32, 1)
             : ggml_rope_ext(ctx, x, pos, factors, k->n_dims, k->mode, 4096, k->base, k->scale,
                             k->ext_factor, 1, 32, 1);
    struct ggml_cgraph *graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, y);
    ggml_backend_buffer_t memory = ggml_backend_alloc_ctx_tensors(ctx, cpu);
    float before[ROWS * D], after[ROWS * D], values[D / 2];
    int32_t positions[4 * ROWS];
    for (int i = 0; i < ROWS * D; i++)
        before[i] = noise();
    for (int i = 0; i < k->n_dims / 2; i++)
        values[i] = 1.0f + (float)i / 16.0f;
    fill_positions(positions);
    ggml_backend_tensor_set(x, before, 0, sizeof(before));
    ggml_backend_tensor_set(pos, positions, 0, ggml_nbytes(pos));
    if (factors)
        ggml_backend_tensor_set(factors, values, 0, ggml_nbytes(factors));
    struct graph_rope rope;
    int wrong = ggml_backend_graph_compute(cpu, graph) != GGML_STATUS_SUCCESS ||
                graph_rope_above(ggml_permute(ctx, y, 0, 2, 1, 3)) != y ||
                !graph_rope_read(y, factors ? values : NULL, D, &rope);
    ggml_backend_tensor_get(y, after, 0, sizeof(after));
    if (!wrong)
        wrong = compare(k, &rope, positions, before, after);
    /* a RoPE of a part of the row that begins elsewhere is not understood */
    wrong |= graph_rope_read(y, NULL, 2 * D, &rope);
    ggml_backend_buffer_free(memory);
    ggml_free(ctx);
    return wrong;
}

int main(int argc, char **argv)
{
    ggml_backend_load_all_from_path(argc > 1 ? argv[1] : NULL);
    ggml_backend_t cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    int wrong = cpu == NULL;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && cpu; i++)
        wrong |= check(&kinds[i], cpu);
    ggml_backend_free(cpu);
    puts(wrong ? "FAIL" : "ok");
    return wrong;
}
