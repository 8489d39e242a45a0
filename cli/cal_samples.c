/* Rows of keys and values for trainers that need more than moments. */
#include <math.h>
#include <stdlib.h>

#include "calibrate.h"

const double cal_shares[CAL_QUANTILES] = {.001, .01, .1, .5, .9, .99, .999};

void cal_sample_choose(uint64_t rng, size_t n, size_t k, uint32_t *tokens)
{
    for (size_t i = 0; i < k; i++) {
        const size_t first = i * n / k, end = (i + 1) * n / k;
        tokens[i] = (uint32_t)(first + (size_t)(cal_uniform(&rng) * (double)(end - first)));
    }
}

static int compare(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void head_quantiles(const struct calibration *c, const struct cal_samples *s, uint32_t head,
                           float *room, double *out)
{
    const struct llama_api *api = &c->session->llama->api;
    for (uint32_t i = 0; i < s->head_dim; i++) {
        for (size_t t = 0; t < s->n_tokens; t++)
            room[t] = api->ggml_fp16_to_fp32(s->rows[(t * s->n_heads + head) * s->head_dim + i]);
        qsort(room, s->n_tokens, sizeof(*room), compare);
        for (size_t q = 0; q < CAL_QUANTILES; q++)
            out[q * s->head_dim + i] =
                (double)room[(size_t)lround(cal_shares[q] * (double)(s->n_tokens - 1))];
    }
}

void cal_quantiles(struct calibration *c)
{
    for (size_t i = 0; i < c->n_layers; i++)
        for (int j = 0; j < CAL_CLASSES * 2; j++) {
            const struct cal_samples s =
                cal_samples(c, i, (tkv_kind)(j % 2), (enum tkv_span_class)(j / 2));
            if (s.n_tokens == 0)
                continue;
            float *room = cli_alloc(s.n_tokens, sizeof(*room));
            struct cal_head *heads = c->layers[i].heads[j / 2][j % 2];
            for (uint32_t h = 0; h < s.n_heads; h++)
                head_quantiles(c, &s, h, room, heads[h].quantiles);
            free(room);
        }
}
