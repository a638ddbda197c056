/* longconv_mma.cu - gated long convolution of bf16 rows on tensor cores, forward and backward, fused; the formulas are
 * longconv.cu's, the transform mma_fft.cuh's (f16 operands).
 *
 * A block takes rows of one filter in turn, or (R > 32, filters enough) whole filters, from taps to their gradient; the
 * transform of a row stays in its shared memory, scaled as mma_rows.cuh says. Spectra of filters are scaled to a maximum of
 * 1 and kept in f16 with their scale. Gradients of spectra are summed over rows in f32: in shared memory (R <= 32), else
 * through L2.
 * Error against float64: 2.0e-3 relative L2, of which the bf16 result's own rounding is 1.7e-3.
 *
 * H200, 65,536 tokens x 1024 channels and filters, gated, `m2 bench conv --device cuda --gates`, ms forward / with backward.
 * Bound: bytes that must move, 0.13 / 0.36. Prediction: instructions of a row in the machine code, four per clock and SM; the
 * tensor cores' share of it is smaller at every length.
 *   L      prediction    result         what limits it
 *   1024   0.16 / 0.47   0.258 / 0.876  latency between barriers: registers allow 32 warps per SM forward, 16 backward
 *   2048   0.13 / 0.50   0.262 / 0.846  the same, 16 warps each
 *   4096   0.14 / 0.45   0.258 / 0.930  the same, 24 and 16 warps
 *   8192   0.13 / 0.49   0.325 / 1.227  backward: one block per SM (132 KiB of shared memory), idle at its barriers
 *   16384  0.19 / 0.60   0.444 / 1.886  one block per SM both ways; a filter's transform is 2 rows' work, for 4 rows
 *   32768  0.23 / 0.80   0.642 / 3.013  the same, for 2 rows; backward one transform at a time, the other waits in L2, as do
 *                                       the sums (a block's, 390 KiB together: more than L2 holds for all blocks)
 * Tried: f32 sums in the inner stages (5% slower, same error), sums of spectra in registers (spills, 8% slower); at 8192
 * sums in L2 and two blocks per SM (backward 1.02 for 0.90); asking for the next row at 32768 (4% slower, else 3-10% faster);
 * R = 64 and 128 as one product with a matrix of R x R, 0.60 / 2.27 and 1.05 / 4.13: constants from L2 for every row; at 32768
 * five eighths of dy's transform in shared memory (backward 1% faster); rows in pieces that each thread asks for (cp.async) one
 * stage ahead: 0.78 / 3.49, at 16384 0.54 / 2.21; at 8192 two blocks per SM with half of the sums in L2, 1.29.
 * Nsight Compute, backward at 32768: of the cycles without an instruction two thirds wait for rows, their gates and spilled
 * registers (28% of the sectors that L2 serves); DRAM 40%, L2 52%, arithmetic 20% busy. */
#include "longconv_mma.cuh"
#include "common.cuh"
#include "mma_rows.cuh"
#include <stdio.h>

namespace m2cu
{
namespace
{

/* ---- kernels ------------------------------------------------------------------------------------------------------ */
template <class X> __global__ void __launch_bounds__(256) fill_constants(uint4 *to)
{
    int at = blockIdx.x * 256 + threadIdx.x;
    if (at < X::CONSTANTS)
        to[at] = make_uint4(X::constant(at, 0), X::constant(at, 1), X::constant(at, 2), X::constant(at, 3));
}

/* A block's rows of a filter: first, first + step, ... */
struct Share {
    int first, step;
};

/* The spectrum of filter f, N words (re and im of group k0 at (2 k0) 32, (2 k0 + 1) 32); returns its scale. A thread reads
 * back only what it wrote. */
template <class X>
__device__ __forceinline__ float spectrum_of(X &fft, const Filter &taps, int64_t f, __half *buf, uint32_t *part, uint4 *K)
{
    typename X::Entry re, im;
    uint32_t tops[X::BATCHES], top[1] = {0};
#pragma unroll
    for (int b = 0; b < X::BATCHES; b++) { /* operands at the warp's scale, then at the block's */
        constexpr int W = X::W;
        float x[X::BATCH][W], y[X::BATCH][W], most = 0;
#pragma unroll
        for (int p = 0; p < X::BATCH; p++) {
            int n = fft.position(b * X::BATCH + p);
            float reversed[W] = {};
            taps.fetch<W>(taps.k, f, n, x[p]);
            if (n == 0 && taps.D) x[p][0] += taps.D[f];
            if (taps.kr) taps.fetch<W>(taps.kr, f, X::N - W - n, reversed);
#pragma unroll
            for (int i = 0; i < W; i++) {
                y[p][i] = -reversed[W - 1 - i];
                most = fmaxf(most, fmaxf(fabsf(x[p][i]), fabsf(y[p][i]))); /* a NaN enters as it is */
            }
        }
        tops[b] = __reduce_max_sync(~0u, __float_as_uint(most));
        top[0] = max(top[0], tops[b]);
        X::pack_entry(x, scale_for(tops[b], 6), re, b);
        X::pack_entry(y, scale_for(tops[b], 6), im, b);
    }
    block_max<1, X::WARPS>(top, part);
    const float scale = scale_for(top[0], 6); /* complex rows: one bit of room */
#pragma unroll
    for (int b = 0; b < X::BATCHES; b++) {
        X::scale_entry(re, scale * inverse(scale_for(tops[b], 6)), b);
        X::scale_entry(im, scale * inverse(scale_for(tops[b], 6)), b);
    }
    fft.template enter<true>(re, im, buf);
    __syncthreads();
    top[0] = 0;
    fft.prepare();
#pragma unroll 1
    for (int i = 0; i < X::GROUPS; i++)
        top[0] = max(top[0], magnitude(fft.inner(buf, i * X::WARPS + fft.warp)));
    block_max<1, X::WARPS>(top, part + X::WARPS);
    float unit = scale_for(top[0], -2); /* a complex number of such parts stays below 1 */
#pragma unroll 1
    for (int i = 0; i < X::GROUPS; i++) {
        int k0 = i * X::WARPS + fft.warp;
        store_words(K + k0 * 64 + fft.lane, scaled(fft.inner(buf, k0), unit));
    }
    return sqrtf((float)X::N) * inverse(scale) * inverse(unit);
}
template <class X>
__global__ void __launch_bounds__(X::THREADS)
    filter_spectrum(Filter taps, const uint4 *constants, uint4 *K, float *scale_K, int f0)
{
    extern __shared__ uint4 smem[];
    __shared__ uint32_t part[2 * X::WARPS];
    X fft(constants);
    float scale = spectrum_of(fft, taps, f0 + blockIdx.x, (__half *)smem, part, K + (int64_t)blockIdx.x * X::R * 64);
    if (threadIdx.x == 0) scale_K[blockIdx.x] = scale;
}

/* Row i of two tensors, if there is one, on its way into the cache. */
template <class X, bool PLAIN>
__device__ __forceinline__ void ask_for(const Rows &rows, bool wide, int f, int i, const bf16 *p, const bf16 *q)
{
    if (i >= rows.count) return;
    Line<PLAIN> line(rows, wide, f, i);
    line.template prefetch<X::THREADS>(p);
    line.template prefetch<X::THREADS>(q);
}

/* A share of the rows of filter f, whose spectrum is K with its scale. */
template <class X, bool PLAIN>
__device__ __forceinline__ void forward_rows(X &fft, const Rows &rows, const Gates &io, int f, Share share, const uint4 *K,
                                             float scale_K, __half *buf, uint32_t *part)
{
    for (int i = share.first; i < rows.count; i += share.step) {
        Line<PLAIN> line(rows, io.wide, f, i);
        Taken<X> x(fft, line, io.u, io.pre);
        if (X::AHEAD) {
            line.template prefetch<X::THREADS>(io.post);
            ask_for<X, PLAIN>(rows, io.wide, f, i + share.step, io.u, io.pre);
        }
        float scale = common_scale(x, part);
        fft.template enter<false>(x.x, x.x, buf);
        __syncthreads();
        fft.prepare();
#pragma unroll 1
        for (int n = 0; n < X::GROUPS; n++) {
            int k0 = n * X::WARPS + fft.warp;
            Words k = words_of(K[k0 * 64 + fft.lane], K[k0 * 64 + 32 + fft.lane]);
            Words z = fft.inner(buf, k0);
            times<false>(z, k);
            fft.keep(fft.inner_inverse(z, k0), buf, k0);
        }
        __syncthreads();
        float back = scale_K * inverse(scale);
        fft.template leave<false>(buf, [&](int n, float(&s)[8]) {
            float g[8];
            uint32_t w[4];
            if (io.post) line.template fetch<8>(io.post, n, w), unpack<8>(w, g);
#pragma unroll
            for (int e = 0; e < 8; e++) s[e] *= io.post ? back * g[e] : back;
            line.put(io.y, n, s, false);
        });
    }
}
template <class X, bool PLAIN, int BLOCKS>
__global__ void __launch_bounds__(X::THREADS, BLOCKS)
    mma_forward(Rows rows, Gates io, const uint4 *constants, const uint4 *K, const float *scale_K, int f0)
{
    extern __shared__ uint4 smem[];
    __shared__ uint32_t part[X::WARPS];
    X fft(constants);
    forward_rows<X, PLAIN>(fft, rows, io, f0 + blockIdx.y, Share{(int)blockIdx.x, (int)gridDim.x},
                           K + (int64_t)blockIdx.y * X::R * 64, scale_K[blockIdx.y], (__half *)smem, part);
}
/* A block takes whole filters; K has room for one per block. */
template <class X, bool PLAIN, int BLOCKS>
__global__ void __launch_bounds__(X::THREADS, BLOCKS)
    whole_forward(Rows rows, Gates io, Filter taps, const uint4 *constants, uint4 *K)
{
    extern __shared__ uint4 smem[];
    __half *buf = (__half *)smem;
    __shared__ uint32_t part[2 * X::WARPS];
    X fft(constants);
    K += (int64_t)blockIdx.x * X::R * 64;
    for (int f = blockIdx.x; f < rows.F; f += gridDim.x) {
        float scale = spectrum_of(fft, taps, f, buf, part, K);
        forward_rows<X, PLAIN>(fft, rows, io, f, Share{0, 1}, K, scale, buf, part);
    }
}

/* sum += scale d conj(a) */
__device__ __forceinline__ void correlate(Sums &sum, const Words &d, const Words &a, float scale)
{
#pragma unroll
    for (int q = 0; q < 4; q++) {
        float2 ar = __half22float2(halves(a.re[q])), ai = __half22float2(halves(a.im[q])),
               dr = __half22float2(halves(d.re[q])), di = __half22float2(halves(d.im[q]));
        float(&re)[4] = sum.re[q / 2], (&im)[4] = sum.im[q / 2];
        int e = q % 2 * 2;
        re[e] += scale * (dr.x * ar.x + di.x * ai.x);
        im[e] += scale * (di.x * ar.x - dr.x * ai.x);
        re[e + 1] += scale * (dr.y * ar.y + di.y * ai.y);
        im[e + 1] += scale * (di.y * ar.y - dr.y * ai.y);
    }
}
__device__ __forceinline__ Sums load_sums(const float4 *p, int lane)
{
    Sums s;
#pragma unroll
    for (int q = 0; q < 4; q++) {
        float4 v = p[q * 32 + lane];
        float(&to)[4] = q < 2 ? s.re[q] : s.im[q - 2];
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
    return s;
}
__device__ __forceinline__ void store_sums(float4 *p, int lane, const Sums &s)
{
#pragma unroll
    for (int q = 0; q < 4; q++) {
        const float(&v)[4] = q < 2 ? s.re[q] : s.im[q - 2];
        p[q * 32 + lane] = make_float4(v[0], v[1], v[2], v[3]);
    }
}

/* What of the backward fits shared memory: two transforms; sums of the spectrum's gradient beside them. */
template <class X> struct Fits {
    static constexpr bool TWO = X::R < 128, SUMS = X::R <= 32;
    static constexpr size_t BYTES = (TWO ? 2 : 1) * X::BUFFER + (SUMS ? X::N * sizeof(float2) : 0);
};

/* Backward of a share of the rows of filter f: `dK` gets the sums of the gradient of its spectrum, [k0][4 32]. Where two
 * transforms do not fit shared memory, that of dy waits in `temp`, N words. */
template <class X, bool PLAIN>
__device__ __forceinline__ void backward_rows(X &fft, const Rows &rows, const Gates &io, int f, Share share, const uint4 *K,
                                              float scale_K, float4 *dK, uint4 *temp, uint4 *smem, uint32_t *part)
{
    __half *buf = (__half *)smem;
    constexpr bool TWO = Fits<X>::TWO, KEEP = Fits<X>::SUMS;
    __half *bufd = TWO ? buf + 2 * X::PLANE : buf;
    const int lane = fft.lane;
    float4 *sums = KEEP ? (float4 *)((char *)smem + X::BUFFER * 2) : dK;
    for (int i = share.first; i < rows.count; i += share.step) {
        Line<PLAIN> line(rows, io.wide, f, i);
        float sa, sd;
        if constexpr (TWO) {
            {
                Taken<X> d(fft, line, io.dy, io.post);
                ask_for<X, PLAIN>(rows, io.wide, f, i, io.u, io.pre);
                sd = common_scale(d, part);
                fft.template enter<false>(d.x, d.x, bufd);
            }
            Taken<X> a(fft, line, io.u, io.pre);
            ask_for<X, PLAIN>(rows, io.wide, f, i + share.step, io.dy, io.post);
            sa = common_scale(a, part + X::WARPS);
            fft.template enter<false>(a.x, a.x, buf);
        } else {
            Taken<X> d(fft, line, io.dy, io.post);
            sd = common_scale(d, part);
            fft.template enter<false>(d.x, d.x, bufd);
            __syncthreads();
            fft.prepare();
#pragma unroll 1
            for (int n = 0; n < X::GROUPS; n++) {
                int k0 = n * X::WARPS + fft.warp;
                store_words(temp + k0 * 64 + lane, fft.inner(bufd, k0));
            }
            Taken<X> a(fft, line, io.u, io.pre);
            sa = common_scale(a, part + X::WARPS);
            fft.template enter<false>(a.x, a.x, buf);
        }
        __syncthreads();
        float both = inverse(sa) * inverse(sd);
        fft.prepare();
#pragma unroll 1
        for (int n = 0; n < X::GROUPS; n++) {
            int k0 = n * X::WARPS + fft.warp;
            Sums sum = {};
            if (i != share.first) sum = load_sums(sums + k0 * 128, lane);
            Words k = words_of(K[k0 * 64 + lane], K[k0 * 64 + 32 + lane]);
            Words zd = TWO ? fft.inner(bufd, k0) : words_of(temp[k0 * 64 + lane], temp[k0 * 64 + 32 + lane]),
                  za = fft.inner(buf, k0);
            correlate(sum, zd, za, both);
            store_sums(sums + k0 * 128, lane, sum);
            times<false>(za, k);
            if (io.dpost) fft.keep(fft.inner_inverse(za, k0), buf, k0);
            times<true>(zd, k);
            zd = fft.inner_inverse(zd, k0);
            if (TWO)
                fft.keep(zd, bufd, k0);
            else
                store_words(temp + k0 * 64 + lane, zd);
        }
        __syncthreads();
        float back_a = scale_K * inverse(sa), back_d = scale_K * inverse(sd);
        if (io.dpost) /* before du, which may be the memory of dy: each element has one thread here and there */
            fft.template leave<false>(buf, [&](int n, float(&s)[8]) {
                float g[8];
                uint32_t w[4];
                line.template fetch<8>(io.dy, n, w), unpack<8>(w, g);
#pragma unroll
                for (int e = 0; e < 8; e++) s[e] *= back_a * g[e];
                line.put(io.dpost, n, s, io.acc_dpost);
            });
        if (!TWO) {
            __syncthreads();
            for (int n = 0; n < X::GROUPS; n++) {
                int k0 = n * X::WARPS + fft.warp;
                fft.keep(words_of(temp[k0 * 64 + lane], temp[k0 * 64 + 32 + lane]), buf, k0);
            }
            __syncthreads();
        }
        fft.template leave<false>(bufd, [&](int n, float(&s)[8]) {
            float g[8], x[8], v[8];
            uint32_t w[4];
            if (io.du && io.pre) line.template fetch<8>(io.pre, n, w), unpack<8>(w, g);
            if (io.dpre) line.template fetch<8>(io.u, n, w), unpack<8>(w, x);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                s[e] *= back_d;
                v[e] = io.pre ? s[e] * g[e] : s[e];
            }
            if (io.du) line.put(io.du, n, v, io.acc_du);
            if (!io.dpre) return;
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] = s[e] * x[e];
            line.put(io.dpre, n, v, io.acc_dpre);
        });
    }
    if (KEEP)
        for (int n = 0; n < X::GROUPS; n++) {
            int k0 = n * X::WARPS + fft.warp;
            store_sums(dK + k0 * 128, lane, load_sums(sums + k0 * 128, lane));
        }
}
/* dK: [split][filter][k0][4 32], temp: [filter][split][N] */
template <class X, bool PLAIN, int BLOCKS>
__global__ void __launch_bounds__(X::THREADS, BLOCKS)
    mma_backward(Rows rows, Gates io, const uint4 *constants, const uint4 *K, const float *scale_K, float4 *dK, uint4 *temp,
                 int f0)
{
    extern __shared__ uint4 smem[];
    __shared__ uint32_t part[2 * X::WARPS];
    X fft(constants);
    backward_rows<X, PLAIN>(fft, rows, io, f0 + blockIdx.y, Share{(int)blockIdx.x, (int)gridDim.x},
                            K + (int64_t)blockIdx.y * X::R * 64, scale_K[blockIdx.y],
                            dK + ((int64_t)blockIdx.x * gridDim.y + blockIdx.y) * X::R * 128,
                            temp + ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * X::R * 64, smem, part);
}

/* Gradient of filter f's taps from the sums of its spectrum's gradient, `splits` of them at `stride`. */
template <class X>
__device__ __forceinline__ void grad_of(X &fft, const Filter &to, int64_t f, const float4 *dK, int splits, int64_t stride,
                                        __half *buf, uint32_t *part)
{
    auto total = [&](int k0) {
        Sums s = {};
        for (int i = 0; i < splits; i++) {
            Sums one = load_sums(dK + i * stride + k0 * 128, fft.lane);
#pragma unroll
            for (int e = 0; e < 8; e++)
                s.re[e / 4][e % 4] += one.re[e / 4][e % 4], s.im[e / 4][e % 4] += one.im[e / 4][e % 4];
        }
        return s;
    };
    uint32_t top[1] = {0};
    for (int n = 0; n < X::GROUPS; n++) top[0] = max(top[0], magnitude(total(n * X::WARPS + fft.warp)));
    block_max<1, X::WARPS>(top, part);
    float scale = scale_for(top[0], 6), back = sqrtf((float)X::N) * inverse(scale);
    fft.prepare();
    for (int n = 0; n < X::GROUPS; n++) {
        int k0 = n * X::WARPS + fft.warp;
        fft.keep(fft.inner_inverse(packed(scaled(total(k0), scale)), k0), buf, k0);
    }
    __syncthreads();
    if (to.k || to.D)
        fft.template leave<false>(buf, [&](int n, float(&v)[8]) {
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] *= back;
            if (to.D && n == 0) to.D[f] = to.acc_D ? to.D[f] + v[0] : v[0];
            if (to.k) to.put(to.k, f, n, v, to.acc_k);
        });
    if (to.kr)
        fft.template leave<true>(buf, [&](int n, float(&v)[8]) {
            float reversed[8];
#pragma unroll
            for (int e = 0; e < 8; e++) reversed[e] = v[7 - e] * -back;
            to.put(to.kr, f, X::N - 8 - n, reversed, to.acc_kr);
        });
}
template <class X>
__global__ void __launch_bounds__(X::THREADS)
    filter_grad(Filter to, const uint4 *constants, const float4 *dK, int splits, int f0)
{
    extern __shared__ uint4 smem[];
    __shared__ uint32_t part[X::WARPS];
    X fft(constants);
    grad_of(fft, to, f0 + blockIdx.x, dK + (int64_t)blockIdx.x * X::R * 128, splits, (int64_t)gridDim.x * X::R * 128,
            (__half *)smem, part);
}
/* A block takes whole filters, from taps to their gradient; K, dK and temp have room for one per block. */
template <class X, bool PLAIN, int BLOCKS>
__global__ void __launch_bounds__(X::THREADS, BLOCKS)
    whole_backward(Rows rows, Gates io, Filter taps, Filter to, const uint4 *constants, uint4 *K, float4 *dK, uint4 *temp)
{
    extern __shared__ uint4 smem[];
    __half *buf = (__half *)smem;
    __shared__ uint32_t part[2 * X::WARPS];
    X fft(constants);
    K += (int64_t)blockIdx.x * X::R * 64, temp += (int64_t)blockIdx.x * X::R * 64, dK += (int64_t)blockIdx.x * X::R * 128;
    for (int f = blockIdx.x; f < rows.F; f += gridDim.x) {
        float scale = spectrum_of(fft, taps, f, buf, part, K);
        backward_rows<X, PLAIN>(fft, rows, io, f, Share{0, 1}, K, scale, dK, temp, smem, part);
        if (to.k || to.kr || to.D) {
            __syncthreads();
            grad_of(fft, to, f, dK, 1, 0, buf, part);
        }
    }
}

/* ---- plan and launches ---------------------------------------------------------------------------------------------- */
struct Plan {
    Rows rows;
    int64_t N;
    int nf, splits;                         /* filters at a time; blocks that share a filter's rows, 0: whole filters per block */
    int64_t constants, K, scales, dK, temp; /* bytes */
    int64_t total() const { return constants + K + scales + dK + temp; }
};

struct Job {
    Plan p;
    Gates io;
    bool plain;
    Filter taps, dtaps;
    uint4 *constants, *K, *temp;
    float *scales;
    float4 *dK;
    cudaStream_t stream;
};

template <class... A, class... B>
void launch(void (*kernel)(A...), dim3 grid, int threads, size_t smem, cudaStream_t stream, B... args)
{
    if (smem > 48 * 1024)
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    kernel<<<grid, threads, smem, stream>>>(args...);
}

template <class X> void begin(const Job &j)
{
    launch(fill_constants<X>, dim3((unsigned)ceil_div(X::CONSTANTS, 256)), 256, 0, j.stream, j.constants);
}
/* The filters' spectra, and their gradients: kernels of their own where several blocks share a filter. */
template <class X> void run_spectrum(const Job &j, int f0, int nf)
{
    launch(filter_spectrum<X>, dim3(nf), X::THREADS, X::BUFFER, j.stream, j.taps, (const uint4 *)j.constants,
           j.K, j.scales, f0);
}
template <class X, int BLOCKS> void run_forward(const Job &j, int f0, int nf)
{
    const uint4 *constants = j.constants;
    if constexpr (X::WHOLE)
        if (!j.p.splits)
            return launch(j.plain ? whole_forward<X, true, BLOCKS> : whole_forward<X, false, BLOCKS>, dim3(j.p.nf), X::THREADS,
                          X::BUFFER, j.stream, j.p.rows, j.io, j.taps, constants, j.K);
    run_spectrum<X>(j, f0, nf);
    if (j.p.rows.count)
        launch(j.plain ? mma_forward<X, true, BLOCKS> : mma_forward<X, false, BLOCKS>, dim3(j.p.splits, nf),
               X::THREADS, X::BUFFER, j.stream, j.p.rows, j.io, constants, (const uint4 *)j.K,
               (const float *)j.scales, f0);
}
template <class X, int BLOCKS> void run_backward(const Job &j, int f0, int nf)
{
    const uint4 *constants = j.constants;
    if constexpr (X::WHOLE)
        if (!j.p.splits)
            return launch(j.plain ? whole_backward<X, true, BLOCKS> : whole_backward<X, false, BLOCKS>, dim3(j.p.nf), X::THREADS,
                          Fits<X>::BYTES, j.stream, j.p.rows, j.io, j.taps, j.dtaps, constants, j.K, j.dK, j.temp);
    run_spectrum<X>(j, f0, nf);
    launch(j.plain ? mma_backward<X, true, BLOCKS> : mma_backward<X, false, BLOCKS>, dim3(j.p.splits, nf),
           X::THREADS, Fits<X>::BYTES, j.stream, j.p.rows, j.io, constants, (const uint4 *)j.K,
           (const float *)j.scales, j.dK, j.temp, f0);
    if (j.dtaps.k || j.dtaps.kr || j.dtaps.D)
        launch(filter_grad<X>, dim3(nf), X::THREADS, X::BUFFER, j.stream, j.dtaps, constants,
               (const float4 *)j.dK, j.p.splits, f0);
}

struct Variant {
    int64_t N;
    bool grad;
    int constants; /* units of 16 bytes */
    int blocks;    /* in flight on a large GPU: blocks per SM times SMs */
    bool temp, whole;
    float cost; /* picoseconds per point of a row, measured with `m2 bench conv` on an H200 */
    void (*begin)(const Job &);
    void (*run)(const Job &, int f0, int nf);
};
/* BLOCKS per SM: bounds the registers. */
template <class X, int BLOCKS> constexpr Variant forward_of(float cost)
{
    return {X::N, false, X::CONSTANTS, 132 * BLOCKS, false, X::WHOLE, cost, begin<X>, run_forward<X, BLOCKS>};
}
template <class X, int BLOCKS> constexpr Variant backward_of(float cost)
{
    return {X::N, true, X::CONSTANTS, 132 * BLOCKS, !Fits<X>::TWO, X::WHOLE, cost, begin<X>, run_backward<X, BLOCKS>};
}
/* Measured on an H200; by threads per SM (registers): forward of 4096 points 512: 0.325 ms, 768: 0.301, of 8192 512: 0.397,
 * 1024: 0.420; backward of 2048 512: 0.66, 640: 0.72, 768: 0.77. */
const Variant variants[] = {
    forward_of<MmaFft<1, 1, 4>, 24>(4.0f),    backward_of<MmaFft<1, 1, 4>, 16>(10.0f),
    forward_of<MmaFft<2, 2, 4>, 12>(4.0f),    backward_of<MmaFft<2, 2, 4>, 8>(10.0f),
    forward_of<MmaFft<4, 4, 4>, 8>(4.0f),     backward_of<MmaFft<4, 4, 4>, 4>(9.2f),
    forward_of<MmaFft<8, 4, 8>, 4>(4.0f),     backward_of<MmaFft<8, 4, 8>, 4>(8.9f),
    forward_of<MmaFft<16, 8, 4>, 3>(4.0f),    backward_of<MmaFft<16, 8, 4>, 2>(10.2f),
    forward_of<MmaFft<32, 8, 4>, 2>(5.0f),    backward_of<MmaFft<32, 16, 2>, 1>(13.4f),
    forward_of<MmaFftLong<64>, 1>(6.8f),   backward_of<MmaFftLong<64>, 1>(23.0f),
    forward_of<MmaFftLong<128>, 1>(9.8f), backward_of<MmaFftLong<128>, 1>(35.2f),
};

const Variant *find(int64_t L, bool grad)
{
    for (const Variant &v : variants) /* by length */
        if (v.grad == grad && v.N >= L) return &v;
    return nullptr;
}

/* In rows' time: blocks' longest queue, a filter's transform (complex, twice its inner stages) being two rows and the
 * gradient's sums per block half a one. */
bool whole_is_faster(int64_t F, int64_t count, int64_t splits, int64_t blocks)
{
    int64_t whole = ceil_div(F, blocks) * (2 * count + 5),
            apart = ceil_div(F, blocks) * 4 + ceil_div(F * splits, blocks) * (2 * ceil_div(count, splits) + 1);
    return whole <= apart;
}

Plan make_plan(const Variant &v, const m2_attrs *attrs, const m2_desc &u, const m2_desc &k)
{
    const int64_t *cbl = u.shape + u.rank - 3, segments = u.rank == 4 ? u.shape[0] : 1, F = k.shape[0];
    Plan p = {};
    p.N = v.N;
    p.rows = {cbl[1],
              cbl[2] * segments,
              F,
              (int)(cbl[0] / F),
              attrs->i[M2_LONGCONV_SHARE] == M2_SHARE_INDEX,
              (int)(cbl[0] / F * cbl[1]),
              cbl[2],
              FastDiv(cbl[2]),
              segments > 1 ? (cbl[0] * cbl[1] - 1) * cbl[2] : 0};
    int64_t most = (256 << 20) / (8 * v.N); /* sums of spectra in 256 MiB */
    p.nf = (int)(F < most ? F : most);
    int64_t want = ceil_div(8 * v.blocks, p.nf), count = p.rows.count > 0 ? p.rows.count : 1;
    p.splits = (int)(want < count ? want : count);
    if (v.whole && whole_is_faster(F, count, p.splits, v.blocks)) p.splits = 0, p.nf = (int)(F < v.blocks ? F : v.blocks);
    int64_t sets = p.splits ? p.splits : 1;
    p.constants = align256((int64_t)v.constants * 16);
    p.K = align256(p.nf * v.N * 4);
    p.scales = align256(p.nf * 4);
    p.dK = v.grad ? align256(p.nf * v.N * 8 * sets) : 0;
    p.temp = v.temp ? align256(p.nf * v.N * 4 * sets) : 0;
    return p;
}

bool aligned(const m2_tensor &t)
{
    return (uintptr_t)t.data % 16 == 0;
}

} // namespace

bool mma_conv_takes(const m2_attrs *, const m2_desc &u)
{
    int64_t L = u.shape[u.rank - 1] * (u.rank == 4 ? u.shape[0] : 1);
    return u.dtype == M2_BF16 && find(L, false) != nullptr;
}

int64_t mma_conv_workspace(const m2_attrs *attrs, const m2_desc &u, const m2_desc &k, bool grad)
{
    int64_t L = u.shape[u.rank - 1] * (u.rank == 4 ? u.shape[0] : 1);
    return make_plan(*find(L, grad), attrs, u, k).total();
}

m2_variant mma_conv_variant(const m2_attrs *attrs, const m2_desc &u, const m2_desc &k, bool grad)
{
    const Variant *v = find(u.shape[u.rank - 1] * (u.rank == 4 ? u.shape[0] : 1), grad);
    Plan p = make_plan(*v, attrs, u, k);
    m2_variant out = {};
    snprintf(out.name, sizeof out.name, "%lld x 16 x 16 on tensor cores", (long long)(v->N / 256));
    out.seconds = (double)p.N * (double)p.rows.count * (double)p.rows.F * 1e-12 * v->cost;
    return out;
}

m2_status mma_conv_run(const m2_call *call, bool grad)
{
    const m2_tensor *in = call->in, *out = call->out;
    m2_desc u = m2_tensor_desc(&in[0]), k = m2_tensor_desc(&in[1]);
    int64_t L = u.shape[u.rank - 1] * (u.rank == 4 ? u.shape[0] : 1);
    const Variant *v = find(L, grad);
    Job j = {};
    j.p = make_plan(*v, &call->attrs, u, k);
    M2_TRY(check_workspace(call, j.p.total()));
    char *at = (char *)call->workspace;
    j.constants = (uint4 *)at, at += j.p.constants;
    j.K = (uint4 *)at, at += j.p.K;
    j.scales = (float *)at, at += j.p.scales;
    j.dK = (float4 *)at, at += j.p.dK;
    j.temp = (uint4 *)at;
    j.stream = stream_of(call);
    const int64_t Lk = in[1].shape[1];
    j.taps = {(float *)in[1].data, (float *)in[2].data, (float *)in[3].data, Lk, false, false, false,
              Lk % 8 == 0 && aligned(in[1]) && aligned(in[2])};
    j.io.u = (const bf16 *)in[0].data, j.io.pre = (const bf16 *)in[4].data,
    j.io.post = (const bf16 *)in[5].data;
    j.io.wide =
        u.shape[u.rank - 1] % 8 == 0 && aligned(in[0]) && aligned(in[4]) && aligned(in[5]) && aligned(out[0]);
    if (!grad) {
        j.io.y = (bf16 *)out[0].data;
    } else {
        j.io.dy = (const bf16 *)in[6].data;
        j.io.du = (bf16 *)out[0].data, j.io.dpre = (bf16 *)out[4].data, j.io.dpost = (bf16 *)out[5].data;
        j.io.acc_du = call->acc & 1, j.io.acc_dpre = call->acc & 16, j.io.acc_dpost = call->acc & 32;
        j.io.wide = j.io.wide && aligned(in[6]) && aligned(out[4]) && aligned(out[5]);
        j.dtaps = {(float *)out[1].data,    (float *)out[2].data,    (float *)out[3].data,
                   Lk,                      (call->acc & 2) != 0,    (call->acc & 4) != 0,
                   (call->acc & 8) != 0,    Lk % 8 == 0 && aligned(out[1]) && aligned(out[2])};
    }
    j.plain = j.io.wide && !j.p.rows.jump;
    v->begin(j);
    if (!j.p.splits) v->run(j, 0, j.p.nf);
    for (int f0 = 0; j.p.splits && f0 < j.p.rows.F; f0 += j.p.nf)
        v->run(j, f0, (int)(j.p.rows.F - f0 < j.p.nf ? j.p.rows.F - f0 : j.p.nf));
    return launched(call);
}

} // namespace m2cu
