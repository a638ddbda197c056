/* bench.h - the training step of a configuration, measured: as it runs, and where its time goes. */
#ifndef M2_BENCH_H
#define M2_BENCH_H

#include "runtime/fit.h"
#include "runtime/timeline.h"

typedef struct m2_bench_op {
    const char *name;
    int collective;
    int64_t calls;  /* of a step */
    double seconds; /* of a step, on this rank */
    m2_cost cost;   /* of a step */
    double elements; /* of the first inputs of those calls */
} m2_bench_op;

enum { M2_BENCH_OPS = 64, M2_BENCH_TRACED = 3 /* steps */ };

typedef struct m2_bench {
    m2_config cfg;    /* resolved */
    int vocab_chosen; /* 1: neither model.vocab nor a store said it */
    m2_ranks ranks;
    m2_training training;
    int64_t steps;
    double step_seconds, fastest; /* median and best of the steps, not profiled */
    double profiled_seconds;      /* of the step whose calls were timed: the fastest of three */
    double flops;                 /* of a step on all ranks, recomputation left out */
    double peak;                  /* FLOP/s that MFU is a share of: datasheet of a GPU, gemm of a CPU */
    double gemm, copy;            /* of this rank, all measuring at once: FLOP/s of a large product, bytes/s of a plain copy */
    double loss;                  /* of the last step: a number, if all is well */
    int n_ops;
    m2_bench_op op[M2_BENCH_OPS]; /* slowest first */
    m2_bench_op filters;          /* what of all these makes the long convolutions' filters, and their networks' gradients */
    int n_overlaps;
    m2_overlap overlap[M2_OVERLAPS]; /* of the traced steps; none on one rank */
    int64_t sent, planned; /* bytes that all ranks gave to others in a step: as the transport counts, as the list of collectives
                            * says */
    int64_t off_plan;      /* collectives, on all ranks, that gave others another number of bytes than planned */
} m2_bench;

/* Runs `steps` steps on random tokens, some before that do not count, three with every call timed, and a few that are traced,
 * into the file `trace` if it is not NULL. Collective. */
M2_API m2_status m2_bench_step(const m2_config *cfg, int64_t steps, const char *trace, m2_bench *out) M2_MUST_USE;
M2_API void m2_bench_close(m2_bench *b); /* collective; accepts a zeroed or closed one */

#endif
