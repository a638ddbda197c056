/* metrics.h - RUN/metrics.jsonl: one JSON object per optimizer step, appended by rank 0, and one with the key "event" for
 * what happened between two steps. */
#ifndef M2_METRICS_H
#define M2_METRICS_H

#include "kernels/base/status.h"
#include <math.h>
#include <stdint.h>

/* INT(field), REAL(field, digits): the name is also the key in the file. A REAL that is M2_ABSENT is left out, another
 * one that is not finite is null. Times depend on the machine; everything else is the same in every repetition. */
#define M2_METRICS_TABLE(INT, REAL)                                                                            \
    INT(step)                                                                                                  \
    INT(tokens)            /* consumed since the start of the run */                                           \
    REAL(loss, 17)         /* mean over the global batch, nats per token */                                    \
    REAL(grad_norm, 9)     /* before clipping */                                                               \
    REAL(lr, 9)                                                                                                \
    REAL(val_loss, 17)     /* in steps that validated */                                                       \
    REAL(val_score, 9)     /* of task.name: its first score */                                                  \
    REAL(val_top1, 9)                                                                                          \
    INT(skips)             /* updates skipped since the start of the run */                                    \
    INT(rollbacks)         /* times it went back to a checkpoint */                                            \
    REAL(seconds, 4)       /* of this step */                                                                  \
    REAL(waited, 4)        /* of them, waiting for data (rank 0) */                                            \
    REAL(tokens_per_s, 6)                                                                                      \
    REAL(flops_per_s, 4)   /* of the model, all ranks */                                                       \
    REAL(slow_rank, 6)     /* in steps that found one: see runtime/pace.h */                                   \
    REAL(slow_ratio, 4)    /* its work divided by the median */                                                \
    REAL(mfu, 4)           /* their share of the devices' peak: datasheet of a GPU, measured matrix products of a CPU */

#define M2_ABSENT (-INFINITY)

typedef struct m2_record {
#define M2_RECORD_INT(field) int64_t field;
#define M2_RECORD_REAL(field, digits) double field;
    M2_METRICS_TABLE(M2_RECORD_INT, M2_RECORD_REAL)
#undef M2_RECORD_INT
#undef M2_RECORD_REAL
} m2_record;

typedef struct m2_metrics m2_metrics;

/* Opens for appending after dropping records of steps beyond `step` and torn lines: those steps are done again. */
M2_API m2_status m2_metrics_open(const char *path, int64_t step, m2_metrics **out) M2_MUST_USE;
/* On its way to the disk when this returns. */
M2_API m2_status m2_metrics_write(m2_metrics *m, const m2_record *r) M2_MUST_USE;
/* Goes back to `step` like open, and writes the JSON object `event`, whose first key is "step", of a later one. */
M2_API m2_status m2_metrics_back(m2_metrics *m, int64_t step, const char *event) M2_MUST_USE;
/* The newest value of a key in a run's metrics; M2_DATA when there is none. */
M2_API m2_status m2_metrics_last(const char *path, const char *key, double *out) M2_MUST_USE;
M2_API void m2_metrics_close(m2_metrics **m); /* accepts NULL; nulls */

#endif
