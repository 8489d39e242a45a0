/* Command lines: one table of options per command, on getopt_long. */
#include "cli.h"

#include <ctype.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_OPTIONS = 32,
    FIRST_ID = 256
};

struct cpu_name {
    const char *name;
    uint32_t mask;
};

/* Every level with those below it. */
static const struct cpu_name cpu_names[] = {
    {"ref", 0},
    {"avx2", TKV_CPU_AVX2},
    {"avx512", TKV_CPU_AVX2 | TKV_CPU_AVX512},
    {"bf16", TKV_CPU_AVX2 | TKV_CPU_AVX512 | TKV_CPU_BF16},
    {"neon", TKV_CPU_NEON},
    {"dotprod", TKV_CPU_NEON | TKV_CPU_DOTPROD},
    {"all", TKV_CPU_ALL},
};

static bool cpu_mask_of(const char *name, uint32_t *mask)
{
    for (size_t i = 0; i < sizeof(cpu_names) / sizeof(cpu_names[0]); i++) {
        if (strcmp(name, cpu_names[i].name) == 0) {
            *mask = cpu_names[i].mask;
            return true;
        }
    }
    return false;
}

const char *cli_cpu_name(uint32_t mask)
{
    const char *name = cpu_names[0].name;
    for (size_t i = 0; cpu_names[i].mask != TKV_CPU_ALL; i++)
        name = (cpu_names[i].mask & ~mask) == 0 ? cpu_names[i].name : name;
    return name;
}

static void print_option(const struct cli_option *o)
{
    char left[64];
    snprintf(left, sizeof(left), "%c%c%s--%s%s%s", o->letter ? '-' : ' ',
             o->letter ? o->letter : ' ', o->letter ? ", " : "  ", o->name, o->arg ? " " : "",
             o->arg ? o->arg : "");
    printf("  %-28s %s\n", left, o->help);
}

static void print_help(const struct cli_syntax *s, const struct cli_option *all, size_t n)
{
    printf("usage: tightkv %s %s\n\n%s\n\n", s->command, s->operands, s->about);
    for (size_t i = 0; i < n; i++)
        print_option(&all[i]);
}

static void list_add(struct cli_list *list, const char *item)
{
    list->items = cli_grow(list->items, list->n + 1, sizeof(*list->items));
    list->items[list->n++] = item;
}

/* argv's strings may be written to: commas become terminators. */
static void list_add_split(struct cli_list *list, char *text)
{
    for (char *item = strtok(text, ","); item; item = strtok(NULL, ","))
        list_add(list, item);
}

void cli_list_free(struct cli_list *list)
{
    free(list->items);
    *list = (struct cli_list){0};
}

static int set_count(const struct cli_syntax *s, const struct cli_option *o, const char *text)
{
    int64_t low = o->low, high = o->high;
    if (low == 0 && high == 0)
        low = 1, high = INT32_MAX;
    char *end;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || v < low || v > high)
        return cli_misuse(s->command, "--%s is a number from %lld to %lld, not '%s'", o->name,
                          (long long)low, (long long)high, text);
    *(int64_t *)o->value = v;
    return CLI_OK;
}

static int set_value(const struct cli_syntax *s, const struct cli_option *o, char *text)
{
    char *end;
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)o->value = true;
        return CLI_OK;
    case CLI_TEXT:
        *(const char **)o->value = text;
        return CLI_OK;
    case CLI_COUNT:
        return set_count(s, o, text);
    case CLI_REAL:
        *(double *)o->value = strtod(text, &end);
        if (end == text || *end || !isfinite(*(double *)o->value))
            return cli_misuse(s->command, "--%s is a number, not '%s'", o->name, text);
        return CLI_OK;
    case CLI_LIST:
        if (o->split)
            list_add_split(o->value, text);
        else
            list_add(o->value, text);
        return CLI_OK;
    }
    return CLI_USAGE;
}

/* getopt's tables for `all`: short letters and long names, ids from FIRST_ID on. */
static void make_tables(const struct cli_syntax *s, const struct cli_option *all, size_t n,
                        char *letters, struct option *longs)
{
    /* '+': stop at the first operand, for what follows is a program's; ':': tell a missing
     * argument from an unknown option. */
    if (strstr(s->operands, "-- "))
        *letters++ = '+';
    *letters++ = ':';
    for (size_t i = 0; i < n; i++) {
        int needs = all[i].kind == CLI_FLAG ? no_argument : required_argument;
        longs[i] = (struct option){all[i].name, needs, NULL, FIRST_ID + (int)i};
        if (!all[i].letter)
            continue;
        *letters++ = all[i].letter;
        if (needs == required_argument)
            *letters++ = ':';
    }
    *letters = '\0';
    longs[n] = (struct option){0};
}

static const struct cli_option *option_of(int id, const struct cli_option *all, size_t n)
{
    if (id >= FIRST_ID)
        return &all[id - FIRST_ID];
    for (size_t i = 0; i < n; i++)
        if (all[i].letter == id)
            return &all[i];
    return NULL;
}

static int parse_all(const struct cli_syntax *s, const struct cli_option *all, size_t n, int argc,
                     char **argv)
{
    char letters[3 + 2 * MAX_OPTIONS];
    struct option longs[MAX_OPTIONS + 1];
    make_tables(s, all, n, letters, longs);
    opterr = 0;
    optind = 1;
    int id;
    while ((id = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        if (id == ':')
            return cli_misuse(s->command, "%s needs an argument", argv[optind - 1]);
        if (id == '?')
            return cli_misuse(s->command, "unknown option %s", argv[optind - 1]);
        int rc = set_value(s, option_of(id, all, n), optarg);
        if (rc != CLI_OK)
            return rc;
    }
    return CLI_OK;
}

int cli_parse(const struct cli_syntax *s, struct cli_common *common, int argc, char **argv)
{
    bool quiet = false, verbose = false, help = false;
    long n_cpus = sysconf(_SC_NPROCESSORS_ONLN);
    *common = (struct cli_common){.cpu_mask = TKV_CPU_ALL, .started = cli_now()};
    /* Before parsing: lists are split in place. */
    cli_command_line(s->command, argc, argv, common->command, sizeof(common->command));
    const struct cli_option shared[] = {
        {"threads", 't', CLI_COUNT, &common->n_threads, "N", "threads (default: all processors)", 1,
         1024, false},
        {"cpu", 0, CLI_TEXT, &common->cpu, "LEVEL",
         "kernels up to ref, avx2, avx512, bf16, neon or dotprod", 0, 0, false},
        {"json", 0, CLI_FLAG, &common->json, NULL, "results as JSON on stdout", 0, 0, false},
        {"quiet", 'q', CLI_FLAG, &quiet, NULL, "errors only on stderr", 0, 0, false},
        {"verbose", 'v', CLI_FLAG, &verbose, NULL, "more talk on stderr, llama.cpp's too", 0, 0,
         false},
        {"help", 'h', CLI_FLAG, &help, NULL, "this text", 0, 0, false},
    };
    enum {
        N_SHARED = sizeof(shared) / sizeof(shared[0])
    };
    struct cli_option all[MAX_OPTIONS];
    if (s->n_options + N_SHARED > MAX_OPTIONS)
        return -1 - cli_misuse(s->command, "too many options in the command's table");
    if (s->n_options)
        memcpy(all, s->options, s->n_options * sizeof(*all));
    memcpy(all + s->n_options, shared, sizeof(shared));

    int rc = parse_all(s, all, s->n_options + N_SHARED, argc, argv);
    if (rc != CLI_OK)
        return -1 - rc;
    if (help) {
        print_help(s, all, s->n_options + N_SHARED);
        return -1 - CLI_OK;
    }
    if (common->cpu && !cpu_mask_of(common->cpu, &common->cpu_mask))
        return -1 - cli_misuse(s->command,
                               "--cpu is ref, avx2, avx512, bf16, neon, dotprod or all, not '%s'",
                               common->cpu);
    common->threads_given = common->n_threads > 0;
    if (!common->threads_given)
        common->n_threads = n_cpus > 0 ? n_cpus : 1;
    common->level = quiet ? CLI_QUIET : verbose ? CLI_VERBOSE : CLI_NORMAL;
    return optind;
}

void cli_export_cpu(const struct cli_common *common)
{
    if (!common->cpu)
        return;
    char mask[16];
    snprintf(mask, sizeof(mask), "0x%x", common->cpu_mask);
    setenv("TIGHTKV_CPU", mask, 1);
}

size_t cli_parse_numbers(const char *text, int64_t high, int64_t *out, size_t capacity)
{
    size_t n = 0;
    for (;;) {
        char *end;
        long long v = strtoll(text, &end, 10);
        if (end == text || v < 0 || v > high || n == capacity)
            return 0;
        out[n++] = v;
        if (*end == '\0')
            return n;
        if (*end != ',')
            return 0;
        text = end + 1;
    }
}

bool cli_parse_size(const char *text, double *n_bytes)
{
    static const char units[] = "KMGT";
    char *end;
    double n = strtod(text, &end);
    if (end == text || !isfinite(n) || n <= 0)
        return false;
    end += strspn(end, " ");
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (unit) {
        n = ldexp(n, 10 * (int)(unit - units + 1));
        end++;
        end += *end == 'i' && end[1] == 'B';
    }
    end += *end == 'B';
    *n_bytes = n;
    return *end == '\0';
}
