/* Residual codebooks: searches and sums, one code at a time. All in integers. */
#include "format/rvq.h"
#include "kernels/kernels.h"

#define T TKV_PAGE_TOKENS

void tkv_rvq_ref(struct tkv_kernels *k);

static int32_t dot(const int8_t *a, const int8_t *b)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < TKV_RVQ_DIM; i++)
        sum += a[i] * b[i];
    return sum;
}

static void rvq_nearest(const int8_t *codes, const int8_t *r, size_t n, int32_t *best, uint32_t *at)
{
    for (size_t i = 0; i < n; i++, r += TKV_RVQ_DIM, best += TKV_RVQ_CLASSES, at += TKV_RVQ_CLASSES)
        for (uint32_t code = 0; code < TKV_RVQ_CODES; code++) {
            const int8_t *c = codes + (size_t)code * TKV_RVQ_DIM;
            const uint32_t j = code % TKV_RVQ_CLASSES;
            const int32_t score = dot(r, c) - dot(c, c) / 2;
            if (code >= TKV_RVQ_CLASSES && score <= best[j])
                continue;
            best[j] = score;
            at[j] = code;
        }
}

static int32_t clamp(int32_t x, int32_t low)
{
    return x < low ? low : x > 127 ? 127 : x;
}

static void rvq_rows(const uint8_t *codes, const int8_t *books, uint32_t n_stages, uint32_t D,
                     tkv_kind kind, uint8_t flip, uint8_t *rows)
{
    const uint32_t n_groups = D / TKV_RVQ_DIM;
    for (uint32_t t = 0; t < T; t++)
        for (uint32_t g = 0; g < n_groups; g++)
            for (uint32_t i = 0; i < TKV_RVQ_DIM; i++) {
                int32_t sum = 0;
                for (uint32_t s = 0; s < n_stages; s++) {
                    const uint8_t *unit = codes + (s * n_groups + g) * TKV_RVQ_UNIT_BYTES;
                    const size_t at = tkv_rvq_code(unit, t) * TKV_RVQ_DIM + i;
                    sum = clamp(sum + books[s * TKV_RVQ_BOOK_BYTES + at], -128);
                }
                rows[(size_t)t * D + tkv_rvq_channel(kind, D, g, i)] =
                    (uint8_t)(clamp(sum, -127) ^ flip);
            }
}

void tkv_rvq_ref(struct tkv_kernels *k)
{
    k->rvq_nearest = rvq_nearest;
    k->rvq_rows = rvq_rows;
}
