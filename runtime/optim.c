#include "runtime/optim.h"

#include <string.h>

/* What optim.groups can say, for each group: learning rate and weight decay, as factors of optim.lr and
 * optim.weight_decay, or absolute, the decay then times the learning rate. */
static const struct {
    const char *name;
    int absolute[M2_GROUP_COUNT];
    double lr[M2_GROUP_COUNT], decay[M2_GROUP_COUNT];
} groupings[] = {
    {"filter", {0, 0, 0}, {1, 1, 1}, {1, 0, 0}},           /* SPEC 5.1 */
    {"one", {0, 0, 0}, {1, 1, 1}, {1, 1, 1}},              /* SPEC 3.8: as the released M2-BERT was trained */
    {"intended", {0, 1, 1}, {1, 1e-3, 1e-5}, {1, 0.1, 0}}, /* SPEC 3.8: as its code meant to */
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
    int free_decay = !strcmp(cfg->optim_decay, "free"), k = sizeof groupings / sizeof *groupings - 1;
    while (k > 0 && strcmp(groupings[k].name, cfg->optim_groups) != 0) k--;
    for (int g = 0; g < M2_GROUP_COUNT; g++) {
        int absolute = groupings[k].absolute[g];
        double lr = groupings[k].lr[g], decay = groupings[k].decay[g];
        s.group[g].lr_scale = absolute ? lr / s.lr_peak : lr;
        s.group[g].weight_decay = absolute ? decay * (free_decay ? lr : 1) : decay * cfg->optim_wd;
    }
    return s;
}
