/* machine.h - a cluster in a page of YAML: what a rank computes, what ranks exchange, how long either takes. Written by
 * `m2 bench ops|step|comm --machine-out FILE`, by hand for machines that are not there; read by `m2 inspect plan`.
 *
 *   a call        call + max(flops / gemm, bytes / copy) / share of its op, or call + elements / rate of its op
 *   a collective  latency + bytes that a rank sends / bandwidth, of the network that the group of ranks spans
 *
 * Keys, all optional but gemm_gflops and copy_gbs:
 *   name, note                what it is; where the figures come from
 *   device, transport         cpu | cuda; mpi | nccl (mpi on a CPU, nccl else)
 *   memory_gib                of a GPU, or of a node of CPUs
 *   threads, cores            of a rank on a CPU; of a node: more threads than cores share them
 *   ranks_per_node
 *   peak_gflops               MFU is a share of it
 *   gemm_gflops, copy_gbs     of a rank: a large matrix product; bytes read and written by a plain copy
 *   call_us                   what a call takes however small it is
 *   ops: {linear: 0.9, other: 0.5}
 *                             share of the larger of what gemm and copy allow; other: ops without a row (1 if it is not there
 *                             either)
 *   rates: {longconv@8192: 96, longconv_grad@8192: 30}
 *                             10^9 elements of the first input per second, where neither bounds the op; @: sequences of this
 *                             length, the nearest counts (also in ops)
 *   node: {8: {all_reduce: {latency_us: 20, gbs: 370}, all_gather: {}, reduce_scatter: {}, all_to_all: {}}}
 *                             among groups of 8 ranks of a node, all groups at once; gbs: what each rank sends. More sizes of
 *                             groups may follow. us: {4096: 30, 65536: 210}, microseconds for so many bytes that a rank
 *                             sends, may follow gbs: what lies between is interpolated
 *   between: {64: {...}}      among groups of 64 ranks on as many nodes, all groups at once */
#ifndef M2_MACHINE_H
#define M2_MACHINE_H

#include "kernels/op.h"
#include <stdint.h>

/* ---- networks ---------------------------------------------------------------------------------------------------- */
typedef enum m2_verb { M2_VERB_ALL_REDUCE, M2_VERB_ALL_GATHER, M2_VERB_REDUCE_SCATTER, M2_VERB_ALL_TO_ALL, M2_VERBS } m2_verb;

enum { M2_LINE_POINTS = 16, M2_NETWORK_SIZES = 10 };

typedef struct m2_line {
    double latency, bandwidth; /* seconds; bytes per second that each rank sends; bandwidth 0: not known */
    int n;                     /* points, by bytes; they count where they are */
    double bytes[M2_LINE_POINTS], seconds[M2_LINE_POINTS];
} m2_line;

typedef struct m2_links { /* groups of so many ranks, all at once */
    int ranks;
    m2_line line[M2_VERBS];
} m2_links;

typedef struct m2_network {
    int n; /* 0: not known */
    m2_links size[M2_NETWORK_SIZES];
} m2_network;

/* Some ranks that talk, as they lie on nodes: on_node of them on each of `nodes`. */
typedef struct m2_group {
    int ranks, on_node, nodes;
} m2_group;

/* ---- machine ----------------------------------------------------------------------------------------------------- */
enum { M2_MACHINE_OPS = 64 };

typedef struct m2_machine {
    char name[128], note[256]; /* note: where the figures come from */
    char device[8];            /* "cpu" | "cuda" */
    char transport[8];         /* "mpi" | "nccl": nccl works by nodes first and beside computing, mpi does neither */
    double memory;             /* bytes of a GPU, or of a node of CPUs */
    int threads;               /* of a rank on a CPU */
    int cores;                 /* of a node on a CPU; 0: not known. More threads than that share them */
    int ranks_per_node;
    double peak;               /* FLOP/s that MFU is a share of */
    double gemm, copy;         /* FLOP/s of a large matrix product, bytes/s of a copy, of a rank */
    double call;               /* seconds that a call takes however small it is */
    int n_ops;
    struct {
        char name[32];      /* of the op, or op@length */
        double share, rate; /* of what gemm and copy allow; elements per second, 0: the share counts */
    } op[M2_MACHINE_OPS];
    m2_network node, between; /* among the ranks of a node; among ranks of different nodes */
} m2_machine;

/* ---- files ------------------------------------------------------------------------------------------------------- */
/* M2_USAGE naming file, line and what was expected. */
M2_API m2_status m2_machine_read(const char *path, m2_machine *out) M2_MUST_USE;
/* *out is what the file says, or zeros if there is no such file: for those that add to it. */
M2_API m2_status m2_machine_read_or_new(const char *path, m2_machine *out) M2_MUST_USE;
M2_API m2_status m2_machine_write(const m2_machine *m, const char *path) M2_MUST_USE; /* replaces the file at once */
/* `name`: of an op, or op@length; elements per second as `rate`, or 0 and a share. */
M2_API m2_status m2_machine_set_op(m2_machine *m, const char *name, double share, double rate) M2_MUST_USE;
/* How m2 bench calls the row of an op that worked on sequences of some length: by length if that matters for it. */
M2_API char *m2_machine_row(char name[32], const char *op, int64_t length); /* returns name */
/* The row for groups of so many ranks, made empty if need be; NULL when there is no room. */
M2_API m2_links *m2_network_links(m2_network *net, int ranks);
M2_API const char *m2_verb_name(m2_verb v); /* "all_reduce", also the name of its op */
M2_API int m2_verb_find(const char *name);  /* -1: none */

/* ---- what it says ------------------------------------------------------------------------------------------------ */
M2_API m2_status m2_machine_check(const m2_machine *m, int communicates) M2_MUST_USE; /* enough to predict with? */
typedef struct m2_work {
    const char *op;
    int64_t length, elements; /* of the sequences that the call sees; of its first input */
    m2_cost cost;
} m2_work;
/* load: ranks on a node, which may have to share its cores. */
M2_API double m2_machine_call_seconds(const m2_machine *m, const m2_work *work, int load);
/* The larger of what gemm and copy allow. */
M2_API double m2_machine_bound(const m2_machine *m, const m2_cost *cost);
/* bytes: what a rank of the group sends, as the transport counts them. */
M2_API double m2_machine_verb_seconds(const m2_machine *m, m2_verb v, const m2_group *g, double bytes);

/* The line through measured points: t = latency + bytes / bandwidth with the least sum of squared relative errors, neither
 * negative; the points themselves (n <= M2_LINE_POINTS, by bytes) are kept. */
M2_API m2_line m2_line_fit(const double *bytes, const double *seconds, int n);
M2_API double m2_line_seconds(const m2_line *l, double bytes);

#endif
