/* tightkv: version. SPDX-License-Identifier: MIT */
#ifndef TIGHTKV_VERSION_H
#define TIGHTKV_VERSION_H

#define TKV_VERSION_MAJOR  0
#define TKV_VERSION_MINOR  1
#define TKV_VERSION_PATCH  0
#define TKV_VERSION_STRING "0.1.0"

#endif
