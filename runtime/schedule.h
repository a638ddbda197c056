/* schedule.h - the learning rate as a pure function of the step.
 *
 * With s = 1 .. steps, warmup W and peak p: s <= W gives p s/W, so the first step already moves and step W is at the peak.
 * After that x = (s - W) / (steps - W) in (0, 1] is the progress and the rate is p (f + (1 - f) h(x)), f the final
 * fraction and h the named curve (SPEC 5.1, 3.8):
 *   cosine    (1 + cos(pi x)) / 2        linear    1 - x        constant  1
 *   wsd       1 until the last `cooldown` fraction of the steps, then straight down to 0
 * Steps beyond the last one keep its rate. */
#ifndef M2_SCHEDULE_H
#define M2_SCHEDULE_H

#include "runtime/config.h"

typedef struct m2_schedule {
    double (*curve)(const struct m2_schedule *s, double x);
    double peak, final; /* final: fraction of the peak */
    double cooldown;    /* wsd: the x at which the decay begins */
    int64_t steps, warmup;
} m2_schedule;

/* From optim.lr, min_lr, schedule, warmup, cooldown and train.steps. M2_USAGE when the warmup leaves no step. */
M2_API m2_status m2_schedule_make(const m2_config *cfg, m2_schedule *out) M2_MUST_USE;
M2_API double m2_schedule_lr(const m2_schedule *s, int64_t step);

#endif
