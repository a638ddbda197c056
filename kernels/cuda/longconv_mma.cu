/* longconv_mma.cu - gated long convolution of bf16 rows on tensor cores, forward and backward, fused; the formulas are
 * longconv.cu's, the transform mma_fft.cuh's (f16 operands).
 *
 * A block takes rows of one filter in turn; the whole transform of a row stays in its shared memory. Each row enters
 * scaled by a power of two to a maximum in [128, 256): the stages are unitary, so with N <= 32768 no value can exceed
 * 256 sqrt(N) = 46341 < 65504. Spectra of filters are scaled to a maximum of 1 and kept in f16 with their scale.
 * Gradients of spectra are summed over rows in f32: in shared memory (R <= 32), else in memory, where they stay in L2.
 * Error against float64: 2.0e-3 relative L2, of which the bf16 result's own rounding is 1.7e-3.
 *
 * H200, 65,536 tokens x 1024 channels and filters, gated, `m2 bench conv --device cuda --gates`, ms forward / with backward.
 * Bound: bytes that must move, 0.13 / 0.36. Prediction: instructions of a row in the machine code, four per clock and SM; the
 * tensor cores' share of it is smaller at every length.
 *   L      prediction    result         what limits it
 *   1024   0.16 / 0.47   0.256 / 0.902  latency between barriers: registers allow 32 warps per SM forward, 16 backward
 *   2048   0.13 / 0.50   0.273 / 0.913  the same, 16 warps each
 *   4096   0.14 / 0.45   0.290 / 1.009  the same, 24 and 16 warps
 *   8192   0.13 / 0.49   0.393 / 1.381  backward: one block per SM (132 KiB of shared memory), idle at its barriers
 *   16384  0.17 / 0.58   0.597 / 2.277  one block per SM both ways; sums go through L2; 4 rows per filter's spectrum
 *   32768  0.17 / 0.65   1.049 / 4.137  the same, 2 rows per spectrum; outer DFT of 128 as one product with its constants from
 *                                       L1; backward one transform at a time, the other waits in L2
 * Tried: f32 sums in the inner stages (5% slower, same error), sums of spectra in registers (spills, 8% slower). */
#include "longconv_mma.cuh"
#include "common.cuh"
#include "mma_fft.cuh"
#include "pieces.cuh"
#include <stdio.h>

namespace m2cu
{
namespace
{

struct Gates {
    const bf16 *u, *pre, *post, *dy;
    bf16 *y, *du, *dpre, *dpost;
    bool acc_du, acc_dpre, acc_dpost;
    bool wide; /* pieces of 8 columns start at multiples of 16 bytes */
};
struct Filter {
    float *k, *kr, *D;
    int64_t Lk;
    bool acc_k, acc_kr, acc_D;
};

/* ---- rows of a filter, scaled ------------------------------------------------------------------------------------- */
/* The block's maximum of each of n numbers; every thread calls, and has it. `part`: n WARPS words of shared memory that
 * nobody has read since a barrier before the last. */
template <int n, int WARPS> __device__ __forceinline__ void block_max(uint32_t (&top)[n], uint32_t *part)
{
#pragma unroll
    for (int i = 0; i < n; i++) {
        top[i] = __reduce_max_sync(~0u, top[i]);
        if (threadIdx.x % 32 == 0) part[i * WARPS + threadIdx.x / 32] = top[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < n; i++)
#pragma unroll
        for (int w = 0; w < WARPS; w++) top[i] = max(top[i], part[i * WARPS + w]);
}
/* The power of two that brings a maximum with these bits into [2^to, 2^(to + 1)); the largest for 0. */
__device__ __forceinline__ float scale_for(uint32_t top, int to)
{
    int e = to + 127 - (int)(top >> 23);
    return __uint_as_float((uint32_t)(min(max(e, -126), 100) + 127) << 23);
}
__device__ __forceinline__ float inverse(float power_of_two)
{
    return __uint_as_float((254u << 23) - __float_as_uint(power_of_two));
}

/* x = p gate at this lane's pieces, each batch scaled to the warp's maximum, whose bits `top` gets. */
template <class X> struct Taken {
    typename X::Entry x;
    uint32_t top[X::BATCHES];

    template <class Line>
    __device__ __forceinline__ Taken(const X &fft, const Line &line, const bf16 *p, const bf16 *gate)
    {
#pragma unroll
        for (int b = 0; b < X::BATCHES; b++) {
            constexpr int COUNT = X::BATCH, W = X::W;
            uint32_t raw[COUNT][W / 2], gates[COUNT][W / 2];
            float v[COUNT][W];
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                line.template fetch<W>(p, fft.position(b * COUNT + i), raw[i]);
                if (gate) line.template fetch<W>(gate, fft.position(b * COUNT + i), gates[i]);
            }
            float most = 0;
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                unpack<W>(raw[i], v[i]);
                if (gate) {
                    float g[W];
                    unpack<W>(gates[i], g);
#pragma unroll
                    for (int k = 0; k < W; k++) v[i][k] *= g[k];
                }
#pragma unroll
                for (int k = 0; k < W; k++) most = fmaxf(most, fabsf(v[i][k])); /* a NaN enters as it is */
            }
            top[b] = __reduce_max_sync(~0u, __float_as_uint(most));
            X::pack_entry(v, scale_for(top[b], 7), x, b);
        }
    }
    __device__ __forceinline__ uint32_t largest() const
    {
        uint32_t most = top[0];
#pragma unroll
        for (int b = 1; b < X::BATCHES; b++) most = max(most, top[b]);
        return most;
    }
    __device__ __forceinline__ void rescale(float scale)
    {
#pragma unroll
        for (int b = 0; b < X::BATCHES; b++) X::scale_entry(x, scale * inverse(scale_for(top[b], 7)), b);
    }
};

/* The block's largest magnitude of a row from its warps'; a barrier. */
template <class X> __device__ __forceinline__ float common_scale(Taken<X> &row, uint32_t *part)
{
    uint32_t top[1] = {row.largest()};
    block_max<1, X::WARPS>(top, part);
    float scale = scale_for(top[0], 7);
    row.rescale(scale);
    return scale;
}

__device__ __forceinline__ uint32_t magnitude(const Sums &s)
{
    uint32_t top = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        top = max(top, __float_as_uint(s.re[i / 4][i % 4]) & 0x7fffffffu);
        top = max(top, __float_as_uint(s.im[i / 4][i % 4]) & 0x7fffffffu);
    }
    return top;
}
__device__ __forceinline__ uint32_t magnitude(const Words &z)
{
    __half2 top = __habs2(halves(z.re[0]));
#pragma unroll
    for (int q = 0; q < 4; q++)
        top = __hmax2(top, __hmax2(__habs2(halves(z.re[q])), __habs2(halves(z.im[q]))));
    return __float_as_uint(fmaxf(__low2float(top), __high2float(top)));
}
__device__ __forceinline__ Words scaled(Words z, float by)
{
    __half2 h = __float2half2_rn(by);
#pragma unroll
    for (int q = 0; q < 4; q++)
        z.re[q] = bits(__hmul2(halves(z.re[q]), h)), z.im[q] = bits(__hmul2(halves(z.im[q]), h));
    return z;
}
__device__ __forceinline__ Sums scaled(Sums s, float by)
{
#pragma unroll
    for (int i = 0; i < 8; i++) s.re[i / 4][i % 4] *= by, s.im[i / 4][i % 4] *= by;
    return s;
}

__device__ __forceinline__ Words words_of(const uint4 &a, const uint4 &b)
{
    return Words{{a.x, a.y, a.z, a.w}, {b.x, b.y, b.z, b.w}};
}
__device__ __forceinline__ void store_words(uint4 *to, const Words &z)
{
    to[0] = make_uint4(z.re[0], z.re[1], z.re[2], z.re[3]);
    to[32] = make_uint4(z.im[0], z.im[1], z.im[2], z.im[3]);
}

/* ---- kernels ------------------------------------------------------------------------------------------------------ */
template <class X> __global__ void __launch_bounds__(256) fill_constants(uint4 *to)
{
    int at = blockIdx.x * 256 + threadIdx.x;
    if (at < X::CONSTANTS)
        to[at] = make_uint4(X::constant(at, 0), X::constant(at, 1), X::constant(at, 2), X::constant(at, 3));
}

/* A block per filter: its spectrum, N words (re and im of group k0 at (2 k0) 32, (2 k0 + 1) 32), and its scale. */
template <class X>
__global__ void __launch_bounds__(X::THREADS)
    filter_spectrum(Filter taps, const uint4 *constants, uint4 *K, float *scale_K, int f0)
{
    extern __shared__ uint4 smem[];
    __half *buf = (__half *)smem;
    __shared__ uint32_t part[2][X::WARPS];
    X fft(constants);
    int64_t f = f0 + blockIdx.x;
    typename X::Entry re, im;
    float scale = 1;
    uint32_t top[1] = {0};
#pragma unroll 1
    for (int pass = 0; pass < 2; pass++) { /* the maximum, then operands at its scale */
#pragma unroll
        for (int b = 0; b < X::BATCHES; b++) {
            float x[X::BATCH][X::W], y[X::BATCH][X::W];
#pragma unroll
            for (int p = 0; p < X::BATCH; p++)
#pragma unroll
                for (int i = 0; i < X::W; i++) {
                    int n = fft.position(b * X::BATCH + p) + i, m = X::N - 1 - n;
                    float v = n < taps.Lk ? taps.k[f * taps.Lk + n] : 0.0f;
                    x[p][i] = n == 0 && taps.D ? v + taps.D[f] : v;
                    y[p][i] = taps.kr && m < taps.Lk ? -taps.kr[f * taps.Lk + m] : 0.0f;
                    uint32_t most =
                        max(__float_as_uint(x[p][i]) & 0x7fffffffu, __float_as_uint(y[p][i]) & 0x7fffffffu);
                    top[0] = max(top[0], most);
                }
            if (!pass) continue;
            X::pack_entry(x, scale, re, b);
            X::pack_entry(y, scale, im, b);
        }
        if (pass) continue;
        block_max<1, X::WARPS>(top, part[0]);
        scale = scale_for(top[0], 6); /* complex rows: one bit of room */
    }
    fft.template enter<true>(re, im, buf);
    __syncthreads();
    top[0] = 0;
#pragma unroll 1
    for (int i = 0; i < X::GROUPS; i++)
        top[0] = max(top[0], magnitude(fft.inner(buf, i * X::WARPS + fft.warp)));
    block_max<1, X::WARPS>(top, part[1]);
    float unit = scale_for(top[0], -2); /* a complex number of such parts stays below 1 */
#pragma unroll 1
    for (int i = 0; i < X::GROUPS; i++) {
        int k0 = i * X::WARPS + fft.warp;
        store_words(K + ((int64_t)blockIdx.x * X::R + k0) * 64 + fft.lane, scaled(fft.inner(buf, k0), unit));
    }
    if (threadIdx.x == 0) scale_K[blockIdx.x] = sqrtf((float)X::N) * inverse(scale) * inverse(unit);
}

template <class X, bool PLAIN, int BLOCKS>
__global__ void __launch_bounds__(X::THREADS, BLOCKS)
    mma_forward(Rows rows, Gates io, const uint4 *__restrict__ constants, const uint4 *__restrict__ K,
                const float *__restrict__ scale_K, int f0)
{
    extern __shared__ uint4 smem[];
    __half *buf = (__half *)smem;
    __shared__ uint32_t part[X::WARPS];
    X fft(constants);
    int f = f0 + blockIdx.y;
    for (int i = blockIdx.x; i < rows.count; i += gridDim.x) {
        Line<PLAIN> line(rows, io.wide, f, i);
        Taken<X> x(fft, line, io.u, io.pre);
        float scale = common_scale(x, part);
        fft.template enter<false>(x.x, x.x, buf);
        __syncthreads();
#pragma unroll 1
        for (int n = 0; n < X::GROUPS; n++) {
            int k0 = n * X::WARPS + fft.warp;
            Words k = load_words(K + ((int64_t)blockIdx.y * X::R + k0) * 64, fft.lane);
            Words z = fft.inner(buf, k0);
            times<false>(z, k);
            fft.keep(fft.inner_inverse(z, k0), buf, k0);
        }
        __syncthreads();
        float back = scale_K[blockIdx.y] * inverse(scale);
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

/* Backward of rows. dK: [split][filter][k0][4 32] sums. Where two transforms do not fit shared memory, that of dy waits in
 * `temp`, N words per block. */
template <class X, bool PLAIN, int BLOCKS>
__global__ void __launch_bounds__(X::THREADS, BLOCKS)
    mma_backward(Rows rows, Gates io, const uint4 *__restrict__ constants, const uint4 *__restrict__ K,
                 const float *__restrict__ scale_K, float4 *dK, uint4 *temp, int f0)
{
    extern __shared__ uint4 smem[];
    __half *buf = (__half *)smem;
    __shared__ uint32_t part[2 * X::WARPS];
    constexpr bool TWO = Fits<X>::TWO, KEEP = Fits<X>::SUMS;
    X fft(constants);
    __half *bufd = TWO ? buf + 2 * X::PLANE : buf;
    int f = f0 + blockIdx.y, lane = fft.lane;
    float4 *dKf = dK + ((int64_t)blockIdx.x * gridDim.y + blockIdx.y) * X::R * 128,
           *sums = KEEP ? (float4 *)((char *)smem + X::BUFFER * 2) : dKf;
    temp += ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * X::R * 64;
    for (int i = blockIdx.x; i < rows.count; i += gridDim.x) {
        Line<PLAIN> line(rows, io.wide, f, i);
        float sa, sd;
        if constexpr (TWO) {
            Taken<X> a(fft, line, io.u, io.pre), d(fft, line, io.dy, io.post);
            sa = common_scale(a, part);
            sd = common_scale(d, part + X::WARPS);
            fft.template enter<false>(d.x, d.x, bufd);
            fft.template enter<false>(a.x, a.x, buf);
        } else {
            Taken<X> d(fft, line, io.dy, io.post);
            sd = common_scale(d, part);
            fft.template enter<false>(d.x, d.x, bufd);
            __syncthreads();
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
#pragma unroll 1
        for (int n = 0; n < X::GROUPS; n++) {
            int k0 = n * X::WARPS + fft.warp;
            Words za = fft.inner(buf, k0),
                  zd = TWO ? fft.inner(bufd, k0) : words_of(temp[k0 * 64 + lane], temp[k0 * 64 + 32 + lane]);
            Sums sum = {};
            if (i != blockIdx.x) sum = load_sums(sums + k0 * 128, lane);
            correlate(sum, zd, za, both);
            store_sums(sums + k0 * 128, lane, sum);
            Words k = load_words(K + ((int64_t)blockIdx.y * X::R + k0) * 64, lane);
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
        float back_a = scale_K[blockIdx.y] * inverse(sa), back_d = scale_K[blockIdx.y] * inverse(sd);
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
            store_sums(dKf + k0 * 128, lane, load_sums(sums + k0 * 128, lane));
        }
}

/* Gradient of one filter's taps from the sums of its spectrum's gradient. */
template <class X>
__global__ void __launch_bounds__(X::THREADS)
    filter_grad(Filter to, const uint4 *constants, const float4 *dK, int splits, int f0)
{
    extern __shared__ uint4 smem[];
    __half *buf = (__half *)smem;
    __shared__ uint32_t part[X::WARPS];
    X fft(constants);
    int64_t f = f0 + blockIdx.x;
    auto total = [&](int k0) {
        Sums s = {};
        for (int i = 0; i < splits; i++) {
            Sums one = load_sums(dK + (((int64_t)i * gridDim.x + blockIdx.x) * X::R + k0) * 128, fft.lane);
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
    for (int n = 0; n < X::GROUPS; n++) {
        int k0 = n * X::WARPS + fft.warp;
        fft.keep(fft.inner_inverse(packed(scaled(total(k0), scale)), k0), buf, k0);
    }
    __syncthreads();
    if (to.k || to.D)
        fft.template leave<false>(buf, [&](int n, float(&v)[8]) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                float x = v[e] * back;
                int64_t at = f * to.Lk + n + e;
                if (to.k && n + e < to.Lk) to.k[at] = to.acc_k ? to.k[at] + x : x;
                if (to.D && n + e == 0) to.D[f] = to.acc_D ? to.D[f] + x : x;
            }
        });
    if (to.kr)
        fft.template leave<true>(buf, [&](int n, float(&v)[8]) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                int m = X::N - 1 - n - e;
                int64_t at = f * to.Lk + m;
                if (m < to.Lk) to.kr[at] = (to.acc_kr ? to.kr[at] : 0.0f) - v[e] * back;
            }
        });
}

/* ---- plan and launches ---------------------------------------------------------------------------------------------- */
struct Plan {
    Rows rows;
    int64_t N;
    int nf, splits;                         /* filters at a time; blocks that share a filter's rows */
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
template <class X, int BLOCKS> void run_forward(const Job &j, int f0, int nf)
{
    launch(filter_spectrum<X>, dim3(nf), X::THREADS, X::BUFFER, j.stream, j.taps, (const uint4 *)j.constants,
           j.K, j.scales, f0);
    if (j.p.rows.count)
        launch(j.plain ? mma_forward<X, true, BLOCKS> : mma_forward<X, false, BLOCKS>, dim3(j.p.splits, nf),
               X::THREADS, X::BUFFER, j.stream, j.p.rows, j.io, (const uint4 *)j.constants,
               (const uint4 *)j.K, (const float *)j.scales, f0);
}
template <class X, int BLOCKS> void run_backward(const Job &j, int f0, int nf)
{
    launch(filter_spectrum<X>, dim3(nf), X::THREADS, X::BUFFER, j.stream, j.taps, (const uint4 *)j.constants,
           j.K, j.scales, f0);
    launch(j.plain ? mma_backward<X, true, BLOCKS> : mma_backward<X, false, BLOCKS>, dim3(j.p.splits, nf),
           X::THREADS, Fits<X>::BYTES, j.stream, j.p.rows, j.io, (const uint4 *)j.constants,
           (const uint4 *)j.K, (const float *)j.scales, j.dK, j.temp, f0);
    if (j.dtaps.k || j.dtaps.kr || j.dtaps.D)
        launch(filter_grad<X>, dim3(nf), X::THREADS, X::BUFFER, j.stream, j.dtaps, (const uint4 *)j.constants,
               (const float4 *)j.dK, j.p.splits, f0);
}

struct Variant {
    int64_t N;
    bool grad;
    int constants; /* units of 16 bytes */
    int blocks;    /* in flight on a large GPU: blocks per SM times SMs */
    bool temp;
    float cost; /* picoseconds per point of a row, measured with `m2 bench conv` on an H200 */
    void (*begin)(const Job &);
    void (*run)(const Job &, int f0, int nf);
};
/* BLOCKS per SM: bounds the registers. */
template <class X, int BLOCKS> constexpr Variant forward_of(float cost)
{
    return {X::N, false, X::CONSTANTS, 132 * BLOCKS, false, cost, begin<X>, run_forward<X, BLOCKS>};
}
template <class X, int BLOCKS> constexpr Variant backward_of(float cost)
{
    return {X::N, true, X::CONSTANTS, 132 * BLOCKS, !Fits<X>::TWO, cost, begin<X>, run_backward<X, BLOCKS>};
}
/* Measured on an H200; by threads per SM (registers): forward of 4096 points 512: 0.325 ms, 768: 0.301, of 8192 512: 0.397,
 * 1024: 0.420; backward of 2048 512: 0.66, 640: 0.72, 768: 0.77. */
const Variant variants[] = {
    forward_of<MmaFft<1, 1, 4>, 24>(4.0f),    backward_of<MmaFft<1, 1, 4>, 16>(10.0f),
    forward_of<MmaFft<2, 2, 4>, 12>(4.0f),    backward_of<MmaFft<2, 2, 4>, 8>(10.0f),
    forward_of<MmaFft<4, 4, 4>, 8>(4.0f),     backward_of<MmaFft<4, 4, 4>, 4>(9.8f),
    forward_of<MmaFft<8, 4, 8>, 4>(4.2f),     backward_of<MmaFft<8, 4, 8>, 4>(9.9f),
    forward_of<MmaFft<16, 8, 4>, 3>(4.5f),    backward_of<MmaFft<16, 8, 4>, 2>(10.9f),
    forward_of<MmaFft<32, 8, 4>, 2>(5.9f),    backward_of<MmaFft<32, 16, 2>, 1>(15.1f),
    forward_of<MmaFft<64, 16, 2>, 1>(8.9f),   backward_of<MmaFft<64, 16, 2>, 1>(25.0f),
    forward_of<MmaFft<128, 16, 2>, 1>(15.6f), backward_of<MmaFft<128, 16, 2>, 1>(45.5f),
};

const Variant *find(int64_t L, bool grad)
{
    for (const Variant &v : variants) /* by length */
        if (v.grad == grad && v.N >= L) return &v;
    return nullptr;
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
    p.constants = align256((int64_t)v.constants * 16);
    p.K = align256(p.nf * v.N * 4);
    p.scales = align256(p.nf * 4);
    p.dK = v.grad ? align256(p.nf * v.N * 8 * p.splits) : 0;
    p.temp = v.temp ? align256(p.nf * v.N * 4 * p.splits) : 0;
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
    j.taps = {
        (float *)in[1].data, (float *)in[2].data, (float *)in[3].data, in[1].shape[1], false, false, false};
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
        j.dtaps = {(float *)out[1].data, (float *)out[2].data, (float *)out[3].data, in[1].shape[1],
                   (call->acc & 2) != 0, (call->acc & 4) != 0, (call->acc & 8) != 0};
    }
    j.plain = j.io.wide && !j.p.rows.jump;
    v->begin(j);
    for (int f0 = 0; f0 < j.p.rows.F; f0 += j.p.nf)
        v->run(j, f0, (int)(j.p.rows.F - f0 < j.p.nf ? j.p.rows.F - f0 : j.p.nf));
    return launched(call);
}

} // namespace m2cu
