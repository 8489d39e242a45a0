/* Keys with large constants, as Qwen2.5 has them: low-bit codes of single rows spend their levels
 * on the constant, and quality collapses where perplexity of other models shows nothing. */
#include "doctor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harden.h"

/* Keys are a few units wide; rows are hurt where the constant is well beyond that. */
static const double large = 16;

static double largest_in(const struct harden_file *f, int64_t tensor)
{
    const struct llama_api *api = f->api;
    double most = 0;
    if (tensor < 0 || api->gguf_get_tensor_type(f->gguf, tensor) != GGML_TYPE_F32)
        return 0;
    for (size_t i = 0; i < api->gguf_get_tensor_size(f->gguf, tensor); i += sizeof(float)) {
        float x;
        memcpy(&x, harden_file_data(f, tensor) + i, sizeof(x));
        most = fmax(most, fabs((double)x));
    }
    return most;
}

/* 8 bits and more have room for what all rows share. */
static bool is_low_bit(tkv_codec codec)
{
    const uint32_t head_dim = 128;
    size_t values = (size_t)TKV_PAGE_TOKENS * head_dim;
    return tkv_page_bytes(codec, TKV_K, head_dim) < values;
}

/* Codecs of whole pages take out what all rows share. */
static bool is_hurt(tkv_codec codec, char *name, size_t capacity)
{
    for (uint32_t i = 0; i < tkv_codec_count(); i++) {
        tkv_codec_info info = {.struct_size = sizeof(info)};
        if (tkv_codec_describe(i, &info) != TKV_OK || info.id != codec.id)
            continue;
        snprintf(name, capacity, "%s", info.name);
        return !info.whole_page && is_low_bit(codec);
    }
    return false;
}

void doctor_check_keys(struct report *r, const struct llama_api *api, const char *path,
                       uint32_t n_layers, const tkv_spec *spec)
{
    struct harden_file f;
    double most = 0;
    char codec[32] = "";
    if (harden_file_open(&f, api, path) == CLI_OK)
        for (uint32_t i = 0; i < n_layers; i++)
            most = fmax(most, largest_in(&f, harden_file_tensor(&f, i, "attn_k.bias")));
    harden_file_close(&f);
    if (most < large)
        return;
    bool hurt = is_hurt(spec->k, codec, sizeof(codec));
    doctor_add(r, hurt ? WORTH_KNOWING : FINE, "model",
               cli_format("keys carry constants of up to %.0f (attn_k.bias)%s%s", most,
                          hurt ? ", on which low-bit keys collapse silently; the spec has k=" : "",
                          hurt ? codec : ""),
               hurt ? cli_format("take k=turbo4c, as the default preset does") : NULL);
}
