/* Status codes as words, and filling a caller's tkv_error. */
#include <stdarg.h>
#include <stdio.h>

#include "base/status.h"

tkv_status tkv_fail(tkv_error *err, tkv_status status, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        for (char *c = err->text; *c;
             c++) /* what a caller's text brought in must not break the line */
            *c = (unsigned char)*c < ' ' ? '?' : *c;
    }
    return status;
}

tkv_status tkv_fail_nomem(tkv_error *err, size_t bytes, const char *what)
{
    return tkv_fail(err, TKV_ERR_NOMEM,
                    "no memory for %zu bytes of %s; free some or use a smaller context", bytes,
                    what);
}

const char *tkv_status_string(tkv_status status)
{
    switch (status) {
    case TKV_OK:
        return "ok";
    case TKV_ERR_INVALID:
        return "invalid argument";
    case TKV_ERR_SPEC:
        return "spec does not parse";
    case TKV_ERR_UNSUPPORTED:
        return "not supported";
    case TKV_ERR_NOMEM:
        return "no memory";
    case TKV_ERR_RANGE:
        return "out of range";
    case TKV_ERR_NONFINITE:
        return "not a finite f16 value";
    case TKV_ERR_CORRUPT:
        return "corrupt data";
    case TKV_ERR_VERSION:
        return "made by another version";
    case TKV_ERR_IO:
        return "input or output failed";
    }
    return "unknown status";
}

const char *tkv_version(void)
{
    return TKV_VERSION_STRING;
}
