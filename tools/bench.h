/* bench.h - the subjects of `m2 bench`. argc and argv are what follows the subject on the command line. */
#ifndef M2_TOOLS_BENCH_H
#define M2_TOOLS_BENCH_H

#include "kernels/base/status.h"

/* Long convolution per length: forward, forward + backward, FLOP/s, bytes/s, the floor (bytes that must move at the
 * memory's speed), and on the CPU the ratio to FFTW if libfftw3f can be loaded. `--help` lists the options. */
m2_status m2_bench_conv(int argc, char **argv) M2_MUST_USE;
#endif
