/* The parts of tightkv demo. */
#ifndef TKV_CLI_DEMO_H
#define TKV_CLI_DEMO_H

#include "eval.h"
#include "speed.h"

enum { DEMO_WINDOW = 2048, DEMO_DEEP = 16384, DEMO_QUESTION = 12000, DEMO_DECODE = 12 };
enum { DEMO_PRESETS = 3, DEMO_ROWS = 3 + DEMO_PRESETS, DEMO_DEPTHS = 3 };

/* Depths of the speed columns. */
extern const size_t demo_depths[DEMO_DEPTHS];

/* One cache: stock f16 first, then the stock quantised types, then the presets. NaN: not
 * measured. */
struct demo_row {
    char *name;
    struct session_cache cache;
    double bits, deep_mib;
    double kld, same_top, recall;
    double pp[DEMO_DEPTHS], tg[DEMO_DEPTHS];
};

/* The answer of one cache to one question at the end of a long context. */
struct demo_answer {
    const char *name;
    char text[256];
    double first_s; /* seconds to the first token of the answer */
    double kv_mib;
};

struct demo {
    struct cli_common common;
    struct cli_llama llama;
    struct session session;
    struct cli_progress progress;
    char *model, *filler;
    struct session_tokens tokens; /* of the filler */
    struct demo_row rows[DEMO_ROWS];
    char question[512];
    size_t n_question_tokens;
    struct demo_answer answers[2];
};

/* Each fills its fields of the rows, or of the answers. */
int demo_quality(struct demo *d);
int demo_speed(struct demo *d);
int demo_ask(struct demo *d);

/* MiB that the coded caches hold now, or that a stock cache would save. */
double demo_mib(struct demo *d, const struct demo_row *row, struct llama_context *ctx);

#endif
