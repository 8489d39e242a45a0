/* check_spans.c: batches of embeddings are visual rows: coded by the spec's visual codecs, and
 * counted, while tokens before and after them are text; through batches cut anywhere, a graph used
 * again, a saved state and a context shift.
 *
 * usage: check_spans PLUGIN FOLDER_OF_CPU_BACKENDS MODEL, with GGML_BACKEND_PATH unset */
#include <math.h>
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

enum {
    N_CTX = 512,
    N_BATCH = 100,
    N_BEFORE = 1,
    N_VISUAL = 150,
    N_AFTER = 105
};
enum {
    ROW_VALUES = 12 * 2 * 2 * 128
}; /* of the embedded model: a token's keys and values */

static tightkv_ggml_stats_fn stats_fn;

static struct tightkv_ggml_stats stats(void)
{
    struct tightkv_ggml_stats s = {.struct_size = sizeof(s)};
    CHECK(stats_fn(&s) == 0 && s.n_caches == 1);
    return s;
}

static void decode_tokens(struct llama_context *ctx, int n)
{
    llama_token ids[N_BATCH];
    for (int done = 0; done < n; done += N_BATCH) {
        const int here = n - done < N_BATCH ? n - done : N_BATCH;
        for (int i = 0; i < here; i++) {
            ids[i] = 300 + (done + i) * 7 % 4000;
        }
        CHECK(llama_decode(ctx, llama_batch_get_one(ids, here)) == 0);
    }
}

static void decode_embeddings(struct llama_context *ctx, int n_embd, int n)
{
    float *rows = malloc((size_t)N_BATCH * (size_t)n_embd * sizeof(*rows));
    CHECK(rows != NULL);
    for (int i = 0; i < N_BATCH * n_embd; i++) {
        rows[i] = 0.05f * sinf(0.7f * (float)i);
    }
    for (int done = 0; done < n; done += N_BATCH) {
        const struct llama_batch batch = {.n_tokens = n - done < N_BATCH ? n - done : N_BATCH,
                                          .embd = rows};
        CHECK(llama_decode(ctx, batch) == 0);
    }
    free(rows);
}

static void check_counts(void)
{
    const struct tightkv_ggml_stats s = stats();
    CHECK(s.n_values == (uint64_t)(N_BEFORE + N_VISUAL + N_AFTER) * ROW_VALUES);
    CHECK(s.visual_values == (uint64_t)N_VISUAL * ROW_VALUES);
    /* Text stays f16: of 256 rows, four pages, the codes of visual ones are all that is more. Two
     * pages are visual in part, and a coded page has its size whatever it holds. */
    CHECK(s.open_bytes == 0 && s.sealed_bytes > s.visual_bytes);
    const double bits = 8.0 * (double)s.visual_bytes / (3 * 64.0 * ROW_VALUES);
    CHECK(bits > 3 && bits < 3.5);
}

static void check_state(struct llama_context *ctx)
{
    const size_t n_bytes = llama_state_seq_get_size(ctx, 0);
    uint8_t *data = malloc(n_bytes);
    CHECK(data != NULL && llama_state_seq_get_data(ctx, data, n_bytes, 0) == n_bytes);
    llama_memory_clear(llama_get_memory(ctx), true);
    CHECK(stats().visual_values == 0);
    CHECK(llama_state_seq_set_data(ctx, data, n_bytes, 0) == n_bytes);
    check_counts();
    free(data);
}

static void check_shift(struct llama_context *ctx)
{
    llama_memory_seq_add(llama_get_memory(ctx), 0, 10, -1, 3);
    decode_tokens(ctx, 1); /* shifts before it decodes */
    CHECK(stats().visual_values == (uint64_t)N_VISUAL * ROW_VALUES);
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
    CHECK(configure("kv=f16,visual.k=turbo3,visual.v=turbo3,sink=0,tail=0") == 0);
    struct llama_model *model = llama_model_load_from_file(argv[3], llama_model_default_params());
    CHECK(model != NULL);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = N_CTX;
    params.n_batch = N_BATCH;
    params.n_threads = params.n_threads_batch = 2;
    struct llama_context *ctx = llama_init_from_model(model, params);
    CHECK(ctx != NULL);
    decode_tokens(ctx, N_BEFORE);
    CHECK(stats().visual_values == 0);
    decode_embeddings(ctx, llama_model_n_embd_inp(model), N_VISUAL);
    decode_tokens(ctx, N_AFTER);
    check_counts();
    check_state(ctx);
    check_shift(ctx);
    llama_free(ctx);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
