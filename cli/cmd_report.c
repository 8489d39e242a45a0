/* tightkv report: every result of a folder in one page. */
#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "report.h"

static int is_json(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return entry->d_name[0] != '.' && n > 5 && strcmp(entry->d_name + n - 5, ".json") == 0;
}

static int add_folder(struct report *r, const char *dir)
{
    struct dirent **entries;
    int n = scandir(dir, &entries, is_json, alphasort);
    if (n < 0)
        return cli_fail("cannot read the folder %s: %s", dir, strerror(errno));
    for (int i = 0; i < n; i++) {
        char *path = cli_format("%s/%s", dir, entries[i]->d_name);
        report_add_file(r, path);
        free(path);
        free(entries[i]);
    }
    free(entries);
    if (r->n_files > 0)
        return CLI_OK;
    if (r->n_broken > 0)
        return CLI_DATA;
    return cli_fail("no results in %s; make some, as tightkv eval ... --json > %s/eval.json", dir,
                    dir);
}

static int print_json(const struct report *r, const char *path)
{
    cJSON *root = cJSON_CreateObject();
    cli_json_text(root, "page", path);
    cli_json_number(root, "n_results", (double)r->n_files);
    cJSON_AddItemToObject(root, "skipped", cJSON_Duplicate(r->skipped, true));
    return cli_json_print(root);
}

int cmd_report(int argc, char **argv)
{
    const char *out = NULL;
    const struct cli_option options[] = {
        {"output", 'o', CLI_TEXT, &out, "FILE", "the page (default: report.html in DIR)", 0, 0,
         false},
    };
    const struct cli_syntax syntax = {
        "report", "DIR [options]",
        "One HTML page, which needs no network, of the results (*.json) in a folder: charts,\n"
        "tables, and the command behind each figure.",
        options, sizeof(options) / sizeof(options[0])};
    struct cli_common common;
    int first = cli_parse(&syntax, &common, argc, argv);
    if (first < 0)
        return -1 - first;
    if (first + 1 != argc)
        return cli_misuse(syntax.command, first == argc ? "which folder?" : "one folder at a time");
    struct report r;
    report_begin(&r);
    char *path = out ? cli_format("%s", out) : cli_format("%s/report.html", argv[first]);
    int rc = add_folder(&r, argv[first]);
    if (rc == CLI_OK)
        rc = report_write(&r, path);
    if (rc == CLI_OK && common.json)
        rc = print_json(&r, path);
    else if (rc == CLI_OK)
        cli_say(common.level, CLI_NORMAL, "%zu result%s in %s", r.n_files,
                r.n_files == 1 ? "" : "s", path);
    free(path);
    report_end(&r);
    return rc;
}
