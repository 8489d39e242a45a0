/* tightkv codecs: the table of codecs. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

struct note {
    const char *names, *needs, *shines, *fails;
};

static const struct note notes[] = {
#define CODEC_NOTE(names, needs, shines, fails) {names, needs, shines, fails},
#include "codec_notes.def"
#undef CODEC_NOTE
};

enum {
    N_NOTES = sizeof(notes) / sizeof(notes[0])
};

static bool names_codec(const char *names, const char *codec)
{
    size_t n = strlen(codec);
    for (const char *at = strstr(names, codec); at; at = strstr(at + 1, codec))
        if ((at == names || at[-1] == ' ') && (at[n] == '\0' || at[n] == ' '))
            return true;
    return false;
}

static const struct note *note_of(const char *codec)
{
    static const struct note none = {0};
    for (size_t i = 0; i < N_NOTES; i++)
        if (names_codec(notes[i].names, codec))
            return &notes[i];
    return &none;
}

/* Bits a value of a page, scales included; NaN where the codec cannot code this head size. */
static double bits_per_value(const tkv_codec_info *info, tkv_kind kind, uint32_t head_dim)
{
    size_t bytes = tkv_page_bytes((tkv_codec){info->id, 0}, kind, head_dim);
    return bytes ? 8.0 * (double)bytes / (TKV_PAGE_TOKENS * (double)head_dim) : (double)NAN;
}

static int print_json(const tkv_codec_info *infos, uint32_t n, uint32_t head_dim)
{
    cJSON *root = cJSON_CreateObject();
    cli_json_number(root, "head_dim", head_dim);
    cJSON *codecs = cli_json_array(root, "codecs");
    for (uint32_t i = 0; i < n; i++) {
        cJSON *codec = cli_json_object(codecs, NULL);
        cli_json_text(codec, "name", infos[i].name);
        cli_json_number(codec, "id", infos[i].id);
        cli_json_number(codec, "k_bits", bits_per_value(&infos[i], TKV_K, head_dim));
        cli_json_number(codec, "v_bits", bits_per_value(&infos[i], TKV_V, head_dim));
        cJSON_AddBoolToObject(codec, "rotates", infos[i].rotates);
        cJSON_AddBoolToObject(codec, "idempotent", infos[i].idempotent);
        cJSON_AddBoolToObject(codec, "whole_page", infos[i].whole_page);
        cJSON_AddBoolToObject(codec, "fused", infos[i].fused);
        cli_json_text(codec, "summary", infos[i].summary);
        const struct note *note = note_of(infos[i].name);
        if (note->needs)
            cli_json_text(codec, "needs", note->needs);
        else
            cJSON_AddNullToObject(codec, "needs");
        cli_json_text(codec, "shines", note->shines);
        cli_json_text(codec, "fails", note->fails);
    }
    return cli_json_print(root);
}

static const char *yes(int flag)
{
    return flag ? "yes" : "-";
}

/* Notes on codecs that are there. */
static void print_notes(const tkv_codec_info *infos, uint32_t n)
{
    for (size_t i = 0; i < N_NOTES; i++) {
        bool any = false;
        for (uint32_t c = 0; c < n; c++)
            any = any || note_of(infos[c].name) == &notes[i];
        if (!any)
            continue;
        printf("\n%s\n  shines: %s\n  fails:  %s\n", notes[i].names, notes[i].shines,
               notes[i].fails);
        if (notes[i].needs)
            printf("  needs:  %s\n", notes[i].needs);
    }
    puts("\nA book is what tightkv calibrate learns from a model. Figures: docs/results.md.");
}

static int print_table(const tkv_codec_info *infos, uint32_t n, uint32_t head_dim)
{
    static const char line[] = "%-13s %7s %7s %8s %11s %11s %6s  %s\n";
    printf("bits per value at head size %u, scales included\n\n", head_dim);
    printf(line, "codec", "K bits", "V bits", "rotates", "idempotent", "whole page", "fused", "");
    for (uint32_t i = 0; i < n; i++) {
        char bits[2][16];
        for (int kind = TKV_K; kind <= TKV_V; kind++) {
            double b = bits_per_value(&infos[i], (tkv_kind)kind, head_dim);
            snprintf(bits[kind], sizeof(bits[kind]), isnan(b) ? "-" : "%.3f", b);
        }
        printf(line, infos[i].name, bits[TKV_K], bits[TKV_V], yes(infos[i].rotates),
               yes(infos[i].idempotent), yes(infos[i].whole_page), yes(infos[i].fused),
               infos[i].summary);
    }
    print_notes(infos, n);
    return fflush(stdout) == 0 ? CLI_OK : cli_fail("cannot write to stdout");
}

int cmd_codecs(int argc, char **argv)
{
    int64_t head_dim = 128;
    const struct cli_option options[] = {
        {"head-dim", 0, CLI_COUNT, &head_dim, "D", "head size (128)", 1, TKV_MAX_HEAD_DIM, false},
    };
    const struct cli_syntax syntax = {"codecs", "[options]",
                                      "Lists the codecs and what they take at a head size.",
                                      options, sizeof(options) / sizeof(options[0])};
    struct cli_common common;
    int first = cli_parse(&syntax, &common, argc, argv);
    if (first < 0)
        return -1 - first;
    if (first < argc)
        return cli_misuse(syntax.command, "'%s' is not expected", argv[first]);
    uint32_t n = tkv_codec_count();
    tkv_codec_info *infos = cli_alloc(n, sizeof(*infos));
    for (uint32_t i = 0; i < n; i++) {
        infos[i].struct_size = sizeof(*infos);
        if (tkv_codec_describe(i, &infos[i]) != TKV_OK)
            n = i;
    }
    int rc = common.json ? print_json(infos, n, (uint32_t)head_dim)
                         : print_table(infos, n, (uint32_t)head_dim);
    free(infos);
    return rc;
}
