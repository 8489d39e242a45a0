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
    return job->picked && !job->windowed && tkv_in_rows(job->layer) &&
           !(job->p->flags & TKV_ATTEND_EXACT);
}

static void fetch(const uint8_t *row, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE)
        TKV_PREFETCH(row + i);
    TKV_PREFETCH(row + bytes - 1);
}

static void attend(struct tkv_worker *w, void *arg, const uint8_t *const *rows,
                   const size_t *columns, uint32_t n)
{
    (void)arg;
    tkv_worker_mask_columns(w, columns, n);
    tkv_worker_page(w, &(struct tkv_view){.rows = rows});
}

void tkv_gather_for(struct tkv_worker *w, tkv_gather_fn read, void *arg, size_t row_bytes)
{
    w->gather = (struct tkv_gather){.read = read, .arg = arg, .row_bytes = row_bytes};
}

void tkv_gather_attend(struct tkv_worker *w)
{
    tkv_gather_for(w, attend, NULL, tkv_row_stride(w->job->layer));
}

/* The n rows of one half. */
static void read_half(struct tkv_worker *w, uint32_t half, uint32_t n)
{
    const uint8_t **rows = w->gather.rows[half];
    for (uint32_t t = n; t < T; t++) {
        rows[t] = rows[0];
        w->gather.columns[half][t] = w->gather.columns[half][0];
    }
    w->ahead = (struct tkv_ahead){.at = (uintptr_t)w->s}; /* the next rows have been asked for */
    w->ahead_end = w->ahead.at;
    w->gather.read(w, w->gather.arg, rows, w->gather.columns[half], n);
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
        fetch(row, g->row_bytes);
        g->rows[g->half][g->n] = row;
        g->columns[g->half][g->n] = i_page * T + t;
        if (++g->n < T)
            continue;
        if (g->other)
            read_half(w, g->half ^ 1, T);
        g->other = true;
        g->half ^= 1;
        g->n = 0;
    }
}

void tkv_gather_end(struct tkv_worker *w)
{
    struct tkv_gather *g = &w->gather;
    if (g->other)
        read_half(w, g->half ^ 1, T);
    if (g->n > 0)
        read_half(w, g->half, g->n);
    g->other = false;
    g->n = 0;
}
