/* probe.h - one op call on host values, run on any device: what tests and benchmarks are made of.
 *
 * kernels/cases.def lists calls worth looking at. A probe is one of them in a precision: descriptors by the op's own
 * shape rule, values as doubles already rounded to what the device will hold, results as doubles again. Memory is laid
 * out in one image with canaries (all-ones bytes: NaN to whoever reads them) between everything; outputs and workspace
 * start as all-ones too. A run fails with M2_BUG when a canary or an input changed or an output element was not
 * written. */
#ifndef M2_KERNELS_PROBE_H
#define M2_KERNELS_PROBE_H

#include "kernels/ops.h"

enum {
    M2_CASE_PERF = 1,  /* big: for measuring only */
    M2_CASE_LOCAL = 2, /* positions do not see each other: may be cut along L as well as along B */
    M2_CASE_CUTS = 4   /* rounding may depend on how the work is cut over threads and slabs (GEMMs) */
};

/* A row of kernels/cases.def; its first comment explains the text. */
typedef struct m2_case {
    const char *op, *tensors, *attrs;
    double tol_f32, tol_bf16; /* relative L2 error allowed against float64 */
    unsigned flags;
} m2_case;

/* What T and P of kernels/ops.h stand for. */
typedef struct m2_probe_precision {
    const char *name; /* "f64", "f32", "tf32", "bf16" */
    m2_dtype t, p;
} m2_probe_precision;

typedef struct m2_slot {
    m2_desc desc;   /* rank -1: absent */
    char role;      /* 'T' activation, 'W' matrix of parameters, 'P' other precise, 'D' f64, 'I', 'U' integers */
    double *value;  /* element e is value[e % period]; NULL until known */
    int64_t period; /* number of elements, or less in benchmarks */
    int64_t whole[M2_MAX_RANK], origin[M2_MAX_RANK];
} m2_slot;

typedef struct m2_probe {
    const m2_case *row;
    m2_probe_precision precision;
    const m2_op *op;
    m2_attrs attrs;
    unsigned acc; /* outputs that accumulate onto their values */
    m2_step step;
    m2_slot in[M2_MAX_IN], out[M2_MAX_OUT];
} m2_probe;

/* A probe in a device's memory. */
typedef struct m2_bound {
    m2_device *device;
    m2_run_fn run;
    m2_call call;
    char *memory, *image; /* on the device; its host twin */
    int64_t bytes, at_in[M2_MAX_IN], at_out[M2_MAX_OUT], at_workspace, at_step;
} m2_bound;

enum { M2_PROBE_IN_PLACE = 1 }; /* outputs share inputs' memory wherever the op permits it */

#ifdef __cplusplus
extern "C" {
#endif
M2_API int m2_cases(const m2_case **rows); /* returns their number */
M2_API const m2_probe_precision *m2_probe_precision_find(const char *name); /* NULL if unknown */

/* Fills *p with random inputs and undefined outputs. scale: factor on 'B' dimensions. limit: longest period, 0 = none. */
M2_API m2_status m2_probe_make(const m2_case *row, const m2_probe_precision *prec, int64_t scale, int64_t limit,
                               m2_probe *p) M2_MUST_USE;
M2_API void m2_probe_free(m2_probe *p); /* accepts a zeroed one */
/* Copies values of dst's slots (all with data in both) from src, rounding to dst's dtypes. */
M2_API void m2_probe_copy(m2_slot *dst, const m2_slot *src);
/* The call of p->op->grad on p's inputs and outputs, with random gradients of the outputs in mask `given` (a subset of
 * diff_out), wanting the gradients of inputs in mask `want` (of diff_in). Gradients of 'W' and 'P' are in P. */
M2_API m2_status m2_probe_grad(const m2_probe *p, unsigned given, unsigned want, m2_probe *grad) M2_MUST_USE;
/* The slots of a gradient call that hold input i's gradient (in ->out) and output j's gradient (in ->in). */
M2_API int m2_probe_grad_out(const m2_op *op, int i);
M2_API int m2_probe_grad_in(const m2_op *op, int j);
/* Part k of n of a probe, cut along dimensions with this axis tag; inputs only, outputs undefined. */
M2_API m2_status m2_probe_slab(const m2_probe *p, char axis, int k, int n, m2_probe *slab) M2_MUST_USE;

/* Puts a probe on a device; M2_USAGE if the device has no kernel for the op. */
M2_API m2_status m2_probe_bind(const m2_probe *p, m2_device *dev, unsigned flags, m2_bound *b) M2_MUST_USE;
M2_API void m2_probe_unbind(m2_bound *b);
/* bind, run once, check memory, read the outputs' values into p, unbind. */
M2_API m2_status m2_probe_run(m2_probe *p, m2_device *dev, unsigned flags) M2_MUST_USE;
#ifdef __cplusplus
}
#endif
#endif
