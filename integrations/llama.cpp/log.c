/* log.c: one line at a time into whatever log the program has given ggml. */
#include <stdarg.h>
#include <stdio.h>

#include "plugin.h"

void tkg_log(enum ggml_log_level level, const char *format, ...)
{
    char line[1024];
    int n = snprintf(line, sizeof(line), "tightkv: ");
    va_list args;
    va_start(args, format);
    n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, args);
    va_end(args);
    if (n > (int)sizeof(line) - 2) {
        n = (int)sizeof(line) - 2;
    }
    line[n] = '\n';
    line[n + 1] = '\0';

    ggml_log_callback callback = NULL;
    void *user = NULL;
    ggml_log_get(&callback, &user);
    if (callback != NULL) {
        callback(level, line, user);
    } else {
        fputs(line, stderr);
    }
}

bool tkg_first_time(enum tkg_once what)
{
    const uint32_t bit = 1u << what;
    pthread_mutex_lock(&tkg_plugin.lock);
    const bool first = (tkg_plugin.logged & bit) == 0;
    tkg_plugin.logged |= bit;
    pthread_mutex_unlock(&tkg_plugin.lock);
    return first;
}
