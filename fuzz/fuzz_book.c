/* Books: whatever the bytes are, they open or are refused with one line; a layer takes its models from
 * them or is refused; and what such a layer coded comes back, with values of any kind. Keys get codes
 * that there are.
 *
 * The first byte says which codecs the layer has, the rest is the file. */
#include <stdlib.h>
#include <string.h>

#include "cpu/features.h"
#include "fuzz.h"
#include "index/index.h"

enum {
    HEAD_DIM = 32,
    N_SLOTS = 2 * TKV_PAGE_TOKENS
};

static const char *const specs[] = {
    "kv=tight3,sink=0,tail=0",
    "k=tight2,v=tight1,sink=0,tail=0",
    "kv=rvq8,sink=0,tail=0",
    "kv=f16,visual.k=tight1,visual.v=tight2,sink=0,tail=0",
};

enum {
    N_SPECS = sizeof specs / sizeof specs[0]
};

static void check_refusal(tkv_status status, const tkv_error *err)
{
    FUZZ_CHECK(status < 0);
    FUZZ_CHECK(memchr(err->text, 0, sizeof err->text) != NULL);
    FUZZ_CHECK(err->text[0] != 0 && strchr(err->text, '\n') == NULL);
}

/* Every tensor that is told of can be read, to its end and not beyond. */
static void read_all(const tkv_book *book)
{
    tkv_book_tensor t = {.struct_size = sizeof t};
    char text[64];
    (void)tkv_book_text(book, "fingerprint.architecture", text, sizeof text);
    for (uint64_t i = 0; i < 16 && tkv_book_get_tensor(book, i, &t) == TKV_OK; i++) {
        const size_t n = (size_t)t.n_values;
        float *values = fuzz_alloc((n ? n : 1) * sizeof *values);
        /* Of two tensors of one name the first is read. */
        if (tkv_book_read(book, t.name, 0, n, values) == TKV_OK)
            (void)tkv_book_read(book, t.name, n, 1, values);
        FUZZ_CHECK(tkv_book_read(book, t.name, SIZE_MAX, 2, values) == TKV_ERR_RANGE);
        free(values);
    }
}

static void fill(tkv_cache *cache, uint32_t layer)
{
    float *rows = fuzz_alloc(N_SLOTS * HEAD_DIM * sizeof *rows);
    int64_t slots[N_SLOTS];
    int32_t pos[N_SLOTS];
    uint8_t klass[N_SLOTS];
    uint64_t noise = 1;
    for (size_t i = 0; i < N_SLOTS * HEAD_DIM; i++)
        rows[i] = fuzz_uniform(&noise);
    for (int i = 0; i < N_SLOTS; i++) {
        slots[i] = pos[i] = i;
        klass[i] = i < TKV_PAGE_TOKENS ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
    }
    const tkv_rows put = {rows, TKV_F32, HEAD_DIM * sizeof *rows};
    FUZZ_CHECK(tkv_cache_write(cache, layer, N_SLOTS, slots, pos, klass, put, put, NULL) == TKV_OK);
    FUZZ_CHECK(tkv_cache_seal(cache, layer, NULL) == TKV_OK);
    FUZZ_CHECK(tkv_cache_read(cache, layer, TKV_K, N_SLOTS, slots, rows, TKV_F32,
                              HEAD_DIM * sizeof *rows, NULL) == TKV_OK);
    FUZZ_CHECK(tkv_cache_read(cache, layer, TKV_V, N_SLOTS, slots, rows, TKV_F32,
                              HEAD_DIM * sizeof *rows, NULL) == TKV_OK);
    free(rows);
}

static void use(tkv_context *ctx, const tkv_book *book, const char *text)
{
    tkv_spec spec;
    tkv_cache *cache;
    tkv_error err;
    uint32_t layer;
    const tkv_layer_params params = {.struct_size = sizeof params,
                                     .n_kv_heads = 1,
                                     .k_head_dim = HEAD_DIM,
                                     .v_head_dim = HEAD_DIM,
                                     .n_slots = N_SLOTS,
                                     .n_streams = 1};
    FUZZ_CHECK(tkv_spec_parse(text, &spec, &err) == TKV_OK);
    FUZZ_CHECK(tkv_cache_create(ctx, &spec, &cache, &err) == TKV_OK);
    FUZZ_CHECK(tkv_cache_set_book(cache, book, &err) == TKV_OK);
    memset(&err, 0xa5, sizeof err);
    const tkv_status status = tkv_cache_add_layer(cache, &params, &layer, &err);
    if (status == TKV_OK)
        fill(cache, layer);
    else
        check_refusal(status, &err);
    tkv_cache_destroy(cache);
}

static void ask_index(const struct tkv_index_model *m)
{
    struct tkv_kernels k;
    float rows[3 * HEAD_DIM];
    float *table = aligned_alloc(64, (size_t)tkv_index_places(m->n_codes) * 3 * sizeof *table);
    uint16_t codes[3];
    uint64_t noise = 1;
    FUZZ_CHECK(table != NULL);
    for (size_t i = 0; i < 3 * HEAD_DIM; i++)
        rows[i] = fuzz_uniform(&noise);
    tkv_kernels_init(&k, tkv_cpu_features());
    tkv_index_encode(&k, m, rows, 3, codes);
    for (size_t i = 0; i < 3; i++)
        FUZZ_CHECK(codes[i] < m->n_codes);
    tkv_index_table(&k, m, rows, 3, table);
    free(table);
}

static void use_index(const uint8_t *bytes, size_t size)
{
    struct tkv_gguf file;
    struct tkv_index_model models[2];
    tkv_error err;
    if (tkv_gguf_open(bytes, size, &file, &err) != TKV_OK)
        return;
    const size_t n_bytes = tkv_index_model_bytes(&file, 0, 2, HEAD_DIM);
    if (n_bytes == 0)
        return;
    void *room = aligned_alloc(64, n_bytes);
    FUZZ_CHECK(room != NULL);
    memset(&err, 0xa5, sizeof err);
    const tkv_status status = tkv_index_bind(&file, 0, 2, HEAD_DIM, room, models, &err);
    if (status == TKV_OK)
        ask_index(&models[1]);
    else
        check_refusal(status, &err);
    free(room);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    const char *spec = specs[fuzz_below(&in, N_SPECS)];
    uint8_t *bytes = fuzz_alloc(in.size ? in.size : 1);
    tkv_context *ctx = fuzz_context(TKV_CPU_ALL);
    tkv_book *book = NULL;
    tkv_error err;
    memcpy(bytes, in.data, in.size);
    memset(&err, 0xa5, sizeof err);
    const tkv_status status = tkv_book_open(ctx, bytes, in.size, &book, &err);
    if (status == TKV_OK) {
        read_all(book);
        use(ctx, book, spec);
        use_index(bytes, in.size);
        tkv_book_close(book);
    } else {
        check_refusal(status, &err);
    }
    tkv_context_destroy(ctx);
    free(bytes);
    return 0;
}
