/* embed.c - token, position and type embeddings in one sweep, and their gradient without atomics.
 *
 *   y[b,t] = table[ids[b,t]] + pos[l0 + t] + type[0], l0 the slab's first position, or runs of positions from there on
 *   dtable[id] = sum of dy over its places (none for PAD), dpos[l0 + t] = sum over b, dtype[0] = sum over all
 * Sums over tokens have one order: the table's gradient is cut over columns, the positions' over positions. */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status embed_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    const m2_desc *ids = &in[0], *table = &in[1], *pos = &in[2], *type = &in[3];
    int ok = ids->rank == 2 && ids->dtype == M2_I32 && table->rank == 2;
    if (ok && pos->rank >= 0)
        ok = pos->rank == 2 && pos->shape[0] >= ids->shape[1] && m2i_last(pos) == m2i_last(table);
    if (ok && type->rank >= 0)
        ok = type->rank == 2 && type->shape[0] >= 1 && m2i_last(type) == m2i_last(table);
    if (!ok)
        return m2i_bad_shape(&m2_op_embed, in,
                             "ids i32 (B, L), table (V, C), pos (at least L, C), type (at least 1, C)");
    out[0] = m2_desc_make((m2_dtype)attrs->i[M2_EMBED_OUT_DTYPE], "BLC", ids->shape[0], ids->shape[1],
                          m2i_last(table));
    out[0].axis[0] = ids->axis[0];
    out[0].axis[1] = ids->axis[1];
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void embed_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    (void)attrs; /* only the rows of the table that are looked up move */
    double n = (double)m2_desc_count(&out[0]);
    cost->flops = n * ((in[2].rank >= 0) + (in[3].rank >= 0));
    cost->bytes = (double)m2_desc_bytes(&in[0]) + (double)m2_desc_bytes(&out[0]) +
                  n * (double)m2_dtype_size(in[1].dtype);
}

static void embed_grad_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops =
        (double)m2_desc_count(&in[1]) * ((out[0].rank >= 0) + (out[1].rank >= 0) + (out[2].rank >= 0));
}

static int64_t embed_grad_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)attrs, (void)threads;
    return out[2].rank < 0 ? 0 : m2i_partial_bytes(m2i_rows(&in[1]), m2i_last(&in[1]), in[1].dtype);
}

/* Where column t of the ids is in the whole sequence. */
static int64_t place_of(const m2_call *c, int64_t t)
{
    int64_t run = c->attrs.i[M2_EMBED_RUN];
    return c->in[0].origin[1] + t + (run > 0 ? t / run * c->attrs.i[M2_EMBED_JUMP] : 0);
}

#define SELF "kernels/ops/embed.c"
#include "kernels/ops/twice.h"

static m2_status check_ids(const m2_tensor *ids, int64_t vocabulary)
{
    const int32_t *id = ids->data;
    for (int64_t i = 0; i < m2_tensor_count(ids); i++)
        if (id[i] < 0 || id[i] >= vocabulary)
            return m2_fail(M2_DATA,
                           "token id %d at row %lld, position %lld is outside the vocabulary [0, %lld): the "
                           "store was made with another tokenizer than the model's",
                           (int)id[i], (long long)(i / ids->shape[1]), (long long)(i % ids->shape[1]),
                           (long long)vocabulary);
    return M2_OK;
}

static m2_status embed_run(const m2_call *c)
{
    const m2_tensor *ids = &c->in[0], *pos = &c->in[2];
    M2_TRY(check_ids(ids, c->in[1].shape[0]));
    if (!m2_absent(pos) && place_of(c, ids->shape[1] - 1) >= pos->shape[0])
        return m2_fail(M2_USAGE, "embed: positions up to %lld are needed, but there are embeddings for %lld",
                       (long long)place_of(c, ids->shape[1] - 1) + 1, (long long)pos->shape[0]);
    return m2i_each(c, M2I_PAIR(embed_rows), m2_tensor_count(ids), c->in[1].shape[1]);
}

static m2_status embed_grad_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    const m2_tensor *ids = &c->in[0], *dtable = &c->out[0], *dpos = &c->out[1], *dtype = &c->out[2];
    int64_t rows = m2_tensor_count(ids), width = m2i_tensor_last(&c->in[1]), size = m2_dtype_size(real);
    if (!m2_absent(dtable)) {
        M2_TRY(check_ids(ids, dtable->shape[0]));
        m2i_scatter_rows(c, real, ids->data, rows, c->attrs.i[M2_EMBED_PAD], c->in[1].data, width,
                         dtable->data, dtable->shape[0], c->acc & 1);
    }
    if (!m2_absent(dpos)) {
        if (!(c->acc & 2)) memset(dpos->data, 0, (size_t)m2_tensor_bytes(dpos));
        m2i_spread(c, real, M2I_PAIR(sum_positions), ids->shape[1], ids->shape[0] * width,
                   (void *)(uintptr_t)c);
    }
    if (!m2_absent(dtype)) {
        int acc = c->acc >> 2 & 1;
        if (!acc)
            memset((char *)dtype->data + width * size, 0, (size_t)((dtype->shape[0] - 1) * width * size));
        m2i_column_sums(c, real, c->in[1].data, rows, width, c->workspace, dtype->data, acc);
    }
    return M2_OK;
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(embed_rows)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    const m2_tensor *ids = &c->in[0];
    int64_t length = ids->shape[1], width = c->in[1].shape[1];
    for (int64_t row = begin; row < end; row++) {
        const REAL *from = (const REAL *)c->in[1].data + ((const int32_t *)ids->data)[row] * width;
        REAL *y = (REAL *)c->out[0].data + row * width;
        const REAL *pos = c->in[2].data, *type = c->in[3].data;
        if (pos) pos += place_of(c, row % length) * width;
        if (pos && type)
            STORE_EACH(i, width, y, 0, from[i] + pos[i] + type[i]);
        else if (pos || type) {
            const REAL *one = pos ? pos : type;
            STORE_EACH(i, width, y, 0, from[i] + one[i]);
        } else
            memcpy(y, from, (size_t)width * sizeof *y);
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static void NAME(sum_positions)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    const m2_tensor *ids = &c->in[0];
    int64_t width = m2i_tensor_last(&c->in[1]);
    for (int64_t t = begin; t < end; t++) {
        REAL *to = (REAL *)c->out[1].data + place_of(c, t) * width;
        for (int64_t b = 0; b < ids->shape[0]; b++) {
            const REAL *dy = (const REAL *)c->in[1].data + (b * ids->shape[1] + t) * width;
            STORE_EACH(i, width, to, 1, dy[i]);
        }
    }
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_embed = {
    .name = "embed",
    .id = M2_OP_embed,
    .n_in = 4,
    .n_out = 1,
    .optional = 12,
    .in_name = {"ids", "table", "pos", "type"},
    .out_name = {"y"},
    .attr_i = {"out_dtype", "pad", "run", "jump"},
    .shape = embed_shape,
    .cost = embed_cost,
    .run = embed_run,
    .grad = &m2_op_embed_grad,
    .grad_in = 1,
    .diff_out = 1,
    .diff_in = 14,
    .linear = 14,
};

const m2_op m2_op_embed_grad = {
    .name = "embed_grad",
    .id = M2_OP_embed_grad,
    .n_in = 2,
    .n_out = 3,
    .in_name = {"ids", "dy"},
    .out_name = {"dtable", "dpos", "dtype"},
    .attr_i = {"out_dtype", "pad", "run", "jump"},
    .cost = embed_grad_cost,
    .workspace = embed_grad_workspace,
    .run = embed_grad_run,
    .acc = 7,
};
#endif
