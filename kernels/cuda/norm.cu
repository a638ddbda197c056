/* norm.cu - layer norm, alone and fused with the residual sum before it, forward and backward.
 *
 *   s = x [+ delta];  n = (s - mean) r,  r = 1/sqrt(var + eps);  y = n gamma + beta
 *   with g = dy gamma:  ds = r (g - mean(g) - n mean(g n)) [+ dsum],  dgamma = sum dy n,  dbeta = sum dy
 *
 * Mapping: a thread owns 8 K columns of every row its block takes, a row (forward: two) at a time, all in
 * registers; means are block sums, the variance a second one over the centred row. Backward, a block takes a strip of
 * rows and keeps its columns' dgamma and dbeta in registers; the strips' sums are added in order afterwards (sums.cu).
 * The number of strips depends on the shape alone, so results do not depend on the GPU.
 * Bytes: forward x, [delta] in, [sum], y out; backward s, dy, [dsum] in, dx, [ddelta] out: each once, the minimum.
 * H200, 131072 rows of 1536, f32 sums and bf16 deltas, share of copy speed: addnorm 102%, addnorm_grad 93%, norm 89%,
 * norm_grad 92% (m2 bench step configs/gpt/360m.yaml run.device=cuda prints it). Tried: 40 registers for 8 blocks per SM, addnorm
 * 77%; 4 rows at once without delta, norm 86%. */
#include "common.cuh"

namespace m2cu
{
namespace
{

constexpr int THREADS_PER_SM = 576, THREADS_IN_ALL = 132 * THREADS_PER_SM, /* that a large GPU holds at once */
    MOST_THREADS = 512;                                                    /* of a block */

struct Norm {
    Ref x, delta, sum, y;        /* forward */
    Ref s, dsum, dy, dx, ddelta; /* backward */
    const float *gamma, *beta;
    float *stats, *partial;
    int64_t rows, strip; /* strip: rows of a block, backward */
    int width;
    float eps;
};

/* gamma and beta have no reason to be aligned other than the rows'. */
__device__ __forceinline__ Ref vector(const float *p, const Ref &like)
{
    return Ref{(char *)p, 0, like.wide, 0};
}

template <int K> __device__ __forceinline__ int column(int k)
{
    return (k * blockDim.x + threadIdx.x) * 8;
}

/* Rows at a time: two hide each other's latency where registers allow. */
template <int K> __host__ __device__ constexpr int rows_at_once()
{
    return K == 1 ? 2 : 1;
}

/* ADD: of x + delta; without, it takes fewer registers and more rows are under way. */
template <int K, bool ADD> __global__ void __launch_bounds__(MOST_THREADS) norm_forward(Norm j)
{
    constexpr int ROWS = rows_at_once<K>();
    int64_t row0 = (int64_t)blockIdx.x * ROWS;
    Eight x[ROWS][K], d[ROWS][K];
    float s[ROWS][K][8], mean[ROWS] = {}, r[ROWS] = {};
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int k = 0; k < K; k++) {
            int n = row0 + i < j.rows ? j.width - column<K>(k) : 0;
            int64_t at = (row0 + i) * j.width + column<K>(k);
            x[i][k] = fetch(j.x, at, n);
            if (ADD) d[i][k] = fetch(j.delta, at, n);
        }
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int k = 0; k < K; k++) {
            int n = row0 + i < j.rows ? j.width - column<K>(k) : 0;
            unpack(j.x, x[i][k], n, s[i][k]);
            if (ADD) {
                float v[8];
                unpack(j.delta, d[i][k], n, v);
#pragma unroll
                for (int c = 0; c < 8; c++) s[i][k][c] += v[c];
                if (n > 0) store(j.sum, (row0 + i) * j.width + column<K>(k), n, s[i][k]);
            }
#pragma unroll
            for (int c = 0; c < 8; c++) mean[i] += s[i][k][c];
        }
    block_sum(mean, 0);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        mean[i] /= (float)j.width;
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int c = 0; c < 8; c++) {
                float v = s[i][k][c] - mean[i];
                r[i] += column<K>(k) + c < j.width ? v * v : 0.0f;
            }
    }
    block_sum(r, 1);
#pragma unroll
    for (int i = 0; i < ROWS; i++) r[i] = rsqrtf(r[i] / (float)j.width + j.eps);
#pragma unroll
    for (int k = 0; k < K; k++) {
        int n = j.width - column<K>(k);
        float g[8], b[8];
        load(vector(j.gamma, j.x), column<K>(k), n, g);
        load(vector(j.beta, j.x), column<K>(k), n, b);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float y[8];
#pragma unroll
            for (int c = 0; c < 8; c++) y[c] = (s[i][k][c] - mean[i]) * r[i] * g[c] + b[c];
            if (row0 + i < j.rows && n > 0) store(j.y, (row0 + i) * j.width + column<K>(k), n, y);
        }
    }
    if (threadIdx.x < ROWS && row0 + threadIdx.x < j.rows) {
        j.stats[2 * (row0 + threadIdx.x)] = threadIdx.x ? mean[ROWS - 1] : mean[0];
        j.stats[2 * (row0 + threadIdx.x) + 1] = threadIdx.x ? r[ROWS - 1] : r[0];
    }
}

/* Rows [row, row + ROWS), those before `end`; their part of dgamma and dbeta is added to dg and db. */
template <int K, int ROWS>
__device__ __forceinline__ void backward_rows(const Norm &j, int64_t row, int64_t end, const float2 (&stats)[ROWS],
                                              int phase, const float (&g)[K][8], float (&dg)[K][8],
                                              float (&db)[K][8])
{
    Eight s[ROWS][K], dy[ROWS][K], dsum[ROWS][K];
    float sums[2 * ROWS] = {};
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int k = 0; k < K; k++) {
            int n = row + i < end ? j.width - column<K>(k) : 0;
            int64_t at = (row + i) * j.width + column<K>(k);
            s[i][k] = fetch(j.s, at, n);
            dy[i][k] = fetch(j.dy, at, j.dy.data ? n : 0);
            dsum[i][k] = fetch(j.dsum, at, j.dsum.data ? n : 0);
        }
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int k = 0; k < K; k++) {
            int n = row + i < end ? j.width - column<K>(k) : 0;
            float x[8], y[8];
            unpack(j.s, s[i][k], n, x);
            unpack(j.dy, dy[i][k], j.dy.data ? n : 0, y);
#pragma unroll
            for (int c = 0; c < 8; c++) { /* beyond the width and the rows, y is zero */
                float norm = (x[c] - stats[i].x) * stats[i].y;
                dg[k][c] += y[c] * norm;
                db[k][c] += y[c];
                sums[2 * i] += y[c] * g[k][c];
                sums[2 * i + 1] += y[c] * g[k][c] * norm;
            }
        }
    block_sum(sums, phase);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        float a = sums[2 * i] / (float)j.width, b = sums[2 * i + 1] / (float)j.width;
#pragma unroll
        for (int k = 0; k < K; k++) {
            int n = row + i < end ? j.width - column<K>(k) : 0;
            int64_t at = (row + i) * j.width + column<K>(k);
            float x[8], y[8], v[8], w[8];
            unpack(j.s, s[i][k], n, x);
            unpack(j.dy, dy[i][k], j.dy.data ? n : 0, y);
            unpack(j.dsum, dsum[i][k], j.dsum.data ? n : 0, v);
#pragma unroll
            for (int c = 0; c < 8; c++)
                w[c] = v[c] += stats[i].y * (y[c] * g[k][c] - a - (x[c] - stats[i].x) * stats[i].y * b);
            if (n > 0 && j.dx.data) put(j.dx, at, n, v);
            if (n > 0 && j.ddelta.data) put(j.ddelta, at, n, w);
        }
    }
}

/* The bound for K = 1 is one on registers: three blocks of 192 threads per SM, six of 96, two rows in flight in each. */
template <int K> __global__ void __launch_bounds__(K == 1 ? THREADS_PER_SM : MOST_THREADS) norm_backward(Norm j)
{
    constexpr int ROWS = rows_at_once<K>();
    int64_t row = blockIdx.x * j.strip, end = min(row + j.strip, j.rows);
    float g[K][8], dg[K][8] = {}, db[K][8] = {};
    const float2 *stats = (const float2 *)j.stats;
    float2 next[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) next[i] = row + i < end ? stats[row + i] : make_float2(0, 0);
#pragma unroll
    for (int k = 0; k < K; k++) load(vector(j.gamma, j.s), column<K>(k), j.width - column<K>(k), g[k]);
    for (int phase = 0; row < end; row += ROWS, phase ^= 1) {
        float2 now[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            now[i] = next[i];
            if (row + ROWS + i < end) next[i] = stats[row + ROWS + i];
        }
        backward_rows<K, ROWS>(j, row, end, now, phase, g, dg, db);
    }
    float *to = j.partial + (int64_t)blockIdx.x * 2 * j.width;
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int c = 0; c < 8; c++)
            if (column<K>(k) + c < j.width) {
                to[column<K>(k) + c] = dg[k][c];
                to[j.width + column<K>(k) + c] = db[k][c];
            }
}

/* ---- host ---------------------------------------------------------------------------------------------------------- */
typedef void norm_kernel(Norm);

/* The instance for a width: groups of 8 columns per thread, doubling from 1. */
int pick(const m2_call *c, int64_t width, norm_kernel *const (&by_k)[3], norm_kernel **out, m2_status *st)
{
    int k = 0;
    while (k < 3 && (int64_t)MOST_THREADS * 8 << k < width) k++;
    *out = by_k[k < 3 ? k : 2];
    *st = k < 3 ? M2_OK
                : m2_fail(M2_USAGE, "%s on CUDA: rows of %lld are too wide, at most %d", c->op->name,
                          (long long)width, MOST_THREADS * 8 << 2);
    return threads_for(ceil_div(width, 1 << k), MOST_THREADS);
}

m2_status forward(const m2_call *c, bool add)
{
    M2_TRY(check(c));
    norm_kernel *const both[2][3] = {{norm_forward<1, false>, norm_forward<2, false>, norm_forward<4, false>},
                                     {norm_forward<1, true>, norm_forward<2, true>, norm_forward<4, true>}};
    norm_kernel *const(&table)[3] = both[add];
    int o = add ? 1 : 0;
    Norm j = {};
    j.rows = rows_of(c->in[0]), j.width = (int)last_of(c->in[0]);
    j.x = ref(c->in[0], j.width), j.delta = add ? ref(c->in[1], j.width) : none();
    j.gamma = (const float *)c->in[1 + o].data, j.beta = (const float *)c->in[2 + o].data;
    j.sum = add ? ref(c->out[0], j.width) : none(), j.y = ref(c->out[o], j.width);
    j.stats = (float *)c->out[1 + o].data;
    j.eps = (float)c->attrs.f[M2_NORM_EPS];
    norm_kernel *kernel;
    m2_status st;
    int threads = pick(c, j.width, table, &kernel, &st);
    M2_TRY(st);
    int64_t at_once = kernel == table[0] ? rows_at_once<1>() : 1;
    if (j.rows) kernel<<<(unsigned)ceil_div(j.rows, at_once), threads, 0, stream_of(c)>>>(j);
    return launched(c);
}

/* Rows of one block: as many blocks as a large GPU holds at once (one wave), whatever the GPU. */
int64_t strip_rows(int64_t rows, int64_t width)
{
    return ceil_div(rows, THREADS_IN_ALL / threads_for(width, MOST_THREADS));
}

int64_t strip_count(int64_t rows, int64_t width)
{
    return rows ? ceil_div(rows, strip_rows(rows, width)) : 0;
}

int64_t workspace(const m2_desc &x)
{
    return strip_count(rows_of(x), last_of(x)) * 2 * last_of(x) * (int64_t)sizeof(float);
}

/* s: the normalised tensor; outputs from `first` on are dgamma, dbeta. */
m2_status backward(const m2_call *c, Norm &j, const m2_tensor &s, int first)
{
    M2_TRY(check(c));
    M2_TRY(check_workspace(c, workspace(m2_tensor_desc(&s))));
    norm_kernel *const table[3] = {norm_backward<1>, norm_backward<2>, norm_backward<4>};
    j.rows = rows_of(s), j.width = (int)last_of(s);
    j.s = ref(s, j.width);
    j.partial = (float *)c->workspace;
    norm_kernel *kernel;
    m2_status st;
    int threads = pick(c, j.width, table, &kernel, &st);
    M2_TRY(st);
    int64_t blocks = strip_count(j.rows, j.width);
    j.strip = strip_rows(j.rows, j.width);
    if (blocks) kernel<<<(unsigned)blocks, threads, 0, stream_of(c)>>>(j);
    float *dgamma = (float *)c->out[first].data, *dbeta = (float *)c->out[first + 1].data;
    if (dgamma || dbeta)
        fold(j.partial, blocks, 2 * j.width, j.width, dgamma, c->acc >> first & 1, dbeta,
             c->acc >> (first + 1) & 1, stream_of(c));
    return launched(c);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_norm(const m2_call *c)
{
    return m2cu::forward(c, false);
}

extern "C" m2_status m2i_cuda_addnorm(const m2_call *c)
{
    return m2cu::forward(c, true);
}

extern "C" m2_status m2i_cuda_norm_grad(const m2_call *c)
{
    int64_t width = m2cu::last_of(c->in[0]);
    m2cu::Norm j = {};
    j.gamma = (const float *)c->in[1].data, j.stats = (float *)c->in[2].data;
    j.dy = m2cu::ref(c->in[3], width), j.dx = m2cu::ref(c->out[0], width);
    if (c->acc & 1 && j.dx.data) j.dsum = j.dx; /* what is there comes with the row's other loads */
    return m2cu::backward(c, j, c->in[0], 1);
}

extern "C" m2_status m2i_cuda_addnorm_grad(const m2_call *c)
{
    int64_t width = m2cu::last_of(c->in[1]);
    m2cu::Norm j = {};
    j.gamma = (const float *)c->in[0].data, j.stats = (float *)c->in[2].data;
    j.dsum = m2cu::ref(c->in[3], width), j.dy = m2cu::ref(c->in[4], width);
    j.dx = m2cu::ref(c->out[0], width, c->acc & 1), j.ddelta = m2cu::ref(c->out[1], width, c->acc & 2);
    return m2cu::backward(c, j, c->in[1], 2);
}

extern "C" int64_t m2i_cuda_norm_grad_workspace(const m2_attrs *, const m2_desc *in, const m2_desc *)
{
    return m2cu::workspace(in[0]);
}

extern "C" int64_t m2i_cuda_addnorm_grad_workspace(const m2_attrs *, const m2_desc *in, const m2_desc *)
{
    return m2cu::workspace(in[1]);
}
