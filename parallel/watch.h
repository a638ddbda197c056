/* watch.h - a rank's flight recorder and its watchdog.
 *
 * The rank's own thread records what it does into its ring (flight.h): some ten nanoseconds a record. A second thread gives
 * signs of life and looks whether the first one goes on. When it does not, it reads the rings of all ranks, says which rank
 * holds up the job, where it is and in which collective the others wait for it, and ends the job on all ranks. */
#ifndef M2_WATCH_H
#define M2_WATCH_H

#include "parallel/comm.h"
#include "parallel/flight.h"

typedef struct m2_watch m2_watch;

typedef struct m2_watch_spec {
    const char *folder; /* RUN/flight, made if need be */
    int64_t start;      /* the same on all ranks, larger in every start of the run */
    m2_comm *comm;      /* all ranks: what is aborted */
    double hang;        /* seconds without any progress after which the job ends; 0 = never */
    double lost;        /* the same without a sign of life of a rank on another node; 0 = never */
    double leave;       /* seconds after the abort in which the process ends itself; 0 = never (ranks that are threads) */
} m2_watch_spec;

#ifdef __cplusplus
extern "C" {
#endif

M2_API m2_status m2_watch_open(const m2_watch_spec *spec, m2_watch **out) M2_MUST_USE;
/* From now on the collectives of c (and of c->host) are recorded. c must not be closed before the watch. */
M2_API void m2_watch_comm(m2_watch *w, m2_comm *c);
/* Ends the ring with the outcome of the run. Before the communicators are closed. Accepts NULL; nulls. */
M2_API void m2_watch_close(m2_watch **w, m2_status outcome);

/* Recording, by the threads that use the communicators. All accept NULL. path must stay valid until the end: what
 * happens inside bears it too. */
typedef struct m2_watch_mark {
    uint64_t entry;
    const char *path;
} m2_watch_mark;
M2_API void m2_watch_step(m2_watch *w, int64_t step);
M2_API m2_watch_mark m2_watch_begin(m2_watch *w, const char *what, const char *path);
M2_API void m2_watch_end(m2_watch *w, m2_watch_mark mark);
/* Seconds that this thread has been in recorded collectives so far: waiting for others, for most of it. */
M2_API double m2_watch_waited(void);
M2_API void m2_watch_wait(double seconds); /* adds: for a thread of the program's that is in one */

#ifdef __cplusplus
}
#endif
#endif
