/* xent.cu - softmax cross entropy over the last dimension, hits of the largest logit, and the gradient in place.
 *
 *   lse = m + log sum exp(x - m);   loss = sum over valid rows of (lse - x[target]) / denom
 *   dx = (exp(x - lse) - [i = target]) dloss / denom in valid rows, 0 in ignored ones
 *
 * Mapping: a block per row; a thread keeps a running maximum, sum and the place of its maximum, so a row is read once.
 * One more block sums the rows in a fixed order, in f64. f32 logits are never stored. Bytes: forward the logits once,
 * backward once in and once out. A target outside the vocabulary makes the loss NaN.
 * H200, bf16, V = 50304, share of copy speed: forward 86%, backward 96%. */
#include "common.cuh"

namespace m2cu
{
namespace
{

constexpr int THREADS = 256, BATCH = 2;
#define LOG2E 1.4426950408889634f

struct Xent {
    Ref x, dx;
    const int32_t *target;
    int64_t rows, ignore, denom;
    int width;
    float *lse, *row_loss, *row_hit; /* per row */
    float *loss, *hits;
    const float *dloss;   /* NULL: 1 */
    const int64_t *valid; /* number of valid rows, where denom is 0 */
};

/* (m, s) stands for s exp(m). */
__device__ __forceinline__ void merge(float &m, float &s, float m2, float s2)
{
    float top = fmaxf(m, m2);
    s = s * power_of_two((m - top) * LOG2E) + s2 * power_of_two((m2 - top) * LOG2E);
    m = top;
}

__device__ __forceinline__ void warp_merge(float &m, float &s)
{
#pragma unroll
    for (int d = 16; d; d /= 2) {
        float m2 = __shfl_xor_sync(~0u, m, d), s2 = __shfl_xor_sync(~0u, s, d);
        merge(m, s, m2, s2);
    }
}

/* Every thread gets the block's (m, s). */
__device__ __forceinline__ void block_merge(float &m, float &s)
{
    __shared__ float part[2][32];
    int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    warp_merge(m, s);
    if (lane == 0) part[0][warp] = m, part[1][warp] = s;
    __syncthreads();
    m = lane < warps ? part[0][lane] : -3.402823466e38f;
    s = lane < warps ? part[1][lane] : 0.0f;
    warp_merge(m, s);
}

/* The first column of this thread, a multiple of 8, at most 0 for the first: blocks start at whole cache lines whatever the
 * row's start, which is worth a quarter of the bandwidth where rows are no multiple of 128 bytes. */
__device__ __forceinline__ int first_column(const Xent &j, int64_t base)
{
    return (int)threadIdx.x * 8 - (j.x.wide ? (int)(base % 64) : 0);
}
/* How many columns there are from `at` on; 0 before the row. */
__device__ __forceinline__ int columns(const Xent &j, int at)
{
    return at < 0 ? 0 : j.width - at;
}

__global__ void __launch_bounds__(THREADS) xent_rows(Xent j)
{
    __shared__ int best;
    int64_t base = (int64_t)blockIdx.x * j.width;
    float m = -3.402823466e38f, s = 0;
    int place = -1, step = blockDim.x * 8;
    if (threadIdx.x == 0) best = j.width;
    for (int at = first_column(j, base); at < j.width; at += BATCH * step) {
        Eight e[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++) e[k] = fetch(j.x, base + at + k * step, columns(j, at + k * step));
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            float x[8];
            int n = columns(j, at + k * step);
            if (n <= 0) continue;
            unpack(j.x, e[k], n, x);
            if (n < 8) {
#pragma unroll
                for (int i = 1; i < 8; i++)
                    if (i >= n) x[i] = -INFINITY;
            }
            float top = fmaxf(fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])),
                              fmaxf(fmaxf(x[4], x[5]), fmaxf(x[6], x[7])));
            if (top > m) {
                s *= power_of_two((m - top) * LOG2E);
                m = top;
                place = at + k * step;
            }
            float shift = m * LOG2E;
#pragma unroll
            for (int i = 0; i < 8; i++) x[i] = power_of_two(fmaf(x[i], LOG2E, -shift));
            s += ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
        }
    }
    float mine = m;
    block_merge(m, s);
    if (place >= 0 && mine == m) /* the lowest index of the maximum */
        for (int i = place; i < place + 8 && i < j.width; i++)
            if (load_one(j.x, base + i) == m) {
                atomicMin(&best, i);
                break;
            }
    __syncthreads();
    if (threadIdx.x) return;
    int32_t target = j.target[blockIdx.x];
    float lse = m + logf(s);
    bool valid = target != j.ignore, known = target >= 0 && target < j.width;
    j.lse[blockIdx.x] = lse;
    j.row_loss[blockIdx.x] = !valid  ? 0.0f
                             : known ? lse - load_one(j.x, base + target)
                                     : __int_as_float(0x7fffffff);
    j.row_hit[blockIdx.x] = valid && best == target ? 1.0f : 0.0f;
}

/* Sums of three numbers per thread over the block, in f64; thread 0 has them. */
__device__ void block_sum_f64(double (&v)[3])
{
    __shared__ double part[3][32];
#pragma unroll
    for (int i = 0; i < 3; i++) {
#pragma unroll
        for (int d = 16; d; d /= 2) v[i] += __shfl_xor_sync(~0u, v[i], d);
        if (threadIdx.x % 32 == 0) part[i][threadIdx.x / 32] = v[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 3; i++) {
        v[i] = 0;
        for (int w = 0; w < (int)blockDim.x / 32; w++) v[i] += part[i][w];
    }
}

__global__ void __launch_bounds__(1024) xent_totals(Xent j)
{
    double v[3] = {};
    for (int64_t i = threadIdx.x; i < j.rows; i += 1024) {
        v[0] += j.row_loss[i];
        v[1] += j.row_hit[i];
        v[2] += j.target[i] != j.ignore;
    }
    block_sum_f64(v);
    if (threadIdx.x) return;
    double n = j.denom ? (double)j.denom : v[2];
    j.loss[0] = (float)(v[0] / (n > 0 ? n : 1));
    if (j.hits) j.hits[0] = (float)v[1];
}

__global__ void __launch_bounds__(1024) count_valid(Xent j, int64_t *valid)
{
    double v[3] = {};
    for (int64_t i = threadIdx.x; i < j.rows; i += 1024) v[0] += j.target[i] != j.ignore;
    block_sum_f64(v);
    if (threadIdx.x == 0) *valid = v[0] > 0 ? (int64_t)v[0] : 1;
}

__global__ void __launch_bounds__(THREADS) xent_grad_rows(Xent j)
{
    int64_t base = (int64_t)blockIdx.x * j.width;
    int target = j.target[blockIdx.x], step = blockDim.x * 8;
    bool valid = target != j.ignore;
    float shift = j.lse[blockIdx.x] * LOG2E,
          scale = (j.dloss ? *j.dloss : 1.0f) / (float)(j.denom ? j.denom : *j.valid);
    for (int at = first_column(j, base); at < j.width; at += BATCH * step) {
        Eight e[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            e[k] = fetch(j.x, base + at + k * step, valid ? columns(j, at + k * step) : 0);
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            int n = columns(j, at + k * step);
            if (n <= 0) continue;
            float x[8];
            unpack(j.x, e[k], valid ? n : 0, x);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float p = power_of_two(fmaf(x[i], LOG2E, -shift)) * scale;
                x[i] = valid ? p - (at + k * step + i == target ? scale : 0.0f) : 0.0f;
            }
            put(j.dx, base + at + k * step, n, x);
        }
    }
}

/* ---- host ---------------------------------------------------------------------------------------------------------- */
m2_status make_job(const m2_call *c, Xent *j)
{
    M2_TRY(check(c));
    j->width = (int)last_of(c->in[0]);
    j->rows = m2_tensor_count(&c->in[1]);
    j->x = ref(c->in[0], j->width);
    j->target = (const int32_t *)c->in[1].data;
    j->ignore = c->attrs.i[M2_XENT_IGNORE];
    j->denom = c->attrs.i[M2_XENT_DENOM];
    return M2_OK;
}

m2_status run_xent(const m2_call *c)
{
    Xent j = {};
    M2_TRY(make_job(c, &j));
    M2_TRY(check_workspace(c, 2 * j.rows * (int64_t)sizeof(float)));
    j.row_loss = (float *)c->workspace, j.row_hit = j.row_loss + j.rows;
    j.loss = (float *)c->out[0].data, j.lse = (float *)c->out[1].data, j.hits = (float *)c->out[2].data;
    if (j.rows) xent_rows<<<(unsigned)j.rows, threads_for(j.width, THREADS), 0, stream_of(c)>>>(j);
    xent_totals<<<1, 1024, 0, stream_of(c)>>>(j);
    return launched(c);
}

m2_status run_xent_grad(const m2_call *c)
{
    Xent j = {};
    M2_TRY(make_job(c, &j));
    if (m2_absent(&c->out[0]) || !j.rows) return M2_OK;
    M2_TRY(check_workspace(c, sizeof(int64_t)));
    j.lse = (float *)c->in[2].data, j.dloss = (const float *)c->in[3].data;
    j.dx = ref(c->out[0], j.width, c->acc & 1);
    j.valid = (int64_t *)c->workspace;
    if (!j.denom) count_valid<<<1, 1024, 0, stream_of(c)>>>(j, (int64_t *)c->workspace);
    xent_grad_rows<<<(unsigned)j.rows, threads_for(j.width, THREADS), 0, stream_of(c)>>>(j);
    return launched(c);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_xent(const m2_call *c)
{
    return m2cu::run_xent(c);
}

extern "C" m2_status m2i_cuda_xent_grad(const m2_call *c)
{
    return m2cu::run_xent_grad(c);
}

extern "C" int64_t m2i_cuda_xent_workspace(const m2_attrs *, const m2_desc *in, const m2_desc *)
{
    return 2 * m2_desc_count(&in[1]) * (int64_t)sizeof(float);
}

extern "C" int64_t m2i_cuda_xent_grad_workspace(const m2_attrs *, const m2_desc *, const m2_desc *)
{
    return sizeof(int64_t);
}
