/* comm.h - ranks that talk: nine verbs over four transports (self, threads, mpi, nccl).
 *
 * Every verb but the queries is collective over the communicator's ranks (send/recv: over the pair), is enqueued on
 * `stream` (NULL = device default; CPU transports are done on return), takes 64-bit element counts, and must be called
 * in the same order by all ranks. Buffers are device memory of `device` (host memory on the CPU). One thread uses a
 * communicator at a time.
 * Reductions are deterministic: the result has the same bits on every rank and depends only on rank count and inputs (with
 * NCCL also on how the GPUs are connected; it rounds bf16 sums in every hop, and a maximum passes over NaN).
 * A failed or aborted communicator returns M2_TRANSIENT from every later verb. */
#ifndef M2_COMM_H
#define M2_COMM_H

#include "kernels/base/device.h"

typedef struct m2_comm m2_comm;
typedef enum m2_reduce { M2_SUM, M2_MAX, M2_MIN } m2_reduce;

typedef struct m2_comm_api {
    const char *kind; /* "self" | "threads" | "mpi" | "nccl" */
    /* all_gather: recv holds size*count; reduce_scatter: send holds size*count, each rank gets block `rank`.
     * In place: all_reduce send == recv, all_gather send == recv + rank*count, reduce_scatter recv == send + rank*count.
     * Reductions take f32, f64, bf16 (summed in f32), i32, i64 and u8 (max/min only); the other verbs every dtype. */
    m2_status (*all_reduce)(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_reduce op, m2_stream *s);
    m2_status (*all_gather)(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_stream *s);
    m2_status (*reduce_scatter)(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_reduce op,
                                m2_stream *s);
    /* Block r of send (send_count[r] elements from send_at[r]) goes to rank r, which puts it at recv_at[me]. Elements.
     * Not in place, except a rank's block for itself. */
    m2_status (*all_to_all)(m2_comm *c, const void *send, const int64_t *send_count, const int64_t *send_at, void *recv,
                            const int64_t *recv_count, const int64_t *recv_at, m2_dtype t, m2_stream *s);
    m2_status (*broadcast)(m2_comm *c, void *buf, int64_t count, m2_dtype t, int root, m2_stream *s);
    /* A send may wait for its recv: both ways between two ranks at once is an all_to_all. */
    m2_status (*send)(m2_comm *c, const void *buf, int64_t count, m2_dtype t, int to, m2_stream *s);
    m2_status (*recv)(m2_comm *c, void *buf, int64_t count, m2_dtype t, int from, m2_stream *s);
    m2_status (*barrier)(m2_comm *c);
    /* Ranks with the same colour form a new communicator, ordered by (key, rank). Caller closes it. */
    m2_status (*split)(m2_comm *c, int colour, int key, m2_comm **out);
    m2_status (*check)(m2_comm *c); /* asynchronous errors so far; not collective, never blocks */
    /* Ends the job because of `why` (this thread's m2_message): every rank's verbs, in this and all communicators of the
     * job, fail soon. Not collective. With MPI it ends the processes, with `why` as exit code, and does not return. */
    void (*abort)(m2_comm *c, m2_status why);
    void (*close)(m2_comm *c);
} m2_comm_api;

struct m2_comm {
    const m2_comm_api *api;
    int rank, size;
    int local_rank, local_size; /* among the ranks of this node */
    m2_device *device;          /* whose memory the verbs take; NULL = host memory */
    m2_comm *host; /* the same ranks for host memory (flags, metrics, agreement), by another thread than this one too where it
                    * is not itself: threads, self */
    int patient;                /* 1: who waits in a verb leaves the core to others meanwhile (transport mpi) */
    int64_t bytes_sent;         /* payload this rank gave to other ranks so far, as counted by the transport */
    struct m2_peers *peers;     /* memory lent among its ranks (m2_comm_lend); NULL = none */
    struct m2_levels *levels;   /* its ranks by node (levels.h); NULL = not */
    struct m2_watch *watch; /* records the collectives (watch.h); NULL = none */
    void *state;
};

#ifdef __cplusplus
extern "C" {
#endif

/* A failure that the ranks did not agree on must reach abort before close: the others may be waiting in a verb. */

/* One rank: verbs copy. */
M2_API m2_status m2_comm_open_self(m2_device *dev, m2_comm **out) M2_MUST_USE;
/* `size` ranks as threads of this process; out[size] are their handles, each used by one thread. */
M2_API m2_status m2_comm_open_threads(int size, m2_comm **out) M2_MUST_USE;
/* The whole job. MPI is initialised here and finalised when the last such communicator closes. A device other than the
 * CPU is staged through pinned host memory. */
M2_API m2_status m2_comm_open_mpi(m2_device *dev, m2_comm **out) M2_MUST_USE;
/* By name: "self", "mpi", "nccl" or "auto" (mpi when started by mpirun or srun with more than one rank, nccl there if
 * every rank has its own GPU, else self; the choice and its reason are logged). Collective. */
M2_API m2_status m2_comm_open(const char *transport, m2_device *dev, m2_comm **out) M2_MUST_USE;
M2_API void m2_comm_close(m2_comm **c); /* collective for mpi and nccl; accepts NULL; nulls */
/* Which rank of how many this process is, before any communicator exists (from the launcher's environment). */
M2_API void m2_comm_launcher(int *rank, int *size, int *local_rank, int *local_size);

/* "Open MPI v4.1.4, NCCL 2.18.3": what there is to talk with. */
M2_API const char *m2_comm_library(void);

/* Agreement over c->host: returns the failure of the lowest failing rank on all ranks (its message, with the rank), else
 * M2_OK. Collective. */
M2_API m2_status m2_comm_agree(m2_comm *c, m2_status mine) M2_MUST_USE;

/* The even all_to_all: `count` elements for every rank and from every rank, blocks in the order of ranks. */
M2_API m2_status m2_comm_swap(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_stream *s) M2_MUST_USE;
/* The same where blocks of `count` begin send_step and recv_step elements apart. */
M2_API m2_status m2_comm_swap_apart(m2_comm *c, const void *send, int64_t send_step, void *recv, int64_t recv_step,
                                    int64_t count, m2_dtype t, m2_stream *s) M2_MUST_USE;
/* Lends [base, base + bytes), memory from the device's alloc, to the other ranks: from then on such even exchanges into it are
 * copies by the GPUs' copy engines, which take no processor from what runs beside. Works among GPUs of one host, one per rank,
 * that can reach each other's memory; elsewhere nothing changes, and the reason is logged (info). `places`: a number that ranks
 * whose buffers have the same places in it have in common. *lent: 1 where it worked, the same on every rank. Collective, as is
 * taking back, which must come before the memory is freed. */
M2_API m2_status m2_comm_lend(m2_comm *c, void *base, int64_t bytes, uint64_t places, int *lent) M2_MUST_USE;
M2_API m2_status m2_comm_take_back(m2_comm *c, void *base) M2_MUST_USE;
/* Every rank gives `count` elements to rank + by, where that exists: recv keeps its content on ranks without a giver. */
M2_API m2_status m2_comm_shift(m2_comm *c, int by, const void *send, void *recv, int64_t count, m2_dtype t,
                               m2_stream *s) M2_MUST_USE;
/* The same around the end: rank + by modulo the ranks. */
M2_API m2_status m2_comm_rotate(m2_comm *c, int by, const void *send, void *recv, int64_t count, m2_dtype t,
                                m2_stream *s) M2_MUST_USE;
/* CPU threads this rank may use: its cores divided by the ranks of this node that are bound to the same ones. Collective. */
M2_API m2_status m2_comm_cores(m2_comm *c, int *cores) M2_MUST_USE;

/* Ranks that use the same GPU as this one's device, itself included; 1 on the CPU. Collective. */
M2_API m2_status m2_comm_sharers(m2_comm *c, const m2_device *dev, int *sharers) M2_MUST_USE;

/* What bytes_sent grows by: pure, so plans predict with them. A broadcast's root is `root`, `rank` the sender asked for. */
M2_API int64_t m2_comm_bytes_all_reduce(int64_t count, m2_dtype t, int rank, int size);
M2_API int64_t m2_comm_bytes_all_gather(int64_t count, m2_dtype t, int size); /* count as in the verb: of one rank */
M2_API int64_t m2_comm_bytes_reduce_scatter(int64_t count, m2_dtype t, int size);
M2_API int64_t m2_comm_bytes_broadcast(int64_t count, m2_dtype t, int rank, int root, int size);

/* Collectives as ops, so that plans can hold them: context = m2_comm. Dense tensors, sums. More: exchange.h, reshard.h. */
enum { M2_COLLECTIVE_RANKS = 0 }; /* attribute of reduce_scatter and all_gather */
enum { M2_COLLECTIVE_PER_NODE = 1 }; /* of all three; > 1: by levels of so many ranks, whose blocks lie in another order */
extern M2_API const struct m2_op m2_op_all_reduce;     /* in place: in[0] is out[0] */
extern M2_API const struct m2_op m2_op_reduce_scatter; /* x (RANKS n) -> y (n), [inside]; y may be x's own block */
extern M2_API const struct m2_op m2_op_all_gather;     /* x (n) -> y (RANKS n); x may be y's own block */
/* Bytes that `rank` of `ranks` gives to others in a call of any collective op, as the transport counts them; in[] and out[]
 * as in op.h. 0 for an op without communication. */
M2_API int64_t m2_collective_bytes(const struct m2_op *op, const struct m2_attrs *attrs, const m2_desc *in,
                                   const m2_desc *out, int rank, int ranks);

#ifdef __cplusplus
}
#endif
#endif
