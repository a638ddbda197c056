/* optim.h - parameter groups and the numbers of one optimizer step. */
#ifndef M2_OPTIM_H
#define M2_OPTIM_H

#include "runtime/program.h"
#include "runtime/schedule.h"

/* m2_param.group: model builders say which of these a row belongs to; optim.groups says what that means. */
enum {
    M2_GROUP_DECAYED,  /* all but ... */
    M2_GROUP_FILTER,   /* ... the implicit filters' networks */
    M2_GROUP_POSITION, /* ... and the positional features they train (SPEC 3.3) */
    M2_GROUP_COUNT
};

M2_API m2_update_spec m2_optim_update(const m2_config *cfg);
/* Everything of m2_step but row0 and outlier (guard.h), for optimizer step `step` (1 is the first). */
M2_API m2_step m2_optim_step(const m2_config *cfg, const m2_schedule *schedule, int64_t step);

#endif
