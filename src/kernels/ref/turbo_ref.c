/* Turbo codes: see format/turbo.h for the units that hold them and for the quantiser. */
#include <math.h>

#include <string.h>

#include "format/turbo.h"
#include "kernels/kernels.h"

void tkv_turbo_ref(struct tkv_kernels *k);

/* Writes level[code] + bias for every code of a page, in tile order. */
static void unpack(const uint8_t *restrict codes, uint32_t D, tkv_kind kind, uint32_t bits,
                   int bias, uint8_t *restrict tile)
{
    const struct tkv_turbo_walk walk = tkv_turbo_walk(kind, D, bits);
    const uint32_t width = bits == 4 ? 4 : 2, mask = (1u << width) - 1u;
    const uint8_t *third = codes + 16 * (size_t)D;
    const int8_t *level = tkv_turbo_levels(bits);
    for (size_t u = 0; u < walk.n_runs * walk.n_units; u++, codes += 64)
        for (size_t j = 0; j < tkv_turbo_groups_per_unit(bits); j++, third += 8) {
            uint8_t *group = tile + u / walk.n_units * walk.run_step +
                             u % walk.n_units * walk.unit_step + j * walk.group_step;
            for (size_t i = 0; i < 64; i++) {
                uint32_t code = ((uint32_t)codes[i] >> (width * j)) & mask;
                if (bits == 3)
                    code |= ((uint32_t)third[i / 8] >> (i % 8) & 1u) << 2;
                group[i] = (uint8_t)(level[code] + bias);
            }
        }
}

static void turbo_tile_k_ref(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                             uint8_t *restrict tile, struct tkv_ahead *ahead)
{
    (void)ahead;
    unpack(codes, D, TKV_K, bits, 128, tile);
}

static void turbo_tile_v_ref(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                             int8_t *restrict tile, struct tkv_ahead *ahead)
{
    (void)ahead;
    unpack(codes, D, TKV_V, bits, 0, (uint8_t *)tile);
}

static void turbo_pack_ref(const uint8_t *restrict tile, uint32_t D, tkv_kind kind, uint32_t bits,
                           uint8_t *restrict codes)
{
    const struct tkv_turbo_walk walk = tkv_turbo_walk(kind, D, bits);
    const uint32_t width = bits == 4 ? 4 : 2, mask = (1u << width) - 1u;
    uint8_t *third = codes + 16 * (size_t)D;
    memset(codes, 0, tkv_turbo_code_bytes(bits, D));
    for (size_t u = 0; u < walk.n_runs * walk.n_units; u++, codes += 64)
        for (size_t j = 0; j < tkv_turbo_groups_per_unit(bits); j++, third += 8) {
            const uint8_t *group = tile + u / walk.n_units * walk.run_step +
                                   u % walk.n_units * walk.unit_step + j * walk.group_step;
            for (size_t i = 0; i < 64; i++) {
                codes[i] = (uint8_t)(codes[i] | (group[i] & mask) << (width * j));
                if (bits == 3)
                    third[i / 8] = (uint8_t)(third[i / 8] | (group[i] >> 2) << (i % 8));
            }
        }
}

static void turbo_codes_ref(const float *restrict x, const float *restrict inv, uint32_t D,
                            uint32_t bits, uint8_t *restrict codes, int32_t *restrict energy)
{
    const uint32_t n_thresholds = (1u << bits) - 1u;
    const int8_t *level = tkv_turbo_levels(bits);
    float threshold[15];
    for (uint32_t i = 0; i < n_thresholds; i++)
        threshold[i] = tkv_turbo_threshold(bits, i);
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        energy[t] = 0;
        for (size_t d = t * D; d < (t + 1) * D; d++) {
            const float y = x[d] * inv[t];
            uint32_t code = 0;
            for (uint32_t i = 0; i < n_thresholds; i++)
                code += y > threshold[i];
            codes[d] = (uint8_t)code;
            energy[t] += level[code] * level[code];
        }
    }
}

static void turbo_dots_ref(const float *restrict x, const uint8_t *restrict codes, uint32_t D,
                           uint32_t bits, float *restrict dot)
{
    const int8_t *level = tkv_turbo_levels(bits);
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        float lane[16] = {0};
        for (size_t d = 0; d < D; d++)
            lane[d % 16] = fmaf((float)level[codes[t * D + d]], x[t * D + d], lane[d % 16]);
        for (size_t half = 8; half > 0; half /= 2)
            for (size_t i = 0; i < half; i++)
                lane[i] += lane[i + half];
        dot[t] = lane[0];
    }
}

void tkv_turbo_ref(struct tkv_kernels *k)
{
    k->turbo_dots = turbo_dots_ref;
    k->turbo_tile_k = turbo_tile_k_ref;
    k->turbo_tile_v = turbo_tile_v_ref;
    k->turbo_score = NULL;
    k->turbo_wsum = NULL;
    k->turbo_pack = turbo_pack_ref;
    k->turbo_codes = turbo_codes_ref;
}
