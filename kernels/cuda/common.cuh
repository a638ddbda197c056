/* common.cuh - what the CUDA kernels share: tensors of either dtype in groups of eight, block sums, launches.
 *
 * Nearly every kernel here is bound by memory, so dtypes are decided at run time, by a uniform branch around a load or a
 * store: one kernel serves every mix of f32 and bf16 (an f32 residual stream and bf16 activations, say), all arithmetic is
 * f32. A thread moves groups of 8 elements: 16 bytes of bf16, twice 16 of f32. Loads keep raw bits and are unpacked when
 * all of a thread's loads are on their way. Rows whose width is no multiple of 8 go element by element. */
#pragma once
#include "divide.cuh"
#include "kernels/base/log.h"
#include "kernels/ops.h"
#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace m2cu
{

/* ---- host: checks and launches ------------------------------------------------------------------------------------ */
/* M2_OK if every present tensor is dense and every float one f32 or bf16; `f64_slots`: bit i for in[i], bit 8 + j for
 * out[j], where f64 is right. */
m2_status check(const m2_call *c, unsigned f64_slots = 0);
/* After launches: their error, if any, naming the op. */
m2_status launched(const m2_call *c);
/* M2_BUG if the call was given less scratch than its query asked for. */
m2_status check_workspace(const m2_call *c, int64_t need);

inline cudaStream_t stream_of(const m2_call *c)
{
    return (cudaStream_t)c->stream;
}
inline int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}
inline int64_t last_of(const m2_tensor &t)
{
    return t.rank > 0 ? t.shape[t.rank - 1] : 1;
}
inline int64_t last_of(const m2_desc &d)
{
    return d.rank > 0 ? d.shape[d.rank - 1] : 1;
}
inline int64_t step_of(const m2_tensor &t) /* from row to row of a matrix that may have gaps */
{
    return t.rank > 1 ? t.stride[0] : 0;
}
inline int64_t rows_of(const m2_tensor &t)
{
    return last_of(t) ? m2_tensor_count(&t) / last_of(t) : 0;
}
inline int64_t rows_of(const m2_desc &d)
{
    return last_of(d) ? m2_desc_count(&d) / last_of(d) : 0;
}
inline int64_t align256(int64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}
/* Threads of a block whose threads own 8 columns each: whole warps, at most `most`. */
inline int threads_for(int64_t width, int most = 512)
{
    int64_t t = ceil_div(ceil_div(width, 8), 32) * 32;
    return (int)(t < most ? t : most);
}

/* ---- tensors on the device ---------------------------------------------------------------------------------------- */
struct Ref {
    char *data; /* NULL: absent */
    int bf16;   /* else f32 */
    int wide;   /* groups of 8 start at multiples of 16 bytes */
    int acc;    /* outputs: add to what is there */
};

/* `width`: what groups of 8 are counted from is a multiple of it; 0: they are counted from the tensor's start. */
inline Ref ref(const m2_tensor &t, int64_t width = 0, int acc = 0)
{
    Ref r = {(char *)t.data, t.dtype == M2_BF16, width % 8 == 0 && (uintptr_t)t.data % 16 == 0, acc != 0};
    return r;
}
inline Ref none()
{
    return Ref{nullptr, 0, 0, 0};
}

struct Eight {
    uint4 a, b;
};

__device__ __forceinline__ uint4 four_bits(float x, float y, float z, float w)
{
    return make_uint4(__float_as_uint(x), __float_as_uint(y), __float_as_uint(z), __float_as_uint(w));
}

__device__ __forceinline__ float load_one(const Ref &t, int64_t at)
{
    return t.bf16 ? __bfloat162float(((const __nv_bfloat16 *)t.data)[at]) : ((const float *)t.data)[at];
}

__device__ __forceinline__ void store_one(const Ref &t, int64_t at, float x)
{
    if (t.bf16)
        ((__nv_bfloat16 *)t.data)[at] = __float2bfloat16_rn(x);
    else
        ((float *)t.data)[at] = x;
}

/* Elements [at, at + n) of t, n <= 8, the rest zero; n <= 0 reads nothing. */
__device__ __forceinline__ Eight fetch(const Ref &t, int64_t at, int n)
{
    Eight e = {{0, 0, 0, 0}, {0, 0, 0, 0}};
    if (t.wide && n >= 8) {
        const uint4 *p = (const uint4 *)(t.data + at * (t.bf16 ? 2 : 4));
        e.a = p[0];
        if (!t.bf16) e.b = p[1];
    } else if (n > 0) {
        float x[8];
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = i < n ? load_one(t, at + i) : 0.0f;
        e.a = four_bits(x[0], x[1], x[2], x[3]);
        e.b = four_bits(x[4], x[5], x[6], x[7]);
    }
    return e;
}

/* What fetch(t, at, n) got, as floats. */
__device__ __forceinline__ void unpack(const Ref &t, const Eight &e, int n, float *x)
{
    const uint32_t w[8] = {e.a.x, e.a.y, e.a.z, e.a.w, e.b.x, e.b.y, e.b.z, e.b.w};
    if (t.bf16 && t.wide && n >= 8) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[2 * i] = __uint_as_float(w[i] << 16);
            x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = __uint_as_float(w[i]);
    }
}

__device__ __forceinline__ void load(const Ref &t, int64_t at, int n, float *x)
{
    unpack(t, fetch(t, at, n), n, x);
}

__device__ __forceinline__ uint32_t pack_two(float x, float y)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(x, y);
    return *(uint32_t *)&v;
}

/* Elements [at, at + n) of t, n <= 8, become x; `acc` of t is the caller's business. */
__device__ __forceinline__ void store(const Ref &t, int64_t at, int n, const float *x)
{
    if (t.wide && n >= 8) {
        uint4 *p = (uint4 *)(t.data + at * (t.bf16 ? 2 : 4));
        if (t.bf16) {
            p[0] = make_uint4(pack_two(x[0], x[1]), pack_two(x[2], x[3]), pack_two(x[4], x[5]),
                              pack_two(x[6], x[7]));
        } else {
            p[0] = four_bits(x[0], x[1], x[2], x[3]);
            p[1] = four_bits(x[4], x[5], x[6], x[7]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < n) store_one(t, at + i, x[i]);
    }
}

/* The same, or += where the tensor accumulates. */
__device__ __forceinline__ void put(const Ref &t, int64_t at, int n, float *x)
{
    if (t.acc) {
        float old[8];
        load(t, at, n, old);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] += old[i];
    }
    store(t, at, n, x);
}

/* 2^x, relative error 2^-22; results below the smallest normal number are zero. */
__device__ __forceinline__ float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- sums in a block ---------------------------------------------------------------------------------------------- */
/* Every thread gets the block's sums of its v[]; blocks of whole warps; one order whatever the timing. Consecutive calls
 * with as many sums alternate `phase` between 0 and 1, which saves a second barrier. */
template <int N> __device__ __forceinline__ void block_sum(float (&v)[N], int phase)
{
    __shared__ alignas(16) float part[2][N][32];
    int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < N; i++) {
#pragma unroll
        for (int d = 16; d; d /= 2) v[i] += __shfl_xor_sync(~0u, v[i], d);
        if (lane == 0) part[phase][i][warp] = v[i];
        if (warp == 0 && lane >= warps) part[phase][i][lane] = 0;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        v[i] = 0;
        for (int w = 0; w < warps; w += 4) {
            float4 four = *(const float4 *)&part[phase][i][w];
            v[i] += (four.x + four.y) + (four.z + four.w);
        }
    }
}

/* ---- sums over rows, in two deterministic stages (sums.cu) --------------------------------------------------------- */
/* Floats of scratch that column_sums needs. */
int64_t column_partials(int64_t rows, int64_t width);
/* out[w] (+)= sum over rows of x (rows, width), f32. */
void column_sums(const m2_tensor &x, int64_t rows, int64_t width, float *partial, float *out, bool acc,
                 cudaStream_t s);
/* out[k] (+)= sum over the n elements of row k of x (rows, n), f32. */
void row_sums(const m2_tensor &x, int64_t rows, int64_t n, float *out, bool acc, cudaStream_t s);
/* out[w] (+)= sum over strips s of partial[s * width + w]; columns from `split` on go to out2. NULL: not wanted. */
void fold(const float *partial, int64_t strips, int64_t width, int64_t split, float *out, bool acc,
          float *out2, bool acc2, cudaStream_t s);
/* to[idx[i]] += from[i], rows of `width`, those with idx[i] < 0 or == skip left out; `to` is zeroed first unless acc. */
void scatter_rows(const int32_t *idx, int64_t n, int64_t skip, const m2_tensor &from, const m2_tensor &to,
                  int64_t width, bool acc, cudaStream_t s);

} // namespace m2cu
