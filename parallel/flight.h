/* flight.h - what each rank did last: RUN/flight/rank-00003.ring, a file that outlives its process.
 *
 * Every rank has one, mapped into its memory (watch.h writes it): a head and a ring of entries, one per call, collective or
 * phase. A record is a few stores, so it is there however the process ends; a thread makes it visible to other nodes once a
 * second. Whoever reads takes copies, of ranks that live, hang or are gone. Times are CLOCK_REALTIME, nanoseconds. */
#ifndef M2_FLIGHT_H
#define M2_FLIGHT_H

#include "kernels/base/status.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

enum { M2_FLIGHT_ENTRIES = 512, M2_FLIGHT_PATH = 72, M2_FLIGHT_WHAT = 24 };

typedef struct m2_flight_entry {
    int64_t begin, end;   /* end 0: it is going on */
    int64_t step;         /* being made */
    uint64_t collective;  /* 1, 2, ... in the order in which all ranks must call them; 0: not a collective */
    char what[M2_FLIGHT_WHAT]; /* op, collective or phase */
    char path[M2_FLIGHT_PATH]; /* "block.3.mixer.conv"; "" outside of a program */
} m2_flight_entry;

typedef struct m2_flight {
    char magic[8];
    int32_t version, rank, size, process;
    uint64_t processes; /* namespace in which `process` is a number */
    int64_t start;      /* token of this start of the run: rings of older starts are not of this job */
    int64_t began;
    char node[64];
    _Atomic uint64_t beats; /* the thread's signs of life */
    _Atomic int64_t beat;   /* time of the newest */
    _Atomic int32_t ended;  /* 0: did not come to its end; else 1 + m2_status */
    _Atomic uint64_t progress; /* grows with every begin and end */
    _Atomic uint64_t entries;  /* begun so far; entry i is ring[i % M2_FLIGHT_ENTRIES] */
    _Atomic uint64_t collectives; /* begun so far */
    _Atomic uint64_t waiting;     /* the collective going on, 0 = none */
    m2_flight_entry ring[M2_FLIGHT_ENTRIES];
} m2_flight;

typedef enum m2_life {
    M2_LIFE_MISSING, /* no readable ring */
    M2_LIFE_ENDED,   /* came to its end, with a status */
    M2_LIFE_RUNNING, /* is there; what can be seen from this node */
    M2_LIFE_FAR,     /* on a node that cannot be seen from here */
    M2_LIFE_STOPPED, /* SIGSTOP, a debugger */
    M2_LIFE_LOST,    /* far, without a sign of life for too long */
    M2_LIFE_DEAD     /* the process is gone without having ended */
} m2_life;

/* Copies of all rings of the newest start. */
typedef struct m2_flights {
    int size;
    int64_t start;
    int64_t now;      /* when they were read */
    m2_flight **rank; /* [size], NULL = missing */
    m2_life *life;    /* [size] */
} m2_flights;

#ifdef __cplusplus
extern "C" {
#endif

M2_API int64_t m2_flight_clock(void);
M2_API void m2_flight_file(char *out, size_t n, const char *folder, int rank);
/* What the rank that ends a job writes for all: as m2_flights_print. */
M2_API void m2_flight_report(char *out, size_t n, const char *folder, int64_t start);
/* One rank's ring and life as seen from here; M2_DATA when there is none. */
M2_API m2_status m2_flight_read(const char *folder, int rank, m2_flight *out, m2_life *life) M2_MUST_USE;
/* folder: RUN/flight. M2_DATA when it holds no ring. Free also after a failure. */
M2_API m2_status m2_flights_read(const char *folder, m2_flights *out) M2_MUST_USE;
M2_API void m2_flights_free(m2_flights *f);

/* The newest entry that is going on, or NULL; the newest one; the one of a collective, NULL when it is not (any more) there. */
M2_API const m2_flight_entry *m2_flight_open(const m2_flight *f);
M2_API const m2_flight_entry *m2_flight_newest(const m2_flight *f);
M2_API const m2_flight_entry *m2_flight_collective(const m2_flight *f, uint64_t number);

/* One sentence: which rank holds up the others, how, where it was and in what the others wait for it. Returns the rank, -1:
 * none stands out. Pure. */
M2_API int m2_flights_judge(const m2_flights *f, char *text, size_t n);
/* Mean seconds by which `rank` began collectives after the first rank to do so, over those that all rings still have;
 * negative: there are none. Clocks of different nodes must agree for it. Pure. */
M2_API double m2_flights_late(const m2_flights *f, int rank);
/* The sentence, then a line for each rank: where, since when, how late. */
M2_API void m2_flights_print(const m2_flights *f, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
