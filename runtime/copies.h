/* copies.h - do all ranks still hold the same bits? What is replicated must stay alike; a rank whose memory or core makes
 * silent errors does not keep it so.
 *
 * Every tensor of which each rank has its own whole copy (parameters, and the optimizer's moments where they are not in
 * shards; where the master parameters are, what the forward pass reads instead) is hashed with XXH3-64, on the host: a pass
 * over all of them costs one copy from the device. Ranks compare one number, and only when it differs the hash of each tensor.
 * Cut sequences make no difference: their ranks hold the same parameters. */
#ifndef M2_COPIES_H
#define M2_COPIES_H

#include "parallel/comm.h"
#include "runtime/checkpoint.h"

typedef struct m2_copies m2_copies;

/* p, state and comm must live as long. Alone, there is nothing to compare. */
M2_API m2_status m2_copies_open(m2_program *p, const m2_state *state, m2_comm *comm, m2_copies **out) M2_MUST_USE;
/* When the device has nothing to do. Collective; all ranks get the same answer. */
M2_API m2_status m2_copies_compare(m2_copies *c, int *differ) M2_MUST_USE;
/* After a comparison that found a difference, behind `step`: M2_TRANSIENT on all ranks with which rank on which node, and the
 * first tensor that differs. saved: step of the newest checkpoint, for the message, -1 = none. Collective. */
M2_API m2_status m2_copies_report(m2_copies *c, int64_t step, int64_t saved) M2_MUST_USE;
M2_API void m2_copies_close(m2_copies **c); /* accepts NULL; nulls */

/* The rank whose number more than half of the ranks have, or -1. Pure. */
M2_API int m2_copies_majority(const uint64_t *number, int ranks);

#endif
