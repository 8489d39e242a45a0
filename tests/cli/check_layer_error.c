/* Errors of one layer, on rows made here: what is exact, what is coded, what the mask hides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "layer_error.h"

enum {
    N = 320,
    CELLS = 512,
    HEADS = 2,
    GROUP = 2,
    D = 64,
    Q_HEADS = HEADS * GROUP,
    WINDOW = 100
};

struct fixture {
    uint16_t k[N * HEADS * D], v[N * HEADS * D], mask[N * CELLS];
    float q[N * Q_HEADS * D], out[N * Q_HEADS * D];
    struct capture_layer layer;
    tkv_context *ctx;
};

/* Sum of three uniform numbers: about normal, deviation 1. */
static float noise(uint64_t *x)
{
    float sum = 0;
    for (int i = 0; i < 3; i++) {
        *x = *x * 6364136223846793005U + 1442695040888963407U;
        sum += (float)(*x >> 40) / (1 << 23) - 1;
    }
    return sum;
}

static void attend_plainly(struct fixture *f, size_t i, size_t h)
{
    const float *q = f->q + (i * Q_HEADS + h) * D;
    double weight[N], sum = 0, out[D] = {0};
    for (size_t t = 0; t < N; t++) {
        double logit = 0;
        for (size_t c = 0; c < D; c++)
            logit += (double)q[c] * (double)tkv_half_to_f32(f->k[(t * HEADS + h / GROUP) * D + c]);
        weight[t] = f->mask[i * CELLS + t] ? 0 : exp(logit / 8);
        sum += weight[t];
    }
    for (size_t t = 0; t < N; t++)
        for (size_t c = 0; c < D; c++)
            out[c] +=
                weight[t] / sum * (double)tkv_half_to_f32(f->v[(t * HEADS + h / GROUP) * D + c]);
    for (size_t c = 0; c < D; c++)
        f->out[(i * Q_HEADS + h) * D + c] = (float)out[c];
}

/* Keys of head 0 carry a large constant in four channels, those of head 1 none. */
static void fill(struct fixture *f)
{
    uint64_t x = 5;
    for (size_t i = 0; i < N * HEADS * D; i++) {
        float offset = i % (HEADS * D) < 4 ? 20 : 0;
        f->k[i] = tkv_f32_to_half(noise(&x) + offset);
        f->v[i] = tkv_f32_to_half(noise(&x));
    }
    for (size_t i = 0; i < N * Q_HEADS * D; i++)
        f->q[i] = noise(&x);
    for (size_t i = 0; i < N; i++)
        for (size_t t = 0; t < CELLS; t++)
            f->mask[i * CELLS + t] = t > i || t + WINDOW <= i ? 0xfc00 : 0;
    for (size_t i = 0; i < N * Q_HEADS; i++)
        attend_plainly(f, i / Q_HEADS, i % Q_HEADS);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    fill(f);
    f->layer = (struct capture_layer){
        .layer = 3,
        .n_q_heads = Q_HEADS,
        .n_kv_heads = HEADS,
        .k_head_dim = D,
        .v_head_dim = D,
        .n_q = N,
        .n_cells = CELLS,
        .q = f->q,
        .q_token_stride = sizeof(float) * Q_HEADS * D,
        .q_head_stride = sizeof(float) * D,
        .k = f->k,
        .v = f->v,
        .k_token_stride = sizeof(uint16_t) * HEADS * D,
        .v_token_stride = sizeof(uint16_t) * HEADS * D,
        .out = f->out,
        .out_token_stride = sizeof(float) * Q_HEADS * D,
        .out_head_stride = sizeof(float) * D,
        .mask = f->mask,
        .mask_stride = sizeof(uint16_t) * CELLS,
        .scale = .125F,
    };
    *state = f;
    return tkv_context_create(NULL, &f->ctx, NULL);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    tkv_context_destroy(f->ctx);
    free(f);
    return 0;
}

static struct layer_error measure(struct fixture *f, const char *text)
{
    struct layer_probe probe;
    struct layer_error error;
    tkv_spec spec = {.struct_size = sizeof(spec)};
    tkv_error err = {{0}};
    assert_int_equal(tkv_spec_parse(text, &spec, &err), TKV_OK);
    assert_int_equal(layer_probe_open(f->ctx, &f->layer, &probe, &err), TKV_OK);
    assert_int_equal(layer_probe_measure(&probe, &spec, &error, &err), TKV_OK);
    assert_int_equal(error.n_heads, HEADS);
    layer_probe_close(&probe);
    return error;
}

static void test_exact(void **state)
{
    struct layer_error e = measure(*state, "kv=f16,sink=0,tail=0,strict=1");
    assert_true(e.all.k == 0 && e.all.v == 0 && e.all.out < 1e-9);
    layer_error_free(&e);
    /* A tail as long as the window: no query reads a coded row, but rows are coded. */
    e = measure(*state, "kv=turbo2,sink=0,tail=100,strict=1");
    assert_true(e.all.k > .05 && e.all.out < 1e-9);
    layer_error_free(&e);
    /* Nothing seals. */
    e = measure(*state, "kv=turbo4,sink=64,tail=256,strict=1");
    assert_true(isnan(e.all.k) && isnan(e.all.v) && e.all.out < 1e-9);
    layer_error_free(&e);
}

static void test_coded(void **state)
{
    struct layer_error both = measure(*state, "kv=turbo4,sink=0,tail=0,strict=1");
    /* A Lloyd-Max quantiser of 4 bits on a normal source: .0095. */
    assert_true(both.all.v > .007 && both.all.v < .012);
    assert_true(both.heads[1].k > .007 && both.heads[1].k < .012);
    assert_true(both.all.out > both.all.v);
    struct layer_error keys = measure(*state, "k=turbo4,v=f16,sink=0,tail=0,strict=1");
    assert_true(keys.all.v == 0 && keys.all.k == both.all.k);
    assert_true(keys.all.out < both.all.out);
    /* Head 0 is where plain rotation loses, and where taking the mean out helps. */
    struct layer_error centred = measure(*state, "k=turbo4c,v=f16,sink=0,tail=0,strict=1");
    assert_true(keys.heads[0].out > 5 * centred.heads[0].out);
    assert_true(keys.heads[1].out < 2 * centred.heads[1].out);
    layer_error_free(&both);
    layer_error_free(&keys);
    layer_error_free(&centred);
}

static void test_other_attention(void **state)
{
    struct fixture *f = *state;
    struct layer_probe probe;
    tkv_error err = {{0}};
    f->layer.scale = .5F;
    assert_int_equal(layer_probe_open(f->ctx, &f->layer, &probe, &err), TKV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "layer 3"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exact, setup, teardown),
        cmocka_unit_test_setup_teardown(test_coded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_attention, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
