/* The GGUF reader: what is written is read back, and no cut or changed byte gets it out of bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/gguf.h"

enum {
    KIND_U32 = 4,
    KIND_F32 = 6,
    KIND_STRING = 8,
    KIND_ARRAY = 9
};

struct writer {
    uint8_t bytes[4096];
    size_t n;
};

static void put(struct writer *w, const void *p, size_t n)
{
    memcpy(w->bytes + w->n, p, n);
    w->n += n;
}

static void put_u32(struct writer *w, uint32_t x)
{
    put(w, &x, sizeof x);
}

static void put_u64(struct writer *w, uint64_t x)
{
    put(w, &x, sizeof x);
}

static void put_text(struct writer *w, const char *s)
{
    put_u64(w, strlen(s));
    put(w, s, strlen(s));
}

static void put_tensor(struct writer *w, const char *name, uint64_t a, uint64_t b, uint32_t type,
                       uint64_t offset)
{
    put_text(w, name);
    put_u32(w, 2);
    put_u64(w, a), put_u64(w, b);
    put_u32(w, type);
    put_u64(w, offset);
}

static const float floats[6] = {1, -2, 3.5f, 0, 1e-3f, 6};
static const uint16_t halves[4] = {0x3c00, 0xc000, 0x0000, 0x7bff};

static void write_book(struct writer *w)
{
    *w = (struct writer){{0}, 0};
    put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, 2); /* tensors */
    put_u64(w, 4); /* keys */
    put_text(w, "general.name"), put_u32(w, KIND_STRING), put_text(w, "a book");
    put_text(w, "list"), put_u32(w, KIND_ARRAY), put_u32(w, KIND_STRING), put_u64(w, 2);
    put_text(w, "x"), put_text(w, "yz");
    put_text(w, "book.version"), put_u32(w, KIND_U32), put_u32(w, 7);
    put_text(w, "book.gain"), put_u32(w, KIND_F32), put(w, &floats[2], 4);
    put_tensor(w, "k.0", 3, 2, TKV_GGUF_F32, 0);
    put_tensor(w, "v.0", 4, 1, TKV_GGUF_F16, 32);
    w->n = (w->n + 31) / 32 * 32;
    put(w, floats, sizeof floats);
    w->n += 32 - sizeof floats;
    put(w, halves, sizeof halves);
}

static void reads_what_is_there(void **state)
{
    (void)state;
    struct writer w;
    write_book(&w);
    struct tkv_gguf g;
    assert_int_equal(tkv_gguf_open(w.bytes, w.n, &g, NULL), TKV_OK);
    char text[16];
    uint32_t number;
    float gain;
    assert_true(tkv_gguf_text(&g, "general.name", text, sizeof text));
    assert_string_equal(text, "a book");
    assert_false(tkv_gguf_text(&g, "general.name", text, 6));
    assert_true(tkv_gguf_u32(&g, "book.version", &number));
    assert_int_equal(number, 7);
    assert_false(tkv_gguf_u32(&g, "book.gain", &number));
    assert_true(tkv_gguf_f32(&g, "book.gain", &gain));
    assert_true(gain == floats[2]);
    assert_false(tkv_gguf_u32(&g, "missing", &number));
    assert_true(tkv_gguf_tensor_name(&g, 1, text, sizeof text));
    assert_string_equal(text, "v.0");
    assert_false(tkv_gguf_tensor_name(&g, 2, text, sizeof text));
}

static void reads_tensors(void **state)
{
    (void)state;
    struct writer w;
    write_book(&w);
    struct tkv_gguf g;
    assert_int_equal(tkv_gguf_open(w.bytes, w.n, &g, NULL), TKV_OK);
    struct tkv_gguf_tensor t;
    float out[4];
    assert_true(tkv_gguf_tensor(&g, "k.0", &t));
    assert_int_equal(t.n_values, 6);
    assert_int_equal(t.dims[0], 3);
    tkv_gguf_read_f32(&t, 2, 4, out);
    assert_memory_equal(out, floats + 2, sizeof out);
    assert_true(tkv_gguf_tensor(&g, "v.0", &t));
    tkv_gguf_read_f32(&t, 0, 4, out);
    assert_true(out[0] == 1 && out[1] == -2 && out[2] == 0 && out[3] == 65504);
    assert_false(tkv_gguf_tensor(&g, "k.1", &t));
}

/* In a buffer of exactly that length, so that a sanitizer sees a read past it. */
static tkv_status open_copy(const uint8_t *bytes, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    memcpy(copy, bytes, n);
    struct tkv_gguf g;
    const tkv_status status = tkv_gguf_open(copy, n, &g, NULL);
    struct tkv_gguf_tensor t;
    float out[6];
    if (status == TKV_OK && tkv_gguf_tensor(&g, "k.0", &t) && t.type == TKV_GGUF_F32 &&
        t.n_values == 6)
        tkv_gguf_read_f32(&t, 0, 6, out);
    free(copy);
    return status;
}

static void refuses_every_cut(void **state)
{
    (void)state;
    struct writer w;
    write_book(&w);
    for (size_t n = 0; n < w.n; n++)
        assert_int_not_equal(open_copy(w.bytes, n), TKV_OK);
    assert_int_equal(open_copy(w.bytes, w.n), TKV_OK);
}

static void survives_every_changed_byte(void **state)
{
    (void)state;
    struct writer w;
    write_book(&w);
    size_t n_refused = 0;
    for (size_t i = 0; i < w.n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            w.bytes[i] ^= (uint8_t)(1 << bit);
            n_refused += open_copy(w.bytes, w.n) != TKV_OK;
            w.bytes[i] ^= (uint8_t)(1 << bit);
        }
    }
    /* Lengths, counts, kinds and offsets: far more than a hundred bits break the file. */
    assert_true(n_refused > 100);
}

static void names_other_versions(void **state)
{
    (void)state;
    struct writer w;
    write_book(&w);
    w.bytes[4] = 2;
    struct tkv_gguf g;
    tkv_error err;
    assert_int_equal(tkv_gguf_open(w.bytes, w.n, &g, &err), TKV_ERR_VERSION);
    assert_non_null(strstr(err.text, "version 2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_there),  cmocka_unit_test(reads_tensors),
        cmocka_unit_test(refuses_every_cut),    cmocka_unit_test(survives_every_changed_byte),
        cmocka_unit_test(names_other_versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
