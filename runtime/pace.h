/* pace.h - which rank holds up the others: its own work, compared with the median of all ranks.
 *
 * A rank's work is the time it reads data and computes, without its waiting for others in collectives. On a GPU, whose
 * collectives keep all ranks in step, it is what the calls of one step per window took there (m2_program_profile). At the end
 * of a window of run.pace_every steps the ranks learn each other's work with words of a message they exchange anyway. Who was
 * run.straggler times slower than the median in each of WINDOWS windows is named, then again after twice as many. */
#ifndef M2_PACE_H
#define M2_PACE_H

#include "parallel/comm.h"
#include "runtime/config.h"
#include "runtime/program.h"

enum { M2_PACE_WINDOWS = 3, M2_PACE_NODE = 64 };

typedef struct m2_pace {
    int64_t every;  /* 0: off */
    double factor;
    int ranks, rank, sampled;
    double work;     /* seconds in this window */
    double *seconds; /* sampled: of each call */
    int64_t *words;  /* [ranks] nanoseconds of each rank's window */
    struct m2_pace_rank {
        char node[M2_PACE_NODE];
        int64_t windows; /* in a row in which it was slow */
        double ratios;   /* their sum */
    } *of; /* [ranks] */
} m2_pace;

typedef struct m2_straggler {
    int rank; /* -1: none to be named now */
    double ratio;
    int64_t steps;
} m2_straggler;

/* Collective. Off for one rank. */
M2_API m2_status m2_pace_open(const m2_config *cfg, m2_comm *comm, m2_program *p, m2_device *dev, m2_pace *out) M2_MUST_USE;
/* Steps 1 ... step are done: is that the end of a window? The same on all ranks. */
M2_API int m2_pace_ends(const m2_pace *p, int64_t step);
/* Around a step's calls on a GPU, where step ends a window; elsewhere they do nothing. The device is drained. */
M2_API m2_status m2_pace_sample(m2_pace *p, m2_program *program, int64_t step) M2_MUST_USE;
M2_API m2_status m2_pace_sampled(m2_pace *p, m2_program *program, int64_t step) M2_MUST_USE;
/* This rank's word of the window that ends: it begins the next one. */
M2_API int64_t m2_pace_word(m2_pace *p);
/* From the words of all ranks. Pure but for the counting. */
M2_API m2_straggler m2_pace_judge(m2_pace *p, const int64_t *words);
M2_API void m2_pace_close(m2_pace *p); /* accepts a zeroed one */

#endif
