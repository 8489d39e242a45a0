/* The head that every JSON result carries: which command, and what ran it, where and when. */
#include <cjson/cJSON.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

/* As the kernel names it; null where it does not. */
static void add_cpu_model(cJSON *machine)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[512], *value = NULL;
    while (f && !value && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "model name", 10) == 0 && (value = strchr(line, ':')))
            value += 1 + strspn(value + 1, " ");
    }
    if (f)
        fclose(f);
    if (value)
        cli_json_text(machine, "cpu", value);
    else
        cJSON_AddNullToObject(machine, "cpu");
}

static double usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (double)n : NAN;
}

static double memory_gib(void)
{
    double pages = (double)sysconf(_SC_PHYS_PAGES), page = (double)sysconf(_SC_PAGESIZE);
    double gib = pages * page / (1 << 30);
    return pages > 0 ? round(10 * gib) / 10 : NAN;
}

static void add_machine(cJSON *run, const struct cli_common *common)
{
    cJSON *machine = cli_json_object(run, "machine");
    add_cpu_model(machine);
    cli_json_number(machine, "cores", usable_cores());
    cli_json_number(machine, "memory_gib", memory_gib());
    tkv_context *ctx;
    tkv_context_params params;
    tkv_context_params_default(&params);
    params.cpu_mask = common->cpu_mask;
    if (tkv_context_create(&params, &ctx, NULL) == TKV_OK) {
        cli_json_text(machine, "isa", cli_cpu_name(tkv_context_cpu(ctx)));
        tkv_context_destroy(ctx);
    } else {
        cJSON_AddNullToObject(machine, "isa");
    }
}

const char *cli_commit(void)
{
    return TKV_COMMIT;
}

void cli_json_run(cJSON *root, const char *kind, const struct cli_common *common)
{
    char date[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    cli_json_text(root, "tightkv", kind);
    cJSON *run = cli_json_object(root, "run");
    cli_json_text(run, "command", common->command);
    cli_json_text(run, "version", tkv_version());
    if (cli_commit()[0])
        cli_json_text(run, "commit", cli_commit());
    else
        cJSON_AddNullToObject(run, "commit");
    cli_json_text(run, "date", date);
    cli_json_number(run, "seconds", round(1000 * (cli_now() - common->started)) / 1000);
    add_machine(run, common);
    if (TKV_CLI_LLAMA)
        cli_json_text(run, "llama", TKV_LLAMA_VERSION);
    else
        cJSON_AddNullToObject(run, "llama");
}
