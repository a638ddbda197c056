/* pool.cu - the mean of the first n[b] positions of each row, and the squared error of a few numbers.
 *
 *   pool: y[b] = mean of x[b, t], t < n[b]; dx[b, t] = dy[b] / n[b] there, 0 beyond.   mse: sum (x - y)^2 / DENOM.
 * pool: a thread owns 8 columns of a row and walks the positions, its gradient owns 8 columns of one position. Bytes: x once.
 * mse: one block, one order. */
#include "common.cuh"

namespace m2cu
{
namespace
{

__device__ __forceinline__ int64_t positions(const int32_t *n, int64_t b, int64_t L)
{
    return max((int64_t)0, min((int64_t)n[b], L));
}

__global__ void __launch_bounds__(256) pool(Ref x, Ref y, const int32_t *n, int64_t B, int64_t L, int64_t C)
{
    int64_t groups = (C + 7) / 8, item = (int64_t)blockIdx.x * 256 + threadIdx.x, b = item / groups;
    if (b >= B) return;
    int64_t column = item % groups * 8, count = positions(n, b, L);
    int here = (int)min(C - column, (int64_t)8);
    float sum[8] = {};
    constexpr int BATCH = 4;
    for (int64_t t = 0; t < count; t += BATCH) {
        Eight e[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            e[k] = fetch(x, (b * L + t + k) * C + column, t + k < count ? here : 0);
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            float v[8];
            unpack(x, e[k], t + k < count ? here : 0, v);
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += v[i];
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] = count ? sum[i] / (float)count : 0.0f;
    store(y, b * C + column, here, sum);
}

__global__ void __launch_bounds__(256)
    pool_grad(Ref dy, Ref dx, const int32_t *n, int64_t B, int64_t L, int64_t C)
{
    int64_t groups = (C + 7) / 8, item = (int64_t)blockIdx.x * 256 + threadIdx.x, row = item / groups;
    if (row >= B * L) return;
    int64_t column = item % groups * 8, b = row / L, count = positions(n, b, L);
    int here = (int)min(C - column, (int64_t)8);
    float v[8] = {};
    if (row % L < count) {
        load(dy, b * C + column, here, v);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] /= (float)count;
    }
    put(dx, row * C + column, here, v);
}

__global__ void __launch_bounds__(256) mse(Ref x, Ref y, int64_t n, float scale, float *loss)
{
    float sum[1] = {0};
    for (int64_t i = threadIdx.x; i < n; i += 256) {
        float off = load_one(x, i) - load_one(y, i);
        sum[0] += off * off;
    }
    block_sum(sum, 0);
    if (threadIdx.x == 0) *loss = sum[0] * scale;
}

__global__ void __launch_bounds__(256)
    mse_grad(Ref x, Ref y, const float *dloss, Ref dx, int64_t n, float scale)
{
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    float g = scale * (dloss ? *dloss : 1.0f) * (load_one(x, i) - load_one(y, i));
    store_one(dx, i, dx.acc ? load_one(dx, i) + g : g);
}

float per_element(const m2_call *c)
{
    int64_t n = c->attrs.i[M2_MSE_DENOM] ? c->attrs.i[M2_MSE_DENOM] : m2_tensor_count(&c->in[0]);
    return n ? 1.0f / (float)n : 1.0f;
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_pool(const m2_call *c)
{
    using namespace m2cu;
    M2_TRY(check(c));
    int64_t B = c->in[0].shape[0], L = c->in[0].shape[1], C = c->in[0].shape[2];
    int64_t blocks = ceil_div(B * ceil_div(C, 8), 256);
    if (blocks)
        pool<<<(unsigned)blocks, 256, 0, stream_of(c)>>>(ref(c->in[0], C), ref(c->out[0], C),
                                                         (const int32_t *)c->in[1].data, B, L, C);
    return launched(c);
}

extern "C" m2_status m2i_cuda_pool_grad(const m2_call *c)
{
    using namespace m2cu;
    M2_TRY(check(c));
    if (m2_absent(&c->out[0])) return M2_OK;
    int64_t B = c->out[0].shape[0], L = c->out[0].shape[1], C = c->out[0].shape[2];
    int64_t blocks = ceil_div(B * L * ceil_div(C, 8), 256);
    if (blocks)
        pool_grad<<<(unsigned)blocks, 256, 0, stream_of(c)>>>(ref(c->in[1], C), ref(c->out[0], C, c->acc & 1),
                                                              (const int32_t *)c->in[0].data, B, L, C);
    return launched(c);
}

extern "C" m2_status m2i_cuda_mse(const m2_call *c)
{
    using namespace m2cu;
    M2_TRY(check(c));
    mse<<<1, 256, 0, stream_of(c)>>>(ref(c->in[0]), ref(c->in[1]), m2_tensor_count(&c->in[0]), per_element(c),
                                     (float *)c->out[0].data);
    return launched(c);
}

extern "C" m2_status m2i_cuda_mse_grad(const m2_call *c)
{
    using namespace m2cu;
    M2_TRY(check(c));
    if (m2_absent(&c->out[0])) return M2_OK;
    int64_t n = m2_tensor_count(&c->in[0]);
    if (n)
        mse_grad<<<(unsigned)ceil_div(n, 256), 256, 0, stream_of(c)>>>(
            ref(c->in[0]), ref(c->in[1]), (const float *)c->in[2].data, ref(c->out[0], 0, c->acc & 1), n,
            2 * per_element(c));
    return launched(c);
}
