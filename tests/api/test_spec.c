/* Specs: what parses, what it means, and that errors name the word at fault. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tightkv/tightkv.h"

static tkv_spec parse(const char *text)
{
    tkv_spec spec;
    tkv_error err;
    if (tkv_spec_parse(text, &spec, &err) != TKV_OK)
        fail_msg("%s: %s", text ? text : "(none)", err.text);
    return spec;
}

static void expect_print(const char *text, const char *want)
{
    char got[TKV_SPEC_TEXT];
    const tkv_spec spec = parse(text);
    assert_int_equal(tkv_spec_print(&spec, got, sizeof got), TKV_OK);
    assert_string_equal(got, want);
    const tkv_spec again = parse(got); /* the canonical form means the same */
    assert_memory_equal(&again, &spec, sizeof spec);
}

static void canonical_forms(void **state)
{
    (void)state;
    expect_print("k=turbo4,v=turbo3", "k=turbo4,v=turbo3,sink=64,tail=128");
    expect_print("turbo4", "k=turbo4,v=turbo4,sink=64,tail=128");
    expect_print("kv=polar,sink=0,tail=0", "k=polar,v=polar,sink=0,tail=0");
    expect_print("rot=none,kv=turbo3", "k=turbo3,v=turbo3,sink=64,tail=128,rot=none");
    expect_print("turbo4,v=q8,strict=1", "k=turbo4,v=q8,sink=64,tail=128,strict=1");
    expect_print("f16,visual.k=turbo2,visual.v=q8",
                 "k=f16,v=f16,visual.k=turbo2,visual.v=q8,sink=64,tail=128");
}

static void canonical_retrieval(void **state)
{
    (void)state;
    const char *codec = "k=turbo4,v=turbo4,sink=64,tail=128";
    const struct {
        const char *text, *want;
    } cases[] = {
        {"index=qvq", ",index=qvq,keep=0.06"},
        {"index=a2ats,keep=.03", ",index=a2ats,keep=0.03"},
        {"keep=.0300,index=qvq", ",index=qvq,keep=0.03"},
        {"index=qvq,keep=4096,mass=0.98", ",index=qvq,keep=4096,mass=0.98"},
        {"index=qvq,keep=0", ",index=qvq,keep=0"},
        {"index=qvq,dense=31+0+1+4-6", ",index=qvq,keep=0.06,dense=0+1+4-6+31"},
        {"ram=2048M,spill=/var/tmp", ",ram=2G,spill=/var/tmp"},
        {"index=qvq,ram=1000,spill=a b", ",index=qvq,keep=0.06,ram=1000,spill=a b"},
        {"index=none", ""},
        {"index=qvq,rest=mean", ",index=qvq,keep=0.06"},
        {"index=qvq,rest=none", ",index=qvq,keep=0.06,rest=none"},
        {"index=a2ats,rest=mean", ",index=a2ats,keep=0.06,rest=mean"},
        {"index=a2ats,rope=window", ",index=a2ats,keep=0.06,rope=window"},
        {"index=a2ats,rope=true", ",index=a2ats,keep=0.06"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256], want[256];
        snprintf(text, sizeof text, "turbo4,%s", cases[i].text);
        snprintf(want, sizeof want, "%s%s", codec, cases[i].want);
        expect_print(text, want);
    }
    assert_true(parse("turbo4,index=qvq,keep=.25").keep == .25f);
    assert_true(parse("turbo4").keep == 0);
    assert_int_equal(parse("turbo4,index=qvq,dense=255").dense[3], (uint64_t)1 << 63);
}

static void retrieval_that_makes_no_sense(void **state)
{
    (void)state;
    const struct {
        const char *text, *says;
    } cases[] = {
        {"index=pq", "qvq, a2ats or none"},
        {"keep=.5", "add index=qvq"},
        {"mass=.9", "add index=qvq"},
        {"dense=1", "add index=qvq"},
        {"rest=mean", "add index=qvq"},
        {"index=qvq,rope=window", "add index=a2ats"},
        {"index=a2ats,rope=none", "true or window"},
        {"index=qvq,rest=all", "mean or none"},
        {"index=qvq,keep=-1", "a share of the rows"},
        {"index=qvq,keep=1.5", "a share of the rows"},
        {"index=qvq,keep=.", "a share of the rows"},
        {"index=qvq,keep=99999999", "a share of the rows"},
        {"index=qvq,mass=1", "between 0 and 1"},
        {"index=qvq,mass=0", "between 0 and 1"},
        {"index=qvq,dense=1+", "numbers of layers"},
        {"index=qvq,dense=4-2", "numbers of layers"},
        {"index=qvq,dense=256", "numbers of layers"},
        {"ram=2G", "add spill=DIR"},
        {"spill=/tmp", "add ram=SIZE"},
        {"ram=2X,spill=a", "512M"},
        {"ram=0,spill=a", "512M"},
        {"ram=9999999999999999,spill=a", "512M"},
        {"ram=2G,spill=", "name of a folder"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        tkv_spec spec;
        tkv_error err = {.text = ""};
        snprintf(text, sizeof text, "turbo4,%s", cases[i].text);
        assert_int_equal(tkv_spec_parse(text, &spec, &err), TKV_ERR_SPEC);
        if (!strstr(err.text, cases[i].says))
            fail_msg("%s: %s", text, err.text);
    }
}

static void presets_parse(void **state)
{
    (void)state;
    const char *name, *text, *summary;
    uint32_t n = 0;
    for (; tkv_spec_preset(n, &name, &text, &summary) == TKV_OK; n++) {
        const tkv_spec a = parse(name), b = parse(text);
        assert_memory_equal(&a, &b, sizeof a);
        assert_true(strlen(summary) > 10);
    }
    assert_true(n >= 3);
    assert_int_equal(tkv_spec_preset(0, &name, NULL, NULL), TKV_OK);
    const tkv_spec first = parse(name), none = parse(NULL), empty = parse("");
    assert_memory_equal(&first, &none, sizeof none);
    assert_memory_equal(&first, &empty, sizeof empty);
    assert_int_equal(parse("default,tail=256").tail, 256);
}

static void errors_name_the_word(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"k=turbo9,v=turbo4", "turbo9"},
        {"k=turbo4", "v"},
        {"v=turbo4", "keys"},
        {"turbo4,sunk=3", "sunk"},
        {"turbo4,sink=-1", "sink=-1"},
        {"turbo4,tail=99999999999", "tail="},
        {"turbo4,tail=", "tail="},
        {"turbo4,rot=qr", "rot=qr"},
        {"turbo4,strict=2", "strict=2"},
        {"nonsense", "nonsense"},
        {"k=turbo4,default", "default"},
        {"turbo4,,tail=1", "''"},
        {"qjl", "add v=turbo4"},
        {"k=turbo4,v=qjl", "v=qjl: qjl codes keys only"},
        {"turbo4,visual.v=qjl", "add visual.v=turbo4"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tkv_spec spec = {.sink = 77};
        tkv_error err = {""};
        assert_int_equal(tkv_spec_parse(bad[i][0], &spec, &err), TKV_ERR_SPEC);
        assert_int_equal(spec.sink, 77); /* untouched */
        if (!strstr(err.text, bad[i][1]))
            fail_msg("'%s' says '%s', without '%s'", bad[i][0], err.text, bad[i][1]);
    }
    char long_text[400];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    tkv_spec spec;
    assert_int_equal(tkv_spec_parse(long_text, &spec, NULL), TKV_ERR_SPEC);
}

static void codecs_are_found_by_name(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < tkv_codec_count(); i++) {
        tkv_codec_info info = {.struct_size = sizeof info};
        tkv_codec codec;
        assert_int_equal(tkv_codec_describe(i, &info), TKV_OK);
        assert_int_equal(tkv_codec_find(info.name, &codec, NULL), TKV_OK);
        assert_int_equal(codec.id, info.id);
        for (uint32_t j = 0; j < i; j++) {
            tkv_codec_info other = {.struct_size = sizeof other};
            assert_int_equal(tkv_codec_describe(j, &other), TKV_OK);
            assert_int_not_equal(other.id, info.id);
        }
    }
    tkv_codec_info info = {.struct_size = sizeof info};
    assert_int_equal(tkv_codec_describe(tkv_codec_count(), &info), TKV_ERR_INVALID);
}

static void short_buffers_are_refused(void **state)
{
    (void)state;
    char buf[10];
    const tkv_spec spec = parse("turbo4");
    assert_int_equal(tkv_spec_print(&spec, buf, sizeof buf), TKV_ERR_RANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(canonical_forms),
        cmocka_unit_test(canonical_retrieval),
        cmocka_unit_test(retrieval_that_makes_no_sense),
        cmocka_unit_test(presets_parse),
        cmocka_unit_test(errors_name_the_word),
        cmocka_unit_test(codecs_are_found_by_name),
        cmocka_unit_test(short_buffers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
