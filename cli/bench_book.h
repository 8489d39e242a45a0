/* A book for benchmarks: the one that the spec names, else one made up for its codecs. Speed does
 * not depend on what a book says, but for how many bits it gives to each coefficient. */
#ifndef TKV_CLI_BENCH_BOOK_H
#define TKV_CLI_BENCH_BOOK_H

#include <stdbool.h>
#include <stdint.h>

#include <tightkv/tightkv.h>

struct bench_book {
    tkv_book *book; /* NULL: no codec of the spec needs one */
    char *bytes;
};

/* Whether a codec codes with a book only. */
bool bench_needs_book(tkv_codec codec);

/* For layers of n_heads KV heads that call themselves the model's layer 0. CLI_OK, or CLI_DATA after
 * a line on stderr. To be closed in any case, after the caches made with it. */
int bench_book_open(tkv_context *ctx, const tkv_spec *spec, uint32_t n_heads, uint32_t head_dim,
                    struct bench_book *out);
void bench_book_close(struct bench_book *b);

#endif
