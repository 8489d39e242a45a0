/* npy_read() on files made here, right ones and ones that are wrong in one way each. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli.h"
#include "npy.h"

#define F2 "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 3), }\n"

/* Six float16: 1, -2, 65504, 2^-24, 0, 0.333... */
static const uint8_t halves[12] = {0, 0x3c, 0, 0xc0, 0xff, 0x7b, 1, 0, 0, 0, 0x55, 0x35};
static char path[64];

struct file {
    uint8_t bytes[512];
    size_t n;
};

static struct file make(int version, const char *header, const void *data, size_t n_data)
{
    struct file f = {.n = 0};
    const size_t length = strlen(header);
    const uint8_t start[] = {0x93, 'N', 'U', 'M', 'P', 'Y', (uint8_t)version, 0, (uint8_t)length,
                             0,    0,   0};
    const size_t n_start = version == 1 ? 10 : 12;
    memcpy(f.bytes, start, n_start);
    memcpy(f.bytes + n_start, header, length);
    memcpy(f.bytes + n_start + length, data, n_data);
    f.n = n_start + length + n_data;
    return f;
}

static int read_back(const struct file *f, struct npy *out)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(f->bytes, 1, f->n, file), f->n);
    assert_int_equal(fclose(file), 0);
    return npy_read(path, 3, out);
}

static void floats_come_back(void **state)
{
    (void)state;
    const float want[6] = {1, -2, 65504, 0x1p-24f, 0, 1365 * 0x1p-12f};
    for (int version = 1; version <= 2; version++) {
        struct npy a;
        struct file f = make(version, F2, halves, sizeof(halves));
        assert_int_equal(read_back(&f, &a), CLI_OK);
        assert_true(a.shape[0] == 1 && a.shape[1] == 2 && a.shape[2] == 3);
        assert_memory_equal(a.values, want, sizeof(want));
        free(a.values);
        f = make(version, "{\"shape\": (3,2 ,1),'fortran_order':False,'descr':'<f4'}  \n", want,
                 sizeof(want));
        assert_int_equal(read_back(&f, &a), CLI_OK);
        assert_true(a.shape[0] == 3 && a.shape[2] == 1);
        assert_memory_equal(a.values, want, sizeof(want));
        free(a.values);
    }
}

static void wrong_headers_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        "{}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 3)",
        "{'descr': '<f2', 'fortran_order': False}",
        "{'descr': '<f2', 'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 3)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 3), 'more': 1}",
        "{'descr': '<f2' 'fortran_order': False, 'shape': (1, 2, 3)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 3)} and more",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2, 3)}",
        "{'descr': '>f2', 'fortran_order': False, 'shape': (1, 2, 3)}",
        "{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (1, 2, 3)}",
        "{'descr': '<f2', 'fortran_order': True, 'shape': (1, 2, 3)}",
        "{'descr': '<f2', 'fortran_order': 0, 'shape': (1, 2, 3)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (6,)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, 2, 3)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, -2, 3)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (0, 2, 3)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 4)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, 3)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (4294967296, 4294967296, 3)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (99999999999999999999, 2, 3)}",
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct npy a;
        const struct file f = make(1, wrong[i], halves, sizeof(halves));
        assert_int_equal(read_back(&f, &a), CLI_DATA);
        assert_null(a.values);
    }
}

static void wrong_bytes_are_refused(void **state)
{
    (void)state;
    struct npy a;
    const struct file right = make(1, F2, halves, sizeof(halves));
    struct file f = right;
    for (f.n = 0; f.n < right.n; f.n++) /* cut anywhere */
        assert_int_equal(read_back(&f, &a), CLI_DATA);
    f.n = right.n + 1;
    assert_int_equal(read_back(&f, &a), CLI_DATA);
    f = right;
    f.bytes[6] = 3;
    assert_int_equal(read_back(&f, &a), CLI_DATA);
    f = right;
    f.bytes[f.n - 1] = 0x7c; /* an infinity or a NaN */
    assert_int_equal(read_back(&f, &a), CLI_DATA);
    f = right;
    f.bytes[20] = '\0';
    assert_int_equal(read_back(&f, &a), CLI_DATA);
    assert_int_equal(npy_read("/nonexistent.npy", 3, &a), CLI_DATA);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_come_back),
        cmocka_unit_test(wrong_headers_are_refused),
        cmocka_unit_test(wrong_bytes_are_refused),
    };
    snprintf(path, sizeof(path), "check_npy.%ld.npy", (long)getpid());
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove(path);
    return failed;
}
