/* bench.c - m2 bench SUBJECT */
#include "tools/bench.h"
#include "tools/tool.h"

const char tool_bench_usage[] =
    "usage: m2 bench ops [--op NAME]            every op, against a large matrix product and a plain copy\n"
    "       m2 bench conv                       the long convolution per length, against its floor, FFTW or cuFFT\n"
    "       m2 bench step CONFIG [KEY=VALUE]    a training step: tokens/s, MFU, and the share of each op\n"
    "       m2 bench comm                       under mpirun: collectives by size, latency and bandwidth\n"
    "       m2 bench save CONFIG [KEY=VALUE]    checkpoints: how long a step waits, GB/s against the disk's own\n"
    "       m2 bench loader STORE               tokens/s that the loader alone delivers\n"
    "\n"
    "m2 bench SUBJECT --help lists the flags of each.\n";

static m2_status bench_conv(int argc, char **argv)
{
    return m2_bench_conv(argc - 1, argv + 1);
}

m2_status tool_bench(int argc, char **argv)
{
    static const m2_subject subjects[] = {{"ops", bench_ops_usage, bench_ops},
                                          {"conv", NULL, bench_conv},
                                          {"step", bench_step_usage, bench_step},
                                          {"comm", bench_comm_usage, bench_comm},
                                          {"save", bench_save_usage, bench_save},
                                          {"loader", bench_loader_usage, bench_loader},
                                          {NULL, NULL, NULL}};
    return m2_subjects_run(argc, argv, subjects);
}
