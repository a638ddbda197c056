/* timeline.h - traces of all ranks as one file for Perfetto or chrome://tracing, and how much communication they hide. */
#ifndef M2_TIMELINE_H
#define M2_TIMELINE_H

#include "parallel/comm.h"
#include "runtime/program.h"

typedef struct m2_timeline {
    const m2_program *program;
    const m2_traces *trace; /* of this rank: whole steps */
    int micros;            /* microbatches of a step */
    m2_comm *comm;         /* all ranks */
} m2_timeline;

/* Collectives of one kind: how long they took, and how much of that while the compute stream of their rank was computing. */
typedef struct m2_overlap {
    const char *axis; /* "data" | "sequence" */
    const char *op;
    int64_t calls; /* of a rank */
    double seconds, beside; /* sums over the ranks */
} m2_overlap;

enum { M2_OVERLAPS = 32 };

/* Rows in the order of the program; returns their number in *n. Collective. */
M2_API m2_status m2_timeline_overlap(const m2_timeline *t, m2_overlap *rows, int *n) M2_MUST_USE;

/* Writes the trace event format: a process per rank, a row per lane, and on a GPU a row per thread that launches. Rank 0
 * writes for all; `path` is there only when it is complete. Collective. */
M2_API m2_status m2_timeline_write(const m2_timeline *t, const char *path) M2_MUST_USE;

#endif
