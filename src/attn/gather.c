/* Rows of sealed pages in row order, picked by an index: they are taken from wherever they lie, 64
 * at a time, and made a page that goes through the same kernels as any other. So what is read costs
 * by the rows, not by the pages that hold them.
 *
 * Only ever of one query: which rows share a page must not depend on the queries beside it. */
#include "attn/gather.h"

#include "base/bits.h"
#include "base/compiler.h"

#define T    TKV_PAGE_TOKENS
#define LINE 64

bool tkv_gathers(const struct tkv_attend_job *job)
{
    return job->picked && tkv_in_rows(job->layer) && !(job->p->flags & TKV_ATTEND_EXACT);
}

/* A row of keys and that of values behind it lie in at most so many lines: rows begin anywhere at
 * multiples of what divides both their distance and a line. */
static size_t lines_of_row(const struct tkv_layer *layer)
{
    const size_t stride = tkv_row_stride(layer), unit = stride & (~stride + 1);
    return (stride - 1 + (unit < LINE ? LINE - unit : 0)) / LINE + 1;
}

size_t tkv_gather_lines(const struct tkv_layer *layer)
{
    return T * lines_of_row(layer);
}

/* What is still to come of rows that wait, but for their first lines. Returns how many lines. */
static size_t list_lines(const uint8_t *const *rows, uint32_t n, size_t per_row, uintptr_t *lines)
{
    for (size_t i = 1; i < per_row; i++)
        for (uint32_t t = 0; t < n; t++) /* kernels begin with the last */
            *lines++ = (uintptr_t)rows[n - 1 - t] + i * LINE;
    return n * (per_row - 1);
}

/* The rows of one half into the running state; meanwhile those of the other, n_next, come. */
static void read_half(struct tkv_worker *w, uint32_t half, uint32_t n, uint32_t n_next)
{
    struct tkv_gather *g = &w->gather;
    const uint8_t **rows = g->rows[half];
    for (uint32_t t = n; t < T; t++)
        rows[t] = rows[0]; /* hidden */
    tkv_worker_mask_columns(w, g->columns[half], n);
    w->ahead = (struct tkv_ahead){
        .at = (uintptr_t)w->s,
        .lines = w->gather_lines,
        .n_lines =
            list_lines(g->rows[half ^ 1], n_next, lines_of_row(w->job->layer), w->gather_lines),
    };
    w->ahead_end = w->ahead.at;
    tkv_worker_page(w, &(struct tkv_view){.rows = rows});
    for (size_t i = 0; i < w->ahead.n_lines; i++)
        TKV_PREFETCH((const void *)w->gather_lines[i]);
}

void tkv_gather_page(struct tkv_worker *w, size_t i_page, uint64_t picked)
{
    const struct tkv_attend_job *job = w->job;
    const size_t stride = tkv_row_stride(job->layer);
    const uint8_t *block = tkv_page_block(job->layer, &job->pages[i_page], w->head);
    struct tkv_gather *g = &w->gather;
    for (; picked; picked &= picked - 1) {
        const uint32_t t = tkv_lowest_bit(picked);
        const uint8_t *row = block + t * stride;
        TKV_PREFETCH(row);
        g->rows[g->half][g->n] = row;
        g->columns[g->half][g->n] = i_page * T + t;
        if (++g->n < T)
            continue;
        if (g->other)
            read_half(w, g->half ^ 1, T, T);
        g->other = true;
        g->half ^= 1;
        g->n = 0;
    }
}

void tkv_gather_end(struct tkv_worker *w)
{
    struct tkv_gather *g = &w->gather;
    if (g->other)
        read_half(w, g->half ^ 1, T, g->n);
    if (g->n > 0)
        read_half(w, g->half, g->n, 0);
    g->other = false;
    g->n = 0;
}
