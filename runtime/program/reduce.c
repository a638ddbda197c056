/* reduce.c - what follows the gradients: their sum over the ranks, bucket by bucket, each as soon as it is final. */
#include "runtime/program/internal.h"
#include "parallel/comm.h"

#include <stdlib.h>

/* ---- buckets ----------------------------------------------------------------------------------------------------- */
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

/* The calls after which the buckets are final. */
static void find_ends(const m2_program *p, const int *last, int *after)
{
    for (int b = 0; b < p->shards.buckets; b++) after[b] = -1;
    for (int i = 0; i < p->n_params; i++) {
        const m2_param *row = &p->params[i];
        int64_t count = m2_desc_count(&m2i_at(p, row->tid)->desc);
        if (row->flags & M2_PARAM_FROZEN) continue;
        int stop = m2_shards_owner(&p->shards, row->offset + count - 1).bucket;
        for (int b = m2_shards_owner(&p->shards, row->offset).bucket; b <= stop; b++)
            if (last[i] > after[b]) after[b] = last[i];
    }
}

void m2i_append_collective(m2_program *p, const m2_op *op, m2_region region, m2_tid from, m2_tid to, const char *path)
{
    m2_tid in[M2_MAX_IN] = {from}, out[M2_MAX_OUT] = {to};
    m2_attrs a = {.i[M2_COLLECTIVE_RANKS] = from == to ? 0 : p->sharding.ranks};
    m2_desc d = m2_program_desc(p, from);
    int levels = p->sharding.per_node > 1 && d.rank > 0; /* a scalar is not worth three steps */
    if (levels) a.i[M2_COLLECTIVE_PER_NODE] = p->sharding.per_node;
    if (levels && op == p->sharding.reduce_scatter)
        out[1] = m2i_stretch(p, p->node_sums, 0, d.shape[0] / p->sharding.per_node);
    m2i_call *c = m2i_call_new(p, path, op, &a, region, in, out);
    if (!c) return;
    c->context = p->comm;
    c->once = region != M2_UPDATE;
    c->acc_first = c->acc_later = 0;
}

static void reduce_bucket(m2_program *p, const m2_op *all_reduce, int b)
{
    char name[32];
    if (m2i_sharded(p) && p->sharding.stage == 2) {
        m2i_append_packed(p, b);
        return;
    }
    m2_slab all = m2_shards_bucket(&p->shards, b);
    m2_slab own = m2_shards_piece(&p->shards, b, p->sharding.rank).flat;
    m2_tid whole = m2i_flat_slice(p, M2I_GRAD, all.at, all.count);
    snprintf(name, sizeof name, "gradients.%d", b);
    if (m2i_sharded(p))
        m2i_append_collective(p, p->sharding.reduce_scatter, M2_BACKWARD, whole,
                              m2i_flat_slice(p, M2I_GRAD, own.at, own.count), name);
    else
        m2i_append_collective(p, all_reduce, M2_BACKWARD, whole, whole, name);
}

/* Rebuilds the call list with each bucket's collective after its last writer. */
static void insert_buckets(m2_program *p, const m2_op *all_reduce, const int *after)
{
    int n_old = p->n_calls;
    m2i_call *old = p->calls;
    p->calls = NULL;
    p->n_calls = p->room_calls = 0;
    for (int i = 0; i < n_old; i++) {
        if (!m2i_grow(p, &p->calls, p->n_calls, &p->room_calls, sizeof *p->calls)) break;
        p->calls[p->n_calls++] = old[i];
        for (int b = p->shards.buckets - 1; b >= 0; b--)
            if (after[b] == i) reduce_bucket(p, all_reduce, b);
    }
    if (m2i_sharded(p) && p->sharding.stage == 2) m2i_flush_packed(p);
    free(old);
}

static void reduce_gradients(m2_program *p, const m2_op *all_reduce, int64_t bytes)
{
    int64_t size = m2_dtype_size(m2_program_precise_dtype(p));
    p->shards = m2_shards_make(p->trained, p->sharding.ranks > 1 ? p->sharding.ranks : 1, bytes / size, M2_GROUP_BLOCK);
    p->shards.per_node = p->sharding.per_node;
    m2i_layout_params(p);
    if (m2i_sharded(p) && p->sharding.per_node > 1)
        p->node_sums = m2i_tensor_new(p, m2_desc_make(m2_program_precise_dtype(p), ".", p->shards.bucket / p->sharding.per_node),
                                      M2I_ACT);
    int *last = malloc((size_t)(p->n_params + 1) * sizeof *last);
    int *after = malloc((size_t)(p->shards.buckets + 1) * sizeof *after);
    if (last && after) {
        find_last_writers(p, last);
        find_ends(p, last, after);
        if (m2i_sharded(p) && p->sharding.stage == 2) m2i_pack_gradients(p);
        insert_buckets(p, all_reduce, after);
    } else {
        m2_program_reject(p, m2_fail(M2_TRANSIENT, "out of memory while placing all-reduces"));
    }
    free(last);
    free(after);
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
    p->comm = context;
    if (p->has_backward) reduce_gradients(p, all_reduce, bucket_bytes);
    m2_region region = p->has_backward ? M2_BACKWARD : M2_FORWARD;
    p->all_reduce = all_reduce;
    for (int i = 0; i < n; i++) {
        if (scalars[i] < 0 || scalars[i] >= p->n_tensors) {
            m2_program_reject(p, m2_fail(M2_USAGE, "scalar %d to reduce does not exist", i));
            return;
        }
        m2_tid total = m2i_at(p, scalars[i])->total, t = total == M2_NONE ? scalars[i] : total;
        m2i_append_collective(p, all_reduce, region, t, t, m2i_at(p, t)->name ? m2i_at(p, t)->name : "scalar");
    }
}
