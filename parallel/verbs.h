/* verbs.h - the verbs of comm.h out of one: an exchange of blocks between all ranks. Private to parallel/.
 *
 * A transport over host memory (threads, mpi) supplies an exchange, a send and a recv of bytes, and gets every verb,
 * staging of GPU memory included. Sums are formed here, element by element in the order of the ranks, so their bits
 * depend neither on the transport nor on how the array is cut into blocks. */
#ifndef M2_PARALLEL_VERBS_H
#define M2_PARALLEL_VERBS_H

#include "parallel/comm.h"

/* What this rank gives to and takes from one other rank (or itself) in an exchange. */
typedef struct m2i_block {
    const char *send;
    int64_t send_bytes;
    char *recv;
    int64_t recv_bytes;
} m2i_block;

/* Supplied by a transport; host memory only. exchange and push add to c->bytes_sent what they give to others, and
 * record failures in wire->failed. */
typedef struct m2i_wire_api {
    m2_status (*exchange)(m2_comm *c, const m2i_block *blocks); /* [size] */
    m2_status (*push)(m2_comm *c, const void *buf, int64_t bytes, int to);
    m2_status (*pull)(m2_comm *c, void *buf, int64_t bytes, int from);
} m2i_wire_api;

/* The first member of such a transport's state. */
typedef struct m2i_wire {
    const m2i_wire_api *api;
    m2_error failed;    /* code M2_OK: works */
    m2i_block *blocks;  /* [size], arguments of the exchange in progress */
    m2i_block *pieces;  /* [size], of its part that is staged now */
    const void **terms; /* [size], arrays being summed */
    char *scratch;      /* one piece from every other rank; piece_bytes + 16 size */
    char *out,
        *in; /* piece_bytes + 16 size each of pinned memory; NULL where the device's memory is the host's */
    int64_t piece_bytes; /* reductions and staged copies are done in pieces of this size */
} m2i_wire;

enum { M2I_SMALL = 2048 }; /* bytes up to which reductions send everything to everyone, in one exchange */

m2_status m2i_wire_open(m2_comm *c, m2i_wire *w,
                        const m2i_wire_api *api) M2_MUST_USE; /* c->size, c->device are set */
void m2i_wire_close(m2_comm *c, m2i_wire *w);
/* Keeps the first failure for all later verbs; returns st. */
m2_status m2i_wire_fail(m2i_wire *w, m2_status st);

/* Entries of m2_comm_api. */
m2_status m2i_all_reduce(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_reduce op,
                         m2_stream *s);
m2_status m2i_all_gather(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_stream *s);
m2_status m2i_reduce_scatter(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t,
                             m2_reduce op, m2_stream *s);
m2_status m2i_all_to_all(m2_comm *c, const void *send, const int64_t *send_count, const int64_t *send_at,
                         void *recv, const int64_t *recv_count, const int64_t *recv_at, m2_dtype t,
                         m2_stream *s);
m2_status m2i_broadcast(m2_comm *c, void *buf, int64_t count, m2_dtype t, int root, m2_stream *s);
m2_status m2i_send(m2_comm *c, const void *buf, int64_t count, m2_dtype t, int to, m2_stream *s);
m2_status m2i_recv(m2_comm *c, void *buf, int64_t count, m2_dtype t, int from, m2_stream *s);
m2_status m2i_check_wire(m2_comm *c); /* also M2_TRANSIENT "failed before: ..." for verbs to begin with */

/* dst[i] = terms[0][i] op terms[1][i] op ... in this order; dst may be one of the terms. M2_BUG: no such reduction. */
m2_status m2i_fold_terms(void *dst, const void *const *terms, int n, int64_t count, m2_dtype t, m2_reduce op);

/* ---- comm_nccl.c ------------------------------------------------------------------------------------------------- */
m2_status m2i_nccl_load(void); /* M2_USAGE: there is no usable NCCL here */
int m2i_nccl_version(void); /* 21803 is 2.18.3; 0: it cannot be loaded */
/* Over the ranks of `host`, a communicator for host memory that is taken over, also on failure. Every rank's device is a GPU
 * of its own. Collective. */
m2_status m2i_comm_open_nccl(m2_comm *host, m2_device *dev, m2_comm **out) M2_MUST_USE;
#endif
