/* planner.h - the training step of a configuration on any number of ranks, planned without any: no parameter and no
 * activation is allocated, no other process exists. The program is the one that rank 0 of such a job would run. */
#ifndef M2_PLANNER_H
#define M2_PLANNER_H

#include "runtime/batch.h"
#include "runtime/machine.h"
#include "runtime/ranks.h"

typedef struct m2_planner_spec {
    int ranks;      /* of the job */
    int local_size; /* of them on one machine like this one: they share its memory and cores */
    const m2_machine *machine; /* plan for its device and memory, as long as the plan lives; NULL: this machine's */
} m2_planner_spec;

/* What a rank gives to others in a step, by kind of collective. */
typedef struct m2_traffic {
    const char *verb;
    int64_t calls, bytes;
} m2_traffic;

enum { M2_TRAFFIC_KINDS = 16 };

/* One collective of a program, in the order in which they run. */
typedef struct m2_collective_row {
    const char *path, *verb; /* block.0.mixer.conv, to_channels */
    const char *axis;        /* "sequence" or "all": whose communicator */
    int64_t bytes;           /* that this rank gives to others in one call, as its transport counts them */
    int64_t calls;           /* in a step of so many microbatches */
} m2_collective_row;
/* Fills at most `room` rows; returns how many there are. Pure: a program that was never bound will do. */
M2_API int m2_collectives(const m2_program *p, int micros, m2_collective_row *rows, int room);

typedef struct m2_planned {
    m2_config cfg;    /* model.vocab and train.precision resolved */
    int vocab_chosen; /* 1: neither model.vocab nor a store said it */
    m2_ranks ranks;   /* of rank 0; comm is only a place: it cannot talk */
    m2_batch batch;
    int recompute;
    char too_big[256];   /* why even the smallest microbatch does not fit a rank's memory; "" if it does */
    m2_program *program; /* planned, not bound */
    m2_memory_plan memory;
    int64_t parameters;
    double flops_forward, flops_model; /* of a step on all ranks; model = forward and backward, recomputation left out */
    double flops_again;                /* recomputation */
    int n_traffic;
    m2_traffic traffic[M2_TRAFFIC_KINDS];
    m2_comm place, sequence;
    m2_device imagined; /* the machine's: kind, threads, memory */
    m2_device_api imagined_api;
} m2_planned;

/* M2_USAGE where `m2 train` on so many ranks would say so. The result points into itself: free it where it is. */
M2_API m2_status m2_planned_make(const m2_config *cfg, const m2_planner_spec *spec, m2_planned *out) M2_MUST_USE;
M2_API void m2_planned_free(m2_planned *p); /* accepts a zeroed or freed one */

/* model.vocab = 0 becomes that of the store data.train or, without one, 4096: *chosen tells. */
M2_API m2_status m2_planned_vocab(m2_config *cfg, int *chosen) M2_MUST_USE;

/* Bytes of all arenas. */
M2_API int64_t m2_memory_total(const m2_memory_plan *m);

#endif
