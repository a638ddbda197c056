/* transpose.cu - token-major (B, L, C) to channel-major (C, B, L) and back.
 *
 * A block of 256 threads turns a tile of 64 x 64 elements of one batch row through shared memory; a lane moves two
 * neighbours, so a warp reads and writes 64 elements in one piece. Rows of the tile are 66 apart: two-way bank conflicts at
 * most. Bytes: everything once each way. dtypes are moved as they are; only an accumulating output is added to. */
#include "common.cuh"

namespace m2cu
{
namespace
{

constexpr int SIDE = 64, ROOM = SIDE + 2;

struct Turn { /* to[j, i] (+)= from[i, j] of each batch row */
    const char *from;
    char *to;
    int64_t rows, columns, from_stride, to_stride, from_batch, to_batch;
    int pairs_from, pairs_to; /* neighbours start at even addresses */
    int acc;
};

__device__ __forceinline__ uint16_t sum_of(uint16_t a, uint16_t b)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(__bfloat162float(__ushort_as_bfloat16(a)) +
                                                    __bfloat162float(__ushort_as_bfloat16(b))));
}
__device__ __forceinline__ float sum_of(float a, float b)
{
    return a + b;
}

template <typename T> struct alignas(2 * sizeof(T)) Two {
    T a, b;
};

template <typename T> __global__ void __launch_bounds__(256) turn(Turn j)
{
    __shared__ T tile[SIDE][ROOM];
    const T *from = (const T *)j.from + blockIdx.z * j.from_batch;
    T *to = (T *)j.to + blockIdx.z * j.to_batch;
    int64_t i0 = (int64_t)blockIdx.x * SIDE, j0 = (int64_t)blockIdx.y * SIDE;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int r = warp; r < SIDE && i0 + r < j.rows; r += 8) {
        int64_t column = j0 + 2 * lane, at = (i0 + r) * j.from_stride + column;
        if (j.pairs_from && column + 1 < j.columns) {
            Two<T> two = *(const Two<T> *)(from + at);
            tile[r][2 * lane] = two.a, tile[r][2 * lane + 1] = two.b;
        } else {
            if (column < j.columns) tile[r][2 * lane] = from[at];
            if (column + 1 < j.columns) tile[r][2 * lane + 1] = from[at + 1];
        }
    }
    __syncthreads();
    for (int r = warp; r < SIDE && j0 + r < j.columns; r += 8) {
        int64_t row = i0 + 2 * lane, at = (j0 + r) * j.to_stride + row;
        if (row >= j.rows) continue;
        bool both = row + 1 < j.rows;
        Two<T> two = {tile[2 * lane][r], tile[2 * lane + 1][r]};
        if (j.acc) {
            two.a = sum_of(two.a, to[at]);
            if (both) two.b = sum_of(two.b, to[at + 1]);
        }
        if (j.pairs_to && both) {
            *(Two<T> *)(to + at) = two;
        } else {
            to[at] = two.a;
            if (both) to[at + 1] = two.b;
        }
    }
}

m2_status run_turn(const m2_call *c, Turn j, int64_t batch)
{
    M2_TRY(check(c));
    const m2_tensor &x = c->in[0], &y = c->out[0];
    if (x.dtype != y.dtype)
        return m2_fail(M2_USAGE, "%s on CUDA: input and output must have one dtype", c->op->name);
    if (batch > 65535 || ceil_div(j.columns, SIDE) > 65535)
        return m2_fail(M2_USAGE, "%s on CUDA: more than 65535 rows or tiles", c->op->name);
    size_t pair = 2 * (size_t)m2_dtype_size(x.dtype);
    j.from = (const char *)x.data, j.to = (char *)y.data;
    j.pairs_from = j.from_stride % 2 == 0 && j.from_batch % 2 == 0 && (uintptr_t)j.from % pair == 0;
    j.pairs_to = j.to_stride % 2 == 0 && j.to_batch % 2 == 0 && (uintptr_t)j.to % pair == 0;
    dim3 grid((unsigned)ceil_div(j.rows, SIDE), (unsigned)ceil_div(j.columns, SIDE), (unsigned)batch);
    if (grid.x && grid.y && grid.z) {
        if (x.dtype == M2_BF16)
            turn<uint16_t><<<grid, 256, 0, stream_of(c)>>>(j);
        else
            turn<float><<<grid, 256, 0, stream_of(c)>>>(j);
    }
    return launched(c);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_transpose(const m2_call *c)
{
    const int64_t B = c->in[0].shape[0], L = c->in[0].shape[1], C = c->in[0].shape[2];
    m2cu::Turn j = {};
    j.rows = L, j.columns = C;
    j.from_stride = C, j.from_batch = L * C;
    j.to_stride = B * L, j.to_batch = L;
    return m2cu::run_turn(c, j, B);
}

extern "C" m2_status m2i_cuda_transpose_grad(const m2_call *c)
{
    if (m2_absent(&c->out[0])) return M2_OK;
    const int64_t C = c->in[0].shape[0], B = c->in[0].shape[1], L = c->in[0].shape[2];
    m2cu::Turn j = {};
    j.rows = C, j.columns = L;
    j.from_stride = B * L, j.from_batch = L;
    j.to_stride = C, j.to_batch = L * C;
    j.acc = c->acc & 1;
    return m2cu::run_turn(c, j, B);
}
