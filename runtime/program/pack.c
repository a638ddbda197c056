/* pack.c - ZeRO 2: gradients that no rank keeps whole.
 *
 * The gradients of parameters are activations. When those of a bucket are final they are copied into one, with zeros where
 * the bucket has no parameter, and reduce-scattered; this rank's piece is added up in its shard over the microbatches, when the
 * next bucket goes out: until then the backward pass goes on.
 * Ranks are summed before microbatches: in a step of one microbatch the bits are those of the other stages. */
#include "runtime/program/internal.h"

#include <stdio.h>

static int64_t elements(const m2_program *p, const m2_param *row)
{
    return m2_desc_count(&m2i_at(p, row->tid)->desc);
}

/* Of element `at` of a bucket's flat range: the row that has a gradient there and how far it goes, or -1 and how far none. */
static int row_at(const m2_program *p, int64_t at, int64_t end, int64_t *stop)
{
    *stop = end;
    for (int i = 0; i < p->n_params; i++) {
        const m2_param *row = &p->params[i];
        if (row->flags & M2_PARAM_FROZEN || row->grad == M2_NONE) continue;
        int64_t last = row->offset + elements(p, row);
        if (row->offset <= at && at < last) {
            *stop = last < end ? last : end;
            return i;
        }
        if (row->offset > at && row->offset < *stop) *stop = row->offset;
    }
    return -1;
}

m2_tid m2i_stretch(m2_program *p, m2_tid of, int64_t from, int64_t n)
{
    m2_dtype t = m2_program_precise_dtype(p);
    m2_tid id = m2i_tensor_new(p, m2_desc_make(t, ".", n), M2I_ACT);
    if (id == M2_NONE) return id;
    m2i_at(p, id)->of = of;
    m2i_at(p, id)->inside = from * m2_dtype_size(t);
    return id;
}

void m2i_pack_gradients(m2_program *p)
{
    const m2_shards *s = &p->shards;
    for (int i = 0; i < p->n_calls; i++) { /* a microbatch's first writer overwrites, in all of them */
        m2i_call *c = &p->calls[i];
        for (int j = 0; j < c->op->n_out; j++)
            if (c->out[j] != M2_NONE && m2i_at(p, c->out[j])->home == M2I_GRAD)
                c->acc_later = (c->acc_later & ~(1u << j)) | (c->acc_first & 1u << j);
    }
    p->packed = M2_NONE;
    for (int i = 0; i < p->n_params; i++)
        if (p->params[i].grad != M2_NONE) m2i_at(p, p->params[i].grad)->home = M2I_ACT;
    for (int64_t at = 0, stop; at < s->total; at = stop) {
        int64_t end = (at / s->bucket + 1) * s->bucket, gap;
        int row = row_at(p, at, end, &stop);
        gap = row < 0 ? stop - at : 0;
        if (gap > p->zeros) p->zeros = gap;
    }
}

void m2i_append_packed(m2_program *p, int b)
{
    char name[32];
    m2_slab all = m2_shards_bucket(&p->shards, b);
    m2_shard_part own = m2_shards_piece(&p->shards, b, p->sharding.rank);
    m2_dtype t = m2_program_precise_dtype(p);
    m2_tid whole = m2i_tensor_new(p, m2_desc_make(t, ".", all.count), M2I_ACT);
    m2_tid sum = m2i_tensor_new(p, m2_desc_make(t, ".", own.flat.count), M2I_ACT);
    snprintf(name, sizeof name, "gradients.%d", b);
    for (int64_t at = all.at, stop; at < all.at + all.count; at = stop) {
        int row = row_at(p, at, all.at + all.count, &stop);
        m2_tid from = row < 0 ? m2i_flat_slice(p, M2I_GRAD, m2_shards_count(&p->shards), stop - at)
                              : m2i_stretch(p, p->params[row].grad, at - p->params[row].offset, stop - at);
        m2i_call_accumulate(p, row < 0 ? name : p->params[row].name, M2_BACKWARD, from,
                            m2i_stretch(p, whole, at - all.at, stop - at), 0, 0);
    }
    m2i_flush_packed(p);
    m2i_append_collective(p, p->sharding.reduce_scatter, M2_BACKWARD, whole, sum, name);
    if (p->error.code == M2_OK) p->calls[p->n_calls - 1].once = 0;
    p->packed = sum;
    p->packed_bucket = b;
}

void m2i_flush_packed(m2_program *p)
{
    char name[32];
    if (p->packed == M2_NONE) return;
    m2_shard_part own = m2_shards_piece(&p->shards, p->packed_bucket, p->sharding.rank);
    snprintf(name, sizeof name, "gradients.%d", p->packed_bucket);
    m2i_call_accumulate(p, name, M2_BACKWARD, p->packed, m2i_flat_slice(p, M2I_GRAD, own.at, own.flat.count), 0, 1);
    p->packed = M2_NONE;
}
