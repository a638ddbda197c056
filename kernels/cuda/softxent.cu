/* softxent.cu - cross entropy with targets that are distributions (kernels/ops/softxent.c has the mathematics).
 *
 * Pictures have few classes: a block of 128 threads owns a row and walks it twice, forward for the maximum and then for the
 * sums; the losses of the rows are added by one block in one order. Bytes: the row from memory once, then from cache. */
#include "common.cuh"

namespace m2cu
{
namespace
{

constexpr int THREADS = 128;

struct Best {
    float x;
    int i;
};

/* The larger one; the lower index on ties. */
__device__ __forceinline__ Best better(Best a, Best b)
{
    return b.x > a.x || (b.x == a.x && b.i < a.i) ? b : a;
}

__device__ Best block_best(Best v)
{
    __shared__ Best part[THREADS / 32];
#pragma unroll
    for (int d = 16; d; d /= 2)
        v = better(v, Best{__shfl_xor_sync(~0u, v.x, d), __shfl_xor_sync(~0u, v.i, d)});
    __syncthreads(); /* what an earlier call left has been read */
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[0];
    for (int w = 1; w < THREADS / 32; w++) v = better(v, part[w]);
    return v;
}

__device__ Best row_best(const Ref &t, int64_t at, int width)
{
    Best best = {-__int_as_float(0x7f800000), 0x7fffffff};
    for (int i = threadIdx.x; i < width; i += THREADS) best = better(best, Best{load_one(t, at + i), i});
    return block_best(best);
}

__global__ void __launch_bounds__(THREADS) rows_forward(Ref x, Ref t, float *lse, float *each, int width)
{
    int64_t row = blockIdx.x, at = row * width;
    Best top = row_best(x, at, width), aim = row_best(t, at, width);
    float sum[3] = {0, 0, 0}; /* of exp, of targets, of their products with the logits */
    for (int i = threadIdx.x; i < width; i += THREADS) {
        float v = load_one(x, at + i), w = load_one(t, at + i);
        sum[0] += expf(v - top.x);
        sum[1] += w;
        sum[2] += w * (v - top.x);
    }
    block_sum(sum, 0);
    if (threadIdx.x) return;
    float above = logf(sum[0]); /* lse - max */
    lse[row] = top.x + above;
    each[2 * row] = sum[1] * above - sum[2];
    each[2 * row + 1] = sum[1] > 0 && top.i == aim.i;
}

__global__ void __launch_bounds__(256) total(const float *each, int64_t rows, float scale, float *loss, float *hits)
{
    float sum[2] = {0, 0};
    for (int64_t i = threadIdx.x; i < rows; i += 256) {
        sum[0] += each[2 * i];
        sum[1] += each[2 * i + 1];
    }
    block_sum(sum, 0);
    if (threadIdx.x) return;
    *loss = sum[0] * scale;
    if (hits) *hits = sum[1];
}

__global__ void __launch_bounds__(THREADS)
    rows_backward(Ref x, Ref t, const float *lse, const float *dloss, Ref dx, int width, float scale)
{
    int64_t row = blockIdx.x, at = row * width;
    float whole[1] = {0};
    for (int i = threadIdx.x; i < width; i += THREADS) whole[0] += load_one(t, at + i);
    block_sum(whole, 0);
    float g = scale * (dloss ? *dloss : 1.0f), base = lse[row];
    for (int i = threadIdx.x; i < width; i += THREADS) {
        float d = (whole[0] * expf(load_one(x, at + i) - base) - load_one(t, at + i)) * g;
        store_one(dx, at + i, dx.acc ? load_one(dx, at + i) + d : d);
    }
}

float per_row(const m2_call *c, int64_t rows)
{
    int64_t n = c->attrs.i[M2_SOFTXENT_DENOM] ? c->attrs.i[M2_SOFTXENT_DENOM] : rows;
    return n ? 1.0f / (float)n : 1.0f;
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_softxent(const m2_call *c)
{
    using namespace m2cu;
    M2_TRY(check(c));
    int64_t rows = rows_of(c->in[0]), width = last_of(c->in[0]);
    M2_TRY(check_workspace(c, 2 * rows * (int64_t)sizeof(float)));
    float *each = (float *)c->workspace;
    if (rows)
        rows_forward<<<(unsigned)rows, THREADS, 0, stream_of(c)>>>(ref(c->in[0]), ref(c->in[1]),
                                                                   (float *)c->out[1].data, each, (int)width);
    total<<<1, 256, 0, stream_of(c)>>>(each, rows, per_row(c, rows), (float *)c->out[0].data,
                                       (float *)c->out[2].data);
    return launched(c);
}

extern "C" int64_t m2i_cuda_softxent_workspace(const m2_attrs *, const m2_desc *in, const m2_desc *)
{
    return 2 * m2cu::rows_of(in[0]) * (int64_t)sizeof(float);
}

extern "C" m2_status m2i_cuda_softxent_grad(const m2_call *c)
{
    using namespace m2cu;
    M2_TRY(check(c));
    if (m2_absent(&c->out[0])) return M2_OK;
    int64_t rows = rows_of(c->in[0]), width = last_of(c->in[0]);
    if (rows)
        rows_backward<<<(unsigned)rows, THREADS, 0, stream_of(c)>>>(
            ref(c->in[0]), ref(c->in[1]), (const float *)c->in[2].data, (const float *)c->in[3].data,
            ref(c->out[0], 0, c->acc & 1), (int)width, per_row(c, rows));
    return launched(c);
}
