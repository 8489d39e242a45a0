/* Codebooks of rvq8, rvq6 and rvq4: a layer's keys share one set, its values another. */
#include <math.h>
#include <stdlib.h>

#include "calibrate.h"
#include "rvq_learn.h"

/* Some seconds of one core a set. */
static const struct rvq_effort effort = {65536, 6, 65536, 24};

/* Of a hundred rows, so many hold no value that codes cannot reach at the row's own scale. */
static const double share_in_reach = 0.99;

/* A row over its deviation. */
static void normalise(const struct llama_api *api, const ggml_fp16_t *row, uint32_t dim, float *out)
{
    double sum = 0, square = 0;
    for (uint32_t d = 0; d < dim; d++) {
        out[d] = api->ggml_fp16_to_fp32(row[d]);
        sum += (double)out[d];
    }
    for (uint32_t d = 0; d < dim; d++)
        square += ((double)out[d] - sum / dim) * ((double)out[d] - sum / dim);
    const double deviation = sqrt(square / (dim - 1));
    for (uint32_t d = 0; d < dim; d++)
        out[d] = deviation > 0 ? (float)((double)out[d] / deviation) : 0;
}

static int compare(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The step in which 8 bits reach that far. */
static float choose_step(const struct calibration *c, const struct cal_samples *s, float *row)
{
    const size_t n_rows = s->n_tokens * s->n_heads;
    float *largest = cli_alloc(n_rows, sizeof(*largest));
    for (size_t i = 0; i < n_rows; i++) {
        normalise(&c->session->llama->api, s->rows + i * s->head_dim, s->head_dim, row);
        for (uint32_t d = 0; d < s->head_dim; d++)
            largest[i] = fmaxf(largest[i], fabsf(row[d]));
    }
    qsort(largest, n_rows, sizeof(*largest), compare);
    const float step = largest[(size_t)(share_in_reach * (double)(n_rows - 1))] / 127;
    free(largest);
    return step > 0 ? step : 1.0f / 127;
}

/* Groups of all rows in steps: strided channels of keys, neighbouring ones of values. */
static void gather(const struct calibration *c, const struct cal_samples *s, tkv_kind kind,
                   float step, float *row, int8_t *x)
{
    const uint32_t n_groups = s->head_dim / RVQ_DIM;
    for (size_t i = 0; i < s->n_tokens * s->n_heads; i++) {
        normalise(&c->session->llama->api, s->rows + i * s->head_dim, s->head_dim, row);
        for (uint32_t g = 0; g < n_groups; g++)
            for (uint32_t d = 0; d < RVQ_DIM; d++) {
                const float y = row[kind == TKV_K ? d * n_groups + g : g * RVQ_DIM + d] / step;
                *x++ = (int8_t)lrintf(fminf(fmaxf(y, -127), 127));
            }
    }
}

static void add_codes(struct cal_book *book, const struct cal_layer *layer, const char *what,
                      const int8_t *codes, float step)
{
    cal_book_add(book, GGML_TYPE_I8, (const int64_t[]){RVQ_DIM, RVQ_CODES, RVQ_STAGES}, codes,
                 "rvq.blk.%d.attn_%s.codes", layer->layer, what);
    cal_book_add(book, GGML_TYPE_F32, (const int64_t[]){1, 1, 1}, &step, "rvq.blk.%d.attn_%s.step",
                 layer->layer, what);
}

static int train_layer(const struct calibration *c, size_t i, tkv_kind kind,
                       enum tkv_span_class klass, struct cal_book *book)
{
    static const char *const names[2][2] = {{"k", "v"}, {"k.visual", "v.visual"}};
    const struct cal_samples s = cal_samples(c, i, kind, klass);
    if (s.n_tokens == 0)
        return CLI_OK;
    if (s.head_dim % RVQ_DIM != 0)
        return cli_fail("layer %d: heads of %u values cannot be cut into groups of %d: no rvq",
                        c->layers[i].layer, s.head_dim, RVQ_DIM);
    const size_t n = s.n_tokens * s.n_heads * (s.head_dim / RVQ_DIM);
    float *row = cli_alloc(s.head_dim, sizeof(*row));
    int8_t *x = cli_alloc(n, RVQ_DIM);
    int8_t *codes = cli_alloc((size_t)RVQ_STAGES * RVQ_CODES, RVQ_DIM);
    const float step = choose_step(c, &s, row);
    gather(c, &s, kind, step, row, x);
    const int rc = rvq_learn(&(struct rvq_samples){x, n}, &effort, cal_random(c, i),
                             c->session->n_threads, codes);
    if (rc == CLI_OK)
        add_codes(book, &c->layers[i], names[klass][kind], codes, step);
    free(row);
    free(x);
    free(codes);
    return rc;
}

int cal_train_rvq(const struct calibration *c, struct cal_book *book)
{
    int rc = CLI_OK;
    for (size_t i = 0; i < c->n_layers && rc == CLI_OK; i++) {
        for (int j = 0; j < CAL_CLASSES * 2 && rc == CLI_OK; j++)
            rc = train_layer(c, i, (tkv_kind)(j % 2), (enum tkv_span_class)(j / 2), book);
        rc = rc == CLI_OK ? cal_stopped(c) : rc;
    }
    return rc;
}
