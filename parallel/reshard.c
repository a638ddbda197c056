/* reshard.c - slabs of one dimension cut out, exchanged, put together.
 *
 * Slab r of dimension i of a row-major array is a rectangle: rows of (slab x inner) elements, one per outer index. With
 * one outer index it is contiguous and nothing is packed. */
#include "parallel/reshard.h"
#include "parallel/comm.h"

#include <stdlib.h>

/* ---- attributes, shape, workspace -------------------------------------------------------------------------------- */
m2_attrs m2_reshard_attrs(const m2_transition *s, const m2_grid *g, int rank, const m2_desc *whole)
{
    int before = s->before.axis[s->axis], after = s->after.axis[s->axis];
    int64_t extent = 0;
    if (before >= 0) { /* what the ranks of the axis hold together */
        m2_layout joint = s->before;
        joint.axis[s->axis] = M2_WHOLE;
        extent = m2_layout_slab(&joint, g, rank, before, whole->shape[before]).count;
    }
    return (m2_attrs){.i = {s->move, before, after, extent, g->size[s->axis], m2_grid_at(g, rank, s->axis)}};
}

static m2_status reshard_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    const int64_t *a = attrs->i;
    int gathers = a[M2_RESHARD_MOVE] == M2_MOVE_ALL_GATHER || a[M2_RESHARD_MOVE] == M2_MOVE_ALL_TO_ALL;
    int cuts = a[M2_RESHARD_MOVE] != M2_MOVE_ALL_GATHER && a[M2_RESHARD_MOVE] != M2_MOVE_ALL_REDUCE;
    int64_t before = gathers ? a[M2_RESHARD_BEFORE] : 0, after = cuts ? a[M2_RESHARD_AFTER] : 0;
    int ranks = (int)a[M2_RESHARD_RANKS], rank = (int)a[M2_RESHARD_RANK];
    char text[96];
    out[0] = in[0];
    if (before < 0 || before >= M2_MAX_RANK || after < 0 || after >= M2_MAX_RANK ||
        (gathers && before >= in[0].rank) || (cuts && after >= in[0].rank) ||
        (gathers && in[0].shape[before] != m2_slab_of(a[M2_RESHARD_EXTENT], ranks, rank).count))
        return m2_fail(M2_BUG, "%s from dimension %lld to %lld does not fit the local array %s",
                       m2_move_name((m2_move)a[M2_RESHARD_MOVE]), (long long)a[M2_RESHARD_BEFORE],
                       (long long)a[M2_RESHARD_AFTER], m2_desc_print(text, &in[0]));
    if (gathers) out[0].shape[before] = a[M2_RESHARD_EXTENT];
    if (cuts) out[0].shape[after] = m2_slab_of(in[0].shape[after], ranks, rank).count;
    return M2_OK;
}

/* Elements of the largest slab of dimension `dim`, all other dimensions whole. */
static int64_t largest_part(const m2_desc *d, int64_t dim, int ranks)
{
    int64_t n = d->shape[dim];
    return n ? m2_desc_count(d) / n * m2_slab_of(n, ranks, 0).count : 0;
}

/* Blocks to send, then blocks that came: each at most this. */
static int64_t reshard_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)threads;
    int64_t ranks = attrs->i[M2_RESHARD_RANKS], most = 0;
    for (int i = 0; i < in[0].rank; i++) {
        int64_t a = ranks * largest_part(&in[0], i, (int)ranks),
                b = ranks * largest_part(&out[0], i, (int)ranks);
        most = a > most ? a : most;
        most = b > most ? b : most;
    }
    return 2 * most * m2_dtype_size(in[0].dtype);
}

/* ---- bytes on the wire ------------------------------------------------------------------------------------------- */
int64_t m2_reshard_bytes(const m2_op *op, const m2_attrs *attrs, const m2_desc *in, int rank, int ranks)
{
    const int64_t *a = attrs->i, count = m2_desc_count(&in[0]), e = m2_dtype_size(in[0].dtype);
    int back = op == &m2_op_reshard_grad;
    int64_t cut = back ? a[M2_RESHARD_BEFORE] : a[M2_RESHARD_AFTER];
    m2_move move = (m2_move)a[M2_RESHARD_MOVE];
    if (back && (move == M2_MOVE_ALL_GATHER || move == M2_MOVE_REDUCE_SCATTER))
        move = move == M2_MOVE_ALL_GATHER ? M2_MOVE_REDUCE_SCATTER : M2_MOVE_ALL_GATHER;
    switch (move) {
    case M2_MOVE_ALL_GATHER: return (ranks - 1) * count * e;
    case M2_MOVE_ALL_REDUCE: return m2_comm_bytes_all_reduce(count, in[0].dtype, rank, ranks);
    case M2_MOVE_REDUCE_SCATTER: return (ranks - 1) * largest_part(&in[0], cut, ranks) * e;
    case M2_MOVE_ALL_TO_ALL: {
        int64_t n = in[0].shape[cut];
        return n ? count / n * (n - m2_slab_of(n, ranks, rank).count) * e : 0;
    }
    default: return 0;
    }
}

/* ---- rectangles -------------------------------------------------------------------------------------------------- */
/* A slab of one dimension of a dense tensor, as rows for copy_rows. */
typedef struct part {
    char *at;
    int64_t step, bytes, rows; /* contiguous if rows == 1 */
} part;

static part part_of(const m2_tensor *t, int64_t dim, m2_slab s)
{
    int64_t outer = 1, inner = m2_dtype_size(t->dtype);
    for (int64_t i = 0; i < dim; i++) outer *= t->shape[i];
    for (int64_t i = dim + 1; i < t->rank; i++) inner *= t->shape[i];
    return (part){(char *)t->data + s.at * inner, t->shape[dim] * inner, s.count * inner, outer};
}

/* Between a part and consecutive memory. */
static m2_status pack(const m2_call *call, char *to, part p)
{
    return call->device->api->copy_rows(call->device, to, p.bytes, p.at, p.step, p.bytes, p.rows,
                                        call->stream);
}

static m2_status unpack(const m2_call *call, part p, const char *from)
{
    return call->device->api->copy_rows(call->device, p.at, p.step, from, p.bytes, p.bytes, p.rows,
                                        call->stream);
}

/* ---- moves ------------------------------------------------------------------------------------------------------- */
static m2_status slice(const m2_call *call, int64_t dim)
{
    m2_comm *c = call->context;
    return pack(call, call->out[0].data,
                part_of(&call->in[0], dim, m2_slab_of(call->in[0].shape[dim], c->size, c->rank)));
}

static m2_status place(const m2_call *call, int64_t dim)
{
    m2_comm *c = call->context;
    const m2_tensor *y = &call->out[0];
    M2_TRY(call->device->api->fill(call->device, y->data, 0, m2_tensor_bytes(y), call->stream));
    return unpack(call, part_of(y, dim, m2_slab_of(y->shape[dim], c->size, c->rank)), call->in[0].data);
}

/* Slab r of `cut` (-1: everything) goes to rank r; what comes from rank s is slab s of `join`. */
static m2_status move_slabs(const m2_call *call, int64_t cut, int64_t join)
{
    m2_comm *c = call->context;
    const m2_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t e = m2_dtype_size(x->dtype), size = c->size, *n = malloc(4 * (size_t)size * sizeof *n);
    if (!n) return m2_fail(M2_TRANSIENT, "out of memory for an exchange of %d ranks", c->size);
    int64_t *send = n, *send_at = n + size, *recv = n + 2 * size, *recv_at = n + 3 * size, sent = 0, came = 0;
    char *out = x->data, *in = y->data;
    if (cut > 0) out = call->workspace;
    if (join > 0) in = (char *)call->workspace + call->workspace_bytes / 2;
    m2_status st = M2_OK;
    for (int r = 0; st == M2_OK && r < size; r++) {
        part p = cut < 0 ? (part){x->data, 0, m2_tensor_bytes(x), 1}
                         : part_of(x, cut, m2_slab_of(x->shape[cut], c->size, r));
        part q = part_of(y, join, m2_slab_of(y->shape[join], c->size, r));
        send[r] = p.bytes * p.rows / e, recv[r] = q.bytes * q.rows / e;
        send_at[r] = cut < 0 ? 0 : sent, recv_at[r] = came;
        if (cut > 0) st = pack(call, out + sent * e, p);
        sent += send[r], came += recv[r];
    }
    if (st == M2_OK)
        st = c->api->all_to_all(c, out, send, send_at, in, recv, recv_at, x->dtype, call->stream);
    for (int r = 0; st == M2_OK && join > 0 && r < size; r++)
        st = unpack(call, part_of(y, join, m2_slab_of(y->shape[join], c->size, r)), in + recv_at[r] * e);
    free(n);
    return st;
}

/* Slabs of `dim` go to their ranks, padded to the longest, and are summed there. */
static m2_status reduce_slabs(const m2_call *call, int64_t dim)
{
    m2_comm *c = call->context;
    const m2_tensor *x = &call->in[0], *y = &call->out[0];
    m2_desc d = m2_tensor_desc(x);
    int64_t most = largest_part(&d, dim, c->size), e = m2_dtype_size(x->dtype);
    char *out = call->workspace, *in = out + call->workspace_bytes / 2;
    M2_TRY(call->device->api->fill(call->device, out, 0, most * e * c->size, call->stream));
    for (int r = 0; r < c->size; r++)
        M2_TRY(pack(call, out + r * most * e, part_of(x, dim, m2_slab_of(x->shape[dim], c->size, r))));
    M2_TRY(c->api->reduce_scatter(c, out, in, most, x->dtype, M2_SUM, call->stream));
    return call->device->api->copy(call->device, y->data, in, m2_tensor_bytes(y), call->stream);
}

static m2_status all_reduce(const m2_call *call)
{
    m2_comm *c = call->context;
    return c->api->all_reduce(c, call->in[0].data, call->out[0].data, m2_tensor_count(&call->in[0]),
                              call->in[0].dtype, M2_SUM, call->stream);
}

static m2_status check(const m2_call *call)
{
    m2_comm *c = call->context;
    const int64_t *a = call->attrs.i;
    M2_CHECK(c && m2_tensor_dense(&call->in[0]) && m2_tensor_dense(&call->out[0]));
    if (a[M2_RESHARD_RANKS] == c->size && a[M2_RESHARD_RANK] == c->rank) return M2_OK;
    return m2_fail(M2_BUG, "%s was planned for rank %lld of %lld and runs on %d of %d", call->op->name,
                   (long long)a[M2_RESHARD_RANK], (long long)a[M2_RESHARD_RANKS], c->rank, c->size);
}

static m2_status reshard_run(const m2_call *call)
{
    const int64_t *a = call->attrs.i, before = a[M2_RESHARD_BEFORE], after = a[M2_RESHARD_AFTER];
    M2_TRY(check(call));
    switch ((m2_move)a[M2_RESHARD_MOVE]) {
    case M2_MOVE_SLICE: return slice(call, after);
    case M2_MOVE_ALL_GATHER: return move_slabs(call, -1, before);
    case M2_MOVE_ALL_TO_ALL: return move_slabs(call, after, before);
    case M2_MOVE_ALL_REDUCE: return all_reduce(call);
    case M2_MOVE_REDUCE_SCATTER: return reduce_slabs(call, after);
    default: return m2_fail(M2_BUG, "reshard of kind %lld", (long long)a[M2_RESHARD_MOVE]);
    }
}

static m2_status reshard_grad_run(const m2_call *call)
{
    const int64_t *a = call->attrs.i, before = a[M2_RESHARD_BEFORE], after = a[M2_RESHARD_AFTER];
    M2_TRY(check(call));
    switch ((m2_move)a[M2_RESHARD_MOVE]) {
    case M2_MOVE_SLICE: return place(call, after);
    case M2_MOVE_ALL_GATHER: return reduce_slabs(call, before);
    case M2_MOVE_ALL_TO_ALL: return move_slabs(call, before, after);
    case M2_MOVE_ALL_REDUCE: return all_reduce(call);
    case M2_MOVE_REDUCE_SCATTER: return move_slabs(call, -1, after);
    default: return m2_fail(M2_BUG, "reshard of kind %lld", (long long)a[M2_RESHARD_MOVE]);
    }
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */
const m2_op m2_op_reshard = {
    .name = "reshard",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"y"},
    .attr_i = {"move", "before", "after", "extent", "ranks", "rank"},
    .shape = reshard_shape,
    .cost = m2_op_cost_bytes,
    .workspace = reshard_workspace,
    .run = reshard_run,
    .grad = &m2_op_reshard_grad,
    .diff_in = 1,
    .diff_out = 1,
    .linear = 1,
};

const m2_op m2_op_reshard_grad = {
    .name = "reshard_grad",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"dy"},
    .out_name = {"dx"},
    .attr_i = {"move", "before", "after", "extent", "ranks", "rank"},
    .cost = m2_op_cost_bytes,
    .workspace = reshard_workspace,
    .run = reshard_grad_run,
    .linear = 1,
};
