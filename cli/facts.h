/* Questions about made-up facts in a text, in the three forms that the embedded model knows. */
#ifndef TKV_CLI_FACTS_H
#define TKV_CLI_FACTS_H

#include "eval.h"

/* Puts `n_facts` facts into the beginning of `filler`, evenly spread, and asks for each: about
 * n_tokens tokens with questions and answers. Deterministic in the seed. CLI_DATA after a line
 * on stderr when the filler is too short. recall_free() takes the item as part of a set. */
int facts_make(struct session *s, const char *filler, size_t n_tokens, size_t n_facts,
               uint64_t seed, struct recall_item *out);

#endif
