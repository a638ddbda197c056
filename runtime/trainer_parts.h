/* trainer_parts.h - a run as the trainer's files share it. Private: setup.c makes one, trainer.c runs it. */
#ifndef M2_TRAINER_PARTS_H
#define M2_TRAINER_PARTS_H

#include "parallel/watch.h"
#include "runtime/copies.h"
#include "runtime/deadline.h"
#include "runtime/eval.h"
#include "runtime/feed.h"
#include "runtime/fit.h"
#include "runtime/guard.h"
#include "runtime/metrics.h"
#include "runtime/pace.h"
#include "runtime/progress.h"
#include "runtime/ranks.h"
#include "runtime/rundir.h"
#include "runtime/saving.h"
#include "runtime/schedule.h"
#include "runtime/tokens.h"
#include "runtime/trainer.h"

enum { M2I_WORDS = 3 }; /* that ranks exchange before every step */

typedef struct trainer {
    m2_config cfg; /* resolved: no "auto" that changes what is computed */
    m2_ranks ranks;
    m2_rundir dir;
    m2_tokens data;
    m2_schedule schedule;
    m2_training training; /* program and batch */
    m2_eval *eval;        /* NULL: nothing to validate on */
    m2_feed *feed;
    m2_state state;
    m2_saving saving;
    m2_metrics *metrics; /* rank 0 */
    m2_watch *watch;
    m2_progress progress;
    m2_deadline deadline;
    m2_tid loss, norm2;
    int32_t *inputs;   /* the microbatches of this rank's share of a step */
    int64_t predicted; /* targets of a step, all ranks */
    char *config_text; /* of cfg */
    int64_t step;      /* done */
    int64_t rows;      /* of the stream, read by these steps or passed over: the next step's first one */
    m2_guard guard;
    m2_pace pace;
    m2_straggler slow; /* found since the last record */
    int64_t *words;    /* [M2I_WORDS + ranks] what the ranks tell each other before a step: see fetch */
    m2_copies *copies; /* NULL: run.check_every is 0 */
    double flops; /* of a step, all ranks */
    double peak;  /* FLOP/s this rank's device can do */
    double waited;
    struct {
        m2_step step;
        m2_record record;
        double begin; /* time */
    } pending[2];     /* steps given to the device whose numbers are not here yet, the older one first */
    int n_pending;
    double settled;      /* time when the numbers of the newest settled step were here */
    int64_t drains;      /* times a step made the host wait for all that the device had to do */
    int64_t allocations; /* by steps */
} trainer;

/* Everything up to the first step, from t->cfg and t->ranks. *done: there is nothing left to do. Collective. */
m2_status m2i_trainer_set_up(trainer *t, int *done);
/* What comes next in the stream, from t->rows on; again after going back. */
m2_status m2i_trainer_open_feed(trainer *t);
void m2i_trainer_tear_down(trainer *t, m2_status outcome);

#endif
