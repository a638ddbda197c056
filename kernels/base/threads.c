#define _GNU_SOURCE
#include "kernels/base/threads.h"

#include <sched.h>

void m2_threads_for(int threads, int64_t n, int64_t grain, m2_body body, void *ctx)
{
    if (n <= 0) return;
    if (grain < 1) grain = 1;
    int64_t pieces = (n + grain - 1) / grain;
    if (pieces > threads) pieces = threads;
    if (pieces <= 1) {
        body(ctx, 0, n, 0);
        return;
    }
    int64_t chunk = (n + pieces - 1) / pieces;
#pragma omp parallel for num_threads((int)pieces) schedule(static, 1)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t begin = p * chunk, end = begin + chunk < n ? begin + chunk : n;
        if (begin < end) body(ctx, begin, end, (int)p);
    }
}

int m2_threads_available(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}
