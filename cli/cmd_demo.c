/* tightkv demo: the main job on the embedded model, in minutes. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "complete.h"
#include "demo.h"
#include "report.h"

static const char about[] = "Runs the embedded model with stock llama.cpp's caches (f16, q8_0, "
                            "q4_0) and with three presets: bits and\n"
                            "memory, divergence from f16, recall of facts, speed at three depths; "
                            "then one question at 12K tokens of\n"
                            "context. A few minutes on two cores.";

static int make_rows(struct demo *d)
{
    static const enum ggml_type stock[] = {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0};
    for (size_t i = 0; i < DEMO_ROWS; i++) {
        struct demo_row *row = &d->rows[i];
        for (size_t depth = 0; depth < DEMO_DEPTHS; depth++)
            row->pp[depth] = row->tg[depth] = NAN;
        if (i < DEMO_ROWS - DEMO_PRESETS) {
            row->cache.type = stock[i];
            row->name = cli_format("stock %s", d->llama.api.ggml_type_name(stock[i]));
            continue;
        }
        const char *name, *text, *summary;
        if (tkv_spec_preset((uint32_t)(i - (DEMO_ROWS - DEMO_PRESETS)), &name, &text, &summary) !=
            TKV_OK)
            return cli_fail("this build has fewer than %d presets", DEMO_PRESETS);
        row->cache.spec = name;
        row->name = cli_format("%s", name);
    }
    return CLI_OK;
}

double demo_mib(struct demo *d, const struct demo_row *row, struct llama_context *ctx)
{
    if (!row->cache.spec)
        return (double)d->llama.api.llama_state_seq_get_size(ctx, 0) / (1 << 20);
    struct tightkv_ggml_stats st = {.struct_size = sizeof(st)};
    if (d->llama.stats(&st) != TKV_OK)
        return NAN;
    return (double)(st.sealed_bytes + st.open_bytes + st.meta_bytes + st.plain_bytes) / (1 << 20);
}

/* What all steps are worth on the progress bar, about in tokens. */
static double total_work(void)
{
    double quality = 2.0 * DEMO_WINDOW * DEMO_ROWS;
    double speed = (double)DEMO_WINDOW * (DEMO_ROWS + 1 + DEMO_PRESETS) + DEMO_DEEP;
    return quality + speed + 2.0 * DEMO_QUESTION;
}

static int open_demo(struct demo *d)
{
    d->model = cli_find_data(CLI_MODEL);
    char *path = d->model ? cli_find_data("demo-text.txt") : NULL;
    size_t n_bytes = 0;
    if (path)
        d->filler = cli_read_file(path, &n_bytes);
    free(path);
    if (!d->filler)
        return CLI_DATA;
    int rc = cli_llama_open(&d->llama, &d->common, true);
    if (rc == CLI_OK)
        rc = session_open(&d->session, &d->llama, d->model, (int)d->common.n_threads);
    if (rc == CLI_OK)
        rc = session_tokenize(&d->session, d->filler, n_bytes, true, &d->tokens);
    if (rc == CLI_OK && d->tokens.n < DEMO_DEEP)
        rc = cli_fail("demo-text.txt has %zu tokens; it needs %d", d->tokens.n, DEMO_DEEP);
    return rc == CLI_OK ? make_rows(d) : rc;
}

static void close_demo(struct demo *d)
{
    for (size_t i = 0; i < DEMO_ROWS; i++)
        free(d->rows[i].name);
    session_close(&d->session);
    free(d->tokens.ids);
    free(d->filler);
    free(d->model);
}

/* ---- results ------------------------------------------------------------------------------- */

static void print_speeds(const double *speeds)
{
    for (size_t i = 0; i < DEMO_DEPTHS; i++) {
        if (isfinite(speeds[i]))
            printf(" %7.*f", speeds[i] < 100 ? 1 : 0, speeds[i]);
        else
            printf(" %7s", "-");
    }
}

static int print_text(const struct demo *d)
{
    printf("%-11s %5s %7s %9s %6s %7s | %-23s | %-23s\n", "", "", "MiB at", "KLD from", "same",
           "recall", " prefill, tokens/s", " decode, tokens/s");
    printf("%-11s %5s %7s %9s %6s %7s | %7s %7s %7s | %7s %7s %7s\n", "cache", "bits", "16K", "f16",
           "top", "of 16", "at 0", "2K", "16K", "at 0", "2K", "16K");
    for (size_t i = 0; i < DEMO_ROWS; i++) {
        const struct demo_row *row = &d->rows[i];
        printf("%-11s %5.2f %7.1f %9.6f %5.1f%% %6.0f%% |", row->name, row->bits, row->deep_mib,
               row->kld, 100 * row->same_top, 100 * row->recall);
        print_speeds(row->pp);
        printf(" |");
        print_speeds(row->tg);
        putchar('\n');
    }
    printf("\nOne question after %zu tokens:%s\n", d->n_question_tokens, d->question);
    for (size_t i = 0; i < 2; i++) {
        const struct demo_answer *a = &d->answers[i];
        printf("  %-11s %-16s first token after %5.1f s, cache %6.1f MiB\n", a->name, a->text,
               a->first_s, a->kv_mib);
    }
    return CLI_OK;
}

static void add_row(cJSON *rows, const struct demo_row *row)
{
    cJSON *out = cli_json_object(rows, NULL);
    cli_json_text(out, "kv", row->name);
    cli_json_number(out, "bits_per_value", row->bits);
    cli_json_number(out, "kv_mib", row->deep_mib);
    cli_json_number(out, "kld_mean", row->kld);
    cli_json_number(out, "same_top1", row->same_top);
    cli_json_number(out, "recall", row->recall);
    cJSON *speeds = cli_json_array(out, "speed");
    for (size_t i = 0; i < DEMO_DEPTHS; i++) {
        cJSON *speed = cli_json_object(speeds, NULL);
        cli_json_number(speed, "depth", (double)demo_depths[i]);
        cli_json_number(speed, "pp_tok_s", row->pp[i]);
        cli_json_number(speed, "tg_tok_s", row->tg[i]);
    }
}

static cJSON *make_json(const struct demo *d)
{
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "demo", &d->common);
    cli_json_base_name(root, "model", d->model);
    cJSON *rows = cli_json_array(root, "rows");
    for (size_t i = 0; i < DEMO_ROWS; i++)
        add_row(rows, &d->rows[i]);
    cJSON *question = cli_json_object(root, "question");
    cli_json_text(question, "text", d->question);
    cli_json_number(question, "n_tokens", (double)d->n_question_tokens);
    cJSON *answers = cli_json_array(question, "answers");
    for (size_t i = 0; i < 2; i++) {
        cJSON *answer = cli_json_object(answers, NULL);
        cli_json_text(answer, "kv", d->answers[i].name);
        cli_json_text(answer, "text", d->answers[i].text);
        cli_json_number(answer, "first_s", d->answers[i].first_s);
        cli_json_number(answer, "kv_mib", d->answers[i].kv_mib);
    }
    return root;
}

/* The results and their page in `dir`. A build without the page has said so: the results count. */
static int write_files(const cJSON *root, const char *dir, cli_level level)
{
    char *json = cli_format("%s/demo.json", dir), *page = cli_format("%s/report.html", dir);
    int rc = cli_json_write(root, json);
    if (rc == CLI_OK) {
        struct report r;
        report_begin(&r);
        report_add(&r, json, cJSON_Duplicate(root, true));
        bool paged = report_write(&r, page) == CLI_OK;
        cli_say(level, CLI_NORMAL, "%s is %s", paged ? "the report" : "the result",
                paged ? page : json);
        report_end(&r);
    }
    free(json);
    free(page);
    return rc;
}

static int tell(const struct demo *d, const char *dir)
{
    cJSON *root = make_json(d);
    int rc = d->common.json ? cli_json_print(cJSON_Duplicate(root, true)) : print_text(d);
    if (rc == CLI_OK && dir)
        rc = write_files(root, dir, d->common.level);
    cJSON_Delete(root);
    return rc;
}

int cmd_demo(int argc, char **argv)
{
    struct demo d = {0};
    const char *dir = NULL;
    const struct cli_option options[] = {
        {"output", 'o', CLI_TEXT, &dir, "DIR", "write demo.json and report.html there as well", 0,
         0, false},
    };
    const struct cli_syntax syntax = {"demo", "[options]", about, options,
                                      sizeof(options) / sizeof(options[0])};
    int first = cli_parse(&syntax, &d.common, argc, argv);
    if (first < 0)
        return -1 - first;
    if (first < argc)
        return cli_misuse("demo", "what is '%s'?", argv[first]);
    if (dir && mkdir(dir, 0777) != 0 && errno != EEXIST)
        return cli_fail("cannot make the folder %s: %s", dir, strerror(errno));
    int rc = open_demo(&d);
    cli_progress_begin(&d.progress, rc == CLI_OK ? d.common.level : CLI_QUIET, total_work());
    if (rc == CLI_OK)
        rc = demo_quality(&d);
    if (rc == CLI_OK)
        rc = demo_speed(&d);
    if (rc == CLI_OK)
        rc = demo_ask(&d);
    cli_progress_end(&d.progress);
    if (rc == CLI_OK)
        rc = tell(&d, dir);
    close_demo(&d);
    return rc;
}
