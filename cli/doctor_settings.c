/* Settings that make a coded cache slow, or leave it unused, without a word. */
#include "doctor.h"

#include <stdlib.h>
#include <string.h>

static bool is_off(const char *value)
{
    static const char *const words[] = {"off", "disabled", "false", "0"};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(value, words[i]) == 0)
            return true;
    return false;
}

static bool is_not_f16(const char *value)
{
    return strcmp(value, "f16") != 0;
}

static bool is_none(const char *value)
{
    return strcmp(value, "none") == 0;
}

static bool is_zero(const char *value)
{
    return strcmp(value, "0") == 0;
}

static bool is_set(const char *value)
{
    (void)value;
    return true;
}

/* The variables by which llama.cpp's programs take arguments. */
static const struct setting {
    const char *variable;
    bool (*harms)(const char *value);
    const char *what;
} settings[] = {
    {"LLAMA_ARG_FLASH_ATTN", is_off,
     "without flash attention caches stay f16, and every step is slow"},
    {"LLAMA_ARG_CACHE_TYPE_K", is_not_f16, "only f16 caches are coded; others stay as they are"},
    {"LLAMA_ARG_CACHE_TYPE_V", is_not_f16, "only f16 caches are coded; others stay as they are"},
    {"LLAMA_ARG_KV_OFFLOAD", is_off, "the plug-in sees no cache"},
    {"LLAMA_ARG_NO_KV_OFFLOAD", is_set, "the plug-in sees no cache"},
    {"LLAMA_ARG_N_GPU_LAYERS", is_zero, "the plug-in gets no layer"},
    {"LLAMA_ARG_DEVICE", is_none, "the plug-in gets no layer"},
};

void doctor_check_settings(struct report *r)
{
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        const struct setting *s = &settings[i];
        const char *value = getenv(s->variable);
        if (value && *value && s->harms(value))
            doctor_add(r, WORTH_KNOWING, "settings",
                       cli_format("%s=%s: %s", s->variable, value, s->what),
                       cli_format("unset it"));
    }
    const char *device = getenv("TIGHTKV_DEVICE");
    if (device && strcmp(device, "0") == 0)
        doctor_add(r, WORTH_KNOWING, "settings",
                   cli_format("TIGHTKV_DEVICE=0: the plug-in stays out"), cli_format("unset it"));
}

static void check_codec(struct report *r, const char *side, tkv_codec codec)
{
    for (uint32_t i = 0; i < tkv_codec_count(); i++) {
        tkv_codec_info info = {.struct_size = sizeof(info)};
        if (tkv_codec_describe(i, &info) != TKV_OK || info.id != codec.id || info.fused ||
            strstr(info.name, "f16")) /* f16 and bf16 have no codes */
            continue;
        doctor_add(
            r, WORTH_KNOWING, "spec",
            cli_format("%s at %s: attention cannot read its codes and decodes pages first, slowly",
                       side, info.name),
            cli_format("take a codec with 'yes' under fused in tightkv codecs"));
    }
}

void doctor_check_codecs(struct report *r, const tkv_spec *spec)
{
    check_codec(r, "keys", spec->k);
    check_codec(r, "values", spec->v);
}

char *doctor_codecs_for(uint32_t k_head_dim, uint32_t v_head_dim)
{
    char *names = cli_format("%s", "");
    for (uint32_t i = 0; i < tkv_codec_count(); i++) {
        tkv_codec_info info = {.struct_size = sizeof(info)};
        if (tkv_codec_describe(i, &info) != TKV_OK || strstr(info.name, "f16"))
            continue;
        tkv_codec codec = {info.id, 0};
        if (!tkv_page_bytes(codec, TKV_K, k_head_dim) || !tkv_page_bytes(codec, TKV_V, v_head_dim))
            continue;
        char *longer = cli_format("%s%s%s", names, *names ? ", " : "", info.name);
        free(names);
        names = longer;
    }
    return names;
}
