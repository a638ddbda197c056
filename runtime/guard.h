/* guard.h - which updates were skipped, and when that is enough.
 *
 * An update whose gradient norm is not finite, or an outlier, is skipped (kernels/ops.h adam): nothing changes. After
 * train.max_skips of them in a row the run goes back to a checkpoint and on from there with the data behind what it has read
 * so far: it meets none of these rows again. It does so train.max_rollbacks times at most, then stops. What is counted is
 * part of every checkpoint, as is the row where the loader goes on: a run that is interrupted and resumed does the same as one
 * that is not. Every rank counts alike. No communication, no clock. */
#ifndef M2_GUARD_H
#define M2_GUARD_H

#include "runtime/checkpoint.h"
#include "runtime/config.h"

enum { M2_GUARD_SHOWN = 8 };

typedef struct m2_guard {
    int64_t max_skips, max_rollbacks;
    double outlier, factor; /* options */
    int64_t skips, in_row, rollbacks;
    int64_t norms; /* taken into the mean */
    double mean;   /* of recent norms whose updates were not skipped */
    struct m2_guard_skip {
        int64_t step;
        double loss, norm, limit; /* limit 0: any finite norm would do */
    } shown[M2_GUARD_SHOWN];      /* the newest of the row: entry number (in_row - 1) % M2_GUARD_SHOWN is the last */
} m2_guard;

/* text: as m2_guard_text gave it, "" = from the beginning. M2_DATA when it is something else. */
M2_API m2_status m2_guard_open(const m2_config *cfg, const char *text, m2_guard *out) M2_MUST_USE;
/* The counters for a checkpoint. */
M2_API void m2_guard_text(const m2_guard *g, char out[M2_GUARD_TEXT]);
/* The norm beyond which the next update is an outlier, for m2_step.outlier: optim.outlier, or optim.outlier_factor times the
 * mean once that is of enough norms, whichever is less. 0 = none. */
M2_API double m2_guard_limit(const m2_guard *g);
/* A step's numbers. limit: what m2_guard_limit said for it. Returns 1 when its update was skipped. */
M2_API int m2_guard_count(m2_guard *g, int64_t step, double loss, double norm, double limit);
M2_API int m2_guard_tripped(const m2_guard *g); /* train.max_skips in a row */
/* "step 36: loss nan, norm nan; step 37: ...", the newest of the row. */
M2_API void m2_guard_describe(const m2_guard *g, char *text, size_t n);
/* A tripped run goes back to step `to`, which had read the rows before first_row, and on with next_row: counts that, and prints
 * the event for metrics.jsonl. */
M2_API void m2_guard_back(m2_guard *g, int64_t to, int64_t first_row, int64_t next_row, char *event, size_t n);

#endif
