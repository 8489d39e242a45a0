/* Spec text: whatever it is, it parses or is refused with one line; what parses prints and parses
 * back. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static void check_refusal(tkv_status status, const tkv_spec *spec, const tkv_error *err)
{
    FUZZ_CHECK(status < 0);
    for (size_t i = 0; i < sizeof *spec; i++)
        FUZZ_CHECK(((const unsigned char *)spec)[i] == 0xa5);
    FUZZ_CHECK(memchr(err->text, 0, sizeof err->text) != NULL);
    FUZZ_CHECK(err->text[0] != 0 && strchr(err->text, '\n') == NULL);
}

static int same(tkv_codec a, tkv_codec b)
{
    return a.id == b.id && a.flags == b.flags;
}

static void check_round_trip(const tkv_spec *spec)
{
    char text[TKV_SPEC_TEXT], again[TKV_SPEC_TEXT];
    tkv_spec back;
    FUZZ_CHECK(tkv_spec_print(spec, text, sizeof text) == TKV_OK);
    FUZZ_CHECK(tkv_spec_parse(text, &back, NULL) == TKV_OK);
    FUZZ_CHECK(same(back.k, spec->k) && same(back.v, spec->v));
    FUZZ_CHECK(same(back.visual_k, spec->visual_k) && same(back.visual_v, spec->visual_v));
    FUZZ_CHECK(back.sink == spec->sink && back.tail == spec->tail && back.strict == spec->strict);
    FUZZ_CHECK(tkv_spec_print(&back, again, sizeof again) == TKV_OK && strcmp(text, again) == 0);
    /* One byte too few must be refused, and must not be written past. */
    size_t n = strlen(text);
    memset(again, 0x5a, sizeof again);
    FUZZ_CHECK(tkv_spec_print(spec, again, n) == TKV_ERR_RANGE);
    FUZZ_CHECK(again[n] == 0x5a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_alloc(size + 1);
    tkv_spec spec;
    tkv_error err;
    memcpy(text, data, size);
    text[size] = 0;
    memset(&spec, 0xa5, sizeof spec);
    memset(&err, 0xa5, sizeof err);
    tkv_status status = tkv_spec_parse(text, &spec, &err);
    if (status == TKV_OK)
        check_round_trip(&spec);
    else
        check_refusal(status, &spec, &err);
    free(text);
    return 0;
}
