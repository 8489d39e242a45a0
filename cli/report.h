/* The page of tightkv report: results in one HTML file. */
#ifndef TKV_CLI_REPORT_H
#define TKV_CLI_REPORT_H

#include <stdbool.h>
#include <stddef.h>

struct cJSON;

struct report {
    struct cJSON *root, *files, *skipped;
    size_t n_files, n_broken;
};

void report_begin(struct report *r);
/* Adds a result under a file's name; takes `result`, an object made by cli_json_run(). */
void report_add(struct report *r, const char *name, struct cJSON *result);
/* Adds what a file holds; what is no result is named on stderr, and on the page. */
void report_add_file(struct report *r, const char *path);
/* Writes the page ("-" is stdout); CLI_DATA after a line on stderr. */
int report_write(const struct report *r, const char *path);
void report_end(struct report *r);

#endif
