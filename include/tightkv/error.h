/* tightkv: status codes. Values are pinned for ever. SPDX-License-Identifier: MIT */
#ifndef TIGHTKV_ERROR_H
#define TIGHTKV_ERROR_H

#if defined(__GNUC__)
#define TKV_WARN_UNUSED __attribute__((warn_unused_result))
#else
#define TKV_WARN_UNUSED
#endif

typedef enum tkv_status {
    TKV_OK = 0,
    TKV_ERR_INVALID = -1,     /* an argument that can never be right */
    TKV_ERR_SPEC = -2,        /* a spec that does not parse */
    TKV_ERR_UNSUPPORTED = -3, /* a shape that this codec or build cannot handle */
    TKV_ERR_NOMEM = -4,       /* the allocator returned NULL */
    TKV_ERR_RANGE = -5,       /* a slot, length or capacity out of range */
    TKV_ERR_NONFINITE = -6,   /* a NaN, an infinity, or a value too large for f16 */
    TKV_ERR_CORRUPT = -7,     /* bytes that no writer of this format makes */
    TKV_ERR_VERSION = -8,     /* made by another version */
    TKV_ERR_IO = -9           /* the spill file cannot be made, written or read */
} tkv_status;

/* One line of text, NUL-terminated; filled only on failure. */
typedef struct tkv_error {
    char text[256];
} tkv_error;

#endif
