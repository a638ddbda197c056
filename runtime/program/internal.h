/* internal.h - the lists a program is made of, shared by the files of this folder. Private.
 *
 *   build.c     scopes, tensors, calls, parameter table        autodiff.c  the backward region
 *   sequence.c  a sequence cut over ranks
 *   reduce.c    collectives of the gradient            update.c    norm, AdamW, parameters gathered from shards
 *   shard.c     what ZeRO leaves on a rank             memory.c    lifetimes and offsets
 *   pack.c      ZeRO 2: gradients that no rank keeps whole
 *   beside.c    exchanges beside the rest: when               lane.c      and how
 *   bind.c      arenas, calls bound to memory                  execute.c   running what is bound
 *   state.c     reading, writing, initialising                 print.c     the plan as text
 *   profile.c   the time of each call                          transfer.c  inputs in, scalars out, while it runs
 *   trace.c     when each call ran */
#ifndef M2_PROGRAM_INTERNAL_H
#define M2_PROGRAM_INTERNAL_H

#include "runtime/program.h"

/* Whose memory a tensor lives in. The flat arrays (all but the last two) have one layout, m2_param.offset. */
typedef enum m2i_home {
    M2I_MASTER, /* parameters in P, trained ones first, then frozen ones; trained ones only p->whole where M2I_OWN is */
    M2I_COPY,   /* the same in the compute dtype, where that is not P */
    M2I_OWN,    /* ZeRO: this rank's shard of the trained parameters in P, where forward reads copies */
    M2I_GRAD,   /* from here on trained parameters only */
    M2I_M,      /* ZeRO: of this rank's shard, as are the next two */
    M2I_V,
    M2I_GROUPS, /* one byte per M2_GROUP_BLOCK elements */
    M2I_IO,     /* the step's numbers, then the inputs */
    M2I_ACT,
    M2I_HOMES
} m2i_home;

typedef struct m2i_tensor {
    m2_desc desc;
    m2i_home home;
    int64_t at;       /* bytes from the home's base; activations and parameters: set by the plan */
    m2_tid of;        /* a stretch of this other activation, `inside` bytes from its beginning; else M2_NONE */
    int64_t inside;
    int64_t step;     /* matrices with gaps between rows: elements from row to row; else 0 */
    int param;        /* row of the parameter table it is, or is the gradient of; else -1 */
    const char *name; /* of an input or output, else NULL */
    int kept;         /* a named output: alive to the end of the run */
    int lasting;      /* keeps its value between runs: never shares memory */
    m2_tid total;     /* named scalars: their sum over the microbatches */
    m2_tid grad;      /* autodiff: d loss / d this, so far */
    m2_tid clone;     /* autodiff: its recomputed twin */
    int holders;      /* autodiff: of how many forward tensors this still is the gradient */
    m2_tid root;      /* memory: the tensor whose buffer it uses (in place), itself if its own */
    int first, last;  /* memory: calls between which the buffer is alive; first -1: unused */
    int used;         /* the call that uses it last; `last` is later where a call on a lane may not have run by then */
} m2i_tensor;

typedef struct m2i_call {
    const m2_op *op;
    m2_attrs attrs;
    const char *path;
    m2_region region;
    int block;                     /* unit of recomputation; 0 = none */
    int again;                     /* a recomputation of a forward call */
    unsigned acc_first, acc_later; /* outputs that add: in the first microbatch, in later ones */
    uint64_t rng;
    void *context; /* collectives */
    m2_lane lane;  /* beside the rest unless M2_LANE_COMPUTE */
    int beside;    /* exchanges in groups: on their lane; what needs them waits */
    int wait;      /* 1 + the exchange on its lane that must be done before this one; 0: none */
    int wait_sum;    /* 1 + the reduce-scatter on its lane that must be done before this one; 0: none */
    int wait_params; /* 1 + the gather of parameters, of the update before, that must be done; 0: none */
    int once;        /* collectives: run in the last microbatch only */
    m2_tid in[M2_MAX_IN], out[M2_MAX_OUT];
    unsigned reused; /* memory: outputs that took over an input's buffer */
} m2i_call;

/* A run of calls and the collective after it, for each of the four (first, last microbatch) variants. */
typedef struct m2i_segment {
    int begin, end;
    int wait, wait_sum, wait_params; /* as in m2i_call, before it begins */
    int collective; /* that follows, or -1 */
    int runs[4]; /* before it is captured it runs once as plain launches: kernels may set themselves up */
    m2_graph *graph[4];
} m2i_segment;

enum { M2I_MAX_DEPTH = 16, M2I_SLOTS = 4, M2I_POSTS = 2, M2I_POST_SCALARS = 8 };

/* The way in and out while the device works: a ring of pinned copies of the io arena, each reusable when its event has
 * happened, and a few pinned scalars on their way to the host. */
typedef struct m2i_transfer {
    char *slot[M2I_SLOTS];
    m2_event *sent[M2I_SLOTS];
    int used[M2I_SLOTS]; /* its event was recorded */
    int at, open;        /* the slot being filled; whether anything is in it */
    double *post[M2I_POSTS]; /* [M2I_POST_SCALARS], each as the device has it */
    m2_event *posted[M2I_POSTS];
    m2_dtype type[M2I_POSTS][M2I_POST_SCALARS];
    int n[M2I_POSTS];
    int64_t posts, taken; /* so far */
} m2i_transfer;

/* Events around every call; they exist while the program is profiled. */
typedef struct m2i_profile {
    m2_event **from, **to;
    unsigned char *ran; /* since the last reading */
    int64_t *bytes;     /* that the collectives gave to other ranks since then */
} m2i_profile;

/* What bind adds: memory and finished calls. Nothing in here is allocated after it. */
typedef struct m2i_bound {
    m2_device *device;
    m2_stream *stream;
    m2_arena params, grads, optimizer, activations, workspace, io, host;
    char *base[M2I_HOMES];
    m2_call *calls;
    m2_run_fn *run;
    m2_call refresh; /* a cast of master parameters to the compute dtype */
    m2_run_fn refresh_run;
    m2i_segment whole;     /* forward and backward without the collectives */
    m2i_segment *segments; /* the same cut at the collectives, and before calls that wait for the lane */
    int n_segments, exchanges; /* collectives of every microbatch */
    int lent;    /* activations are, to the ranks of a sequence (m2_comm_lend) */
    int gathers; /* of parameters, that the next forward pass begins beside */
    m2_step *step;     /* in the device's memory */
    m2_step last_step; /* its value there */
    int step_known;
    m2i_transfer transfer;
    struct m2i_lane *lane[M2_LANES]; /* NULL: nothing runs there */
    int64_t activations_high, workspace_high;
    m2i_profile *profile; /* NULL: off */
    struct m2i_trace *trace; /* NULL: off */
    struct m2_watch *watch; /* NULL: nothing is recorded */
    int shared; /* the parameters and the stream are another program's */
    struct m2_program *owner; /* that program */
} m2i_bound;

struct m2_program {
    m2_program_spec spec;
    m2_error error; /* sticky */
    m2i_tensor *tensors;
    m2i_call *calls;
    m2_param *params;
    char **strings;
    int n_tensors, n_calls, n_params, n_strings, room_tensors, room_calls, room_params, room_strings;

    char scope[96]; /* "block.3.mixer" */
    struct {
        int length, block; /* of the scope outside */
    } outer[M2I_MAX_DEPTH];
    int depth, block, blocks;
    int inserted; /* calls so far that a whole sequence would not have */

    enum { M2I_BUILDING, M2I_BACKWARD_DONE, M2I_UPDATE_DONE, M2I_PLANNED, M2I_BOUND } stage;
    int has_backward, has_update;
    int64_t trained, flat; /* elements of the flat arrays: trained prefix, all */
    int64_t whole;         /* of the trained prefix, those that M2I_MASTER has */
    m2_sharding sharding;
    m2_shards shards; /* total 0: no reduction */
    m2_tid packed;     /* ZeRO 2: the sum of a bucket that is not in the shard yet, or M2_NONE */
    int packed_bucket; /* which */
    m2_tid node_sums;  /* sums of a node, of one bucket after the other, where reductions go by levels */
    int64_t zeros;    /* ZeRO 2: elements that stay 0, behind the shard of the gradient */
    void *comm;       /* of the reductions */
    const m2_op *all_reduce;

    m2_plan_options options;
    m2_memory_plan memory;
    int64_t lane_scratch; /* bytes of memory.workspace, at its end, that belong to calls on the lane */
    int64_t live_bound; /* largest sum of activations alive at one call: no plan can need less */
    m2i_bound b;
};

/* ---- build.c */
m2_tid m2i_tensor_new(m2_program *p, m2_desc desc, m2i_home home); /* M2_NONE after an error */
/* n elements of an activation of gradients' type, from element `from` on. */
m2_tid m2i_stretch(m2_program *p, m2_tid of, int64_t from, int64_t n);
/* Appends a call whose tensors exist already; in and out have n_in and n_out slots. NULL after an error. The pointer
 * is valid until the next call is appended. */
m2i_call *m2i_call_new(m2_program *p, const char *path, const m2_op *op, const m2_attrs *attrs,
                       m2_region region, const m2_tid *in, const m2_tid *out);
/* A forward call with checked inputs: makes its outputs. Returns out[0]. */
m2_tid m2i_append(m2_program *p, const char *path, const m2_op *op, const m2_attrs *attrs, const m2_tid *in, m2_tid *out);
/* to (+)= from, in to's dtype. */
void m2i_call_accumulate(m2_program *p, const char *path, m2_region region, m2_tid from, m2_tid to,
                         int add_first, int add_later);
int m2i_grow(m2_program *p, void *array, int n, int *room, size_t size); /* 0 and an error if memory is out */
void m2i_layout_params(m2_program *p);                                   /* offsets; trained and flat */
/* A slice [from, from + n) of a flat array, in elements. */
m2_tid m2i_flat_slice(m2_program *p, m2i_home home, int64_t from, int64_t n);
/* in: M2_MAX_IN descriptors, out: M2_MAX_OUT, absent slots with rank -1. */
void m2i_call_descs(const m2_program *p, const m2i_call *c, m2_desc *in, m2_desc *out);
m2_cost m2i_call_cost(const m2_program *p, const m2i_call *c);
int64_t m2i_call_workspace(const m2_program *p, const m2i_call *c, int threads, m2_device *dev);

static inline m2i_tensor *m2i_at(const m2_program *p, m2_tid t)
{
    return &p->tensors[t];
}

/* ---- shard.c */
int m2i_sharded(const m2_program *p);         /* ZeRO 1 or 2 on more than one rank */
int m2i_master_is_sharded(const m2_program *p); /* there is M2I_OWN */
int64_t m2i_home_count(const m2_program *p, m2i_home home); /* elements of a flat array on this rank; 0: it has none */
int m2i_in_shards(const m2_program *p, m2i_home home); /* this rank has only its shard of that flat array */
m2_dtype m2i_home_dtype(const m2_program *p, m2i_home home);
/* This rank's pieces of a flat array, one per row; or all of it where it is not in shards. */
m2_tid m2i_own(m2_program *p, m2i_home home);

/* ---- pack.c */
void m2i_pack_gradients(m2_program *p);        /* before the first bucket is reduced */
void m2i_append_packed(m2_program *p, int b); /* reduces bucket b; and the bucket before, into this rank's shard */
void m2i_flush_packed(m2_program *p);         /* the last one */

/* ---- update.c */
/* Runs the all-gathers of the update region. */
m2_status m2i_gather_params(m2_program *p);

/* ---- reduce.c */
void m2i_append_collective(m2_program *p, const m2_op *op, m2_region region, m2_tid from, m2_tid to, const char *path);

/* ---- profile.c */
/* Runs bound call i on `stream`, between events while the program is profiled. */
m2_status m2i_run_call(m2_program *p, int i, m2_stream *stream);
void m2i_profile_end(m2_program *p); /* accepts a program that is not profiled */

/* ---- trace.c */
typedef struct m2i_trace m2i_trace;
m2_status m2i_trace_call(m2_program *p, int i, m2_stream *stream); /* runs bound call i and marks when */
void m2i_trace_end(m2_program *p);                                 /* accepts a program that is not traced */

/* ---- sequence.c */
int m2i_cut_applies(const m2_program *p, const m2_op *op);
/* As m2i_append, for a call that looks at other ranks' tokens. */
m2_tid m2i_append_cut(m2_program *p, const char *path, const m2_op *op, const m2_attrs *attrs, const m2_tid *in,
                      m2_tid *out);

/* ---- beside.c: which collectives run beside the rest, from where, until when */
void m2i_plan_lanes(m2_program *p);    /* marks them, moves exchanges up to what they read, finds who waits */
void m2i_hold_beside(m2_program *p);   /* after lifetimes are known: what they touch lives until somebody waited */
void m2i_plan_workspace(m2_program *p, int threads, m2_device *dev);

/* ---- lane.c: running them */
m2_status m2i_lanes_open(m2_program *p); /* those that have calls */
void m2i_lanes_close(m2_program *p);     /* ends their threads, after what was posted */
m2_status m2i_lane_post(m2_program *p, int i);
m2_status m2i_lane_wait(m2_program *p, int i); /* until call i, posted before, is done for the program's stream */
m2_status m2i_lane_drain(m2_program *p, m2_lane lane); /* the same for all that was posted there */
m2_stream *m2i_lane_stream(const m2_program *p, m2_lane lane);

/* ---- bind.c */
void m2i_unbind(m2_program *p); /* frees everything bind made */

/* ---- transfer.c */
m2_status m2i_transfer_open(m2_program *p);
void m2i_transfer_close(m2_program *p);
/* Copies `bytes` to offset `at` of the io arena behind the work so far; `from` may be used again at once. */
m2_status m2i_feed(m2_program *p, int64_t at, const void *from, int64_t bytes);
m2_status m2i_feed_step(m2_program *p, const m2_step *step);
m2_status m2i_fed(m2_program *p); /* what was sent belongs to the run that starts now */
#endif
