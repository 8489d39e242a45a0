/* The trellis search for NEON: 16 tokens in two registers of 8 16-bit lanes. */
#include <arm_neon.h>

#include "kernels/trellis_steps.h"

void tkv_trellis_neon(struct tkv_kernels *k);

/* What was paid before, and the cost of a level. */
TKV_INLINE uint16x8_t cost_of(const uint16_t *before, int16x8_t x, int16_t level, bool near)
{
    const int16x8_t e = vsubq_s16(x, vdupq_n_s16(level));
    const uint16x8_t paid = vld1q_u16(before);
    if (near)
        return vmlaq_u16(paid, vreinterpretq_u16_s16(e), vreinterpretq_u16_s16(e));
    const uint16x8_t far = vreinterpretq_u16_s16(vabsq_s16(e));
    const uint16x8_t cut = vminq_u16(far, vdupq_n_u16(TKV_TRELLIS_FAR));
    return vmlaq_u16(vaddq_u16(paid, vsubq_u16(far, cut)), cut, cut);
}

static void lower(tkv_trellis_costs *best, uint32_t n, const uint16x8_t least[2])
{
    const uint16x8_t lost = vdupq_n_u16(TKV_TRELLIS_LOST);
    for (uint32_t m = 0; m < n; m++)
        for (int i = 0; i < 2; i++) {
            const uint16x8_t above = vsubq_u16(vld1q_u16(best[m] + i * 8), least[i]);
            vst1q_u16(best[m] + i * 8, vminq_u16(above, lost));
        }
}

TKV_INLINE void choose(const struct tkv_trellis_step *s, uint32_t k, bool near)
{
    const uint32_t keep = TKV_TRELLIS_STATES >> k;
    uint16x8_t least[2] = {vdupq_n_u16(UINT16_MAX), vdupq_n_u16(UINT16_MAX)};
    for (uint32_t m = 0; m < keep; m++)
        for (int i = 0; i < 2; i++) {
            const int16x8_t x = vld1q_s16(s->x + i * 8);
            uint16x8_t who = vdupq_n_u16(0);
            uint16x8_t low = cost_of(s->best[m >> s->bits] + i * 8, x, s->levels[m], near);
            for (uint32_t h = 1, w = m + keep; h < 1u << k; h++, w += keep) {
                const uint16x8_t other =
                    cost_of(s->best[w >> s->bits] + i * 8, x, s->levels[w], near);
                who = vbslq_u16(vcltq_u16(other, low), vdupq_n_u16((uint16_t)h), who);
                low = vminq_u16(low, other);
            }
            vst1q_u16(s->next[m] + i * 8, low);
            vst1_u8(s->from[m] + i * 8, vmovn_u16(who));
            least[i] = vminq_u16(least[i], low);
        }
    lower(s->next, keep, least);
}

static void choose_neon(const struct tkv_trellis_step *s, uint32_t k, bool near)
{
    if (near)
        choose(s, k, true);
    else
        choose(s, k, false);
}

static void trellis_codes_neon(const float *x, const uint8_t *bits, const float *reach, uint32_t D,
                               uint8_t *windows, void *scratch)
{
    tkv_trellis_search_all(x, bits, reach, D, windows, scratch, choose_neon);
}

void tkv_trellis_neon(struct tkv_kernels *k)
{
    k->trellis_codes = trellis_codes_neon;
}
