/* Specs: "k=turbo4,v=turbo3,sink=64,tail=128". */
#include <stdio.h>
#include <string.h>

#include "api/spec_retrieval.h"
#include "base/status.h"
#include "codec/codec.h"

#define SPEC_MAX TKV_SPEC_TEXT

static const struct {
    const char *name, *text, *summary;
} presets[] = {
    {"default", "k=turbo4c,v=turbo4,sink=64,tail=128",
     "a quarter of f16, at once and on every model"},
    {"small", "k=tight3,v=tight3,sink=64,tail=128",
     "less than a quarter, less loss than default; wants a book"},
    {"tiny", "k=tight2,v=tight2,sink=64,tail=128", "a sixth of f16, a small loss; wants a book"},
    {"best", "k=tight4,v=tight4,sink=64,tail=128", "a quarter, the least loss; wants a book"},
    {"fast", "k=turbo4c,v=turbo4,sink=64,tail=128",
     "the quickest attention that holds on every model: what default is"},
    {"safe", "k=q8,v=q8,sink=64,tail=128", "half of f16, no measurable loss"},
    {"small-visual", "k=tight3,v=tight3,sink=64,tail=128,visual.k=tight1,visual.v=tight1",
     "small, and pictures at a bit a value; wants a book made with pictures"},
};

tkv_status tkv_spec_preset(uint32_t i, const char **name, const char **text, const char **summary)
{
    if (i >= sizeof presets / sizeof presets[0])
        return TKV_ERR_INVALID;
    if (name)
        *name = presets[i].name;
    if (text)
        *text = presets[i].text;
    if (summary)
        *summary = presets[i].summary;
    return TKV_OK;
}

static const char *preset_text(const char *name)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(presets[i].name, name) == 0)
            return presets[i].text;
    return NULL;
}

tkv_status tkv_codec_find(const char *name, tkv_codec *out, tkv_error *err)
{
    const struct tkv_codec_ops *ops = name ? tkv_codec_by_name(name) : NULL;
    if (ops) {
        *out = (tkv_codec){.id = ops->id};
        return TKV_OK;
    }
    char known[SPEC_MAX] = "";
    for (uint32_t i = 0; i < tkv_codec_registry_count(); i++) {
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, " %s", tkv_codec_by_index(i)->name);
    }
    return tkv_fail(err, TKV_ERR_SPEC, "unknown codec '%.40s'; there are:%s", name ? name : "",
                    known);
}

static tkv_status parse_count(const char *key, const char *value, uint32_t most, uint32_t *out,
                              tkv_error *err)
{
    uint32_t n = 0;
    bool good = *value != '\0';
    for (const char *c = value; *c && good; c++) {
        good = *c >= '0' && *c <= '9' && n <= most;
        n = 10 * n + (uint32_t)(*c - '0'); /* most is far below 2^32 / 10 */
    }
    if (!good || n > most)
        return tkv_fail(err, TKV_ERR_SPEC, "%s=%.40s: a number from 0 to %u is needed", key, value,
                        most);
    *out = n;
    return TKV_OK;
}

/* Spec under construction: rot= and visual.range= come on top of the codecs, wherever they stand. */
struct draft {
    tkv_spec spec;
    bool no_rotation, quantiles;
};

static tkv_status set_rotation(struct draft *d, const char *value, tkv_error *err)
{
    if (strcmp(value, "none") != 0 && strcmp(value, "hadamard") != 0)
        return tkv_fail(err, TKV_ERR_SPEC, "rot=%.40s: hadamard or none is needed", value);
    d->no_rotation = strcmp(value, "none") == 0;
    return TKV_OK;
}

static tkv_status set_range(struct draft *d, const char *value, tkv_error *err)
{
    if (strcmp(value, "minmax") != 0 && strcmp(value, "quantiles") != 0)
        return tkv_fail(err, TKV_ERR_SPEC, "visual.range=%.40s: minmax or quantiles is needed",
                        value);
    d->quantiles = strcmp(value, "quantiles") == 0;
    return TKV_OK;
}

static tkv_status set_book(tkv_spec *s, const char *value, tkv_error *err)
{
    if (!*value || strlen(value) >= sizeof s->book)
        return tkv_fail(err, TKV_ERR_SPEC,
                        "book=%.40s: a file name of up to %d characters is needed", value,
                        TKV_SPEC_BOOK - 1);
    strcpy(s->book, value);
    return TKV_OK;
}

static tkv_status set_key(struct draft *d, const char *key, const char *value, tkv_error *err)
{
    tkv_spec *s = &d->spec;
    const struct {
        const char *key;
        tkv_codec *codec[2];
    } codecs[] = {
        {"k", {&s->k, NULL}},
        {"v", {&s->v, NULL}},
        {"kv", {&s->k, &s->v}},
        {"visual.k", {&s->visual_k, NULL}},
        {"visual.v", {&s->visual_v, NULL}},
    };
    for (size_t i = 0; i < sizeof codecs / sizeof codecs[0]; i++) {
        if (strcmp(key, codecs[i].key) != 0)
            continue;
        tkv_codec found;
        const tkv_status status = tkv_codec_find(value, &found, err);
        for (int j = 0; j < 2 && status == TKV_OK; j++)
            if (codecs[i].codec[j])
                *codecs[i].codec[j] = found;
        return status;
    }
    if (strcmp(key, "sink") == 0)
        return parse_count(key, value, 1u << 20, &s->sink, err);
    if (strcmp(key, "tail") == 0)
        return parse_count(key, value, 1u << 20, &s->tail, err);
    if (strcmp(key, "strict") == 0)
        return parse_count(key, value, 1, &s->strict, err);
    if (strcmp(key, "book") == 0)
        return set_book(s, value, err);
    if (strcmp(key, "beam") == 0)
        return parse_count(key, value, TKV_SPEC_MOST_BEAM, &s->beam, err);
    if (strcmp(key, "rot") == 0)
        return set_rotation(d, value, err);
    if (strcmp(key, "visual.range") == 0)
        return set_range(d, value, err);
    tkv_status status;
    if (tkv_spec_set_retrieval(s, key, value, &status, err))
        return status;
    return tkv_fail(err, TKV_ERR_SPEC,
                    "unknown key '%.40s'; there are: k v kv visual.k visual.v visual.range sink "
                    "tail rot strict book beam " TKV_SPEC_RETRIEVAL_KEYS,
                    key);
}

static tkv_status parse_words(struct draft *d, const char *text, bool preset_allowed,
                              tkv_error *err)
{
    char copy[SPEC_MAX];
    if (strlen(text) >= sizeof copy)
        return tkv_fail(err, TKV_ERR_SPEC, "a spec has at most %d characters", SPEC_MAX - 1);
    strcpy(copy, text);
    bool first = true;
    for (char *word = copy, *next; word; word = next, first = false) {
        next = strchr(word, ',');
        if (next)
            *next++ = '\0';
        char *value = strchr(word, '=');
        tkv_status status = TKV_OK;
        if (value) {
            *value++ = '\0';
            status = set_key(d, word, value, err);
        } else if (first && preset_allowed && preset_text(word)) {
            status = parse_words(d, preset_text(word), false, err);
        } else if (first && preset_allowed && tkv_codec_by_name(word)) {
            status = set_key(d, "kv", word, err);
        } else {
            char names[SPEC_MAX] = "";
            for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
                strcat(strcat(names, " "), presets[i].name);
            status = tkv_fail(
                err, TKV_ERR_SPEC,
                "'%.40s' is neither key=value nor, at the start, a codec or a preset; presets:%s",
                word, names);
        }
        if (status != TKV_OK)
            return status;
    }
    return TKV_OK;
}

tkv_status tkv_spec_parse(const char *text, tkv_spec *out, tkv_error *err)
{
    if (!out)
        return tkv_fail(err, TKV_ERR_INVALID, "out is NULL");
    struct draft d = {.spec = {.struct_size = sizeof *out, .sink = 64, .tail = 128, .keep = -1}};
    tkv_status status = parse_words(&d, text && *text ? text : presets[0].name, true, err);
    if (status == TKV_OK)
        status = tkv_spec_check_retrieval(&d.spec, err);
    if (status != TKV_OK)
        return status;
    if (!d.spec.k.id || !d.spec.v.id)
        return tkv_fail(err, TKV_ERR_SPEC, "the spec names no codec for %s: add %s=turbo4",
                        d.spec.k.id ? "values" : "keys", d.spec.k.id ? "v" : "k");
    const tkv_codec values[] = {d.spec.v, d.spec.visual_v};
    for (size_t i = 0; i < 2; i++) {
        const struct tkv_codec_ops *ops = tkv_codec_by_id(values[i].id);
        if (ops && ops->caps & TKV_CAP_KEYS_ONLY)
            return tkv_fail(err, TKV_ERR_SPEC, "%sv=%s: %s codes keys only; add %sv=turbo4",
                            i ? "visual." : "", ops->name, ops->name, i ? "visual." : "");
    }
    tkv_codec *codecs[] = {&d.spec.k, &d.spec.v, &d.spec.visual_k, &d.spec.visual_v};
    for (size_t i = 0; i < 4 && d.no_rotation; i++)
        if (codecs[i]->id)
            codecs[i]->flags |= TKV_CODEC_NO_ROTATION;
    for (size_t i = 2; i < 4 && d.quantiles; i++)
        if (codecs[i]->id)
            codecs[i]->flags |= TKV_CODEC_QUANTILES;
    if (!d.spec.index)
        d.spec.keep = 0;
    *out = d.spec;
    return TKV_OK;
}

tkv_status tkv_spec_print(const tkv_spec *spec, char *buf, size_t capacity)
{
    if (!spec || !buf || !tkv_codec_by_id(spec->k.id) || !tkv_codec_by_id(spec->v.id))
        return TKV_ERR_INVALID;
    char visual[2][48] = {"", ""};
    const tkv_codec visual_codec[2] = {spec->visual_k, spec->visual_v};
    for (int i = 0; i < 2; i++)
        if (tkv_codec_by_id(visual_codec[i].id))
            snprintf(visual[i], sizeof visual[i], ",visual.%c=%s", "kv"[i],
                     tkv_codec_by_id(visual_codec[i].id) -> name);
    char beam[20] = "";
    if (spec->beam > 1)
        snprintf(beam, sizeof beam, ",beam=%u", spec->beam);
    char retrieval[TKV_SPEC_TEXT];
    tkv_spec_print_retrieval(spec, retrieval, sizeof retrieval);
    const bool quantiles = (spec->visual_k.flags | spec->visual_v.flags) & TKV_CODEC_QUANTILES;
    const int n = snprintf(
        buf, capacity, "k=%s,v=%s%s%s%s,sink=%u,tail=%u%s%s%s%s%s%s",
        tkv_codec_by_id(spec->k.id)->name, tkv_codec_by_id(spec->v.id)->name, visual[0], visual[1],
        quantiles ? ",visual.range=quantiles" : "", spec->sink, spec->tail,
        spec->k.flags & TKV_CODEC_NO_ROTATION ? ",rot=none" : "", spec->strict ? ",strict=1" : "",
        beam, *spec->book ? ",book=" : "", spec->book, retrieval);
    return n < 0 || (size_t)n >= capacity ? TKV_ERR_RANGE : TKV_OK;
}
