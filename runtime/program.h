/* program.h - a model's step as a flat list of op calls, and the plans made on that list.
 *
 * Life of a program:  new -> (inputs, params, calls) -> backward -> update -> plan -> bind -> run, run, run -> free.
 * Everything before bind is pure: no device, no memory for data, no MPI; a 64-GPU plan can be made on a laptop.
 *
 * Building uses a sticky error: after the first failure every builder call returns M2_NONE and does nothing;
 * m2_program_plan (or m2_program_error) reports it. So a model file is a straight list of calls. Shapes are *local*
 * shapes of this rank; `spec` says how big the whole batch is.
 *
 * Gradient tensors accumulate statically: the first writer in the list overwrites, later ones add; parameter gradients'
 * first writers add too from the second microbatch of a step on. */
#ifndef M2_PROGRAM_H
#define M2_PROGRAM_H

#include "kernels/base/arena.h"
#include "kernels/ops.h"
#include "parallel/columns.h"
#include "parallel/shard.h"
#include <stdio.h>

typedef int32_t m2_tid; /* a tensor of one program */
enum { M2_NONE = -1 };
typedef struct m2_program m2_program;

typedef enum m2_mode { M2_MODE_TRAIN, M2_MODE_EVAL } m2_mode; /* EVAL: no dropout, no backward, no gradients */

typedef enum m2_precision { M2_PREC_F32, M2_PREC_F64, M2_PREC_TF32, M2_PREC_BF16 } m2_precision;

/* A sequence that is cut over ranks: rank r holds positions [r * length, (r + 1) * length), or some columns of the sequence
 * as a matrix, for the Monarch exchange (parallel/columns.h). The builder puts the collectives
 * around the calls that look beyond a token (runtime/program/sequence.c); models do not notice. */
typedef struct m2_sequence_cut {
    int ranks, rank; /* ranks 0 or 1: whole */
    void *context;   /* of its collectives: the sequence axis' m2_comm */
    int groups;         /* of channels, exchanged beside the convolution of others; 0 or 1: nothing runs beside */
    m2_columns columns; /* width 0: consecutive positions, channel exchange */
} m2_sequence_cut;

/* The numbers every builder needs. */
typedef struct m2_program_spec {
    m2_mode mode;
    m2_precision precision;
    int64_t rows;       /* B: batch rows of one microbatch on this rank */
    int64_t rows_whole; /* rows of the whole global batch of a step (all ranks, all microbatches) */
    int64_t length;     /* L: positions on this rank */
    m2_sequence_cut sequence;
} m2_program_spec;

/* ---- parameters -------------------------------------------------------------------------------------------------- */
typedef enum m2_init_kind {
    M2_INIT_ZERO,
    M2_INIT_CONST,   /* a */
    M2_INIT_NORMAL,  /* mean 0, std a; element e of the row: m2_rng_normal(key(seed, 0, hash(name)), e) */
    M2_INIT_UNIFORM, /* in (-a, a) */
    M2_INIT_POSEMB   /* SPEC 3.3 positional features, dims (L, emb); a = L_max; not random */
} m2_init_kind;

enum {
    M2_PARAM_PRECISE = 1, /* kept in f32 where the compute dtype is bf16 (P of kernels/ops.h) */
    M2_PARAM_FROZEN = 2,  /* a buffer: saved with the model, not counted, not trained */
    M2_PARAM_ALIKE = 4    /* starts with the same values in every block: "block.N." of its name does not count */
};

typedef struct m2_param {
    char name[96]; /* "block.3.mixer.in.weight": the key in checkpoints */
    int rank;
    int64_t dims[M2_MAX_RANK];
    char axis[M2_MAX_RANK];
    m2_init_kind init;
    double init_a;
    int64_t pad_row; /* row set to zero at initialisation, or -1 */
    int group;       /* optimizer group, index into m2_step.group */
    unsigned flags;
    /* filled by the program */
    int64_t offset;   /* elements, in the flat arenas; a multiple of M2_GROUP_BLOCK */
    m2_tid tid, grad; /* grad M2_NONE when frozen or unused */
} m2_param;

/* ---- building ---------------------------------------------------------------------------------------------------- */
M2_API m2_program *m2_program_new(const m2_program_spec *spec); /* copies spec; NULL when memory is out */
M2_API void m2_program_free(m2_program **p);                    /* accepts NULL; nulls */
M2_API const m2_program_spec *m2_program_spec_of(const m2_program *p);
M2_API int64_t m2_program_length(const m2_program *p); /* positions of the whole sequence, on all ranks */
M2_API m2_dtype m2_program_compute_dtype(const m2_program *p); /* T of kernels/ops.h */
M2_API m2_dtype m2_program_precise_dtype(const m2_program *p); /* P */

/* Names inside scopes are joined by '.': push "block.3", push "mixer", call "conv" -> path block.3.mixer.conv.
 * A scope pushed with m2_program_push_block is also a unit of recomputation. */
M2_API void m2_program_push(m2_program *p, const char *fmt, ...) M2_PRINTF(2, 3);
M2_API void m2_program_push_block(m2_program *p, const char *fmt, ...) M2_PRINTF(2, 3);
M2_API void m2_program_pop(m2_program *p);

M2_API m2_tid m2_program_input(m2_program *p, const char *name, m2_desc desc); /* filled by the caller before each run */
/* Declares (name is prefixed by the scopes) or, if the full name exists already, returns the same tensor: tying. */
M2_API m2_tid m2_program_param(m2_program *p, m2_param row);
/* Appends a call; in: op->n_in slots (M2_NONE = absent), out: op->n_out slots filled (M2_NONE where the op gives none).
 * Returns out[0]. attrs NULL = zeros. */
M2_API m2_tid m2_program_call(m2_program *p, const char *name, const m2_op *op, const m2_attrs *attrs, const m2_tid *in,
                              m2_tid *out);
M2_API m2_desc m2_program_desc(const m2_program *p, m2_tid t); /* rank -1 for M2_NONE */
/* Names a tensor so that m2_program_find gets it after planning; it then stays alive to the end of the run. A float
 * scalar of the forward region (a loss, a count) adds up over the microbatches of a step: the first overwrites. */
M2_API void m2_program_output(m2_program *p, const char *name, m2_tid t);
M2_API m2_tid m2_program_find(const m2_program *p, const char *name); /* input or output by name, or M2_NONE */
M2_API m2_status m2_program_error(const m2_program *p) M2_MUST_USE;
/* Builder code reports its own problems here (sticky): m2_program_reject(p, m2_fail(...)). Returns M2_NONE. */
M2_API m2_tid m2_program_reject(m2_program *p, m2_status st);

/* Thin helpers for models: one line per layer. Parameter names are `name`.weight / `name`.bias. */
M2_API m2_tid m2_build_unary(m2_program *p, const char *name, const m2_op *op, const m2_attrs *attrs, m2_tid x);
M2_API m2_tid m2_build_binary(m2_program *p, const char *name, const m2_op *op, const m2_attrs *attrs, m2_tid a, m2_tid b);

/* ---- gradient, optimizer ----------------------------------------------------------------------------------------- */
typedef struct m2_recompute {
    enum { M2_RECOMPUTE_NONE, M2_RECOMPUTE_BLOCK } policy; /* BLOCK: keep only what enters each push_block scope */
} m2_recompute;

/* Appends the backward region for d(loss)/d(parameters). Once, in TRAIN mode, after the last forward call. */
M2_API void m2_program_backward(m2_program *p, m2_tid loss, const m2_recompute *recompute);

/* Appends the update region: squared gradient norm, then AdamW over the flat shard (kernels/ops.h adam). Between
 * backward and update the planner puts the data-parallel collectives (m2_program_reduce). The norm is output "norm2". */
typedef struct m2_update_spec {
    double beta1, beta2, eps;
    int decay; /* M2_DECAY_COUPLED | M2_DECAY_FREE */
} m2_update_spec;
M2_API void m2_program_update(m2_program *p, const m2_update_spec *spec);

/* ZeRO: ranks share what every one of them would otherwise have whole. Stage 1: moments, groups and, where parameters have
 * copies in the compute dtype, master parameters are kept in shards (parallel/shard.h); gradients are reduce-scattered and
 * updated parameters all-gathered. Stage 2: reduced gradients too. Ranks: those of m2_program_reduce's communicator,
 * before which this is called. Without it: stage 0, on one rank. */
typedef struct m2_sharding {
    int stage, ranks, rank;
    int per_node; /* > 1: flat arrays go by levels of so many ranks (parallel/levels.h), which the communicator has */
    const m2_op *reduce_scatter, *all_gather; /* collectives from parallel/ */
} m2_sharding;
M2_API void m2_program_shard(m2_program *p, const m2_sharding *s);

/* Appends sum-all-reduces of the flat gradient in buckets of about bucket_bytes, each placed right after the last
 * writer of its parameters, active only in the last microbatch of a step, plus one for each tensor in `scalars`
 * (n of them, e.g. the loss). op is a collective from parallel/ (in-place sum over context). Call before update; in an
 * EVAL program, last: only the scalars. */
M2_API void m2_program_reduce(m2_program *p, const m2_op *all_reduce, void *context, int64_t bucket_bytes,
                              const m2_tid *scalars, int n);

/* ---- planning ---------------------------------------------------------------------------------------------------- */
typedef struct m2_plan_options {
    int naive;    /* every tensor its own buffer, no in-place, no reuse, no graph: the oracle */
    int threads;  /* CPU threads of the device, for workspace sizes */
    int no_graph; /* plain launches even where the device can capture graphs */
    int no_peers; /* exchanges of sequences by the transport, even where GPUs can copy into each other's memory */
    m2_device *device; /* whose kernels' scratch to plan for; NULL: the CPU's */
} m2_plan_options;
M2_API m2_status m2_program_plan(m2_program *p, const m2_plan_options *opt) M2_MUST_USE;

/* Bytes by lifetime as planned; equal to the arenas' high-water marks after a run, exactly. Before bind, workspace is
 * what the kernels of options.device need; bind puts the device's own figure there. io is in the device's memory too. */
typedef struct m2_memory_plan {
    int64_t params, grads, optimizer, activations, workspace, io;
} m2_memory_plan;
M2_API m2_memory_plan m2_program_memory(const m2_program *p);
M2_API m2_memory_plan m2_program_memory_used(const m2_program *p); /* high-water marks, after bind and run */

typedef enum m2_region { M2_FORWARD = 1, M2_BACKWARD = 2, M2_UPDATE = 4 } m2_region;
/* Sums the costs of calls in a mask of regions (recomputation counts as backward). */
M2_API m2_cost m2_program_cost(const m2_program *p, unsigned regions);
/* FLOPs of the forward and backward of one microbatch that the model asks for, recomputation left out: MFU's numerator. */
M2_API double m2_program_model_flops(const m2_program *p);
M2_API int64_t m2_program_param_count(const m2_program *p); /* trained elements, tied ones once */
M2_API int m2_program_params(const m2_program *p, const m2_param **rows); /* table; returns its length */
/* Elements of the flat arrays, padding included: all parameters ("param"), and the trained ones, which come first
 * ("grad", "m", "v" have only these). Offsets and counts are known from m2_program_backward or m2_program_plan on. */
M2_API int64_t m2_program_flat_count(const m2_program *p);
M2_API int64_t m2_program_flat_trained(const m2_program *p);
M2_API void m2_program_print(const m2_program *p, FILE *out); /* one line per call: readable, diffable */

/* ---- running ----------------------------------------------------------------------------------------------------- */
/* Allocates every arena on the device (not owned), resolves kernels and sets device->tf32. After this nothing allocates. */
M2_API m2_status m2_program_bind(m2_program *p, m2_device *dev) M2_MUST_USE;
/* An EVAL program that uses the parameters of a bound TRAIN program with the same table, instead of its own. */
M2_API m2_status m2_program_bind_shared(m2_program *p, m2_program *owner) M2_MUST_USE;
/* Where the master is in shards, m2_program_params_changed must follow. */
M2_API m2_status m2_program_init_params(m2_program *p, uint64_t seed) M2_MUST_USE;

M2_API m2_tensor m2_program_tensor(const m2_program *p, m2_tid t); /* device memory; valid after bind */
/* Copies all of a tensor from or to host memory, in its own dtype; synchronous, except that inputs are written behind the
 * work so far (`host` may be used again at once; waits only when the device is several runs behind). Inputs, parameters,
 * their gradients and outputs; other activations only in a naive plan (M2_USAGE else: their memory is reused). Where
 * parameters have copies in the compute dtype, writing one is refused: write its master (m2_program_flat). */
M2_API m2_status m2_program_read(m2_program *p, m2_tid t, void *host) M2_MUST_USE;
M2_API m2_status m2_program_write(m2_program *p, m2_tid t, const void *host) M2_MUST_USE;
/* Float scalars without stopping the device: post copies t[0..n) (at most 8) to the host behind the work so far; take gives
 * the oldest post not taken yet, as doubles, waiting for it if it must. Two posts can be outstanding. */
M2_API m2_status m2_program_post(m2_program *p, const m2_tid *t, int n) M2_MUST_USE;
M2_API m2_status m2_program_take(m2_program *p, double *values) M2_MUST_USE;
/* Flat training state, in elements of the master dtype P: which = "param" | "m" | "v" | "grad"; device pointer. */
M2_API m2_status m2_program_flat(m2_program *p, const char *which, void **base, m2_dtype *dtype) M2_MUST_USE;
/* The same where it may be in shards: shards NULL = whole; else base is that of shard `shard`, and rest (of "param") has
 * what is not in the table, the frozen parameters, from flat element shards->total on. */
typedef struct m2_part {
    void *base, *rest;
    m2_dtype dtype;
    const m2_shards *shards;
    int shard;
} m2_part;
M2_API m2_status m2_program_part(m2_program *p, const char *which, m2_part *out) M2_MUST_USE;
/* After writing master parameters directly (load, tests): refreshes the compute-dtype copies. Collective where the master
 * is in shards. */
M2_API m2_status m2_program_params_changed(m2_program *p) M2_MUST_USE;

/* Runs forward and (TRAIN) backward of microbatch `micro` of `micros`; inputs were written before. Asynchronous on a
 * GPU. The reductions run when micro == micros - 1. step: host values, copied to the device. */
M2_API m2_status m2_program_run(m2_program *p, const m2_step *step, int micro, int micros) M2_MUST_USE;
/* Parameters may still be on their way from other ranks when this returns, over the communicator of m2_program_reduce: it is
 * free for others (its host's always is) after m2_program_sync, or the next run. */
M2_API m2_status m2_program_run_update(m2_program *p, const m2_step *step) M2_MUST_USE;
M2_API m2_status m2_program_sync(m2_program *p) M2_MUST_USE;

typedef struct m2_call_info {
    const char *path;
    const m2_op *op;
    m2_region region;
    int again; /* a recomputation of a forward call */
    m2_cost cost;
    m2_attrs attrs;
    m2_desc in[M2_MAX_IN], out[M2_MAX_OUT];
    const void *context;                  /* of a collective: its m2_comm; else NULL */
    int beside;                           /* 1: an exchange that calls behind it need not wait for */
    int wait;                             /* 1 + the call `beside` that must be done before this one; 0: none */
    int once;                             /* 1: runs in the last microbatch of a step only */
    int lane;                             /* m2_lane that it runs on */
    int wait_sum;                         /* 1 + the reduce-scatter that must be done before this one (ZeRO 2); 0: none */
    int wait_params;                      /* 1 + the gather of parameters, of the update before, that must be done; 0: none */
} m2_call_info;
struct m2_watch;
/* Every call launched from now on is recorded there (parallel/watch.h); NULL: no more. */
M2_API void m2_program_watch(m2_program *p, struct m2_watch *w);
M2_API int m2_program_calls(const m2_program *p);
M2_API m2_call_info m2_program_call_info(const m2_program *p, int i);
/* Per-call timing: on = 1 puts events around every call from the next run on (plain launches instead of graphs; results
 * stay the same), 0 takes them away. Without it, running costs nothing more. Not while something runs. */
M2_API m2_status m2_program_profile(m2_program *p, int on) M2_MUST_USE;
/* Waits, then adds to seconds[] (m2_program_calls of them) the time of the newest run of each call since the last reading. A
 * collective's includes waiting for the other ranks. */
M2_API m2_status m2_program_profile_read(m2_program *p, double *seconds) M2_MUST_USE;
/* Adds to bytes[] (m2_program_calls of them) what each collective gave to other ranks since the last reading, as its transport
 * counted it; 0 for other calls. */
M2_API m2_status m2_program_profile_bytes(m2_program *p, int64_t *bytes) M2_MUST_USE;

/* A timeline: from the next run on, when each call begins and ends on the lane that does it (plain launches instead of graphs;
 * lanes go on beside each other, results stay the same). 0 takes it away; without it, running costs nothing more. */
typedef enum m2_lane { M2_LANE_COMPUTE, M2_LANE_EXCHANGE, M2_LANE_REDUCE, M2_LANES } m2_lane;
typedef struct m2_traced {
    int call; /* of the program */
    m2_lane lane;
    double from, to;      /* on the device */
    double entered, left; /* by the host's thread that launched it. All in seconds since the trace began */
    int64_t bytes;        /* that a collective gave to other ranks */
} m2_traced;
typedef struct m2_traces {
    double began; /* seconds since 1970 */
    int n;
    m2_traced *run; /* [n] lane by lane, in the order in which they ran */
} m2_traces;
M2_API m2_status m2_program_trace(m2_program *p, int on) M2_MUST_USE;
/* Waits, then takes what ran since the trace began or was read. The caller frees out->run. */
M2_API m2_status m2_program_trace_read(m2_program *p, m2_traces *out) M2_MUST_USE;

#endif
