/* tightkv advise: plain sentences, from the figures. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "advise.h"

/* From here on a layer's keys are named: a constant part as large as what varies doubles the
 * error of plain rotation, and so does a channel this much wider than the others. */
static const double named_offset = 2, named_outlier = 6;
/* Centred keys are worth telling of when they make outputs this much better. */
static const double named_gain = 1.5;
/* A cache this small beside the weights is not worth a thought. */
static const double small_cache = .02;

/* ---- what the survey says of keys ----------------------------------------------------------- */

/* The worst of a layer's heads. */
static double worst_offset(const struct surveyed_layer *l)
{
    double worst = 0;
    for (uint32_t h = 0; h < l->n_kv_heads; h++)
        worst = fmax(worst, l->k[h].offset);
    return worst;
}

static double worst_outlier(const struct surveyed_layer *l)
{
    double worst = 0;
    for (uint32_t h = 0; h < l->n_kv_heads; h++)
        worst = fmax(worst, l->k[h].outlier);
    return worst;
}

/* Layers by number: "layer 2", "layers 0, 4, 11", "layers 0, 1, 2, ...", "all layers". */
struct named {
    size_t n;
    char text[96];
};

struct keys {
    double offset, outlier; /* the worst of all layers */
    double gain;            /* error of outputs, plain over centred keys */
    struct named with_offset, with_outlier;
};

static void name_layer(struct named *list, int layer)
{
    size_t used = strlen(list->text), capacity = sizeof(list->text);
    if (used + 16 < capacity)
        snprintf(list->text + used, capacity - used, "%s%d", list->n ? ", " : "layer ", layer);
    else if (strcmp(list->text + used - 3, "...") != 0)
        snprintf(list->text + used, capacity - used, ", ...");
    list->n++;
}

static void finish_names(struct named *list, size_t n_layers)
{
    char all[sizeof(list->text)];
    snprintf(all, sizeof(all), "%s", list->text);
    if (list->n == n_layers && n_layers > 1)
        snprintf(list->text, sizeof(list->text), "all layers");
    else if (list->n > 1)
        snprintf(list->text, sizeof(list->text), "layers %.*s", (int)sizeof(all) - 8,
                 all + strlen("layer "));
}

static struct keys keys_of(const struct advise *a)
{
    struct keys k = {.gain = advise_keys_gain(a)};
    for (size_t i = 0; i < a->survey.n_layers; i++) {
        const struct surveyed_layer *l = &a->survey.layers[i];
        double offset = worst_offset(l), outlier = worst_outlier(l);
        k.offset = fmax(k.offset, offset);
        k.outlier = fmax(k.outlier, outlier);
        if (offset >= named_offset)
            name_layer(&k.with_offset, l->layer);
        if (outlier >= named_outlier)
            name_layer(&k.with_outlier, l->layer);
    }
    finish_names(&k.with_offset, a->survey.n_layers);
    finish_names(&k.with_outlier, a->survey.n_layers);
    return k;
}

/* "those of layers 0, 11 carry an offset ...; those of all layers have channels ...". */
static char *describe(const struct keys *k)
{
    char *offset =
        k->with_offset.n
            ? cli_format("those of %s carry an offset up to %.1f times their spread",
                         k->with_offset.text, k->offset)
            : cli_format("they carry an offset of at most %.1f times their spread", k->offset);
    char *outlier =
        k->with_outlier.n
            ? cli_format("those of %s have channels up to %.0f times as wide as the median one",
                         k->with_outlier.text, k->outlier)
            : cli_format("no channel is more than %.1f times as wide as the median one",
                         k->outlier);
    char *both = cli_format("%s; %s", offset, outlier);
    free(offset);
    free(outlier);
    return both;
}

char *advise_why_keys(const struct advise *a)
{
    if (a->n_windows == 0)
        return cli_format("none can be coded.");
    if (a->survey.n_layers == 0)
        return cli_format("they could not be looked at: %s.", a->survey.note);
    struct keys k = keys_of(a);
    char *seen = describe(&k), *why;
    if (!isfinite(k.gain))
        why = cli_format("%s.", seen);
    else if (k.gain >= named_gain)
        why = cli_format("%s: at 4 bits, centred keys (turbo4c) hold where plainly rotated ones "
                         "(turbo4) make the error of attention %.1f times as large.",
                         seen, k.gain);
    else
        why = cli_format("%s: plainly rotated keys (turbo4) do about as well as centred ones "
                         "(turbo4c), at %.1f times their error of attention.",
                         seen, k.gain);
    free(seen);
    return why;
}

/* ---- levels --------------------------------------------------------------------------------- */

/* The rung that differs in nothing but plain or centred keys; NULL: not on the ladder. */
static const struct advise_rung *counterpart(const struct advise *a, const struct advise_rung *r)
{
    for (size_t i = 0; i < a->n_rungs; i++) {
        const char *one = r->spec, *other = a->rungs[i].spec;
        size_t same = strcspn(one, ","), longer = strcspn(other, ",");
        if (strcmp(one + same, other + longer) != 0)
            continue;
        size_t n = same < longer ? same : longer;
        if (same + 1 == longer || longer + 1 == same)
            if (strncmp(one, other, n) == 0 && (one[n] == 'c' || other[n] == 'c'))
                return &a->rungs[i];
    }
    return NULL;
}

/* The rung of least cost, for levels that none reaches. */
static const struct advise_rung *best_of(const struct advise *a)
{
    const struct advise_rung *best = &a->rungs[0];
    for (size_t i = 1; i < a->n_rungs; i++)
        if (advise_cost(&a->rungs[i], &a->floor) < advise_cost(best, &a->floor))
            best = &a->rungs[i];
    return best;
}

/* About the same setting with the other kind of keys. */
static char *compare(const struct advise *a, const struct advise_rung *r)
{
    const struct advise_rung *other = counterpart(a, r);
    if (!other)
        return cli_format(".");
    double more = advise_cost(other, &a->floor) / advise_cost(r, &a->floor);
    if (!isfinite(more)) /* one of them was not measured, or costs nothing */
        return cli_format(".");
    if (other->bytes < r->bytes)
        return cli_format("; %s would be %.0f%% smaller and diverge %.1f times as much.",
                          other->spec, 100 * (1 - other->bytes / r->bytes), more);
    return cli_format("; centring the keys (%s) would take %.0f%% more and diverge %.1f times as "
                      "much.",
                      other->spec, 100 * (other->bytes / r->bytes - 1), more);
}

char *advise_why_level(const struct advise *a, size_t level)
{
    const struct advise_level *l = &advise_levels[level];
    const struct advise_rung *r = a->chosen[level];
    if (a->n_windows == 0)
        return cli_format("no layer can be coded.");
    if (!r) {
        r = best_of(a);
        double cost = advise_cost(r, &a->floor);
        if (!isfinite(cost))
            return cli_format("no setting could be measured.");
        return cli_format("no setting is sure to stay within %g of it on other texts, as far as "
                          "texts were seen to differ; %s, the best, may diverge by %.2g.",
                          l->limit, r->spec, cost);
    }
    char *other = compare(a, r);
    char *why =
        cli_format("the smallest that should stay within %g of f16 on other texts too, as far "
                   "as texts were seen to differ%s%s",
                   l->limit, r->measured ? "" : " (estimated)", other);
    free(other);
    return why;
}

char *advise_why_budget(const struct advise *a)
{
    double mib = a->budget / (1 << 20);
    const struct advise_rung *r = a->fitting, *least = a->chosen[ADVISE_LEVELS - 1];
    if (r == &a->floor)
        return cli_format("%.4g MiB hold an f16 cache of %u tokens: leave it at f16.", mib, a->ctx);
    if (r)
        return cli_format("%.4g MiB hold %u tokens with %s at best (%.1f MiB).", mib, a->ctx,
                          r->spec, r->bytes / (1 << 20));
    if (a->fitting_ctx == 0)
        return cli_format("%.4g MiB hold no cache of this model at all.", mib);
    return cli_format("%.4g MiB do not hold %u tokens with any setting that is usable; %s fits up "
                      "to --ctx %u.",
                      mib, a->ctx, least ? least->spec : "f16", a->fitting_ctx);
}

char *advise_why_f16(const struct advise *a)
{
    if (a->n_windows == 0)
        return cli_format("Leave it at f16: no layer of this model has keys and values that can be "
                          "coded (tightkv estimate lists them).");
    if (!a->chosen[ADVISE_LEVELS - 1])
        return cli_format(
            "Leave it at f16: no setting of the ladder is sure to be usable on this model.");
    if (a->floor.bytes < small_cache * a->weight_bytes)
        return cli_format("Leave it at f16: the whole cache takes %.1f MiB beside %.0f MiB of "
                          "weights; coding it saves nothing that matters.",
                          a->floor.bytes / (1 << 20), a->weight_bytes / (1 << 20));
    return NULL;
}
