/* What tightkv doctor finds, and the checks that need no model. */
#ifndef TKV_CLI_DOCTOR_H
#define TKV_CLI_DOCTOR_H

#include "cli.h"

enum verdict {
    FINE,
    WORTH_KNOWING,
    BROKEN
};

struct report {
    struct cli_common common;
    struct cJSON *checks; /* NULL: lines on stdout */
    bool broken;
};

/* Takes `text` and `cure`; no cure is NULL. */
void doctor_add(struct report *r, enum verdict verdict, const char *what, char *text, char *cure);

/* ---- doctor_settings.c ---------------------------------------------------------------------- */

/* Settings of llama.cpp in the environment under which the plug-in has nothing to do. */
void doctor_check_settings(struct report *r);

/* Codecs of the spec that are slow to read. */
void doctor_check_codecs(struct report *r, const tkv_spec *spec);

/* Names of codecs that can code heads of these sizes, for a cure; free() it. */
char *doctor_codecs_for(uint32_t k_head_dim, uint32_t v_head_dim);

/* ---- doctor_keys.c -------------------------------------------------------------------------- */

struct llama_api;
/* Keys of a model that the spec's codec would lose. */
void doctor_check_keys(struct report *r, const struct llama_api *api, const char *path,
                       uint32_t n_layers, const tkv_spec *spec);

#endif
