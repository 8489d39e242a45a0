/* check_state.c: a sequence saved and restored through libllama, over and over: the coded cache has
 * to give the same bytes each time, take the same memory again (so its first tokens are exact
 * again), and be empty after a clear.
 *
 * usage: check_state PLUGIN FOLDER_OF_CPU_BACKENDS MODEL, with GGML_BACKEND_PATH unset */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-backend.h"
#include "llama.h"
#include "tightkv-ggml.h"

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { N_CTX = 1024, N_TOKENS = 500, N_BATCH = 128 };

struct state {
    uint8_t *data;
    size_t bytes;
};

static tightkv_ggml_stats_fn stats_fn;

static struct tightkv_ggml_stats stats(void)
{
    struct tightkv_ggml_stats s = {.struct_size = sizeof(s)};
    CHECK(stats_fn(&s) == 0 && s.n_caches == 1);
    return s;
}

static void decode(struct llama_context *ctx, llama_pos first, int n)
{
    struct llama_batch batch = llama_batch_init(N_BATCH, 0, 1);
    for (batch.n_tokens = 0; batch.n_tokens < n; batch.n_tokens++) {
        const int i = batch.n_tokens;
        batch.token[i] = 300 + (first + i) * 7 % 4000;
        batch.pos[i] = first + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = i == n - 1;
    }
    CHECK(llama_decode(ctx, batch) == 0);
    llama_batch_free(batch);
}

static struct state save(struct llama_context *ctx)
{
    struct state s = {.bytes = llama_state_seq_get_size(ctx, 0)};
    s.data = malloc(s.bytes);
    CHECK(s.data != NULL && llama_state_seq_get_data(ctx, s.data, s.bytes, 0) == s.bytes);
    return s;
}

static void check_cycles(struct llama_context *ctx)
{
    for (int i = 0; i < N_TOKENS; i += N_BATCH) {
        decode(ctx, i, N_TOKENS - i < N_BATCH ? N_TOKENS - i : N_BATCH);
    }
    const struct tightkv_ggml_stats full = stats();
    const struct state first = save(ctx);
    CHECK(full.sealed_bytes > 0 && full.open_bytes < full.f16_bytes / 2);
    for (int cycle = 0; cycle < 3; cycle++) {
        llama_memory_clear(llama_get_memory(ctx), true);
        CHECK(stats().n_values == 0 && stats().sealed_bytes == 0 && stats().open_bytes == 0);
        CHECK(llama_state_seq_set_data(ctx, first.data, first.bytes, 0) == first.bytes);
        const struct state again = save(ctx);
        CHECK(again.bytes == first.bytes && memcmp(again.data, first.data, first.bytes) == 0);
        free(again.data);
        const struct tightkv_ggml_stats s = stats();
        CHECK(s.n_values == full.n_values);
        CHECK(s.sealed_bytes == full.sealed_bytes && s.open_bytes == full.open_bytes);
    }
    decode(ctx, N_TOKENS, 1);
    free(first.data);
}

int main(int argc, char **argv)
{
    CHECK(argc == 4);
    ggml_backend_load_all_from_path(argv[2]);
    ggml_backend_reg_t reg = ggml_backend_load(argv[1]);
    CHECK(reg != NULL);
    void *p[2] = {ggml_backend_reg_get_proc_address(reg, "tightkv_ggml_stats"),
                  ggml_backend_reg_get_proc_address(reg, "tightkv_ggml_configure")};
    tightkv_ggml_configure_fn configure;
    memcpy(&stats_fn, &p[0], sizeof(stats_fn));
    memcpy(&configure, &p[1], sizeof(configure));
    CHECK(stats_fn != NULL && configure != NULL);
    CHECK(configure("k=turbo4,v=turbo3,sink=4,tail=64") == 0);
    struct llama_model *model = llama_model_load_from_file(argv[3], llama_model_default_params());
    CHECK(model != NULL);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = N_CTX;
    params.n_batch = N_BATCH;
    params.n_threads = params.n_threads_batch = 2;
    struct llama_context *ctx = llama_init_from_model(model, params);
    CHECK(ctx != NULL);
    check_cycles(ctx);
    llama_free(ctx);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
