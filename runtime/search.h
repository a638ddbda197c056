/* search.h - the best way to lay a training step over N ranks of a described machine, by trying all of them: every
 * data x sequence mesh, each with every exchange and every stage of ZeRO that the program knows. */
#ifndef M2_SEARCH_H
#define M2_SEARCH_H

#include "runtime/predict.h"

typedef struct m2_candidate {
    char mesh[32];       /* a value of run.mesh */
    char rest[96];       /* other options, "run.exchange=channel optim.zero=1", or "" */
    char why_not[320];   /* "" if it can be trained; else what is wrong with it */
    int fits;            /* in memory */
    int64_t bytes;       /* of memory on each rank */
    int recompute, micros;
    double step, exposed; /* seconds; of them: collectives that are not hidden */
} m2_candidate;

typedef struct m2_search {
    int n;
    m2_candidate *row; /* best first: what fits, by step time; then what does not fit; then what is impossible */
    char why[384];     /* a sentence: what was chosen and why */
} m2_search;

/* spec->machine is set. meshes_only: run.exchange and the rest stay as cfg says. M2_USAGE if no candidate can be trained; what
 * out holds is freed by m2_search_free in any case. */
M2_API m2_status m2_search_make(const m2_config *cfg, const m2_planner_spec *spec, int meshes_only,
                                m2_search *out) M2_MUST_USE;
M2_API void m2_search_free(m2_search *s); /* accepts a zeroed one */
/* Puts a candidate into a configuration. */
M2_API m2_status m2_candidate_take(const m2_candidate *c, m2_config *cfg) M2_MUST_USE;
/* run.mesh, where "auto" is the fastest mesh for these ranks on run.machine, which only rank 0 reads. Collective. */
M2_API m2_status m2_search_grid(const m2_config *cfg, m2_comm *all, m2_grid *out) M2_MUST_USE;

#endif
