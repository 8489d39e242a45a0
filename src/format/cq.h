/* Pages and books of coupled channels: FORMAT.md, cq. */
#ifndef TKV_FORMAT_CQ_H
#define TKV_FORMAT_CQ_H

#include <stdint.h>

#define TKV_CQ_CODES 256
/* Rows are searched in eighths of a step, within this of the base. */
#define TKV_CQ_FINE 8
#define TKV_CQ_MOST 4095

#endif
