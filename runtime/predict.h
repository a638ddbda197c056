/* predict.h - how long a planned step takes on a described machine.
 *
 * Every call of the program gets the time that the machine description gives it, in the order in which it runs:
 *
 *   step = (micros - 1) * microbatch + last microbatch with its reductions + update + what the trainer says to all ranks
 *
 * A collective takes as long as the rank that sends most. Where the transport works beside computing, the reductions of
 * gradients have a clock of their own, and the update waits for both. */
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
    double step;      /* seconds */
    double compute;   /* of them: calls that are no collectives, on one rank */
    double exchange;  /* of them: collectives that everything waits for */
    double reduce;    /* all reductions of gradients, as if nothing else ran */
    double exposed;   /* of the step: what of them does not fit beside computing */
    double agreement; /* of the step: ranks ask each other whether to stop */
    int n_ops;
    m2_predicted_op op[M2_PREDICTED_OPS]; /* slowest first */
} m2_prediction;

/* m: the machine that the planner was given. M2_USAGE if it does not say enough. */
M2_API m2_status m2_predict(const m2_planned *p, const m2_machine *m, m2_prediction *out) M2_MUST_USE;

/* How `ranks` ranks, `stride` apart in the order of the mesh, lie on nodes of ranks_per_node. Pure. */
M2_API m2_group m2_group_place(int ranks, int stride, int ranks_per_node);

#endif
