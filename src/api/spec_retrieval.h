/* The keys of a spec that say which rows are read, and where they are kept. */
#ifndef TKV_SPEC_RETRIEVAL_H
#define TKV_SPEC_RETRIEVAL_H

#include <stdbool.h>

#include "tightkv/tightkv.h"

#define TKV_SPEC_RETRIEVAL_KEYS "index keep mass rest dense ram spill"

/* A key that is not one of these gives false; else `status` receives what came of it. */
bool tkv_spec_set_retrieval(tkv_spec *spec, const char *key, const char *value, tkv_status *status,
                            tkv_error *err);

/* What goes together, once all keys are read. */
tkv_status tkv_spec_check_retrieval(const tkv_spec *spec, tkv_error *err);

/* The keys as text, each with a comma before it, "" for none; NUL-terminated if it fits. Returns its
 * length. */
size_t tkv_spec_print_retrieval(const tkv_spec *spec, char *buf, size_t capacity);

#endif
