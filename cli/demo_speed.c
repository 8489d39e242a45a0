/* tightkv demo: prefill and decode speed, and what the cache takes at 16K. */
#include <math.h>
#include <stdlib.h>

#include "demo.h"

const size_t demo_depths[DEMO_DEPTHS] = {0, DEMO_WINDOW, DEMO_DEEP};

enum { ROOM = SPEED_PREFILL + DEMO_DECODE + 1 };

static int measure(struct demo *d, struct demo_row *row, struct llama_context *ctx,
                   const struct speed_depth *depth, size_t i_depth)
{
    struct session *s = &d->session;
    int rc = speed_prefill(s, ctx, depth, d->tokens.ids, SPEED_PREFILL, &row->pp[i_depth]);
    if (rc == CLI_OK)
        rc = speed_decode(s, ctx, depth, d->tokens.ids, DEMO_DECODE, &row->tg[i_depth]);
    return rc;
}

/* Depth 0, then 2K filled by the cache itself: a state of one type does not restore into
 * another. */
static int measure_shallow(struct demo *d, struct demo_row *row)
{
    char label[64];
    snprintf(label, sizeof(label), "speed at 0 and 2K, %s", row->name);
    cli_progress_step(&d->progress, 0, label);
    struct session *s = &d->session;
    struct speed_depth depth = {0};
    struct llama_context *ctx = session_context(s, &row->cache, DEMO_WINDOW + ROOM);
    int rc = ctx ? measure(d, row, ctx, &depth, 0) : CLI_DATA;
    if (rc == CLI_OK) {
        const struct llama_api *api = &s->llama->api;
        api->llama_memory_clear(api->llama_get_memory(ctx), true);
        depth.n_tokens = DEMO_WINDOW;
        rc = session_decode(s, ctx, d->tokens.ids, depth.n_tokens, NULL, NULL);
    }
    if (rc == CLI_OK)
        rc = session_save(s, ctx, &depth.state);
    if (rc == CLI_OK)
        rc = measure(d, row, ctx, &depth, 1);
    free(depth.state.data);
    session_free(s, ctx);
    cli_progress_step(&d->progress, DEMO_WINDOW, NULL);
    return rc;
}

static int fill_deep(struct demo *d, struct speed_depth *depth)
{
    cli_progress_step(&d->progress, 0, "filling 16K");
    struct session *s = &d->session;
    struct llama_context *ctx =
        session_context(s, &d->rows[DEMO_ROWS - DEMO_PRESETS].cache, DEMO_DEEP);
    if (!ctx)
        return CLI_DATA;
    int rc = session_decode(s, ctx, d->tokens.ids, DEMO_DEEP, NULL, NULL);
    if (rc == CLI_OK)
        rc = session_save(s, ctx, &depth->state);
    depth->n_tokens = DEMO_DEEP;
    session_free(s, ctx);
    cli_progress_step(&d->progress, DEMO_DEEP, NULL);
    return rc;
}

static int measure_deep(struct demo *d, struct demo_row *row, const struct speed_depth *depth)
{
    char label[64];
    snprintf(label, sizeof(label), "speed at 16K, %s", row->name);
    cli_progress_step(&d->progress, 0, label);
    struct llama_context *ctx = session_context(&d->session, &row->cache, DEMO_DEEP + ROOM);
    int rc = ctx ? measure(d, row, ctx, depth, 2) : CLI_DATA;
    if (rc == CLI_OK)
        row->deep_mib = demo_mib(d, row, ctx);
    session_free(&d->session, ctx);
    cli_progress_step(&d->progress, DEMO_WINDOW, NULL);
    return rc;
}

int demo_speed(struct demo *d)
{
    int rc = CLI_OK;
    for (size_t i = 0; i < DEMO_ROWS && rc == CLI_OK; i++)
        rc = measure_shallow(d, &d->rows[i]);
    struct speed_depth deep = {0};
    if (rc == CLI_OK)
        rc = fill_deep(d, &deep);
    for (size_t i = 0; i < DEMO_ROWS && rc == CLI_OK; i++) {
        struct demo_row *row = &d->rows[i];
        if (row->cache.spec || row->cache.type == GGML_TYPE_F16)
            rc = measure_deep(d, row, &deep);
    }
    free(deep.state.data);
    for (size_t i = 0; i < DEMO_ROWS && rc == CLI_OK; i++) {
        struct demo_row *row = &d->rows[i];
        if (!row->cache.spec) {
            row->bits = session_type_bits(&d->session, row->cache.type);
            row->deep_mib = d->rows[0].deep_mib * row->bits / 16;
        } else {
            row->bits = 16 * row->deep_mib / d->rows[0].deep_mib;
        }
    }
    return rc;
}
