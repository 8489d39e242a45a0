/* Weights times a power of two. Block formats carry one or two scales a block; multiplying those
 * multiplies the block and leaves its codes alone. */
#include "harden.h"

#include <math.h>
#include <string.h>

enum form {
    FORM_F32,
    FORM_F16,
    FORM_BF16,
    FORM_E8M0
};

struct scale_rule {
    enum ggml_type type;
    enum form form;
    uint8_t n;
    uint8_t at[2]; /* bytes from the block's start */
};

/* As ggml-common.h lays out the blocks of llama.cpp v0.5.0. iq1_m and nvfp4 are not here: their
 * scales have too few bits of exponent. */
/* clang-format off */
static const struct scale_rule rules[] = {
    {GGML_TYPE_F32, FORM_F32, 1, {0}},       {GGML_TYPE_F16, FORM_F16, 1, {0}},
    {GGML_TYPE_BF16, FORM_BF16, 1, {0}},     {GGML_TYPE_MXFP4, FORM_E8M0, 1, {0}},
    {GGML_TYPE_Q4_0, FORM_F16, 1, {0}},      {GGML_TYPE_Q4_1, FORM_F16, 2, {0, 2}},
    {GGML_TYPE_Q5_0, FORM_F16, 1, {0}},      {GGML_TYPE_Q5_1, FORM_F16, 2, {0, 2}},
    {GGML_TYPE_Q8_0, FORM_F16, 1, {0}},      {GGML_TYPE_Q2_K, FORM_F16, 2, {80, 82}},
    {GGML_TYPE_Q3_K, FORM_F16, 1, {108}},    {GGML_TYPE_Q4_K, FORM_F16, 2, {0, 2}},
    {GGML_TYPE_Q5_K, FORM_F16, 2, {0, 2}},   {GGML_TYPE_Q6_K, FORM_F16, 1, {208}},
    {GGML_TYPE_IQ1_S, FORM_F16, 1, {0}},     {GGML_TYPE_IQ2_XXS, FORM_F16, 1, {0}},
    {GGML_TYPE_IQ2_XS, FORM_F16, 1, {0}},    {GGML_TYPE_IQ2_S, FORM_F16, 1, {0}},
    {GGML_TYPE_IQ3_XXS, FORM_F16, 1, {0}},   {GGML_TYPE_IQ3_S, FORM_F16, 1, {0}},
    {GGML_TYPE_IQ4_NL, FORM_F16, 1, {0}},    {GGML_TYPE_IQ4_XS, FORM_F16, 1, {0}},
    {GGML_TYPE_TQ1_0, FORM_F16, 1, {52}},    {GGML_TYPE_TQ2_0, FORM_F16, 1, {64}},
};
/* clang-format on */

static const struct scale_rule *rule_of(enum ggml_type type)
{
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
        if (rules[i].type == type)
            return &rules[i];
    return NULL;
}

bool harden_can_scale(enum ggml_type type)
{
    return rule_of(type) != NULL;
}

static float bf16_to_float(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* Multiplies one scale in place; `wanted` and `got` are what it was to be and what it is. */
static void scale_one(const struct llama_api *api, enum form form, uint8_t *at, int exponent,
                      float *wanted, float *got)
{
    uint16_t half;
    float x;
    switch (form) {
    case FORM_F32:
        memcpy(&x, at, sizeof(x));
        *got = *wanted = ldexpf(x, exponent);
        memcpy(at, got, sizeof(*got));
        return;
    case FORM_F16:
        memcpy(&half, at, sizeof(half));
        *wanted = ldexpf(api->ggml_fp16_to_fp32(half), exponent);
        half = api->ggml_fp32_to_fp16(*wanted);
        *got = api->ggml_fp16_to_fp32(half);
        memcpy(at, &half, sizeof(half));
        return;
    case FORM_BF16:
        memcpy(&half, at, sizeof(half));
        *wanted = ldexpf(bf16_to_float(half), exponent);
        memcpy(&half, (const uint8_t *)wanted + 2, sizeof(half));
        *got = bf16_to_float(half);
        memcpy(at, &half, sizeof(half));
        return;
    case FORM_E8M0: /* an exponent and nothing else; 255 is no number */
        *wanted = 1;
        *got = *at + exponent >= 0 && *at + exponent < 255 ? 1 : INFINITY;
        *at = (uint8_t)(*at + exponent);
        return;
    }
}

double harden_scale(const struct llama_api *api, enum ggml_type type, uint8_t *row, size_t n_bytes,
                    int exponent)
{
    const struct scale_rule *rule = rule_of(type);
    size_t block = api->ggml_type_size(type);
    double sum = 0, lost = 0;
    for (size_t i = 0; i < n_bytes; i += block) {
        for (uint8_t s = 0; s < rule->n; s++) {
            float wanted = 0, got = 0;
            scale_one(api, rule->form, row + i + rule->at[s], exponent, &wanted, &got);
            sum += (double)wanted * wanted;
            lost += ((double)got - wanted) * ((double)got - wanted);
        }
    }
    return lost == 0 ? 0 : sum == 0 ? INFINITY : sqrt(lost / sum);
}
