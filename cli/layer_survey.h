/* Every attention layer of a model on one window of a text: what its keys and values look like,
 * and what each of a list of specs does to it. */
#ifndef TKV_CLI_LAYER_SURVEY_H
#define TKV_CLI_LAYER_SURVEY_H

#include "cli.h"
#include "kv_stats.h"
#include "layer_error.h"
#include "session.h"

struct surveyed_layer {
    int layer; /* of the model */
    uint32_t n_kv_heads;
    struct kv_stats *k, *v;     /* [n_kv_heads] */
    struct layer_error *errors; /* [n_specs]; n_heads 0: the spec cannot code these heads */
};

struct layer_survey {
    size_t n_specs, n_layers;
    struct surveyed_layer *layers;
    char note[256]; /* why layers were passed over; empty: none was */
};

/* Runs the window through the model once and each layer through a cache of every spec. Layers
 * that share a cache count once. The progress bar takes layer_survey_work() steps;
 * NULL: none. */
int layer_survey_run(struct session *s, const struct session_tokens *window, const tkv_spec *specs,
                     size_t n_specs, struct cli_progress *progress, struct layer_survey *out);
double layer_survey_work(size_t n_tokens, size_t n_specs);
void layer_survey_free(struct layer_survey *survey);

/* Mean over layers of the errors of outputs under a spec; NaN when there is none. */
double layer_survey_out_error(const struct layer_survey *survey, size_t i_spec);

#endif
