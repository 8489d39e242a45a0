/* What the model reads: windows of texts, and pictures. */
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "journal.h"

enum {
    WINDOW = 2048,
    ASIDE = 8192
};

struct text {
    const char *path;
    struct session_tokens tokens;
    size_t n_windows, n_taken;
};

static int read_text(struct session *s, struct cal_input *in, struct text *out)
{
    size_t n_bytes;
    char *bytes = cli_read_text(out->path, &n_bytes);
    if (!bytes)
        return CLI_DATA;
    in->hash = journal_hash(in->hash, bytes, n_bytes);
    int rc = session_tokenize(s, bytes, n_bytes, true, &out->tokens);
    free(bytes);
    out->n_windows = out->tokens.n / in->window;
    if (rc == CLI_OK && out->n_windows == 0)
        rc = cli_fail("%s: %zu tokens; a text to learn from needs %zu or more", out->path,
                      out->tokens.n, in->window);
    return rc;
}

/* Every text in turn gives its next window, until there are enough. */
static size_t share_out(struct text *texts, size_t n, size_t n_wanted)
{
    size_t n_taken = 0;
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < n && n_taken < n_wanted; i++)
            if (texts[i].n_taken < texts[i].n_windows) {
                texts[i].n_taken++;
                n_taken++;
                more = true;
            }
    }
    return n_taken;
}

static void add_unit(struct cal_input *in, struct cal_unit unit)
{
    const size_t n = in->n_units[TKV_SPAN_TEXT] + in->n_units[TKV_SPAN_VISUAL];
    in->units = cli_grow(in->units, n + 1, sizeof(*in->units));
    in->units[n] = unit;
    in->n_units[unit.klass]++;
}

/* Begins as texts do that are read from their beginning. */
static void add_window(const struct session *s, struct cal_input *in, const llama_token *ids)
{
    const struct llama_api *api = &s->llama->api;
    struct cal_unit unit = {.klass = TKV_SPAN_TEXT,
                            .tokens = {cli_alloc(in->window, sizeof(*ids)), in->window}};
    memcpy(unit.tokens.ids, ids, in->window * sizeof(*ids));
    if (api->llama_vocab_get_add_bos(s->vocab))
        unit.tokens.ids[0] = api->llama_vocab_bos(s->vocab);
    add_unit(in, unit);
}

/* Tokens behind what was taken of the text that has most left; where these are too few, its last
 * ones. The last quarter says again what the first said: some heads do little but look for what
 * followed the last time, and whatever a text may happen to repeat, they must be seen at work. */
static void set_aside(const struct session *s, struct cal_input *in, const struct text *texts,
                      size_t n)
{
    const struct text *best = &texts[0];
    for (size_t i = 1; i < n; i++)
        if (texts[i].tokens.n - texts[i].n_taken * in->window >
            best->tokens.n - best->n_taken * in->window)
            best = &texts[i];
    const size_t taken = best->n_taken * in->window, all = best->tokens.n;
    size_t wanted = s->n_ctx_train && s->n_ctx_train < ASIDE ? s->n_ctx_train : ASIDE;
    wanted = wanted < all ? wanted : all;
    const size_t first = all - taken >= wanted ? taken : all - wanted;
    in->aside = (struct session_tokens){cli_alloc(wanted, sizeof(*best->tokens.ids)), wanted};
    memcpy(in->aside.ids, best->tokens.ids + first, wanted * sizeof(*best->tokens.ids));
    memcpy(in->aside.ids + (wanted - wanted / 4), in->aside.ids,
           wanted / 4 * sizeof(*best->tokens.ids));
}

int cal_input_texts(struct cal_input *in, struct session *s, const struct cli_list *paths,
                    size_t n_tokens, bool all)
{
    struct text *texts = cli_alloc(paths->n, sizeof(*texts));
    int rc = CLI_OK;
    in->window = s->n_ctx_train && s->n_ctx_train < WINDOW ? s->n_ctx_train : WINDOW;
    for (size_t i = 0; i < paths->n && rc == CLI_OK; i++) {
        texts[i].path = paths->items[i];
        rc = read_text(s, in, &texts[i]);
    }
    const size_t n_wanted = (n_tokens + in->window - 1) / in->window;
    const size_t n = rc == CLI_OK ? share_out(texts, paths->n, n_wanted) : 0;
    if (rc == CLI_OK && n < n_wanted && all)
        rc = cli_fail("the texts hold %zu windows of %zu tokens; --tokens asks for %zu: give more "
                      "text, or ask for fewer",
                      n, in->window, n_tokens);
    if (rc == CLI_OK)
        set_aside(s, in, texts, paths->n);
    for (size_t i = 0; i < paths->n; i++) {
        for (size_t w = 0; w < texts[i].n_taken && rc == CLI_OK; w++)
            add_window(s, in, texts[i].tokens.ids + w * in->window);
        free(texts[i].tokens.ids);
    }
    free(texts);
    return rc;
}

int cal_input_pictures(struct cal_input *in, struct session *s, const char *base, const char *items)
{
    int rc = visual_set_read(&in->pictures, s, base, items);
    in->hash = journal_hash(in->hash, &in->pictures.hash, sizeof(in->pictures.hash));
    for (size_t i = 0; i < in->pictures.n && rc == CLI_OK; i++) {
        const struct session_tokens *text = &in->pictures.pictures[i].text;
        struct cal_unit unit = {.klass = TKV_SPAN_VISUAL,
                                .tokens = {cli_alloc(text->n + 1, sizeof(*text->ids)), text->n + 1},
                                .rows = visual_set_rows(&in->pictures, i),
                                .n_rows = in->pictures.embeddings.shape[1]};
        unit.tokens.ids[0] = s->llama->api.llama_vocab_bos(s->vocab);
        memcpy(unit.tokens.ids + 1, text->ids, text->n * sizeof(*text->ids));
        add_unit(in, unit);
    }
    return rc;
}

void cal_input_free(struct cal_input *in)
{
    for (size_t i = 0; i < in->n_units[TKV_SPAN_TEXT] + in->n_units[TKV_SPAN_VISUAL]; i++)
        free(in->units[i].tokens.ids);
    free(in->units);
    free(in->aside.ids);
    visual_set_free(&in->pictures);
}
