/* fit.h - the TRAIN program of a configuration: how the batch is cut, whether blocks are recomputed, what fits. */
#ifndef M2_FIT_H
#define M2_FIT_H

#include "runtime/batch.h"
#include "runtime/ranks.h"

typedef struct m2_training {
    m2_program *program; /* bound; parameters not yet filled */
    m2_batch batch;
    int recompute;
} m2_training;

/* train.batch, train.micro and the ranks fit each other. */
M2_API m2_status m2_training_check(const m2_config *cfg, const m2_ranks *ranks) M2_MUST_USE;
/* The forward, backward, reductions (over more than one rank) and update of cfg's model, planned, not bound. */
M2_API m2_status m2_training_build(const m2_config *cfg, const m2_ranks *ranks, const m2_batch *batch, int recompute,
                                   m2_program **out) M2_MUST_USE;
/* What train.micro = 0 and train.recompute = auto stand for on this rank: the largest microbatch whose memory fits. batch
 * comes from m2_batch_cut. Not collective; reads only rank, size and local_size of ranks->comm, ranks->sharers, and
 * kind, threads, memory and api->workspace (NULL: as on the CPU) of ranks->device. */
M2_API m2_status m2_training_choose(const m2_config *cfg, const m2_ranks *ranks, m2_batch *batch, int *recompute) M2_MUST_USE;
/* Chooses what train.micro = 0 and train.recompute = auto leave open, then builds and binds: the largest microbatch whose
 * memory fits beside that of validation, all ranks alike. Collective. */
M2_API m2_status m2_training_make(const m2_config *cfg, const m2_ranks *ranks, m2_training *out) M2_MUST_USE;

/* Sequences at a time for evaluating cfg's model alone: at most `most`, as many as fit. */
M2_API m2_status m2_fit_eval(const m2_config *cfg, const m2_ranks *ranks, int64_t most, int64_t *micro) M2_MUST_USE;

#endif
