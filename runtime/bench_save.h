/* bench_save.h - what checkpoints cost a running training: how long a step waits, how fast the writer is against the disk. */
#ifndef M2_BENCH_SAVE_H
#define M2_BENCH_SAVE_H

#include "runtime/fit.h"

/* One save, with a plain write of as many bytes just before it. The slowest rank counts. */
typedef struct m2_bench_saved {
    double stalled, copied; /* seconds that training waited: in all; for the copy out of the device */
    double wrote;           /* seconds from the first byte to the end of fsync, training going on */
    double published;       /* seconds for the manifest and the commit */
    double plain;           /* seconds of write() in pieces of 4 MiB, then fsync: what dd conv=fsync does */
    int64_t steps;          /* done meanwhile */
    double step;            /* seconds each */
} m2_bench_saved;

enum { M2_BENCH_SAVES = 64 };

typedef struct m2_bench_save {
    m2_config cfg; /* resolved */
    m2_ranks ranks;
    m2_training training;
    int64_t bytes; /* of a save, all ranks */
    double step;   /* seconds of a step while nothing is saved: median of ten */
    int n;
    m2_bench_saved save[M2_BENCH_SAVES];
} m2_bench_save;

/* Trains on random tokens and saves n times into a new folder in `folder`, which is removed at the end. Collective. */
M2_API m2_status m2_bench_saves(const m2_config *cfg, const char *folder, int n, m2_bench_save *out) M2_MUST_USE;
M2_API void m2_bench_save_close(m2_bench_save *b); /* collective; accepts a zeroed or closed one */

#endif
