/* progress.h - what a training run shows on standard output: a table with a row every train.log_every steps.
 *
 *            step     loss      val         lr     norm  tokens/s     left
 *        120/1000   4.8712   4.9921   5.90e-04     0.80     45.2K    1m30s
 *
 * On a terminal the row of the current step is updated in place between the rows that stay. Under mpirun the terminal is
 * the launcher's. */
#ifndef M2_PROGRESS_H
#define M2_PROGRESS_H

#include "runtime/metrics.h"

typedef struct m2_progress {
    int64_t steps, log_every;
    int show;        /* rank 0 */
    int live;        /* a terminal */
    int open;        /* an unfinished row stands on the terminal */
    double val;      /* latest validation loss, NaN before the first */
    double shown_at; /* time of the last update in place */
    double since;    /* the last row that stayed: when, which step, how many tokens */
    int64_t since_step, since_tokens;
    double pace;     /* seconds per step, smoothed over the rows; 0 before the first */
} m2_progress;

M2_API void m2_progress_start(m2_progress *p, int64_t steps, int64_t log_every, int64_t step, int64_t tokens, int show);
M2_API void m2_progress_step(m2_progress *p, const m2_record *r);
/* A line of text between the rows. */
M2_API void m2_progress_note(m2_progress *p, const char *fmt, ...) M2_PRINTF(2, 3);
M2_API void m2_progress_end(m2_progress *p);

#endif
