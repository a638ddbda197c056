/* collective.c - the verbs of comm.h that plans use, as ops; and what any collective op sends. */
#include "kernels/op.h"
#include "parallel/exchange.h"
#include "parallel/reshard.h"

/* ---- shape rules ------------------------------------------------------------------------------------------------- */
static m2_status all_reduce_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    out[0] = in[0];
    return M2_OK;
}

static m2_status reduce_scatter_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    int64_t ranks = attrs->i[M2_COLLECTIVE_RANKS];
    char text[96];
    if (in[0].rank != 1 || ranks < 1 || in[0].shape[0] % ranks)
        return m2_fail(M2_BUG, "reduce_scatter over %lld ranks needs as many equal blocks, got %s",
                       (long long)ranks, m2_desc_print(text, &in[0]));
    out[0] = in[0];
    out[0].shape[0] /= ranks;
    return M2_OK;
}

static m2_status all_gather_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    char text[96];
    if (in[0].rank != 1 || attrs->i[M2_COLLECTIVE_RANKS] < 1)
        return m2_fail(M2_BUG, "all_gather needs a flat block, got %s", m2_desc_print(text, &in[0]));
    out[0] = in[0];
    out[0].shape[0] *= attrs->i[M2_COLLECTIVE_RANKS];
    return M2_OK;
}

/* ---- bytes on the wire ------------------------------------------------------------------------------------------- */
int64_t m2_collective_bytes(const m2_op *op, const m2_attrs *attrs, const m2_desc *in, const m2_desc *out,
                            int rank, int ranks)
{
    m2_dtype t = in[0].dtype;
    if (op == &m2_op_all_reduce) return m2_comm_bytes_all_reduce(m2_desc_count(&in[0]), t, rank, ranks);
    if (op == &m2_op_reduce_scatter) return m2_comm_bytes_reduce_scatter(m2_desc_count(&out[0]), t, ranks);
    if (op == &m2_op_all_gather) return m2_comm_bytes_all_gather(m2_desc_count(&in[0]), t, ranks);
    if (op == &m2_op_reshard || op == &m2_op_reshard_grad)
        return m2_reshard_bytes(op, attrs, in, rank, ranks);
    return m2_exchange_bytes(op, attrs, in, out, rank, ranks);
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */
static m2_status check(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_CHECK(c && m2_tensor_dense(&call->in[0]) && m2_tensor_dense(&call->out[0]));
    if (call->op == &m2_op_all_reduce || call->attrs.i[M2_COLLECTIVE_RANKS] == c->size) return M2_OK;
    return m2_fail(M2_BUG, "%s was planned for %lld ranks and runs on %d", call->op->name,
                   (long long)call->attrs.i[M2_COLLECTIVE_RANKS], c->size);
}

static m2_status all_reduce_run(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_TRY(check(call));
    return c->api->all_reduce(c, call->in[0].data, call->out[0].data, m2_tensor_count(&call->in[0]),
                              call->in[0].dtype, M2_SUM, call->stream);
}

static m2_status reduce_scatter_run(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_TRY(check(call));
    return c->api->reduce_scatter(c, call->in[0].data, call->out[0].data, m2_tensor_count(&call->out[0]),
                                  call->in[0].dtype, M2_SUM, call->stream);
}

static m2_status all_gather_run(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_TRY(check(call));
    return c->api->all_gather(c, call->in[0].data, call->out[0].data, m2_tensor_count(&call->in[0]),
                              call->in[0].dtype, call->stream);
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */
const m2_op m2_op_all_reduce = {
    .name = "all_reduce",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"sum"},
    .shape = all_reduce_shape,
    .cost = m2_op_cost_bytes,
    .run = all_reduce_run,
    .inplace = {1},
    .updates = {1},
    .linear = 1,
};

const m2_op m2_op_reduce_scatter = {
    .name = "reduce_scatter",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"sum"},
    .attr_i = {"ranks"},
    .shape = reduce_scatter_shape,
    .cost = m2_op_cost_bytes,
    .run = reduce_scatter_run,
    .linear = 1,
};

const m2_op m2_op_all_gather = {
    .name = "all_gather",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"all"},
    .attr_i = {"ranks"},
    .shape = all_gather_shape,
    .cost = m2_op_cost_bytes,
    .run = all_gather_run,
    .linear = 1,
};
