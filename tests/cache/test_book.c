/* Books: what opens, what is read of one, and which are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/made_book.h"
#include "tightkv/tightkv.h"

enum {
    DIM = 32
};

struct fixture {
    tkv_context *ctx;
    struct made_book *made;
    uint8_t *bytes;
    size_t n_bytes;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->made = made_book_new();
    made_book_tight(f->made, 0, 1, DIM, 1.0f);
    const uint8_t *bytes = made_book_bytes(f->made, &f->n_bytes);
    f->bytes = malloc(f->n_bytes);
    memcpy(f->bytes, bytes, f->n_bytes);
    *state = f;
    return tkv_context_create(NULL, &f->ctx, NULL) == TKV_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    tkv_context_destroy(f->ctx);
    made_book_free(f->made);
    free(f->bytes);
    free(f);
    return 0;
}

static tkv_status open_bytes(const struct fixture *f, size_t n, tkv_error *err)
{
    tkv_book *book = NULL;
    const tkv_status status = tkv_book_open(f->ctx, f->bytes, n, &book, err);
    tkv_book_close(book);
    return status;
}

static uint8_t *find(const struct fixture *f, const char *text)
{
    for (size_t i = 0; i + strlen(text) <= f->n_bytes; i++)
        if (memcmp(f->bytes + i, text, strlen(text)) == 0)
            return f->bytes + i;
    fail_msg("no %s in the book", text);
    return NULL;
}

static void tells_what_it_holds(void **state)
{
    const struct fixture *f = *state;
    tkv_book *book = NULL;
    tkv_book_tensor t = {.struct_size = sizeof t};
    char text[64];
    float values[DIM];
    assert_int_equal(tkv_book_open(f->ctx, f->bytes, f->n_bytes, &book, NULL), TKV_OK);
    assert_int_equal(tkv_book_text(book, "general.architecture", text, sizeof text), TKV_OK);
    assert_string_equal(text, "tightkv-book");
    assert_int_equal(tkv_book_text(book, "general.architecture", text, 4), TKV_ERR_RANGE);
    assert_int_equal(tkv_book_text(book, "no such key", text, sizeof text), TKV_ERR_RANGE);
    uint64_t n = 0, n_matrices = 0;
    for (; tkv_book_get_tensor(book, n, &t) == TKV_OK; n++)
        n_matrices += strcmp(t.name, "blk.0.attn_k.to") == 0 && strcmp(t.type, "f16") == 0 &&
                      t.dims[0] == DIM && t.dims[1] == DIM && t.n_bytes == 2 * DIM * DIM;
    assert_true(n > 1);
    assert_int_equal(n_matrices, 1);
    assert_int_equal(tkv_book_read(book, "blk.0.attn_k.weight", 0, DIM, values), TKV_OK);
    assert_true(values[0] > values[DIM - 1] && values[DIM - 1] > 0);
    assert_int_equal(tkv_book_read(book, "blk.0.attn_k.weight", 1, DIM, values), TKV_ERR_RANGE);
    assert_int_equal(tkv_book_read(book, "tight3.blk.0.attn_k.bits", 0, DIM, values), TKV_OK);
    assert_true(values[0] == 7.0f);
    tkv_book_close(book);
}

static void refuses_what_is_cut(void **state)
{
    const struct fixture *f = *state;
    for (size_t n = 0; n < f->n_bytes; n += n < 4096 ? 1 : 97) {
        tkv_error err = {{0}};
        assert_int_not_equal(open_bytes(f, n, &err), TKV_OK);
        assert_true(err.text[0] != '\0');
    }
}

static void refuses_other_versions_and_files(void **state)
{
    const struct fixture *f = *state;
    tkv_error err;
    uint8_t *version = find(f, "book.version") + strlen("book.version") + 4;
    (*version)++;
    assert_int_equal(open_bytes(f, f->n_bytes, &err), TKV_ERR_VERSION);
    assert_non_null(strstr(err.text, "calibrate again"));
    (*version)--;
    assert_int_equal(open_bytes(f, f->n_bytes, &err), TKV_OK);
    *find(f, "tightkv-book") = 'x';
    assert_int_equal(open_bytes(f, f->n_bytes, &err), TKV_ERR_CORRUPT);
    assert_non_null(strstr(err.text, "no book"));
}

static tkv_status add_layer(const struct fixture *f, uint32_t n_heads, uint32_t dim, tkv_error *err)
{
    tkv_spec spec;
    tkv_cache *cache = NULL;
    tkv_book *book = NULL;
    uint32_t layer;
    const tkv_layer_params params = {.struct_size = sizeof params,
                                     .n_kv_heads = n_heads,
                                     .k_head_dim = dim,
                                     .v_head_dim = dim,
                                     .n_slots = TKV_PAGE_TOKENS,
                                     .n_streams = 1};
    assert_int_equal(tkv_spec_parse("kv=tight3,sink=0,tail=0", &spec, err), TKV_OK);
    assert_int_equal(tkv_cache_create(f->ctx, &spec, &cache, err), TKV_OK);
    assert_int_equal(tkv_book_open(f->ctx, f->bytes, f->n_bytes, &book, err), TKV_OK);
    assert_int_equal(tkv_cache_set_book(cache, book, err), TKV_OK);
    const tkv_status status = tkv_cache_add_layer(cache, &params, &layer, err);
    tkv_cache_destroy(cache);
    tkv_book_close(book);
    return status;
}

static void refuses_layers_of_another_shape(void **state)
{
    const struct fixture *f = *state;
    tkv_error err = {{0}};
    assert_int_equal(add_layer(f, 1, DIM, &err), TKV_OK);
    assert_int_not_equal(add_layer(f, 1, 2 * DIM, &err), TKV_OK);
    assert_true(err.text[0] != '\0');
    assert_int_not_equal(add_layer(f, 2, DIM, &err), TKV_OK);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(tells_what_it_holds),
        TEST(refuses_what_is_cut),
        TEST(refuses_other_versions_and_files),
        TEST(refuses_layers_of_another_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
