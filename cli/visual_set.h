/* Pictures that come as embeddings, and questions about them. */
#ifndef TKV_CLI_VISUAL_SET_H
#define TKV_CLI_VISUAL_SET_H

#include "npy.h"
#include "session.h"

/* Tokens [first, first + n) of a picture's text. */
struct visual_answer {
    size_t first, n;
};

struct picture {
    size_t number;              /* of its embeddings */
    struct session_tokens text; /* questions and right answers */
    struct visual_answer *answers;
    size_t n_answers;
};

struct visual_set {
    struct npy embeddings; /* [pictures][tokens][values] */
    struct picture *pictures;
    size_t n;
    uint64_t hash; /* of all that was read */
};

/* Reads BASE.npy and BASE.json; `items`: numbers and ranges of those to keep ("0-11,15"), NULL: all.
 * CLI_OK, or CLI_DATA after a line on stderr; after either, visual_set_free(). */
int visual_set_read(struct visual_set *set, struct session *s, const char *base, const char *items);
void visual_set_free(struct visual_set *set);

/* [tokens][values] of a picture. */
const float *visual_set_rows(const struct visual_set *set, size_t i);

/* Of a picture: a first token (BOS), embeddings, text. */
size_t visual_set_tokens(const struct visual_set *set, size_t i);

#endif
