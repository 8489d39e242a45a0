/* tightkv(1): finds the command and calls it. */
#include <string.h>

#include "cli.h"

struct command {
    const char *words;
    const char *summary;
    int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
#define TKV_COMMAND(function, words, summary) {words, summary, cmd_##function},
#include "commands.def"
#undef TKV_COMMAND
};

enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void print_commands(FILE *to)
{
    fprintf(to, "usage: tightkv COMMAND [options]\n\nA coded KV cache for llama.cpp.\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-15s %s\n", commands[i].words, commands[i].summary);
    fprintf(to, "\ntightkv COMMAND --help tells the options of one; man tightkv tells more.\n");
}

/* How many of argv's words name the command; 0 when they do not. */
static int words_matched(const struct command *c, int argc, char **argv)
{
    const char *space = strchr(c->words, ' ');
    if (!space)
        return strcmp(argv[0], c->words) == 0 ? 1 : 0;
    size_t n_first = (size_t)(space - c->words);
    if (strlen(argv[0]) != n_first || strncmp(argv[0], c->words, n_first) != 0)
        return 0;
    return argc > 1 && strcmp(argv[1], space + 1) == 0 ? 2 : 0;
}

/* "bench" or "bench foo": says which second words there are. */
static int misuse_of_group(const char *word)
{
    char known[128] = "";
    size_t n = strlen(word);
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strncmp(commands[i].words, word, n) != 0 || commands[i].words[n] != ' ')
            continue;
        size_t used = strlen(known);
        snprintf(known + used, sizeof(known) - used, " %s", commands[i].words + n + 1);
    }
    if (known[0])
        return cli_misuse(NULL, "%s needs one of:%s", word, known);
    return cli_misuse(NULL, "no command named '%s'", word);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_commands(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_commands(stdout);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("tightkv %s\n", tkv_version());
        return CLI_OK;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        int n = words_matched(&commands[i], argc - 1, argv + 1);
        if (n > 0)
            return commands[i].run(argc - n, argv + n);
    }
    return misuse_of_group(argv[1]);
}
