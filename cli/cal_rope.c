/* How a model turns its keys. */
#include <math.h>

#include "calibrate.h"

int cal_rope(struct calibration *c, const struct harden_file *f, uint32_t head_dim)
{
    double base = harden_file_real(f, "rope.freq_base", 10000);
    uint32_t dims = harden_file_count(f, "rope.dimension_count", head_dim);
    int type = c->session->llama->api.llama_model_rope_type(c->session->model);
    if (type == LLAMA_ROPE_TYPE_NONE)
        return CLI_OK;
    c->n_pairs = (dims < head_dim ? dims : head_dim) / 2;
    c->rope_halves = type != LLAMA_ROPE_TYPE_NORM;
    c->rope_freq = cli_alloc(c->n_pairs, sizeof(*c->rope_freq));
    for (uint32_t i = 0; i < c->n_pairs; i++)
        c->rope_freq[i] = (float)pow(base, -(double)i / c->n_pairs);
    return CLI_OK;
}
