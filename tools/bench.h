/* bench.h - the subjects of `m2 bench`: argv[0] is the tool and its subject, the rest what follows on the command line. */
#ifndef M2_TOOLS_BENCH_H
#define M2_TOOLS_BENCH_H

#include "kernels/base/status.h"

m2_status bench_ops(int argc, char **argv) M2_MUST_USE;
extern const char bench_ops_usage[];

m2_status bench_comm(int argc, char **argv) M2_MUST_USE;
extern const char bench_comm_usage[];

m2_status bench_save(int argc, char **argv) M2_MUST_USE;
extern const char bench_save_usage[];
m2_status bench_step(int argc, char **argv) M2_MUST_USE;
extern const char bench_step_usage[];

m2_status bench_loader(int argc, char **argv) M2_MUST_USE;
extern const char bench_loader_usage[];

/* Long convolution per length: forward, forward + backward, FLOP/s, bytes/s, the floor (bytes that must move at the
 * memory's speed as measured), the ratio to FFTW or cuFFT if they can be loaded, and how good the cost model's choice is.
 * `--help` lists the options. Here argc and argv are only what follows the subject. */
m2_status m2_bench_conv(int argc, char **argv) M2_MUST_USE;
#endif
