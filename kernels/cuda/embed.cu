/* embed.cu - embeddings and gathered rows, and their gradients without float atomics.
 *
 *   embed: y[b,t] = table[ids[b,t]] + pos[l0 + t] + type[0], l0 the slab's first position (or runs from it on); dtable, dpos,
 *   dtype its sums.
 *   gather: y[i] = x[idx[i]], zeros where idx[i] < 0; dx[idx[i]] += dy[i].
 * Forward: a thread per 8 columns of a row; bytes: rows read and written once. An id outside the table gives NaN, so that a
 * wrong store cannot go unnoticed. Backward: scatter_rows of sums.cu for tables; positions are summed by their own thread. */
#include "common.cuh"

namespace m2cu
{
namespace
{

struct Embed {
    Ref table, pos, type, y;
    const int32_t *ids;
    int64_t items, vocabulary,
        first; /* groups of 8 in y; rows of the table; position of the slab's first column */
    int width, length, jump;
    FastDiv groups, rows, run; /* per row of y; rows of y per batch row; positions are first + t + t / run jump */
};

__global__ void __launch_bounds__(256) embed(Embed j)
{
    int64_t item = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (item >= j.items) return;
    uint32_t row = j.groups.div((uint32_t)item), col = ((uint32_t)item - row * j.groups.d) * 8;
    uint32_t t = row - j.rows.div(row) * j.rows.d;
    int n = j.width - (int)col;
    t += j.run.div(t) * (uint32_t)j.jump;
    int64_t id = j.ids[row];
    bool known = id >= 0 && id < j.vocabulary;
    Eight e = fetch(j.table, known ? id * j.width + col : 0, n);
    Eight p = fetch(j.pos, (j.first + t) * j.width + col, j.pos.data ? n : 0);
    Eight q = fetch(j.type, col, j.type.data ? n : 0);
    float x[8], v[8], w[8];
    unpack(j.table, e, n, x);
    unpack(j.pos, p, j.pos.data ? n : 0, v);
    unpack(j.type, q, j.type.data ? n : 0, w);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = known ? x[i] + v[i] + w[i] : __int_as_float(0x7fffffff);
    store(j.y, (int64_t)row * j.width + col, n, x);
}

/* dpos[first + t] = sum over the B rows of dy[b, t]. */
__global__ void __launch_bounds__(256)
    sum_positions(Ref dy, Ref dpos, int64_t B, int64_t L, int64_t width, int64_t first, int64_t run, int64_t jump)
{
    int64_t groups = (width + 7) / 8, item = (int64_t)blockIdx.x * 256 + threadIdx.x, t = item / groups;
    if (t >= L) return;
    int64_t col = item % groups * 8;
    int n = (int)min(width - col, (int64_t)8);
    float sum[8] = {};
    constexpr int BATCH = 4;
    for (int64_t b = 0; b < B; b += BATCH) {
        Eight e[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++) e[k] = fetch(dy, ((b + k) * L + t) * width + col, b + k < B ? n : 0);
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            float v[8];
            unpack(dy, e[k], b + k < B ? n : 0, v);
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += v[i];
        }
    }
    put(dpos, (first + t + t / run * jump) * width + col, n, sum);
}

struct Gather {
    Ref x, y;
    const int32_t *idx;
    int64_t items, rows;
    int width;
    FastDiv groups;
};

__global__ void __launch_bounds__(256) gather(Gather j)
{
    int64_t item = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (item >= j.items) return;
    uint32_t row = j.groups.div((uint32_t)item), col = ((uint32_t)item - row * j.groups.d) * 8;
    int n = j.width - (int)col;
    int64_t from = j.idx[row];
    float x[8];
    load(j.x, from > 0 && from < j.rows ? from * j.width + col : col, from < 0 ? 0 : n, x);
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (from >= j.rows) x[i] = __int_as_float(0x7fffffff);
    store(j.y, (int64_t)row * j.width + col, n, x);
}

/* ---- host ---------------------------------------------------------------------------------------------------------- */
m2_status count_groups(const m2_call *c, int64_t rows, int64_t width, int64_t *items, FastDiv *groups)
{
    int64_t per_row = ceil_div(width, 8);
    *items = rows * per_row;
    *groups = FastDiv(per_row ? per_row : 1);
    return *items >> 31 ? m2_fail(M2_USAGE, "%s on CUDA: more than 2^31 groups of elements", c->op->name)
                        : M2_OK;
}

m2_status run_embed(const m2_call *c)
{
    M2_TRY(check(c));
    const m2_tensor &ids = c->in[0], &table = c->in[1], &pos = c->in[2];
    Embed j = {};
    j.width = (int)table.shape[1], j.length = (int)ids.shape[1];
    j.first = ids.origin[1], j.vocabulary = table.shape[0];
    int64_t run = c->attrs.i[M2_EMBED_RUN] > 0 ? c->attrs.i[M2_EMBED_RUN] : j.length + 1,
            last = j.first + j.length - 1 + (j.length - 1) / run * c->attrs.i[M2_EMBED_JUMP];
    j.run = FastDiv(run), j.jump = (int)c->attrs.i[M2_EMBED_JUMP];
    if (!m2_absent(&pos) && last >= pos.shape[0])
        return m2_fail(M2_USAGE, "embed: positions up to %lld are needed, but there are embeddings for %lld",
                       (long long)last + 1, (long long)pos.shape[0]);
    M2_TRY(count_groups(c, m2_tensor_count(&ids), j.width, &j.items, &j.groups));
    j.rows = FastDiv(ids.shape[1] ? ids.shape[1] : 1);
    j.ids = (const int32_t *)ids.data;
    j.table = ref(table, j.width), j.pos = ref(pos, j.width), j.type = ref(c->in[3], j.width);
    j.y = ref(c->out[0], j.width);
    if (j.items) embed<<<(unsigned)ceil_div(j.items, 256), 256, 0, stream_of(c)>>>(j);
    return launched(c);
}

m2_status run_embed_grad(const m2_call *c)
{
    M2_TRY(check(c));
    const m2_tensor &ids = c->in[0], &dy = c->in[1], &dtable = c->out[0], &dpos = c->out[1],
                    &dtype = c->out[2];
    int64_t rows = m2_tensor_count(&ids), width = last_of(dy);
    cudaStream_t s = stream_of(c);
    if (!m2_absent(&dtable))
        scatter_rows((const int32_t *)ids.data, rows, c->attrs.i[M2_EMBED_PAD], dy, dtable, width, c->acc & 1,
                     s);
    if (!m2_absent(&dpos)) {
        if (!(c->acc & 2)) cudaMemsetAsync(dpos.data, 0, (size_t)m2_tensor_bytes(&dpos), s);
        int64_t items = ids.shape[1] * ceil_div(width, 8);
        if (items)
            sum_positions<<<(unsigned)ceil_div(items, 256), 256, 0, s>>>(
                ref(dy, width), ref(dpos, width, 1), ids.shape[0], ids.shape[1], width, ids.origin[1],
                c->attrs.i[M2_EMBED_RUN] > 0 ? c->attrs.i[M2_EMBED_RUN] : ids.shape[1],
                c->attrs.i[M2_EMBED_JUMP]);
    }
    if (!m2_absent(&dtype)) {
        M2_TRY(check_workspace(c, column_partials(rows, width) * (int64_t)sizeof(float)));
        if (!(c->acc & 4))
            cudaMemsetAsync(dtype.data, 0, (size_t)m2_tensor_bytes(&dtype), s); /* rows other than 0 */
        column_sums(dy, rows, width, (float *)c->workspace, (float *)dtype.data, c->acc & 4, s);
    }
    return launched(c);
}

m2_status run_gather(const m2_call *c)
{
    M2_TRY(check(c));
    Gather j = {};
    j.width = (int)last_of(c->in[0]), j.rows = rows_of(c->in[0]);
    M2_TRY(count_groups(c, c->in[1].shape[0], j.width, &j.items, &j.groups));
    j.idx = (const int32_t *)c->in[1].data;
    j.x = ref(c->in[0], j.width), j.y = ref(c->out[0], j.width);
    if (j.items) gather<<<(unsigned)ceil_div(j.items, 256), 256, 0, stream_of(c)>>>(j);
    return launched(c);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_embed(const m2_call *c)
{
    return m2cu::run_embed(c);
}

extern "C" m2_status m2i_cuda_embed_grad(const m2_call *c)
{
    return m2cu::run_embed_grad(c);
}

extern "C" int64_t m2i_cuda_embed_grad_workspace(const m2_attrs *, const m2_desc *in, const m2_desc *out)
{
    return out[2].rank < 0
               ? 0
               : m2cu::column_partials(m2cu::rows_of(in[1]), m2cu::last_of(in[1])) * (int64_t)sizeof(float);
}

extern "C" m2_status m2i_cuda_gather(const m2_call *c)
{
    return m2cu::run_gather(c);
}

extern "C" m2_status m2i_cuda_gather_grad(const m2_call *c)
{
    M2_TRY(m2cu::check(c));
    if (m2_absent(&c->out[0])) return M2_OK;
    m2cu::scatter_rows((const int32_t *)c->in[0].data, c->in[0].shape[0], -1, c->in[1], c->out[0],
                       m2cu::last_of(c->out[0]), c->acc & 1, m2cu::stream_of(c));
    return m2cu::launched(c);
}
