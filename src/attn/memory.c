/* One thread's scratch, laid out. */
#include "attn/attn.h"
#include "base/alloc.h"

static size_t block_rows(const struct tkv_attend_job *job)
{
    return (size_t)job->block_queries * job->group;
}

static bool wants_domain(const struct tkv_layer *layer, enum tkv_domain domain)
{
    if (domain == TKV_PLAIN)
        return true;
    for (uint8_t klass = 0; klass < TKV_N_CLASSES; klass++)
        if (tkv_query_domain(layer, klass) == domain)
            return true;
    return false;
}

static bool wants_acc(const struct tkv_layer *layer, int acc)
{
    if (acc == TKV_ACC_SCALED)
        return layer->codec[TKV_SPAN_VISUAL][TKV_V].ops->ranges;
    return acc < TKV_ACC_LEARNED || layer->codec[acc - TKV_ACC_LEARNED][TKV_V].learned;
}

/* Hands out aligned pieces; with base NULL it only counts. */
struct carver {
    uint8_t *base;
    size_t used;
};

static void *carve(struct carver *c, size_t bytes)
{
    void *piece = c->base ? c->base + c->used : NULL;
    c->used += tkv_align_up(bytes);
    return piece;
}

static void lay_out(struct tkv_worker *w, const struct tkv_attend_job *job, struct carver *c)
{
    const size_t R = block_rows(job), T = TKV_PAGE_TOKENS, F = sizeof(float);
    const size_t Dk = job->layer->head_dim[TKV_K], Dv = job->layer->head_dim[TKV_V],
                 D = Dk > Dv ? Dk : Dv;
    for (int domain = 0; domain < TKV_N_DOMAINS; domain++) {
        if (!wants_domain(job->layer, (enum tkv_domain)domain))
            continue;
        w->q[domain] = carve(c, R * Dk * F);
        for (int plane = 0; plane < 2; plane++) {
            w->q8[domain][plane] = carve(c, R * Dk);
            w->q8_scale[domain][plane] = carve(c, R * F);
        }
    }
    if (job->windowed) {
        w->q_far = carve(c, R * Dk * F);
        w->keys = carve(c, tkv_decode_scratch_bytes(job->layer));
    }
    w->k_tile = carve(c, T * Dk * F);
    w->v_tile = carve(c, T * Dv * F);
    w->page = carve(c, tkv_tile_room_bytes(job->layer));
    w->decoded = carve(c, T * D * F);
    w->k_scale = carve(c, T * F);
    w->v_scale = carve(c, T * F);
    w->mean = carve(c, D * F);
    if (job->layer->keeps_places)
        w->angles = carve(c, tkv_angles_floats(job->layer->turns) * F);
    w->mask = carve(c, job->block_queries * T * F);
    w->mask_use = carve(c, job->block_queries);
    w->si = carve(c, R * T * sizeof(int32_t));
    w->s = carve(c, R * T * F);
    w->s2 = carve(c, R * T * F);
    w->bias = carve(c, R * F);
    w->w = carve(c, R * T);
    w->w_scale = carve(c, R * F);
    w->low = carve(c, D * F);
    w->step = carve(c, D * F);
    w->span_bias = carve(c, R * F);
    w->range_buf = carve(c, R * sizeof *w->range_buf);
    w->state = carve(c, R * sizeof *w->state);
    for (int acc = 0; acc < TKV_N_ACC; acc++)
        w->acc[acc] = wants_acc(job->layer, acc) ? carve(c, R * Dv * F) : NULL;
}

size_t tkv_worker_bytes(const struct tkv_attend_job *job)
{
    struct tkv_worker unused = {0};
    struct carver c = {NULL, 0};
    lay_out(&unused, job, &c);
    return c.used;
}

void tkv_worker_init(struct tkv_worker *w, const struct tkv_attend_job *job, uint8_t *scratch)
{
    *w = (struct tkv_worker){.job = job};
    struct carver c = {scratch, 0};
    lay_out(w, job, &c);
}
