/* collective.c - the verbs of comm.h that plans use, as ops, flat or by levels; and what any collective op sends. */
#include "kernels/op.h"
#include "parallel/exchange.h"
#include "parallel/levels.h"
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
    int64_t per_node = attrs->i[M2_COLLECTIVE_PER_NODE];
    out[0] = out[1] = in[0];
    out[0].shape[0] /= ranks;
    out[1].shape[0] /= per_node > 1 ? per_node : 1;
    if (per_node < 2) out[1] = (m2_desc){.rank = -1};
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
static int64_t flat_bytes(const m2_op *op, int64_t count, m2_dtype t, int rank, int ranks)
{
    if (op == &m2_op_all_reduce) return m2_comm_bytes_all_reduce(count, t, rank, ranks);
    if (op == &m2_op_reduce_scatter) return m2_comm_bytes_reduce_scatter(count, t, ranks);
    return m2_comm_bytes_all_gather(count, t, ranks);
}

int64_t m2_level_step_bytes(const m2_level_step *s, m2_dtype t)
{
    return flat_bytes(s->op, s->count, t, s->rank, s->ranks);
}

int64_t m2_collective_bytes(const m2_op *op, const m2_attrs *attrs, const m2_desc *in, const m2_desc *out,
                            int rank, int ranks)
{
    m2_dtype t = in[0].dtype;
    m2_level_step step[M2_LEVEL_STEPS];
    int64_t bytes = 0, count = m2_desc_count(op == &m2_op_reduce_scatter ? &out[0] : &in[0]);
    int steps = m2_levels_steps(op, attrs, count, rank, ranks, step);
    for (int i = 0; i < steps; i++) bytes += m2_level_step_bytes(&step[i], t);
    if (steps) return bytes;
    if (op == &m2_op_all_reduce || op == &m2_op_reduce_scatter || op == &m2_op_all_gather)
        return flat_bytes(op, count, t, rank, ranks);
    if (op == &m2_op_reshard || op == &m2_op_reshard_grad)
        return m2_reshard_bytes(op, attrs, in, rank, ranks);
    return m2_exchange_bytes(op, attrs, in, out, rank, ranks);
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */
static m2_status check(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_CHECK(c && m2_tensor_dense(&call->in[0]) && m2_tensor_dense(&call->out[0]));
    int64_t per_node = call->attrs.i[M2_COLLECTIVE_PER_NODE];
    if (per_node > 1 && (!c->levels || c->levels->per_node != per_node))
        return m2_fail(M2_BUG, "%s was planned for %lld ranks on each node, and the communicator has %d", call->op->name,
                       (long long)per_node, c->levels ? c->levels->per_node : 0);
    if (call->op == &m2_op_all_reduce || call->attrs.i[M2_COLLECTIVE_RANKS] == c->size) return M2_OK;
    return m2_fail(M2_BUG, "%s was planned for %lld ranks and runs on %d", call->op->name,
                   (long long)call->attrs.i[M2_COLLECTIVE_RANKS], c->size);
}

static m2_status all_reduce_run(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_TRY(check(call));
    if (call->attrs.i[M2_COLLECTIVE_PER_NODE] > 1)
        return m2_levels_all_reduce(c, call->in[0].data, call->out[0].data, m2_tensor_count(&call->in[0]), call->in[0].dtype,
                                    call->stream);
    return c->api->all_reduce(c, call->in[0].data, call->out[0].data, m2_tensor_count(&call->in[0]),
                              call->in[0].dtype, M2_SUM, call->stream);
}

static m2_status reduce_scatter_run(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_TRY(check(call));
    if (call->attrs.i[M2_COLLECTIVE_PER_NODE] > 1)
        return m2_levels_reduce_scatter(c, call->in[0].data, call->out[0].data, call->out[1].data,
                                        m2_tensor_count(&call->out[0]), call->in[0].dtype, call->stream);
    return c->api->reduce_scatter(c, call->in[0].data, call->out[0].data, m2_tensor_count(&call->out[0]),
                                  call->in[0].dtype, M2_SUM, call->stream);
}

static m2_status all_gather_run(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_TRY(check(call));
    if (call->attrs.i[M2_COLLECTIVE_PER_NODE] > 1)
        return m2_levels_all_gather(c, call->in[0].data, call->out[0].data, m2_tensor_count(&call->in[0]), call->in[0].dtype,
                                    call->stream);
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
    .attr_i = {"ranks", "per_node"},
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
    .n_out = 2,
    .in_name = {"x"},
    .out_name = {"sum", "inside"},
    .attr_i = {"ranks", "per_node"},
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
    .attr_i = {"ranks", "per_node"},
    .shape = all_gather_shape,
    .cost = m2_op_cost_bytes,
    .run = all_gather_run,
    .linear = 1,
};
