#include "runtime/optim.h"

#include <math.h>
#include <string.h>

static const struct {
    double lr_scale, decay_scale; /* of optim.lr, optim.weight_decay */
} groups[M2_GROUP_COUNT] = {
    [M2_GROUP_DECAYED] = {1, 1},
    [M2_GROUP_FILTER] = {1, 0},
};

m2_update_spec m2_optim_update(const m2_config *cfg)
{
    return (m2_update_spec){
        .beta1 = cfg->optim_beta1,
        .beta2 = cfg->optim_beta2,
        .eps = cfg->optim_eps,
        .decay = strcmp(cfg->optim_decay, "free") ? M2_DECAY_COUPLED : M2_DECAY_FREE,
    };
}

m2_step m2_optim_step(const m2_config *cfg, const m2_schedule *schedule, int64_t step)
{
    m2_step s;
    memset(&s, 0, sizeof s); /* padding too: steps are compared and copied as bytes */
    s.seed = (uint64_t)cfg->train_seed;
    s.step = step;
    s.lr = m2_schedule_lr(schedule, step);
    s.lr_peak = schedule->peak;
    s.clip = cfg->optim_clip;
    s.outlier = cfg->optim_outlier;
    for (int g = 0; g < M2_GROUP_COUNT; g++) {
        s.group[g].lr_scale = groups[g].lr_scale;
        s.group[g].weight_decay = groups[g].decay_scale * cfg->optim_wd;
    }
    return s;
}

int m2_optim_skipped(const m2_step *step, double norm2)
{
    double norm = sqrt(norm2);
    return !isfinite(norm) || (step->outlier > 0 && norm > step->outlier);
}
