/* Coupled channels: the search for centroids, and codes back to values. */
#include "format/cq.h"
#include "kernels/kernels.h"

#define T TKV_PAGE_TOKENS

void tkv_cq_ref(struct tkv_kernels *k);

static void cq_nearest_ref(const int16_t *x, const int16_t *centroids, const int32_t *offset,
                           uint32_t dim, uint8_t *codes)
{
    for (uint32_t t = 0; t < T; t++) {
        int32_t most = INT32_MIN;
        for (uint32_t i = 0; i < TKV_CQ_CODES; i++) {
            int32_t score = offset[i];
            for (uint32_t j = 0; j < dim; j++)
                score += x[(j / 2 * T + t) * 2 + j % 2] * centroids[i * dim + j];
            most = score > most ? score : most;
        }
        codes[t] = (uint8_t)(TKV_CQ_CODES - 1 - ((uint32_t)most & (TKV_CQ_CODES - 1)));
    }
}

static void cq_tile_k_ref(const uint8_t *codes, const int8_t *values, const float *step,
                          const float *base, uint32_t D, uint32_t dim, float *tile)
{
    for (uint32_t d = 0; d < D; d++)
        for (uint32_t t = 0; t < T; t++) {
            const uint8_t code = codes[(size_t)(d / dim) * T + t];
            tile[(size_t)d * T + t] =
                (float)values[(size_t)d * TKV_CQ_CODES + code] * step[d] + base[d];
        }
}

static void cq_tile_v_ref(const uint8_t *codes, const int8_t *values, uint32_t D, uint32_t dim,
                          int8_t *tile)
{
    for (uint32_t d = 0; d < D; d++)
        for (uint32_t t = 0; t < T; t++) {
            const uint8_t code = codes[(size_t)(d / dim) * T + t];
            tile[((size_t)(t / 4 * (D / 16) + d / 16) * 16 + d % 16) * 4 + t % 4] =
                values[(size_t)d * TKV_CQ_CODES + code];
        }
}

void tkv_cq_ref(struct tkv_kernels *k)
{
    k->cq_nearest = cq_nearest_ref;
    k->cq_tile_k = cq_tile_k_ref;
    k->cq_tile_v = cq_tile_v_ref;
}
