/* What can be trained from a model's statistics. */
#include <string.h>

#include "calibrate.h"

static const struct cal_trainer trainers[] = {
    {"tight", "bases and bits of tight4 to tight0.7", cal_train_tight},
    {"rvq", "codebooks of rvq8, rvq6 and rvq4", cal_train_rvq},
    {"cq", "codebooks of cq4 and cq8", cal_train_cq},
    {"cq-weighted", "the same, where rows count by what their errors cost", cal_train_cq_weighted},
    {"index", "codes of the retrieval index", cal_train_index},
    {"index-far", "the same for queries at one distance, as A2ATS has it", cal_train_index_far},
};

const struct cal_trainer *cal_trainer(const char *name)
{
    for (size_t i = 0; i < sizeof(trainers) / sizeof(trainers[0]); i++)
        if (strcmp(trainers[i].name, name) == 0)
            return &trainers[i];
    return NULL;
}

int cal_stopped(const struct calibration *c)
{
    return session_stopped(c->session) ? CLI_STOPPED : CLI_OK;
}
