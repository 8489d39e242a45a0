/* tightkv calibrate: what learned codecs need to know of a model. */
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "journal.h"
#include "model_layers.h"

struct options {
    struct cli_common common;
    struct cli_list texts, trainers;
    const char *visual, *visual_items, *out, *stats, *sample;
    int64_t n_tokens; /* 0: not given */
    int64_t seed;
    bool index;
    int64_t index_codes;
    double sample_bytes;
};

enum {
    DEFAULT_TOKENS = 65536
};

static const char about[] =
    "Runs texts through a model and writes a book: bases in which keys and values take few bits,\n"
    "and which error costs how much. It serves all codecs tight4 to tight0.7; --train rvq or cq\n"
    "puts in the codebooks of rvq8, rvq6 and rvq4, or of cq4 and cq8, --index those of the\n"
    "retrieval index.\n"
    "Cut short, the same command goes on where it was.";

static int parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){.seed = 1, .index_codes = 4096, .sample = "256M"};
    const struct cli_option options[] = {
        {"text", 0, CLI_LIST, &o->texts, "FILE", "text to learn from; may be given again", 0, 0,
         false},
        {"visual", 0, CLI_TEXT, &o->visual, "BASE",
         "pictures to learn from too: BASE.npy and BASE.json, as eval takes them", 0, 0, false},
        {"visual-items", 0, CLI_TEXT, &o->visual_items, "LIST",
         "of them, these only, as in 0-11,15; the first is 0", 0, 0, false},
        {"output", 'o', CLI_TEXT, &o->out, "FILE", "the book", 0, 0, false},
        {"tokens", 0, CLI_COUNT, &o->n_tokens, "N", "tokens to learn from (65536, or all)", 1,
         1 << 24, false},
        {"train", 0, CLI_LIST, &o->trainers, "LIST",
         "what to train: tight (the default), rvq, cq, cq-weighted, index, index-far", 0, 0, true},
        {"index", 0, CLI_FLAG, &o->index, NULL, "train the retrieval index too", 0, 0, false},
        {"index-codes", 0, CLI_COUNT, &o->index_codes, "N", "its codes for every head (4096)", 16,
         32768, false},
        {"stats", 0, CLI_TEXT, &o->stats, "FILE", "keep the statistics, for other trainers", 0, 0,
         false},
        {"sample", 0, CLI_TEXT, &o->sample, "SIZE",
         "of the statistics, room for keys and values that codebooks are learned from (256M)", 0, 0,
         false},
        {"seed", 's', CLI_COUNT, &o->seed, "N", "of all random numbers (1)", 0, INT64_MAX, false},
    };
    const struct cli_syntax syntax = {"calibrate", "MODEL --text FILE -o BOOK [options]", about,
                                      options, sizeof(options) / sizeof(options[0])};
    int first = cli_parse(&syntax, &o->common, argc, argv);
    if (first < 0)
        return first;
    if (first + 1 != argc)
        return -1 - cli_misuse("calibrate", "give one MODEL");
    if (o->visual_items && !o->visual)
        return -1 - cli_misuse("calibrate", "--visual-items needs --visual BASE");
    if (o->texts.n == 0 || !o->out)
        return -1 - cli_misuse("calibrate", "give --text FILE and -o BOOK");
    for (size_t i = 0; i < o->trainers.n; i++)
        if (!cal_trainer(o->trainers.items[i]))
            return -1 - cli_misuse("calibrate", "--train %s: there is no such trainer",
                                   o->trainers.items[i]);
    if (!cli_parse_size(o->sample, &o->sample_bytes))
        return -1 -
               cli_misuse("calibrate", "--sample %s: give a size, as in 256M or 2G", o->sample);
    if (o->index_codes % 16 != 0)
        return -1 - cli_misuse("calibrate", "--index-codes %lld: give a multiple of 16",
                               (long long)o->index_codes);
    return first;
}

/* Whether the list of trainers has a retrieval index. */
static bool names_index(const struct options *o)
{
    for (size_t i = 0; i < o->trainers.n; i++)
        if (strncmp(o->trainers.items[i], "index", strlen("index")) == 0)
            return true;
    return false;
}

/* ---- gathering ------------------------------------------------------------------------------ */

struct work {
    struct calibration *c;
    const struct cal_input *in;
    struct cli_progress progress;
};

static int step_done(void *user)
{
    struct work *w = user;
    cli_progress_step(&w->progress, 1, NULL);
    return cal_stats_commit(w->c);
}

static size_t n_units(const struct cal_input *in)
{
    return in->n_units[TKV_SPAN_TEXT] + in->n_units[TKV_SPAN_VISUAL];
}

static int read_units(struct work *w)
{
    struct calibration *c = w->c;
    int rc = CLI_OK;
    while (c->n_done < n_units(w->in) && rc == CLI_OK) {
        const struct cal_unit *unit = &w->in->units[c->n_done];
        const size_t n_before = unit->klass == TKV_SPAN_VISUAL ? w->in->n_units[TKV_SPAN_TEXT] : 0;
        rc = cal_moments(c, unit, c->n_done - n_before);
        if (rc == CLI_OK)
            rc = step_done(w);
    }
    return rc;
}

/* Steps: the units, the layers' sizes, and what follows from all. */
static int gather(struct work *w, cli_level level)
{
    struct calibration *c = w->c;
    const size_t n_steps = n_units(w->in) + cal_size_steps(c) + 1;
    if (c->n_done == n_steps)
        return CLI_OK;
    cli_progress_begin(&w->progress, level, (double)n_steps);
    cli_progress_step(&w->progress, (double)c->n_done, "reading");
    int rc = read_units(w);
    cli_progress_step(&w->progress, 0, "measuring layers");
    if (rc == CLI_OK)
        rc = cal_sizes(c, &(struct session_tokens){w->in->units[0].tokens.ids, w->in->window / 2},
                       step_done, w);
    if (rc == CLI_OK) {
        cal_quantiles(c);
        rc = step_done(w);
    }
    cli_progress_end(&w->progress);
    return rc;
}

static int read_inputs(struct calibration *c, const struct options *o, const struct harden_file *f,
                       struct cal_input *in)
{
    in->hash = journal_hash(JOURNAL_HASH, f->map, f->data_at);
    in->hash = journal_hash(in->hash, &f->n_bytes, sizeof(f->n_bytes));
    in->hash = journal_hash(in->hash, &c->seed, sizeof(c->seed));
    const size_t n_tokens = (size_t)(o->n_tokens ? o->n_tokens : DEFAULT_TOKENS);
    int rc = cal_input_texts(in, c->session, &o->texts, n_tokens, o->n_tokens != 0);
    if (rc == CLI_OK && o->visual)
        rc = cal_input_pictures(in, c->session, o->visual, o->visual_items);
    return rc;
}

static int learn(struct calibration *c, const struct options *o, const struct harden_file *f,
                 const char *path)
{
    struct cal_input in = {0};
    int rc = read_inputs(c, o, f, &in);
    const struct cal_plan plan = {in.hash,
                                  {in.n_units[TKV_SPAN_TEXT], in.n_units[TKV_SPAN_VISUAL]},
                                  {in.window, in.pictures.embeddings.shape[1]}};
    if (rc == CLI_OK)
        rc = cal_stats_open(c, path, &plan);
    if (rc == CLI_OK && (o->index || names_index(o)))
        rc = cal_index_check(c);
    if (rc == CLI_OK) {
        session_catch_signals(c->session);
        rc = gather(&(struct work){.c = c, .in = &in}, o->common.level);
    }
    c->aside = in.aside;
    in.aside = (struct session_tokens){0};
    cal_input_free(&in);
    return rc;
}

/* ---- training ------------------------------------------------------------------------------- */

static int train(const struct calibration *c, const struct options *o)
{
    struct cal_book *book = cal_book_new(c);
    int rc = CLI_OK;
    if (o->trainers.n == 0)
        rc = cal_train_tight(c, book);
    for (size_t i = 0; i < o->trainers.n && rc == CLI_OK; i++)
        rc = cal_trainer(o->trainers.items[i])->train(c, book);
    if (rc == CLI_OK && o->index && !names_index(o))
        rc = cal_train_index(c, book);
    if (rc == CLI_OK)
        rc = cal_book_write(book, o->out);
    cal_book_free(book);
    return rc;
}

static int read_fingerprint(struct calibration *c, const char *path)
{
    c->fingerprint.struct_size = sizeof(c->fingerprint);
    return c->session->llama->fingerprint(path, &c->fingerprint) == TKV_OK
               ? CLI_OK
               : cli_fail("%s: not all of its tensors are there; fetch it again", path);
}

static int calibrate(struct calibration *c, const struct options *o, const struct harden_file *f,
                     const struct model_layers *layers)
{
    char *stats = o->stats ? cli_format("%s", o->stats) : cli_format("%s.stats", o->out);
    int rc = read_fingerprint(c, f->path);
    if (rc == CLI_OK)
        rc = cal_layers(c, f, layers, o->visual != NULL);
    if (rc == CLI_OK)
        rc = cal_rope(c);
    if (rc == CLI_OK)
        rc = learn(c, o, f, stats);
    if (rc == CLI_OK)
        rc = train(c, o);
    cal_stats_close(c, rc != CLI_OK || o->stats);
    if (rc == CLI_STOPPED)
        cli_say(CLI_NORMAL, CLI_NORMAL, "stopped; the same command goes on from %s", stats);
    free(stats);
    return rc;
}

int cmd_calibrate(int argc, char **argv)
{
    struct options o;
    int first = parse(&o, argc, argv);
    if (first < 0) {
        cli_list_free(&o.texts);
        cli_list_free(&o.trainers);
        return -1 - first;
    }
    struct cli_llama llama;
    struct session session = {0};
    struct calibration c = {.session = &session,
                            .seed = (uint64_t)o.seed,
                            .sample_bytes = (size_t)o.sample_bytes,
                            .index_codes = (uint32_t)o.index_codes};
    struct model_layers layers = {0};
    struct harden_file file = {0};
    tkv_error err;
    int rc = cli_llama_open(&llama, &o.common, true);
    if (rc == CLI_OK && !model_layers_read(&llama.api, argv[first], &layers, &err))
        rc = cli_fail("%s", err.text);
    if (rc == CLI_OK)
        rc = session_open(&session, &llama, argv[first], (int)o.common.n_threads);
    if (rc == CLI_OK)
        rc = harden_file_open(&file, &llama.api, argv[first]);
    if (rc == CLI_OK)
        rc = calibrate(&c, &o, &file, &layers);
    cal_free(&c);
    if (file.path)
        harden_file_close(&file);
    model_layers_free(&layers);
    session_close(&session);
    cli_list_free(&o.texts);
    cli_list_free(&o.trainers);
    return rc;
}
