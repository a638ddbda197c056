/* reshard.h - the steps between layouts (layout.h) as ops: one call per step.
 *
 * Context: the communicator of the step's grid axis. As maps on what all its ranks hold together:
 *     slice           y_r = x_r[slab r of AFTER]                      adjoint: back in place, zeros around
 *     all_gather      y_r = x_0, x_1, ... side by side along BEFORE    adjoint: sum of everyone's slab r (reduce_scatter)
 *     all_to_all      y_r = x_s[slab r of AFTER], along BEFORE         adjoint: the same with BEFORE and AFTER exchanged
 *     all_reduce      y_r = sum of all x_s                             adjoint: itself
 *     reduce_scatter  y_r = sum of all x_s[slab r of AFTER]            adjoint: all_gather along AFTER
 * Gradients are these adjoints: right for a loss that is the sum of the ranks' losses. */
#ifndef M2_RESHARD_H
#define M2_RESHARD_H

#include "kernels/op.h"
#include "parallel/layout.h"

enum {
    M2_RESHARD_MOVE = 0,
    M2_RESHARD_BEFORE,
    M2_RESHARD_AFTER,
    M2_RESHARD_EXTENT,
    M2_RESHARD_RANKS,
    M2_RESHARD_RANK
};

#ifdef __cplusplus
extern "C" {
#endif
/* x (local before) -> y (local after). Slabs may be uneven. Dense tensors of any dtype that the reductions take. */
extern M2_API const m2_op m2_op_reshard;
extern M2_API const m2_op m2_op_reshard_grad; /* dy -> dx */
/* The attributes of the call that does step s of array `whole` on a rank of the grid. */
M2_API m2_attrs m2_reshard_attrs(const m2_transition *s, const m2_grid *g, int rank, const m2_desc *whole);
/* The part of m2_collective_bytes that is these two ops. */
M2_API int64_t m2_reshard_bytes(const m2_op *op, const m2_attrs *attrs, const m2_desc *in, int rank,
                                int ranks);
#ifdef __cplusplus
}
#endif
#endif
