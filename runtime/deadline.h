/* deadline.h - when a run must save and end by itself: before its Slurm job does (SLURM_JOB_END_TIME, run.margin), or after
 * run.minutes. */
#ifndef M2_DEADLINE_H
#define M2_DEADLINE_H

#include "runtime/config.h"

typedef struct m2_deadline {
    double end;    /* of the run's time, in seconds since 1970; infinite: none */
    double looked; /* when, the last time; 0: never */
    double pace;   /* seconds between looks lately: the longest, slowly forgotten */
    char why[64];  /* "the job's time limit", "run.minutes" */
} m2_deadline;

/* What the options and the environment say. M2_USAGE when SLURM_JOB_END_TIME is no time. */
M2_API m2_status m2_deadline_start(const m2_config *cfg, m2_deadline *out) M2_MUST_USE;
/* To be asked before every step, at `now` (seconds since 1970): is there no time left for one more and a save, which took `save`
 * seconds the last time? Never before the first step: every start gets somewhere. */
M2_API int m2_deadline_near(m2_deadline *d, double now, double save);
M2_API double m2_deadline_clock(void); /* seconds since 1970 */

#endif
