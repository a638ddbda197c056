/* op.h - an operation: a const descriptor with its shape rule, cost, gradient rule and CPU kernel.
 *
 * A program is a list of calls of these. Nothing here launches anything by itself: the gradient rule is data (which
 * op computes the gradient and what it reads), so autodiff is one loop over the list (runtime/program/autodiff.c).
 *
 * Gradient rule. If op `f` has .grad = `g`, the call of g takes, in this order and always in these slots,
 *     the inputs of f in mask grad_in, the outputs of f in mask grad_out, the gradients of f's outputs in mask diff_out
 * (outputs in mask `spare` too are absent unless another call's gradient reads them, so that they are kept for it anyway)
 * and produces the gradients of f's inputs in mask diff_in, in order. An output whose gradient nobody wants is absent
 * (data == NULL) and must be skipped; an absent input gradient means zero. g gets f's attributes and f's rng id.
 *
 * Inputs in mask `passes` receive the gradient of out[0] itself (add, cast): no call, or one `cast` if dtypes differ.
 *
 * Accumulation. call->acc bit j set: out[j] += result, clear: out[j] = result. Only outputs in mask `acc` of the
 * descriptor are ever asked to accumulate; for others autodiff goes through a temporary and an accumulating `cast`.
 *
 * In place. inplace[j] = i permits (not obliges) out[j] to share memory with in[i] when in[i] dies at this call;
 * 1-based, 0 = never, so that omitted means never. `updates` mask: in[i] IS out[j] by contract (optimizer state). */
#ifndef M2_OP_H
#define M2_OP_H

#include "kernels/base/device.h"

enum { M2_MAX_IN = 8, M2_MAX_OUT = 6, M2_MAX_ATTR_I = 8, M2_MAX_ATTR_F = 4 };

/* Attributes of a call: meaning per op in kernels/ops.h, names for printing in the descriptor. */
typedef struct m2_attrs {
    int64_t i[M2_MAX_ATTR_I];
    double f[M2_MAX_ATTR_F];
} m2_attrs;

typedef struct m2_cost {
    double flops; /* 2 per multiply-add, of the algorithm actually used */
    double bytes; /* memory that must move: each input read once, each output written once */
} m2_cost;

enum { M2_MAX_GROUPS = 8 };

/* What changes from step to step. Lives in device memory (and a host twin), read by kernels: a captured graph stays
 * valid. Written by the trainer before a step, row0 before each microbatch. */
typedef struct m2_step {
    uint64_t seed;
    int64_t step;     /* 1 for the first optimizer step */
    int64_t row0;     /* global batch row of this rank's first row in this microbatch (key of dropout) */
    double lr;        /* scheduled learning rate of this step */
    double lr_peak;   /* for weight decay decoupled from the schedule */
    double clip;      /* maximal global gradient norm; 0 = off */
    double outlier;   /* skip the update if the norm exceeds this; 0 = off. Non-finite norms always skip */
    struct {
        double lr_scale, weight_decay;
    } group[M2_MAX_GROUPS];
} m2_step;

/* One call, bound to memory: everything a kernel may look at. */
typedef struct m2_call {
    const struct m2_op *op;
    m2_attrs attrs;
    int n_in, n_out;
    m2_tensor in[M2_MAX_IN], out[M2_MAX_OUT]; /* absent ones have data == NULL */
    unsigned acc;                             /* bit j: out[j] += */
    uint64_t rng;                             /* stream id for randomness: same in forward, recompute, backward */
    void *workspace;                          /* 256-byte aligned, op->workspace bytes, contents undefined */
    int64_t workspace_bytes;
    const m2_step *step; /* in the device's memory; NULL where no step exists (op tests of ops that read none) */
    void *context;       /* collectives: their m2_comm. NULL for kernels */
    m2_device *device;
    m2_stream *stream;
} m2_call;

/* One of the ways an op can run a call: what it does, in words, and the time that the op's cost model expects of it. */
typedef struct m2_variant {
    char name[48];
    double seconds;
} m2_variant;

typedef struct m2_op {
    const char *name;
    int id;                                        /* M2_OP_x for ops of ops.def, -1 for collectives */
    int n_in, n_out;                               /* slots, optional ones included */
    unsigned optional;                             /* mask of inputs that may be absent */
    const char *in_name[M2_MAX_IN], *out_name[M2_MAX_OUT];
    const char *attr_i[M2_MAX_ATTR_I], *attr_f[M2_MAX_ATTR_F]; /* names for printing; NULL ends */

    /* in[] and out[] below are always M2_MAX_IN and M2_MAX_OUT long, absent slots with rank -1.
     * Fills out[] (rank -1 for outputs that do not exist with these attributes) from in[]. A wrong input is M2_USAGE
     * with the numbers. NULL for gradient ops: autodiff knows their outputs' shapes. */
    m2_status (*shape)(const m2_attrs *attrs, const m2_desc *in, m2_desc *out);
    void (*cost)(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost);
    /* Bytes of scratch a call needs with `threads` CPU threads; NULL = none. A GPU backend has its own query. */
    int64_t (*workspace)(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads);
    /* The ways in which a call can run with `threads` CPU threads, at most `most`, returned how many; NULL: one. Attribute
     * "variant" = 1 + i takes list[i], 0 the one that the cost model expects to be the fastest. For measuring: results
     * differ by rounding only. A GPU backend has its own query. */
    int (*variants)(const m2_attrs *attrs, const m2_desc *in, int threads, m2_variant *list, int most);
    m2_run_fn run; /* CPU kernel, float or double by the tensors' dtype; for collectives: any device */

    const struct m2_op *grad;
    unsigned grad_in, grad_out, spare, diff_in, diff_out;

    unsigned acc;                     /* outputs that can accumulate */
    unsigned char inplace[M2_MAX_OUT]; /* 1 + input index, see above */
    unsigned char updates[M2_MAX_OUT]; /* 1 + input index: out[j] is in[updates[j]-1], modified */
    unsigned passes;                  /* inputs whose gradient is that of out[0] */
    int apart;                        /* one call may compute out[0] and a later one the others, to the same bits */
    int rows;                         /* takes matrices with gaps between their rows (m2_tensor_rows) */
    unsigned linear;                  /* outputs are jointly linear in these inputs (adjoint tests) */
} m2_op;

/* ids and externs of every op in ops.def */
enum {
#define M2_OP(name) M2_OP_##name,
#include "kernels/ops.def"
#undef M2_OP
    M2_OP_COUNT
};
#ifdef __cplusplus
extern "C" {
#endif
#define M2_OP(name) extern M2_API const m2_op m2_op_##name;
#include "kernels/ops.def"
#undef M2_OP

/* All of ops.def, indexed by id. */
M2_API const m2_op *m2_op_table(int id);
M2_API const m2_op *m2_op_find(const char *name); /* NULL if there is none */

/* Default cost: no FLOPs, each present tensor moved once. */
M2_API void m2_op_cost_bytes(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost);
#ifdef __cplusplus
}
#endif
#endif
