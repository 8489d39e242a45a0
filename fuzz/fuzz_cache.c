/* Cache operations against a naive model: an array that remembers which row was written where.
 *
 * Rows come from a seed, so the model keeps 8 bytes a row. What a cache reads back must be the row,
 * exactly while the spec keeps it exact and within the codec's error otherwise: a wrong row has a
 * relative error of about 1.4. Attention is compared with a plain softmax over the rows that the
 * cache itself reads back. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "fuzz.h"

enum {
    N_LAYERS = 2,
    N_STREAMS = 2,
    MAX_SLOTS = 192,
    MAX_ROW = 2 * 64,
    MAX_OPS = 48,
    N_ALL = N_STREAMS * MAX_SLOTS
};

static const char *const specs[] = {
    "kv=f16,sink=0,tail=0",
    "kv=turbo4,sink=0,tail=0",
    "kv=q8,sink=4,tail=16",
    "k=turbo3,v=turbo2,sink=0,tail=8",
    "kv=polar,sink=0,tail=0",
    "k=polar433,v=polar-online,sink=2,tail=0",
    "kv=kivi4,sink=0,tail=0",
    "k=kivi2,v=bf16,sink=2,tail=0",
    "k=turbo4c,v=turbo4,sink=0,tail=0",
    "k=turbo3c,v=turbo3,rot=none,sink=0,tail=0",
    "kv=turbo4,sink=64,tail=128",
    "kv=turbo4,visual.k=q8,visual.v=kivi4,sink=0,tail=0",
    "kv=turbo4,visual.k=visual4,visual.v=visual4,sink=2,tail=8",
    "kv=turbo4c,visual.k=turbo3c,visual.v=visual4,sink=0,tail=0",
    "kv=kvarn4,sink=0,tail=0",
    "k=qjl,v=kvarn3,sink=2,tail=0",
};

struct machine {
    tkv_context *ctx;
    tkv_cache *cache;
    tkv_spec spec;
    double bound[2]; /* relative error of a coded row, by kind; 0: exact */
    uint32_t n_heads, head_dim[2];
    size_t n_slots;
    int32_t next_pos[N_STREAMS];
    uint64_t noise;                    /* state of the generator of seeds */
    uint64_t rows[N_LAYERS][2][N_ALL]; /* seed of the row held; 0: none */
    int32_t pos[N_LAYERS][N_ALL];
};

static size_t row_elems(const struct machine *m, int kind)
{
    return (size_t)m->n_heads * m->head_dim[kind];
}

/* One row in 64 holds an infinity: its page must stay exact for good. */
static void make_row(uint64_t seed, size_t n, uint16_t *row)
{
    uint64_t state = seed;
    for (size_t i = 0; i < n; i++)
        row[i] = tkv_f32_to_half(fuzz_uniform(&state));
    if (seed % 64 == 0)
        row[seed / 64 % n] = 0x7c00;
}

static bool has_infinity(uint64_t seed)
{
    return seed != 0 && seed % 64 == 0;
}

/* --- what must hold --- */

static void check_row(const struct machine *m, int kind, uint64_t seed, bool exact,
                      const uint16_t *got)
{
    uint16_t want[MAX_ROW] = {0};
    size_t n = row_elems(m, kind);
    if (seed)
        make_row(seed, n, want);
    if (memcmp(got, want, n * sizeof *got) == 0)
        return;
    FUZZ_CHECK(seed != 0 && !exact && m->bound[kind] > 0 && !has_infinity(seed));
    for (uint32_t h = 0; h < m->n_heads; h++) {
        double error = 0, power = 0;
        for (uint32_t d = 0; d < m->head_dim[kind]; d++) {
            double x = (double)tkv_half_to_f32(want[h * m->head_dim[kind] + d]);
            double e = (double)tkv_half_to_f32(got[h * m->head_dim[kind] + d]) - x;
            error += e * e;
            power += x * x;
        }
        FUZZ_CHECK(sqrt(error) <= m->bound[kind] * sqrt(power));
    }
}

static void check_rows(struct machine *m, uint32_t layer)
{
    static uint16_t got[N_ALL * MAX_ROW];
    int64_t slots[N_ALL];
    size_t n = N_STREAMS * m->n_slots;
    for (size_t i = 0; i < n; i++)
        slots[i] = (int64_t)i;
    for (int kind = 0; kind < 2; kind++) {
        size_t row = row_elems(m, kind);
        memset(got, 0xa5, sizeof got);
        FUZZ_CHECK(tkv_cache_read(m->cache, layer, (tkv_kind)kind, n, slots, got, TKV_F16,
                                  row * sizeof *got, NULL) == TKV_OK);
        for (size_t i = 0; i < n; i++) {
            int32_t pos = m->pos[layer][i];
            check_row(m, kind, m->rows[layer][kind][i], pos >= 0 && (uint32_t)pos < m->spec.sink,
                      got + i * row);
        }
    }
}

static void check_stats(const struct machine *m)
{
    tkv_cache_stats stats = {.struct_size = sizeof stats};
    uint64_t n_values = 0;
    for (uint32_t l = 0; l < N_LAYERS; l++)
        for (int kind = 0; kind < 2; kind++)
            for (size_t i = 0; i < N_STREAMS * m->n_slots; i++)
                n_values += m->rows[l][kind][i] ? row_elems(m, kind) : 0;
    FUZZ_CHECK(tkv_cache_get_stats(m->cache, &stats) == TKV_OK);
    FUZZ_CHECK(stats.n_values == n_values);
    FUZZ_CHECK(stats.f16_bytes == 2 * n_values);
    FUZZ_CHECK(stats.pool_bytes >= stats.sealed_bytes + stats.open_bytes);
}

/* --- attention --- */

struct question {
    size_t first, n_kv;
    uint32_t n_q, group, layer;
    float *q, *k, *v, *mask, *out;
};

/* out = softmax(q K) V in double, for one query row. */
static void attend_naively(const struct machine *m, const struct question *a, const float *q,
                           const float *mask, uint32_t kv_head, double *out)
{
    double logits[N_ALL], top = -INFINITY, sum = 0;
    const uint32_t dk = m->head_dim[0], dv = m->head_dim[1];
    for (size_t t = 0; t < a->n_kv; t++) {
        logits[t] = (double)mask[t];
        for (uint32_t d = 0; isfinite(mask[t]) && d < dk; d++)
            logits[t] +=
                (double)q[d] * (double)a->k[t * m->n_heads * dk + kv_head * dk + d] / sqrt(dk);
        top = fmax(top, logits[t]);
    }
    memset(out, 0, dv * sizeof *out);
    for (size_t t = 0; t < a->n_kv; t++) {
        double w = isfinite(logits[t]) ? exp(logits[t] - top) : 0;
        sum += w;
        for (uint32_t d = 0; w > 0 && d < dv; d++)
            out[d] += w * (double)a->v[t * m->n_heads * dv + kv_head * dv + d];
    }
    for (uint32_t d = 0; sum > 0 && d < dv; d++)
        out[d] /= sum;
}

static void compare_attention(const struct machine *m, const struct question *a, double tolerance)
{
    const uint32_t n_q_heads = m->n_heads * a->group, dv = m->head_dim[1];
    double want[MAX_ROW];
    for (uint32_t i = 0; i < a->n_q * n_q_heads; i++) {
        uint32_t token = i / n_q_heads, head = i % n_q_heads;
        attend_naively(m, a, a->q + i * m->head_dim[0], a->mask + token * a->n_kv, head / a->group,
                       want);
        for (uint32_t d = 0; d < dv; d++)
            FUZZ_CHECK(fabs((double)a->out[i * dv + d] - want[d]) <= tolerance);
    }
}

static void read_floats(const struct machine *m, const struct question *a, int kind, float *rows)
{
    int64_t slots[N_ALL];
    for (size_t i = 0; i < a->n_kv; i++)
        slots[i] = (int64_t)(a->first + i);
    FUZZ_CHECK(tkv_cache_read(m->cache, a->layer, (tkv_kind)kind, a->n_kv, slots, rows, TKV_F32,
                              row_elems(m, kind) * sizeof(float), NULL) == TKV_OK);
}

/* Hides what is not there, what is not finite, and a share of the rest. */
static void make_mask(struct machine *m, const struct question *a, uint32_t hidden_in_8)
{
    for (size_t i = 0; i < a->n_q * a->n_kv; i++) {
        size_t slot = a->first + i % a->n_kv;
        uint64_t k = m->rows[a->layer][0][slot], v = m->rows[a->layer][1][slot];
        bool live = k && v && !has_infinity(k) && !has_infinity(v);
        a->mask[i] = live && fuzz_random(&m->noise) % 8 >= hidden_in_8 ? 0.0f : -INFINITY;
    }
}

static void run_attention(struct machine *m, const struct question *a, uint32_t flags)
{
    tkv_attend_params p;
    const uint32_t n_q_heads = m->n_heads * a->group;
    tkv_attend_params_default(&p);
    p.layer = a->layer;
    p.n_q = a->n_q;
    p.n_q_heads = n_q_heads;
    p.flags = flags;
    p.mask_type = TKV_F32;
    p.q = a->q;
    p.q_head_stride = m->head_dim[0] * sizeof(float);
    p.q_token_stride = n_q_heads * p.q_head_stride;
    p.out = a->out;
    p.out_head_stride = m->head_dim[1] * sizeof(float);
    p.out_token_stride = n_q_heads * p.out_head_stride;
    p.first_slot = (int64_t)a->first;
    p.n_kv = a->n_kv;
    p.mask = a->mask;
    p.mask_stride = a->n_kv * sizeof(float);
    p.scale = 1.0f / sqrtf((float)m->head_dim[0]);
    FUZZ_CHECK(tkv_attend(m->cache, &p, NULL) == TKV_OK);
}

static void op_attend(struct machine *m, struct fuzz_input *in)
{
    struct question a = {.layer = fuzz_below(in, N_LAYERS),
                         .n_q = 1 + fuzz_below(in, 3),
                         .group = 1 + fuzz_below(in, 3)};
    a.first = fuzz_below(in, N_STREAMS) * m->n_slots;
    a.n_kv = 1 + fuzz_below(in, (uint32_t)m->n_slots);
    const size_t n_heads = a.n_q * m->n_heads * a.group;
    a.q = fuzz_alloc(n_heads * m->head_dim[0] * sizeof(float));
    a.k = fuzz_alloc(a.n_kv * row_elems(m, 0) * sizeof(float));
    a.v = fuzz_alloc(a.n_kv * row_elems(m, 1) * sizeof(float));
    a.mask = fuzz_alloc(a.n_q * a.n_kv * sizeof(float));
    a.out = fuzz_alloc(n_heads * m->head_dim[1] * sizeof(float));
    for (size_t i = 0; i < n_heads * m->head_dim[0]; i++)
        a.q[i] = fuzz_uniform(&m->noise);
    make_mask(m, &a, fuzz_below(in, 8));
    read_floats(m, &a, 0, a.k);
    read_floats(m, &a, 1, a.v);
    run_attention(m, &a, TKV_ATTEND_EXACT);
    compare_attention(m, &a, 1e-4);
    run_attention(m, &a, 0);
    compare_attention(m, &a, 0.05); /* queries and weights in 8 bits; values are at most about 1 */
    free(a.out);
    free(a.mask);
    free(a.v);
    free(a.k);
    free(a.q);
}

/* --- changes --- */

static uint64_t new_seed(struct machine *m)
{
    uint64_t seed = fuzz_random(&m->noise);
    return seed ? seed : 1;
}

/* Writes n rows; `slots` are in range unless `bad`, and distinct. */
static void write_rows(struct machine *m, uint32_t layer, size_t n, const int64_t *slots,
                       const int32_t *pos, uint32_t kinds, bool bad)
{
    uint16_t *data[2];
    tkv_rows rows[2] = {{.type = TKV_F16}, {.type = TKV_F16}};
    for (int kind = 0; kind < 2; kind++) {
        size_t row = row_elems(m, kind);
        data[kind] = fuzz_alloc(n * row * sizeof(uint16_t));
        for (size_t i = 0; i < n; i++) {
            uint64_t seed = new_seed(m);
            make_row(seed, row, data[kind] + i * row);
            if (!bad && kinds & 1u << kind)
                m->rows[layer][kind][slots[i]] = seed;
        }
        rows[kind].stride = row * sizeof(uint16_t);
        rows[kind].data = kinds & 1u << kind ? data[kind] : NULL;
    }
    for (size_t i = 0; i < n && !bad && rows[0].data; i++) /* the key brings the position */
        m->pos[layer][slots[i]] = pos ? pos[i] : -1;
    uint8_t *klass = fuzz_alloc(n);
    for (size_t i = 0; i < n; i++) /* runs that end within pages */
        klass[i] = slots[i] / 80 % 2 ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
    FUZZ_CHECK(tkv_cache_write(m->cache, layer, n, slots, pos, klass, rows[0], rows[1], NULL) ==
               (bad ? TKV_ERR_RANGE : TKV_OK));
    free(klass);
    free(data[0]);
    free(data[1]);
}

/* A run of slots in order, or every third slot from the end; now and then one slot out of range. */
static void op_write(struct machine *m, struct fuzz_input *in)
{
    int64_t slots[MAX_SLOTS];
    int32_t pos[MAX_SLOTS];
    const uint32_t layer = fuzz_below(in, N_LAYERS), stream = fuzz_below(in, N_STREAMS),
                   how = fuzz_u8(in);
    const size_t start = fuzz_below(in, (uint32_t)m->n_slots), step = how & 1 ? 3 : 1;
    size_t n = 1 + fuzz_u8(in) % (m->n_slots - start);
    n = (n + step - 1) / step;
    for (size_t i = 0; i < n; i++) {
        size_t j = how & 1 ? n - 1 - i : i;
        slots[i] = (int64_t)(stream * m->n_slots + start + j * step);
        pos[i] = m->next_pos[stream] + (int32_t)j;
    }
    m->next_pos[stream] += (int32_t)n;
    const bool bad = (how >> 4) == 15;
    if (bad)
        slots[n / 2] = how & 2 ? -1 : (int64_t)(N_STREAMS * m->n_slots);
    write_rows(m, layer, n, slots, how & 4 ? NULL : pos, (how >> 3 & 1) ? 1 + (how >> 2 & 1) : 3,
               bad);
}

static void op_seal(struct machine *m, struct fuzz_input *in)
{
    FUZZ_CHECK(tkv_cache_seal(m->cache, fuzz_below(in, N_LAYERS), NULL) == TKV_OK);
}

static void op_copy(struct machine *m, struct fuzz_input *in)
{
    const uint32_t layer = fuzz_below(in, N_LAYERS);
    const size_t all = N_STREAMS * m->n_slots;
    const size_t dst = fuzz_u16(in) % all, src = fuzz_u16(in) % all, n = 1 + fuzz_below(in, 128);
    const size_t gap = dst > src ? dst - src : src - dst, last = dst > src ? dst : src;
    tkv_status status = tkv_cache_copy(m->cache, layer, (int64_t)dst, (int64_t)src, n, NULL);
    if (gap < n || last + n > all) {
        FUZZ_CHECK(status != TKV_OK);
        return;
    }
    FUZZ_CHECK(status == TKV_OK);
    for (int kind = 0; kind < 2; kind++)
        memcpy(&m->rows[layer][kind][dst], &m->rows[layer][kind][src],
               n * sizeof m->rows[layer][kind][0]);
    memcpy(&m->pos[layer][dst], &m->pos[layer][src], n * sizeof m->pos[layer][0]);
}

static void op_forget(struct machine *m, struct fuzz_input *in)
{
    const uint32_t layer = fuzz_below(in, N_LAYERS);
    const size_t first = fuzz_u16(in) % (N_STREAMS * m->n_slots), n = 1 + fuzz_below(in, 256);
    tkv_status status = tkv_cache_forget(m->cache, layer, (int64_t)first, n, NULL);
    if (first + n > N_STREAMS * m->n_slots) {
        FUZZ_CHECK(status == TKV_ERR_RANGE);
        return;
    }
    FUZZ_CHECK(status == TKV_OK);
    for (int kind = 0; kind < 2; kind++)
        memset(&m->rows[layer][kind][first], 0, n * sizeof m->rows[layer][kind][0]);
}

static void op_truncate(struct machine *m, struct fuzz_input *in)
{
    const uint32_t stream = fuzz_below(in, N_STREAMS);
    const size_t keep = fuzz_below(in, (uint32_t)m->n_slots + 1),
                 first = stream * m->n_slots + keep;
    FUZZ_CHECK(tkv_cache_truncate(m->cache, stream, keep, NULL) == TKV_OK);
    for (uint32_t l = 0; l < N_LAYERS; l++)
        for (int kind = 0; kind < 2; kind++)
            memset(&m->rows[l][kind][first], 0, (m->n_slots - keep) * sizeof m->rows[l][kind][0]);
}

static void op_check(struct machine *m, struct fuzz_input *in)
{
    check_rows(m, fuzz_below(in, N_LAYERS));
    check_stats(m);
}

/* --- a run --- */

/* The error that this codec may make in a row: from its bits, at a head size where its scales weigh
 * little. */
static double error_bound(tkv_codec codec, tkv_kind kind)
{
    tkv_codec f16;
    FUZZ_CHECK(tkv_codec_find("f16", &f16, NULL) == TKV_OK);
    if (codec.id == f16.id || codec.id == TKV_CODEC_NONE)
        return 0;
    double bits = 8.0 * (double)tkv_page_bytes(codec, kind, 512) / (512.0 * TKV_PAGE_TOKENS);
    return fmin(1.0, fmax(0.01, 8 * exp2(-bits)));
}

static bool start(struct machine *m, struct fuzz_input *in)
{
    static const uint16_t dims[] = {16, 32, 64};
    const char *spec = specs[fuzz_below(in, sizeof specs / sizeof specs[0])];
    tkv_layer_params shape = {.struct_size = sizeof shape, .n_streams = N_STREAMS};
    FUZZ_CHECK(tkv_spec_parse(spec, &m->spec, NULL) == TKV_OK);
    shape.n_kv_heads = m->n_heads = 1 + fuzz_below(in, 2);
    shape.k_head_dim = m->head_dim[0] = dims[fuzz_below(in, 3)];
    shape.v_head_dim = m->head_dim[1] = dims[fuzz_below(in, 3)];
    m->n_slots = 64 * (1 + fuzz_below(in, MAX_SLOTS / 64));
    shape.n_slots = (uint32_t)m->n_slots;
    m->bound[0] = fmax(error_bound(m->spec.k, TKV_K), error_bound(m->spec.visual_k, TKV_K));
    m->bound[1] = fmax(error_bound(m->spec.v, TKV_V), error_bound(m->spec.visual_v, TKV_V));
    m->noise = 1 + fuzz_u16(in);
    m->ctx = fuzz_context(fuzz_u8(in) & 1 ? 0 : TKV_CPU_ALL);
    FUZZ_CHECK(tkv_cache_create(m->ctx, &m->spec, &m->cache, NULL) == TKV_OK);
    bool fits = true;
    for (uint32_t l = 0; l < N_LAYERS && fits; l++) {
        uint32_t layer;
        tkv_status status = tkv_cache_add_layer(m->cache, &shape, &layer, NULL);
        FUZZ_CHECK(status == TKV_ERR_UNSUPPORTED || (status == TKV_OK && layer == l));
        fits = status == TKV_OK;
    }
    return fits;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const ops[])(struct machine *, struct fuzz_input *) = {
        op_write, op_write,  op_write,    op_seal,  op_seal,
        op_copy,  op_forget, op_truncate, op_check, op_attend,
    };
    struct fuzz_input in = {data, size};
    struct machine *m = fuzz_alloc(sizeof *m);
    memset(m, 0, sizeof *m);
    if (start(m, &in)) {
        for (int i = 0; i < MAX_OPS && in.size > 0; i++)
            ops[fuzz_below(&in, sizeof ops / sizeof ops[0])](m, &in);
        for (uint32_t l = 0; l < N_LAYERS; l++)
            check_rows(m, l);
        check_stats(m);
    }
    tkv_cache_destroy(m->cache);
    tkv_context_destroy(m->ctx);
    free(m);
    return 0;
}
