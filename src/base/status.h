/* Filling a caller's tkv_error. */
#ifndef TKV_STATUS_H
#define TKV_STATUS_H

#include "tightkv/tightkv.h"

/* Writes a line into err (which may be NULL) and returns `status`, so that callers can `return
 * tkv_fail(...)`. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
tkv_status
tkv_fail(tkv_error *err, tkv_status status, const char *format, ...);

/* The usual out-of-memory line. */
tkv_status tkv_fail_nomem(tkv_error *err, size_t bytes, const char *what);

#endif
