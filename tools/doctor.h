/* doctor.h - what m2 doctor finds, and how it tells of many machines at once. Private to tools/doctor*.c. */
#ifndef M2_TOOLS_DOCTOR_H
#define M2_TOOLS_DOCTOR_H

#include "parallel/comm.h"

#include <math.h>

enum { DOCTOR_ROWS = 24 };

typedef enum verdict { FIT, DOUBTFUL, UNFIT } verdict;

/* A row of the report: the same for many ranks, it is printed once. */
typedef struct finding {
    verdict verdict;
    char what[72];  /* "disk /tmp" */
    double value;   /* what differs from one to the next: its range is printed; NaN: none */
    char unit[16];
    char text[208]; /* the same wherever all is well */
} finding;

typedef struct findings {
    char node[64];
    int n;
    finding row[DOCTOR_ROWS];
} findings;

typedef struct doctor_wishes {
    int64_t gpus;         /* of a node; -1: as many as there are */
    int64_t free_mib;     /* on each disk */
    double least_gbs;     /* of an all-reduce; 0: any */
    double least_link;    /* GB/s: a link that is slower, and slow among its kind, makes a node unfit */
    const char *folder[3]; /* to write to; NULL: fewer */
} doctor_wishes;

/* Appends a row. value may be NAN. */
void doctor_find(findings *f, verdict v, const char *what, double value, const char *unit, const char *fmt, ...)
    M2_PRINTF(6, 7);

/* This machine: program, processor, memory, GPUs, disks. dev: where this rank would train. whole: this rank looks at what
 * the ranks of a node share, too. */
void doctor_node(const doctor_wishes *w, m2_device *dev, int whole, findings *f);
/* Clocks, links between nodes, sums: every rank of `train` calls it (its host memory, and its device's). */
m2_status doctor_network(const doctor_wishes *w, m2_comm *train, findings *f) M2_MUST_USE;
/* The report of n ranks, which ends with "unfit nodes: node3,node4" if there are any; returns how many, and why: "node3 (disk
 * /tmp: ...), node4 (...)". */
int doctor_report(const findings *f, int n, char *why, size_t room);
/* The same for programs: one line of JSON {"stage", "fit", "unfit": [nodes], "ranks": [{"node", "findings": [...]}]}. */
int doctor_report_json(const char *stage, const findings *f, int n, char *why, size_t room);

#endif
