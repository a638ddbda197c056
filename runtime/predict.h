/* predict.h - how long a planned step takes on a described machine.
 *
 * Every call of the program gets the time that the machine description gives it, in the order in which it runs:
 *
 *   step = (micros - 1) * microbatch + last microbatch with its reductions + update + what the trainer says to all ranks
 *
 * A collective takes as long as the rank that sends most. The reductions of gradients
 * have a clock of their own, and the update waits for both; exchanges in groups have another, and the calls that
 * need what they bring wait for it. Nothing is lost to slow ranks, the loader or validation. */
#ifndef M2_PREDICT_H
#define M2_PREDICT_H

#include "runtime/machine.h"
#include "runtime/planner.h"

typedef struct m2_predicted_op {
    const char *name;
    int collective;
    int64_t calls;         /* of a step */
    double bytes, seconds; /* bytes: that rank 0 sends */
} m2_predicted_op;

enum { M2_PREDICTED_OPS = 96 };

typedef struct m2_prediction {
    double step;     /* seconds: the sum of the next four */
    double compute;  /* calls that are no collectives, on one rank */
    double exchange; /* waiting for exchanges */
    double reduce;   /* waiting for reductions of gradients */
    double agreement; /* ranks ask each other whether to stop */
    double exchange_all, reduce_all; /* how long those collectives take, hidden or not */
    int n_ops;
    m2_predicted_op op[M2_PREDICTED_OPS]; /* slowest first */
} m2_prediction;

/* m: the machine that the planner was given. M2_USAGE if it does not say enough. */
M2_API m2_status m2_predict(const m2_planned *p, const m2_machine *m, m2_prediction *out) M2_MUST_USE;

/* How `ranks` ranks, `stride` apart in the order of the mesh, lie on nodes of ranks_per_node. Pure. */
M2_API m2_group m2_group_place(int ranks, int stride, int ranks_per_node);

#endif
