/* reduce.c - what follows the gradients: all-reduce of their buckets, and the update region. */
#include "runtime/program/internal.h"

#include <stdlib.h>

/* ---- buckets ----------------------------------------------------------------------------------------------------- */
typedef struct bucket {
    m2_tid slice;
    int after; /* index of the last call that writes into it */
} bucket;

/* For each parameter the last call that writes its gradient. */
static void find_last_writers(const m2_program *p, int *last)
{
    for (int i = 0; i < p->n_params; i++) last[i] = -1;
    for (int i = 0; i < p->n_calls; i++)
        for (int j = 0; j < p->calls[i].op->n_out; j++) {
            m2_tid t = p->calls[i].out[j];
            if (t != M2_NONE && m2i_at(p, t)->home == M2I_GRAD) last[m2i_at(p, t)->param] = i;
        }
}

/* Cuts the flat gradient from its end, where the backward pass finishes first, into buckets of at least `bytes`. */
static int cut_buckets(m2_program *p, int64_t bytes, const int *last, bucket *out)
{
    int n = 0, after = -1;
    int64_t end = p->trained, size = m2_dtype_size(m2_program_precise_dtype(p));
    for (int i = p->n_params - 1; i >= 0; i--) {
        const m2_param *row = &p->params[i];
        if (row->flags & M2_PARAM_FROZEN) continue;
        if (last[i] > after) after = last[i];
        if ((end - row->offset) * size < bytes && row->offset > 0) continue;
        out[n++] = (bucket){m2i_flat_slice(p, M2I_GRAD, row->offset, end - row->offset), after};
        end = row->offset;
        after = -1;
    }
    return n;
}

static void append_collective(m2_program *p, const m2_op *op, void *context, m2_tid t, const char *what)
{
    m2_tid in[M2_MAX_IN] = {t}, out[M2_MAX_OUT] = {t};
    m2_region region = p->has_backward ? M2_BACKWARD : M2_FORWARD;
    m2i_call *c = m2i_call_new(p, what, op, NULL, region, in, out);
    if (!c) return;
    c->context = context;
    c->once = 1;
    c->acc_first = c->acc_later = 0;
}

/* Rebuilds the call list with each bucket's collective after its last writer. */
static void insert_buckets(m2_program *p, const m2_op *op, void *context, const bucket *buckets, int n)
{
    int n_old = p->n_calls;
    m2i_call *old = p->calls;
    p->calls = NULL;
    p->n_calls = p->room_calls = 0;
    for (int i = 0; i < n_old; i++) {
        if (!m2i_grow(p, &p->calls, p->n_calls, &p->room_calls, sizeof *p->calls)) break;
        p->calls[p->n_calls++] = old[i];
        for (int b = 0; b < n; b++) {
            if (buckets[b].after != i) continue;
            char name[32];
            snprintf(name, sizeof name, "gradients.%d", b);
            append_collective(p, op, context, buckets[b].slice, name);
        }
    }
    free(old);
}

static void reduce_gradients(m2_program *p, const m2_op *op, void *context, int64_t bytes)
{
    int *last = malloc((size_t)(p->n_params + 1) * sizeof *last);
    bucket *buckets = malloc((size_t)(p->n_params + 1) * sizeof *buckets);
    if (last && buckets) {
        find_last_writers(p, last);
        insert_buckets(p, op, context, buckets, cut_buckets(p, bytes, last, buckets));
    } else {
        m2_program_reject(p, m2_fail(M2_TRANSIENT, "out of memory while placing all-reduces"));
    }
    free(last);
    free(buckets);
}

void m2_program_reduce(m2_program *p, const m2_op *all_reduce, void *context, int64_t bucket_bytes,
                       const m2_tid *scalars, int n)
{
    if (p->error.code != M2_OK) return;
    if (p->spec.mode == M2_MODE_TRAIN ? p->stage != M2I_BACKWARD_DONE : p->stage != M2I_BUILDING) {
        m2_program_reject(p, m2_fail(M2_BUG, "m2_program_reduce must come between backward and update"));
        return;
    }
    if (!context) {
        m2_program_reject(p, m2_fail(M2_BUG, "m2_program_reduce was given no communicator"));
        return;
    }
    if (p->has_backward) reduce_gradients(p, all_reduce, context, bucket_bytes);
    for (int i = 0; i < n; i++) {
        if (scalars[i] < 0 || scalars[i] >= p->n_tensors) {
            m2_program_reject(p, m2_fail(M2_USAGE, "scalar %d to reduce does not exist", i));
            return;
        }
        m2_tid total = m2i_at(p, scalars[i])->total, t = total == M2_NONE ? scalars[i] : total;
        append_collective(p, all_reduce, context, t, m2i_at(p, t)->name ? m2i_at(p, t)->name : "scalar");
    }
}

/* ---- update ------------------------------------------------------------------------------------------------------ */
void m2_program_update(m2_program *p, const m2_update_spec *spec)
{
    if (p->error.code != M2_OK) return;
    if (p->stage != M2I_BACKWARD_DONE) {
        m2_program_reject(p, m2_fail(M2_BUG, "m2_program_update must come once, after m2_program_backward"));
        return;
    }
    int64_t n = p->trained;
    m2_tid g = m2i_flat_slice(p, M2I_GRAD, 0, n),
           norm2 = m2i_tensor_new(p, m2_desc_make(M2_F64, ""), M2I_ACT);
    m2_tid params = m2i_flat_slice(p, M2I_MASTER, 0, n), m = m2i_flat_slice(p, M2I_M, 0, n);
    m2_tid v = m2i_flat_slice(p, M2I_V, 0, n), groups = m2i_flat_slice(p, M2I_GROUPS, 0, n / M2_GROUP_BLOCK);
    int copies = m2_program_compute_dtype(p) != m2_program_precise_dtype(p);
    m2_tid copy = copies ? m2i_flat_slice(p, M2I_COPY, 0, n) : M2_NONE;
    m2_attrs a = {.i[M2_ADAM_DECAY] = spec->decay};
    a.f[M2_ADAM_BETA1] = spec->beta1;
    a.f[M2_ADAM_BETA2] = spec->beta2;
    a.f[M2_ADAM_EPS] = spec->eps;
    m2i_call_new(p, "update.norm", &m2_op_sumsq, NULL, M2_UPDATE, &g, &norm2);
    m2i_call_new(p, "update.adam", &m2_op_adam, &a, M2_UPDATE, (m2_tid[]){params, g, m, v, groups, norm2},
                 (m2_tid[]){params, m, v, copy});
    m2_program_output(p, "norm2", norm2);
    p->stage = M2I_UPDATE_DONE;
    p->has_update = 1;
}
