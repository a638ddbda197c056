/* perf.h - how fast ops run, against what the device could do: used by `m2 bench ops` and the op tests. */
#ifndef M2_KERNELS_PERF_H
#define M2_KERNELS_PERF_H

#include "kernels/probe.h"

#include <stdio.h>

/* What the device can do: FLOP/s of a large square product, measured at opening, and bytes/s (read + written) of a plain
 * copy, measured anew in turn with each op, because on shared machines memory bandwidth changes from minute to minute. */
typedef struct m2_perf_yard {
    m2_device *device;
    const m2_probe_precision *precision;
    double flops, bandwidth;
    char *from, *to;
} m2_perf_yard;

/* One op call. share: the time that the yard would allow, max(bytes / bandwidth, flops / flops), over the time taken. */
typedef struct m2_perf {
    const m2_op *op;
    const m2_case *row;
    m2_cost cost;
    int64_t elements; /* of the first input */
    double seconds, share;
    int by_flops; /* 1: flops are what limits it */
} m2_perf;

#ifdef __cplusplus
extern "C" {
#endif
M2_API m2_status m2_perf_open(m2_device *dev, const m2_probe_precision *prec, m2_perf_yard *yard) M2_MUST_USE;
/* FLOP/s of a large matrix product in dtype t with dev->threads: measured on the CPU (0.1 s), the datasheet's on a GPU. */
M2_API m2_status m2_perf_peak(m2_device *dev, m2_dtype t, double *flops) M2_MUST_USE;
M2_API void m2_perf_close(m2_perf_yard *yard);
/* Times the row's op and its gradient: fills out[0 .. *n), *n <= 2. The fastest of the runs that fit in 0.3 s. */
M2_API m2_status m2_perf_measure(const m2_case *row, m2_perf_yard *yard, m2_perf out[2], int *n) M2_MUST_USE;
M2_API void m2_perf_print_header(FILE *file, const m2_perf_yard *yard);
M2_API void m2_perf_print(FILE *file, const m2_perf *perf);
#ifdef __cplusplus
}
#endif
#endif
