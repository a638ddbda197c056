/* batch.h - how the global batch of a step is cut into ranks and microbatches. Pure.
 *
 * Step s (0, 1, ...) behind `start` consumes rows start + [s*global, (s+1)*global) of the loader's stream. Rank r has the
 * contiguous rows [r*share, (r+1)*share) of them, microbatch a of it the next `micro` rows each: what a run learns from does
 * not depend on the number of ranks. */
#ifndef M2_BATCH_H
#define M2_BATCH_H

#include "kernels/base/status.h"
#include <stdint.h>

typedef struct m2_batch {
    int64_t global; /* rows of a step */
    int64_t share;  /* rows of a step on this rank = micro * micros */
    int64_t micro;  /* rows of a microbatch */
    int micros;     /* microbatches of a step */
    int rank, ranks;
    int64_t start; /* row of the stream where step 0 begins */
} m2_batch;

/* micro 0: all of the share at once. M2_USAGE, with the nearest good values, when a division leaves a rest. */
M2_API m2_status m2_batch_cut(int64_t global, int64_t micro, int rank, int ranks, m2_batch *out) M2_MUST_USE;
/* The next smaller divisor of the share as microbatch; 0 when micro is 1 already. */
M2_API int m2_batch_shrink(m2_batch *b);
/* Row, within the global batch, of this rank's first row in microbatch a: m2_step.row0. */
M2_API int64_t m2_batch_row0(const m2_batch *b, int micro);
/* For the loader (m2_loader_at): batch i is microbatch i % micros of step i / micros. ctx: const m2_batch *. */
M2_API int64_t m2_batch_at(void *ctx, int64_t i);

#endif
