/* What the commands of tightkv(1) share. Data goes to stdout, talk to stderr. */
#ifndef TKV_CLI_H
#define TKV_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <tightkv/tightkv.h>

/* Exit codes. */
enum { CLI_OK = 0, CLI_DATA = 1, CLI_USAGE = 2, CLI_STOPPED = 130 };

/* One per line of commands.def; argv[0] is the command's last word. */
#define TKV_COMMAND(function, words, summary) int cmd_##function(int argc, char **argv);
#include "commands.def"
#undef TKV_COMMAND

#if defined(__GNUC__)
#define CLI_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define CLI_PRINTF(fmt, first)
#endif

/* ---- talk.c: stderr and memory ------------------------------------------------------------- */

typedef enum cli_level { CLI_QUIET = -1, CLI_NORMAL = 0, CLI_VERBOSE = 1 } cli_level;

/* Prints "tightkv: ..." on stderr; the line names the thing and the cure. Returns CLI_DATA. */
int cli_fail(const char *format, ...) CLI_PRINTF(1, 2);

/* The last such line, without "tightkv: "; static storage. */
const char *cli_last_failure(void);

/* The same for a wrong command line, with a pointer to --help. Returns CLI_USAGE. */
int cli_misuse(const char *command, const char *format, ...) CLI_PRINTF(2, 3);

/* One line of talk on stderr when `level` is at least `at`. */
void cli_say(cli_level level, cli_level at, const char *format, ...) CLI_PRINTF(3, 4);

/* malloc, realloc and friends that end the program with a line and CLI_DATA when memory runs
 * out. */
void *cli_alloc(size_t n, size_t size);
void *cli_grow(void *ptr, size_t n, size_t size);
char *cli_format(const char *format, ...) CLI_PRINTF(1, 2);

/* Reads a whole file ("-" is stdin), NUL-terminated; NULL after a line on stderr. The caller
 * frees it. */
char *cli_read_file(const char *path, size_t *n_bytes);

/* ---- utf8.c --------------------------------------------------------------------------------- */

/* The same of a text: refused when empty or not UTF-8. */
char *cli_read_text(const char *path, size_t *n_bytes);

/* ---- options.c ----------------------------------------------------------------------------- */

typedef enum cli_kind {
    CLI_FLAG,  /* bool */
    CLI_TEXT,  /* const char * */
    CLI_COUNT, /* int64_t, within [low, high] */
    CLI_REAL,  /* double */
    CLI_LIST   /* struct cli_list: may be given again, and may hold commas */
} cli_kind;

/* Strings of a repeated option. `items` is borrowed from argv and from `split`. */
struct cli_list {
    const char **items;
    size_t n;
};

struct cli_option {
    const char *name; /* long name, without dashes */
    char letter;      /* 0: none */
    cli_kind kind;
    void *value;
    const char *arg; /* name of the argument in --help */
    const char *help;
    int64_t low, high; /* CLI_COUNT; both 0: any count from 1 */
    bool split;        /* CLI_LIST: commas separate items */
};

/* Options of every command. */
struct cli_common {
    bool json;
    cli_level level;
    int64_t n_threads; /* never 0 after parsing */
    bool threads_given;
    uint32_t cpu_mask;  /* TKV_CPU_* */
    const char *cpu;    /* its name, NULL: all that the CPU has */
    double started;     /* cli_now() before parsing */
    char command[4096]; /* as typed, paths reduced to base names */
};

struct cli_syntax {
    const char *command;  /* "bench attend" */
    const char *operands; /* "-m MODEL [options] -- PROGRAM ARGS" */
    const char *about;    /* a paragraph */
    const struct cli_option *options;
    size_t n_options;
};

/* Parses argv and fills the options' values and `common`. Returns the index of the first
 * operand, or -1 - exit code when the command is to end now (a wrong option, --help). */
int cli_parse(const struct cli_syntax *syntax, struct cli_common *common, int argc, char **argv);

/* The name of the highest level in a mask of TKV_CPU_*, as --cpu takes it. */
const char *cli_cpu_name(uint32_t mask);

/* "tightkv COMMAND ARGS", quoted for a shell and cut at `capacity`. */
void cli_command_line(const char *command, int argc, char **argv, char *out, size_t capacity);

/* Tells the plug-in, here and in programs started from here, what --cpu said. */
void cli_export_cpu(const struct cli_common *common);

/* A comma-separated list of numbers, each in [0, high]: their count, or 0 when the text is none. */
size_t cli_parse_numbers(const char *text, int64_t high, int64_t *out, size_t capacity);

/* Bytes of a size as "8G", "512M", "1.5 GiB"; units are powers of 1024. False: it is none. */
bool cli_parse_size(const char *text, double *n_bytes);

void cli_list_free(struct cli_list *list);

/* ---- json.c: thin over cJSON ---------------------------------------------------------------- */

struct cJSON;
/* Adds a number; null when it is not finite: not measured. */
void cli_json_number(struct cJSON *object, const char *key, double value);
void cli_json_text(struct cJSON *object, const char *key, const char *value);
/* A path without its folders: results name no place of the machine they were made on. */
void cli_json_base_name(struct cJSON *object, const char *key, const char *path);
struct cJSON *cli_json_array(struct cJSON *object, const char *key);
struct cJSON *cli_json_object(struct cJSON *object,
                              const char *key); /* key NULL: appends to an array */
/* Starts a result: "tightkv": kind, and "run" with command, version, date and machine. */
void cli_json_run(struct cJSON *root, const char *kind, const struct cli_common *common);

/* The commit that this command was built from; "" where it is not known. */
const char *cli_commit(void);
/* Prints to stdout with a line feed and frees; CLI_DATA when stdout cannot take it. */
int cli_json_print(struct cJSON *root);
/* Writes to a file, which is there whole or not at all; CLI_DATA after a line on stderr. */
int cli_json_write(const struct cJSON *root, const char *path);

/* ---- progress.c ---------------------------------------------------------------------------- */

/* A bar on a terminal, plain lines otherwise, nothing when quiet. */
struct cli_progress {
    double total, done;
    double started; /* seconds */
    int shown;      /* tenths that a plain line has told of */
    bool tty, quiet;
    char label[64];
};

void cli_progress_begin(struct cli_progress *p, cli_level level, double total);
/* `amount` more is done, and now comes `label` (NULL: as before). */
void cli_progress_step(struct cli_progress *p, double amount, const char *label);
void cli_progress_end(struct cli_progress *p);

/* Monotonic seconds. */
double cli_now(void);

/* ---- paths.c ------------------------------------------------------------------------------- */

/* Each returns a path that exists, owned by the caller, or NULL after a line on stderr that says
 * where it looked and what to do. */
char *cli_find_plugin(void);
char *cli_find_data(const char *name);    /* a file of models/ */
char *cli_find_report(void);              /* the page of tightkv report, to be filled */
char *cli_find_llama_bin(void);           /* folder that holds libllama.so */
char *cli_find_program(const char *name); /* PATH, else the pinned llama.cpp */
/* The same without the line on stderr. */
char *cli_look_for_plugin(void);
char *cli_look_for_llama_bin(void);

/* ---- table.c: columns for people ------------------------------------------------------------ */

/* Prints rows of cells to stdout, the first column left-aligned, the others right-aligned. */
void cli_table_print(const char *const *cells, size_t n_rows, size_t n_columns);

#endif
