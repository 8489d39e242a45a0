/* Which setting for this model? Measured on a few thousand tokens. */
#ifndef TKV_CLI_ADVISE_H
#define TKV_CLI_ADVISE_H

#include "advise_pick.h"
#include "eval.h"
#include "layer_survey.h"
#include "model_layers.h"

enum {
    ADVISE_LADDER = 10, /* rungs of every model */
    ADVISE_LEARNED = 3, /* of those that have a book */
    ADVISE_RUNGS = ADVISE_LADDER + ADVISE_LEARNED,
    ADVISE_WINDOW = 2048, /* tokens of a window of the text, at most */
    ADVISE_WINDOWS = 3,
    ADVISE_QUICK_WINDOW = 1024,
    ADVISE_LEAST = 256 /* tokens of a text that says anything */
};

struct advise {
    struct cli_common common;
    const char *path, *text_path;
    bool quick;
    double budget; /* bytes, 0: none */
    uint32_t ctx;
    struct model_layers model;
    struct cli_llama llama;
    struct session session;
    struct cli_progress progress;
    double weight_bytes;

    size_t n_ctx, n_windows; /* of the text, as measured */
    struct layer_survey survey;
    struct advise_rung rungs[ADVISE_RUNGS];
    size_t n_rungs;
    struct advise_rung floor; /* the f16 spec: what the way of computing costs */

    const struct advise_rung *chosen[ADVISE_LEVELS]; /* NULL: leave it at f16 */
    const struct advise_rung *fitting; /* into the budget; NULL: nothing usable does */
    uint32_t
        fitting_ctx; /* where nothing usable fits: the longest context for the smallest usable */
};

/* ---- advise_measure.c ------------------------------------------------------------------------ */

/* Fills the ladder's specs, then those of codecs for which the model has a book. */
int advise_make_rungs(struct advise *a);
int advise_add_learned(struct advise *a);

/* Statistics and errors of layers, then divergences: of every rung, or, when quick, of two. */
int advise_measure(struct advise *a, const struct session_tokens *text);

/* Error of outputs with plainly rotated keys over that with centred ones, values exact: mean over
 * layers; NaN: not surveyed. */
double advise_keys_gain(const struct advise *a);

/* Fills chosen, fitting and fitting_ctx. */
int advise_choose(struct advise *a);

/* ---- advise_why.c: sentences, owned by the caller -------------------------------------------- */

/* What the keys of this model ask for, and what it is worth. */
char *advise_why_keys(const struct advise *a);
/* Why a level has the rung that it has. */
char *advise_why_level(const struct advise *a, size_t level);
/* What comes of the budget. */
char *advise_why_budget(const struct advise *a);
/* Why the cache had better stay f16; NULL: it need not. */
char *advise_why_f16(const struct advise *a);

/* ---- advise_print.c -------------------------------------------------------------------------- */

int advise_print(const struct advise *a);

#endif
