/* reduce.cu - sumsq: s = sum of x_i^2 in f64, in two stages of a fixed shape: no host synchronisation, one order.
 *
 * At most 1056 blocks (8 for each of 132 SMs) stride over groups of 8 elements; one block adds their sums. Bytes: x once.
 * H200: 93% of copy speed. */
#include "common.cuh"

namespace m2cu
{
namespace
{

constexpr int BLOCKS = 1056;

__device__ __forceinline__ double block_sum_f64(double v)
{
    __shared__ double part[32];
#pragma unroll
    for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++) v += part[w];
    return v;
}

/* x is n elements, or rows of them with gaps between: then groups of 8 do not cross rows. */
struct Rows {
    uint32_t width8; /* width / 8; 0: dense */
    int64_t gap;     /* elements between the end of a row and the next */
};

__device__ __forceinline__ int64_t place(const Rows &r, int64_t at)
{
    return r.width8 ? at + (int64_t)((uint32_t)(at / 8) / r.width8) * r.gap : at;
}

__global__ void __launch_bounds__(256) sumsq_strided(Ref x, Rows rows, int64_t n, double *partial)
{
    double sum = 0;
    constexpr int BATCH = 2;
    int64_t step = (int64_t)gridDim.x * 2048;
    for (int64_t at = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8; at < n; at += BATCH * step) {
        Eight e[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            e[k] = fetch(x, place(rows, at + k * step), (int)max(min(n - at - k * step, (int64_t)8), (int64_t)0));
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            float v[8];
            unpack(x, e[k], (int)max(min(n - at - k * step, (int64_t)8), (int64_t)0), v);
#pragma unroll
            for (int i = 0; i < 8; i++) sum += (double)v[i] * (double)v[i];
        }
    }
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(256) sumsq_total(const double *partial, int blocks, double *out, bool acc)
{
    double sum = 0;
    for (int i = threadIdx.x; i < blocks; i += 256) sum += partial[i];
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) *out = acc ? *out + sum : sum;
}

int block_count(int64_t n)
{
    int64_t blocks = ceil_div(n, 2048);
    return (int)(blocks < BLOCKS ? blocks : BLOCKS);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_sumsq(const m2_call *c)
{
    using namespace m2cu;
    M2_TRY(check(c, 1 << 8));
    int64_t n = m2_tensor_count(&c->in[0]);
    int blocks = block_count(n);
    M2_TRY(check_workspace(c, blocks * (int64_t)sizeof(double)));
    double *partial = (double *)c->workspace;
    const m2_tensor &x = c->in[0];
    Rows rows = {0, 0};
    if (!m2_tensor_dense(&x)) {
        if (x.shape[1] % 8 || x.stride[0] % 8 || n / 8 > UINT32_MAX)
            return m2_fail(M2_BUG, "sumsq on CUDA: rows of %lld elements, %lld apart", (long long)x.shape[1],
                           (long long)x.stride[0]);
        rows = {(uint32_t)(x.shape[1] / 8), x.stride[0] - x.shape[1]};
    }
    if (blocks) sumsq_strided<<<blocks, 256, 0, stream_of(c)>>>(ref(x), rows, n, partial);
    sumsq_total<<<1, 256, 0, stream_of(c)>>>(partial, blocks, (double *)c->out[0].data, c->acc & 1);
    return launched(c);
}

extern "C" int64_t m2i_cuda_sumsq_workspace(const m2_attrs *, const m2_desc *in, const m2_desc *)
{
    return m2cu::block_count(m2_desc_count(&in[0])) * (int64_t)sizeof(double);
}
