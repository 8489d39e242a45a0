/* Rows of keys and values for trainers that need more than moments. */
#include "calibrate.h"

struct cal_samples cal_samples(const struct calibration *c, size_t layer, tkv_kind kind,
                               enum tkv_span_class klass)
{
    (void)c, (void)layer, (void)kind, (void)klass;
    return (struct cal_samples){0};
}
