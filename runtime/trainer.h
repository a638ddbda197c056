/* trainer.h - a training run from its configuration to its last checkpoint.
 *
 * Collective over the processes that the launcher started. Resumes by itself: a run.dir that holds a checkpoint goes on from
 * its newest one, a finished run says so. SIGTERM, SIGUSR1 and SIGINT end the run after the current step with a checkpoint
 * (M2_REQUEUE, exit 75); a second SIGINT ends it at once. So does time: run.minutes, and run.margin before a Slurm job's end. */
#ifndef M2_TRAINER_H
#define M2_TRAINER_H

#include "runtime/config.h"

/* cfg->run_dir must be set (m2_rundir_default). M2_OK: all train.steps are done. M2_REQUEUE: interrupted, checkpoint
 * written. M2_DATA: also when train.max_skips updates in a row had to be skipped and going back did not help (guard.h). */
M2_API m2_status m2_train(const m2_config *cfg) M2_MUST_USE;

#endif
