/* Which instruction-set levels this CPU and its operating system support: TKV_CPU_* bits. */
#ifndef TKV_CPU_FEATURES_H
#define TKV_CPU_FEATURES_H

#include <stdint.h>

uint32_t tkv_cpu_features(void);

#endif
