/* index= keep= mass= rest= rope= dense= ram= spill= */
#include "api/spec_retrieval.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"

#define MILLION      1000000u
#define MOST_ROWS    (1u << 24) /* a float holds every whole number up to there */
#define DEFAULT_KEEP 0.06f      /* the share that A2ATS reads */

/* Digits at *text, as a number of at most `most`; *text moves behind them. */
static bool read_number(const char **text, uint64_t most, uint64_t *out)
{
    const char *c = *text;
    uint64_t n = 0;
    for (; *c >= '0' && *c <= '9' && n <= most; c++)
        n = 10 * n + (uint64_t)(*c - '0'); /* most is below 2^60 */
    const bool good = c != *text && n <= most;
    *text = c;
    *out = n;
    return good;
}

/* ".06", "0.98": millionths; false for anything else. */
static bool read_share(const char *text, float *out)
{
    uint32_t millionths = 0, unit = MILLION / 10;
    if (*text == '0')
        text++;
    if (*text++ != '.' || !*text)
        return false;
    for (; *text >= '0' && *text <= '9' && unit; text++, unit /= 10)
        millionths += unit * (uint32_t)(*text - '0');
    *out = (float)millionths / (float)MILLION;
    return !*text && millionths > 0;
}

static const char *const kinds[] = {
    [TKV_INDEX_NONE] = "none", [TKV_INDEX_QVQ] = "qvq", [TKV_INDEX_A2ATS] = "a2ats"};

static tkv_status set_index(tkv_spec *s, const char *value, tkv_error *err)
{
    uint32_t kind = 0;
    while (kind < sizeof kinds / sizeof kinds[0] && strcmp(value, kinds[kind]) != 0)
        kind++;
    if (kind == sizeof kinds / sizeof kinds[0])
        return tkv_fail(err, TKV_ERR_SPEC, "index=%.40s: qvq, a2ats or none is needed", value);
    s->index = kind;
    s->rest = kind == TKV_INDEX_QVQ; /* published: nothing */
    if (s->index && s->keep < 0)
        s->keep = DEFAULT_KEEP;
    return TKV_OK;
}

static tkv_status set_keep(tkv_spec *s, const char *value, tkv_error *err)
{
    uint64_t rows;
    const char *end = value;
    if (read_share(value, &s->keep))
        return TKV_OK;
    if (!read_number(&end, MOST_ROWS, &rows) || *end)
        return tkv_fail(err, TKV_ERR_SPEC,
                        "keep=%.40s: a share of the rows below 1, such as 0.06, or their number up "
                        "to %u is needed",
                        value, MOST_ROWS);
    s->keep = (float)rows;
    return TKV_OK;
}

static tkv_status set_mass(tkv_spec *s, const char *value, tkv_error *err)
{
    if (read_share(value, &s->mass))
        return TKV_OK;
    return tkv_fail(err, TKV_ERR_SPEC,
                    "mass=%.40s: a share of the attention between 0 and 1, such as 0.98, is needed",
                    value);
}

static tkv_status set_rest(tkv_spec *s, const char *value, tkv_error *err)
{
    if (strcmp(value, "mean") != 0 && strcmp(value, "none") != 0)
        return tkv_fail(err, TKV_ERR_SPEC, "rest=%.40s: mean or none is needed", value);
    s->rest = strcmp(value, "mean") == 0;
    return TKV_OK;
}

static tkv_status set_rope(tkv_spec *s, const char *value, tkv_error *err)
{
    if (strcmp(value, "true") != 0 && strcmp(value, "window") != 0)
        return tkv_fail(err, TKV_ERR_SPEC, "rope=%.40s: true or window is needed", value);
    s->window_rope = strcmp(value, "window") == 0;
    return TKV_OK;
}

/* "0+1+30-31" */
static tkv_status set_dense(tkv_spec *s, const char *value, tkv_error *err)
{
    const char *c = value;
    memset(s->dense, 0, sizeof s->dense);
    for (bool more = true; more;) {
        uint64_t first, last;
        bool good = read_number(&c, TKV_SPEC_LAYERS - 1, &first);
        last = first;
        if (good && *c == '-') {
            c++;
            good = read_number(&c, TKV_SPEC_LAYERS - 1, &last) && last >= first;
        }
        if (!good || (*c && *c != '+'))
            return tkv_fail(err, TKV_ERR_SPEC,
                            "dense=%.40s: numbers of layers below %d are needed, as in 0+1+30-31",
                            value, TKV_SPEC_LAYERS);
        for (uint64_t i = first; i <= last; i++)
            s->dense[i / 64] |= (uint64_t)1 << i % 64;
        more = *c++ == '+';
    }
    return TKV_OK;
}

static tkv_status set_ram(tkv_spec *s, const char *value, tkv_error *err)
{
    static const char units[] = "KMGT";
    const char *c = value;
    uint64_t n;
    if (read_number(&c, (uint64_t)1 << 50, &n)) {
        const char *unit = *c ? strchr(units, *c) : NULL;
        const unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
        c += unit != NULL;
        if (!*c && n > 0 && n <= ((uint64_t)1 << 50) >> shift) {
            s->ram = n << shift;
            return TKV_OK;
        }
    }
    return tkv_fail(err, TKV_ERR_SPEC, "ram=%.40s: a number of bytes is needed, such as 512M or 2G",
                    value);
}

static tkv_status set_spill(tkv_spec *s, const char *value, tkv_error *err)
{
    if (!*value || strlen(value) >= sizeof s->spill)
        return tkv_fail(err, TKV_ERR_SPEC,
                        "spill=%.40s: the name of a folder of up to %d characters is needed", value,
                        TKV_SPEC_BOOK - 1);
    strcpy(s->spill, value);
    return TKV_OK;
}

bool tkv_spec_set_retrieval(tkv_spec *spec, const char *key, const char *value, tkv_status *status,
                            tkv_error *err)
{
    static const struct {
        const char *key;
        tkv_status (*set)(tkv_spec *, const char *, tkv_error *);
    } keys[] = {
        {"index", set_index}, {"keep", set_keep},   {"mass", set_mass}, {"rest", set_rest},
        {"rope", set_rope},   {"dense", set_dense}, {"ram", set_ram},   {"spill", set_spill},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(key, keys[i].key) != 0)
            continue;
        *status = keys[i].set(spec, value, err);
        return true;
    }
    return false;
}

static bool names_layers(const tkv_spec *spec)
{
    uint64_t any = 0;
    for (size_t i = 0; i < TKV_SPEC_LAYERS / 64; i++)
        any |= spec->dense[i];
    return any != 0;
}

tkv_status tkv_spec_check_retrieval(const tkv_spec *s, tkv_error *err)
{
    const char *alone = s->keep >= 0      ? "keep"
                        : s->mass > 0     ? "mass"
                        : s->rest         ? "rest"
                        : names_layers(s) ? "dense"
                                          : NULL;
    if (!s->index && alone)
        return tkv_fail(err, TKV_ERR_SPEC, "%s= is for an index: add index=qvq", alone);
    if (s->window_rope && s->index != TKV_INDEX_A2ATS)
        return tkv_fail(err, TKV_ERR_SPEC, "rope=window is how A2ATS can be read: add index=a2ats");
    if (s->ram && !*s->spill)
        return tkv_fail(err, TKV_ERR_SPEC,
                        "ram= limits what stays in memory: add spill=DIR for the rest");
    if (!s->ram && *s->spill)
        return tkv_fail(err, TKV_ERR_SPEC,
                        "spill= is for what does not stay in memory: add ram=SIZE");
    return TKV_OK;
}

/* Text under construction; what does not fit is only counted. */
struct printed {
    char *buf;
    size_t capacity, n;
};

static void print(struct printed *p, const char *text)
{
    for (; *text; text++, p->n++)
        if (p->n + 1 < p->capacity)
            p->buf[p->n] = *text;
    if (p->capacity)
        p->buf[p->n < p->capacity ? p->n : p->capacity - 1] = '\0';
}

static void print_number(struct printed *p, const char *key, uint64_t n, const char *unit)
{
    char text[48];
    snprintf(text, sizeof text, "%s%llu%s", key, (unsigned long long)n, unit);
    print(p, text);
}

static void print_share(struct printed *p, const char *key, float share)
{
    char text[16];
    snprintf(text, sizeof text, "%06ld", lrintf(share * (float)MILLION));
    for (size_t n = strlen(text); n > 1 && text[n - 1] == '0'; n--)
        text[n - 1] = '\0';
    print(p, key);
    print(p, "0.");
    print(p, text);
}

static bool is_dense(const tkv_spec *s, uint32_t layer)
{
    return layer < TKV_SPEC_LAYERS && s->dense[layer / 64] >> layer % 64 & 1;
}

static void print_dense(struct printed *p, const tkv_spec *s)
{
    const char *before = ",dense=";
    for (uint32_t first = 0; first < TKV_SPEC_LAYERS; first++) {
        if (!is_dense(s, first))
            continue;
        uint32_t last = first;
        while (is_dense(s, last + 1))
            last++;
        print_number(p, before, first, "");
        if (last > first)
            print_number(p, last > first + 1 ? "-" : "+", last, "");
        before = "+";
        first = last;
    }
}

static void print_ram(struct printed *p, uint64_t bytes)
{
    static const char *const units[] = {"", "K", "M", "G", "T"};
    size_t unit = 0;
    for (; unit < 4 && bytes % 1024 == 0; unit++)
        bytes /= 1024;
    print_number(p, ",ram=", bytes, units[unit]);
}

size_t tkv_spec_print_retrieval(const tkv_spec *s, char *buf, size_t capacity)
{
    struct printed p = {buf, capacity, 0};
    print(&p, "");
    if (s->index) {
        print(&p, ",index=");
        print(&p, kinds[s->index]);
        if (s->keep > 0 && s->keep < 1)
            print_share(&p, ",keep=", s->keep);
        else
            print_number(&p, ",keep=", (uint64_t)s->keep, "");
        if (s->mass > 0)
            print_share(&p, ",mass=", s->mass);
        if (s->rest != (s->index == TKV_INDEX_QVQ))
            print(&p, s->rest ? ",rest=mean" : ",rest=none");
        if (s->window_rope)
            print(&p, ",rope=window");
        print_dense(&p, s);
    }
    if (s->ram) {
        print_ram(&p, s->ram);
        print(&p, ",spill=");
        print(&p, s->spill);
    }
    return p.n;
}
