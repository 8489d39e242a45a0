#include "codec.h"
#include "cache/cache.h"
