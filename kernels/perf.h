/* perf.h - how fast ops run, against what the device could do: used by `m2 bench ops` and the op tests. */
#ifndef M2_KERNELS_PERF_H
#define M2_KERNELS_PERF_H

#include "kernels/probe.h"

#include <stdio.h>

/* Measured once per device: bytes/s (read + written) of a plain copy, FLOP/s of a large square product. */
typedef struct m2_perf_limits {
    double bandwidth, flops;
} m2_perf_limits;

/* One op call. share: the time that the limits would allow, max(bytes / bandwidth, flops / flops), over the time taken. */
typedef struct m2_perf {
    const m2_op *op;
    const m2_case *row;
    m2_cost cost;
    double seconds, share;
    int by_flops; /* 1: flops are what limits it */
} m2_perf;

#ifdef __cplusplus
extern "C" {
#endif
M2_API m2_status m2_perf_measure_limits(m2_device *dev, const m2_probe_precision *prec, m2_perf_limits *out) M2_MUST_USE;
/* Times the row's op and its gradient: fills out[0 .. *n), *n <= 2. The fastest of the runs that fit in 0.3 s. */
M2_API m2_status m2_perf_measure(const m2_case *row, const m2_probe_precision *prec, m2_device *dev,
                                 const m2_perf_limits *limits, m2_perf out[2], int *n) M2_MUST_USE;
M2_API void m2_perf_print_header(FILE *file, const m2_device *dev, const m2_perf_limits *limits);
M2_API void m2_perf_print(FILE *file, const m2_perf *perf);
#ifdef __cplusplus
}
#endif
#endif
