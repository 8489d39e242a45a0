#include "codec/codec.h"
#include <immintrin.h>
#include <string.h>
