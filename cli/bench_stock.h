/* Decode attention as stock llama.cpp does it: FLASH_ATTN_EXT on ggml's CPU backend. */
#ifndef TKV_CLI_BENCH_STOCK_H
#define TKV_CLI_BENCH_STOCK_H

#include "bench_tools.h"

enum stock_type { STOCK_F16, STOCK_Q8_0, STOCK_Q4_0, STOCK_TYPES };

struct cli_common;
struct stock_engine;

/* "f16", "q8_0", "q4_0". */
const char *stock_type_name(enum stock_type type);

/* Loads llama.cpp's ggml and its best CPU variant. NULL after a line on stderr. */
struct stock_engine *stock_engine_open(const struct cli_common *common, uint32_t n_threads);

/* Makes caches of one type, enough layers of `shape` to hold `rotate_bytes`; nothing where ggml
 * cannot code this head size in that type. CLI_OK, or CLI_DATA after a line on stderr. */
int stock_engine_add(struct stock_engine *e, enum stock_type type, const struct bench_shape *shape,
                     size_t rotate_bytes);

/* One decode step over the next layer of that type; seconds, or NaN when it was not added. */
double stock_engine_step(struct stock_engine *e, enum stock_type type);

void stock_engine_close(struct stock_engine *e);

#endif
