/* watch.c: no silent collapse. For a few pages of each layer the keys are kept as they were
 * written; once the page is sealed, the logits that the newest query gets from the coded keys are
 * compared with those of the kept ones. What softmax cancels (a common offset) does not count. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

#define PAGES_WATCHED 3
#define MAX_LOOKS     1024
/* A standard deviation of s in the logits changes a softmax by a divergence of about s^2 / 2.
 * Healthy: 0.05 to 0.35 with 4 bits a value, 0.6 with 3, 1 with 2; keys with outlier channels in 4
 * bits: 0.5 to 1.4. */
#define LOUD_LOGIT_ERROR 0.75

struct tkg_watch {
    int64_t page;     /* -1: none at the moment */
    uint64_t have;    /* rows that have come */
    uint32_t n_looks; /* at a complete page that had not changed */
    uint32_t n_done;  /* pages compared or given up */
    bool told;
    ggml_fp16_t *kept; /* [TKV_PAGE_TOKENS][row] */
    ggml_fp16_t *coded;
};

void tkg_watch_destroy(struct tkg_watch *watch)
{
    if (watch != NULL) {
        free(watch->kept);
        free(watch->coded);
        free(watch);
    }
}

static struct tkg_watch *create(const struct tkg_root *k)
{
    struct tkg_watch *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        return NULL;
    }
    w->page = -1;
    w->kept = malloc(TKV_PAGE_TOKENS * k->row_bytes);
    w->coded = malloc(TKV_PAGE_TOKENS * k->row_bytes);
    if (w->kept == NULL || w->coded == NULL) {
        tkg_watch_destroy(w);
        return NULL;
    }
    return w;
}

void tkg_watch_forget(struct tkg_root *k)
{
    if (k->watch != NULL) {
        k->watch->page = -1;
    }
}

static void keep_row(const struct tkg_root *k, ggml_fp16_t *out, const void *row, tkv_type type)
{
    if (type == TKV_F16) {
        memcpy(out, row, k->row_bytes);
    } else {
        ggml_fp32_to_fp16_row(row, out, (int64_t)(k->row_bytes / sizeof(*out)));
    }
}

void tkg_watch_rows(struct tkg_root *k, const struct tkg_rows *rows)
{
    if (k->watch == NULL && !k->buffer->exact) {
        k->watch = create(k);
    }
    struct tkg_watch *w = k->watch;
    if (w == NULL || w->n_done >= PAGES_WATCHED) {
        return;
    }
    for (size_t i = 0; i < rows->n; i++) {
        const int64_t page = rows->slots[i] / TKV_PAGE_TOKENS;
        const uint32_t at = (uint32_t)(rows->slots[i] % TKV_PAGE_TOKENS);
        const bool sink = rows->pos != NULL && (uint32_t)rows->pos[i] < k->buffer->spec.sink;
        if (w->page < 0 && at == 0 && !sink) {
            w->page = page;
            w->have = 0;
            w->n_looks = 0;
        }
        if (w->page == page) {
            w->have |= (uint64_t)1 << at;
            keep_row(k, w->kept + at * (k->row_bytes / sizeof(ggml_fp16_t)),
                     (const char *)rows->data + i * rows->stride, rows->type);
        }
    }
}

/* Sum and sum of squares over the page's tokens of the logit errors of one head, as a variance. */
static double head_error(const struct tkg_watch *w, const float *q, float scale, uint32_t head_dim,
                         size_t first, size_t row_elems)
{
    double sum = 0, squares = 0;
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        double e = 0;
        for (size_t i = 0; i < head_dim; i++) {
            const size_t at = t * row_elems + first + i;
            e += (double)q[i] *
                 (double)(ggml_fp16_to_fp32(w->coded[at]) - ggml_fp16_to_fp32(w->kept[at]));
        }
        e *= (double)scale;
        sum += e;
        squares += e * e;
    }
    const double mean = sum / TKV_PAGE_TOKENS;
    return squares / TKV_PAGE_TOKENS - mean * mean;
}

static double logit_error(const struct tkg_root *k, const tkv_attend_params *p)
{
    const size_t group = p->n_q_heads / k->n_heads;
    double sum = 0;
    for (size_t h = 0; h < p->n_q_heads; h++) {
        const char *q =
            (const char *)p->q + (p->n_q - 1) * p->q_token_stride + h * p->q_head_stride;
        sum += head_error(k->watch, (const float *)(const void *)q, p->scale, k->head_dim,
                          h / group * k->head_dim, k->row_bytes / sizeof(ggml_fp16_t));
    }
    return sqrt(sum / (double)p->n_q_heads);
}

static bool read_page(const struct tkg_root *k)
{
    int64_t slots[TKV_PAGE_TOKENS];
    for (int i = 0; i < TKV_PAGE_TOKENS; i++) {
        slots[i] = k->watch->page * TKV_PAGE_TOKENS + i;
    }
    return tkv_cache_read(k->buffer->cache, k->layer, TKV_K, TKV_PAGE_TOKENS, slots,
                          k->watch->coded, TKV_F16, k->row_bytes, NULL) == TKV_OK;
}

void tkg_watch_query(struct tkg_root *k, const tkv_attend_params *p)
{
    struct tkg_watch *w = k->watch;
    if (w == NULL || w->page < 0 || w->have != UINT64_MAX || w->n_done >= PAGES_WATCHED ||
        !read_page(k)) {
        return;
    }
    if (memcmp(w->kept, w->coded, TKV_PAGE_TOKENS * k->row_bytes) == 0) {
        w->n_looks++;
        w->n_done += w->n_looks > MAX_LOOKS;
        return;
    }
    const double error = logit_error(k, p);
    w->n_done++;
    w->page = -1;
    if (error > LOUD_LOGIT_ERROR && !w->told) {
        w->told = true;
        tkg_log(
            GGML_LOG_LEVEL_WARN,
            "%s: coding moves attention logits by %.2f (over %.2f is much): give keys more bits, "
            "TIGHTKV_KV=k=q8,... or a larger tail",
            k->name, error, LOUD_LOGIT_ERROR);
    }
}
