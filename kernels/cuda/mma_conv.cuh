/* mma_conv.cuh - kernels of longconv_mma.cu and longconv_sm90.cu, and what starts them. A kernel has no body for devices below
 * M2_OLDEST, a compute capability times 100 (longconv_sm90.cu): they are never given it. */
#pragma once
#include "longconv_mma.cuh"
#include "common.cuh"
#include "mma_rows.cuh"

#ifndef M2_OLDEST
#define M2_OLDEST 0
#endif

namespace m2cu
{

/* ---- a way to run it, a plan of one call ---------------------------------------------------------------------------- */
struct Plan {
    Rows rows;
    int64_t N;
    int nf, splits; /* filters at a time; blocks that share a filter's rows, 0: whole filters per block */
    int64_t constants, K, scales, dK, temp; /* bytes */
    int64_t total() const { return constants + K + scales + dK + temp; }
};

struct Job {
    Plan p;
    Gates io;
    Filter taps, dtaps;
    uint4 *constants, *K, *temp;
    float *scales;
    float4 *dK;
    cudaStream_t stream;
    bool regular() const { return io.wide && !p.rows.jump; }
};

struct Variant {
    int64_t N;
    bool grad;
    int threads;   /* of a block */
    int constants; /* units of 16 bytes */
    int blocks;    /* in flight on a large GPU */
    int temp;      /* units of 16 bytes that a block has in memory */
    bool whole;
    float cost, filter; /* picoseconds per point of a row, and of a filter beside them; `m2 bench conv` on an H200 */
    void (*begin)(const Job &);
    void (*run)(const Job &, int f0, int nf);
};
/* As `variants` of longconv_mma.cu: those for compute capability 9.0. */
extern const Variant sm90_variants[];
extern const int sm90_variant_count;

namespace
{

#ifdef __CUDA_ARCH__
constexpr bool here = __CUDA_ARCH__ >= M2_OLDEST;
#else
constexpr bool here = true;
#endif

/* ---- kernels ------------------------------------------------------------------------------------------------------ */
template <class X> __global__ void __launch_bounds__(256) fill_constants(uint4 *to)
{
    int at = blockIdx.x * 256 + threadIdx.x;
    if (at < X::CONSTANTS) to[at] = make_uint4(X::constant(at, 0), X::constant(at, 1), X::constant(at, 2), X::constant(at, 3));
}

/* A block's rows of a filter: first, first + step, ... */
struct Share {
    int first, step;
};
/* What comes after pass `all % PASSES` of row `all / PASSES`. */
template <class X> __device__ __forceinline__ int next_pass(int all, const Share &share)
{
    return all % X::PASSES < X::PASSES - 1 ? all + 1 : all + 1 + (share.step - 1) * X::PASSES;
}

/* The spectrum of filter f, N words (re and im of group k0 at (2 k0) 32, (2 k0 + 1) 32); returns its scale. A thread reads back
 * only what it wrote. */
template <class X>
__device__ __forceinline__ float spectrum_of(X &fft, const Filter &taps, int64_t f, __half *buf, uint32_t *part, uint4 *K)
{
    float by[X::PASSES], most_by = 0;
#pragma unroll
    for (int pass = 0; pass < X::PASSES; pass++, K += X::R * 64) {
        typename X::Entry re, im;
        uint32_t tops[X::BATCHES], top = 0;
        fft.take(pass);
#pragma unroll
        for (int b = 0; b < X::BATCHES; b++) { /* operands at the warp's scale, then at the block's */
            constexpr int W = X::W;
            float x[X::BATCH][W], y[X::BATCH][W], most = 0;
#pragma unroll
            for (int p = 0; p < X::BATCH; p++) {
#pragma unroll
                for (int h = 0; h < X::PASSES; h++) {
                    const int n = h * X::M + fft.position(b * X::BATCH + p);
                    float ahead[W], reversed[W] = {}, back[W];
                    taps.fetch<W>(taps.k, f, n, ahead);
                    if (n == 0 && taps.D) ahead[0] += taps.D[f];
                    if (taps.kr) taps.fetch<W>(taps.kr, f, X::N - W - n, reversed);
#pragma unroll
                    for (int i = 0; i < W; i++) back[i] = -reversed[W - 1 - i];
                    fft.fold(h, ahead, back, x[p], y[p]);
                }
#pragma unroll
                for (int i = 0; i < W; i++)
                    most = fmaxf(most, fmaxf(fabsf(x[p][i]), fabsf(y[p][i]))); /* a NaN enters as it is */
            }
            tops[b] = __reduce_max_sync(~0u, __float_as_uint(most));
            top = max(top, tops[b]);
            X::pack_entry(x, scale_for(tops[b], 6), re, b);
            X::pack_entry(y, scale_for(tops[b], 6), im, b);
        }
        float scale; /* complex rows: one bit of room */
        if constexpr (X::STAGED) {
            X::rescale(re, tops, 6, scale_for(top, 6)), X::rescale(im, tops, 6, scale_for(top, 6));
            fft.stage(re, buf), fft.stage(im, buf + X::PLANE);
            scale = scale_for(row_max(fft, top, part), 6);
            fft.template enter<IMAGINARY>(buf, part, 6, scale);
        } else {
            scale = scale_for(row_max(fft, top, part), 6);
            X::rescale(re, tops, 6, scale), X::rescale(im, tops, 6, scale);
            fft.template enter<IMAGINARY>(re, im, buf);
        }
        __syncthreads();
        top = 0;
        fft.prepare();
#pragma unroll 1
        for (int i = 0; i < X::GROUPS; i++) top = max(top, magnitude(fft.inner(buf, i * X::WARPS + fft.warp)));
        top = row_max(fft, top, part + X::WARPS);
        float unit = scale_for(top, -2); /* a complex number of such parts stays below 1 */
#pragma unroll 1
        for (int i = 0; i < X::GROUPS; i++) {
            int k0 = i * X::WARPS + fft.warp;
            store_words(K + k0 * 64 + fft.lane, scaled(fft.inner(buf, k0), unit));
        }
        by[pass] = inverse(scale) * inverse(unit);
        most_by = fmaxf(most_by, by[pass]);
    }
    for (int pass = X::PASSES - 1; X::PASSES > 1 && pass >= 0; pass--) { /* one scale for all passes */
        K -= X::R * 64;
        for (int i = 0; i < X::GROUPS && by[pass] < most_by; i++) {
            uint4 *at = K + (i * X::WARPS + fft.warp) * 64 + fft.lane;
            store_words(at, scaled(words_of(at[0], at[32]), by[pass] * inverse(most_by)));
        }
    }
    return X::gain() * most_by;
}
template <class X>
__global__ void __launch_bounds__(X::THREADS)
    filter_spectrum(Filter taps, const uint4 *constants, uint4 *K, float *scale_K, int f0)
{
    if constexpr (here) {
        extern __shared__ uint4 smem[];
        __shared__ uint32_t part[2 * X::WARPS];
        X fft(constants);
        const int f = blockIdx.x;
        float scale = spectrum_of(fft, taps, f0 + f, (__half *)smem, part, K + (int64_t)f * X::ALL * 64);
        if (threadIdx.x == 0) scale_K[f] = scale;
    }
}

/* Row i of two tensors, if there is one, on its way into the cache. */
template <class X, Form FORM>
__device__ __forceinline__ void ask_for(const X &fft, const Rows &rows, bool wide, int f, int i, const bf16 *p, const bf16 *q)
{
    if (i >= rows.count) return;
    Line<FORM> line(rows, wide, f, i);
    line.template prefetch<X::THREADS, X::R <= 32>(p);
    line.template prefetch<X::THREADS, X::R <= 32>(q);
}

/* 8 positions of one or two tensors, asked for ahead of their use. */
template <int TENSORS> struct Bits {
    uint32_t w[TENSORS][4];
    Bits() = default;
    template <class Line, class... P> __device__ __forceinline__ Bits(const Line &line, int n, P... p)
    {
        int i = 0;
        (line.template fetch<8>(p, n, w[i++]), ...);
    }
};
struct Nothing {
};

/* A share of the rows of filter f, whose spectrum is K with its scale. `temp`: X::WAITING units of the block's own. */
template <class X, Form FORM>
__device__ __forceinline__ void forward_rows(X &fft, const Rows &rows, const Gates &io, int f, Share share, const uint4 *K,
                                             float scale_K, uint4 *temp, __half *buf, uint32_t *part)
{
    for (int all = share.first * X::PASSES; all < rows.count * X::PASSES; all = next_pass<X>(all, share)) {
        const int i = all / X::PASSES, pass = all % X::PASSES;
        const uint4 *of = K + pass * X::R * 64;
        fft.take(pass);
        Line<FORM> line(rows, io.wide, f, i);
        float scale = enter_row(fft, line, io.u, io.pre, buf, part, nullptr, [&]() {
            if (X::AHEAD & 1) line.template prefetch<X::THREADS, X::R <= 32>(io.post);
            if (X::AHEAD & 2) ask_for<X, FORM>(fft, rows, io.wide, f, i + share.step, io.u, io.pre);
        });
        __syncthreads();
        fft.prepare();
#pragma unroll 1
        for (int n = 0; n < X::GROUPS; n++) {
            int k0 = n * X::WARPS + fft.warp;
            Words k = words_of(of[k0 * 64 + fft.lane], of[k0 * 64 + 32 + fft.lane]);
            Words z = fft.inner(buf, k0);
            times<false>(z, k);
            fft.keep(fft.inner_inverse(z, k0), buf, k0);
        }
        __syncthreads();
        fft.template leave<false>(
            buf, scale_K * inverse(scale), temp, [&](int n) { return Bits<1>(line, n, io.post); },
            [&](int n, float(&s)[8], const Bits<1> &got) {
                float g[8];
                unpack<8>(got.w[0], g);
#pragma unroll
                for (int e = 0; e < 8; e++) s[e] = io.post ? s[e] * g[e] : s[e];
                line.put(io.y, n, s, false);
            });
    }
}
template <class X, Form FORM, int BLOCKS>
__global__ void __launch_bounds__(X::THREADS, BLOCKS)
    mma_forward(Rows rows, Gates io, const uint4 *constants, const uint4 *K, const float *scale_K, uint4 *temp, int f0)
{
    if constexpr (here) {
        extern __shared__ uint4 smem[];
        __shared__ uint32_t part[X::WARPS];
        X fft(constants);
        const int me = blockIdx.x, all = gridDim.x;
        forward_rows<X, FORM>(fft, rows, io, f0 + blockIdx.y, Share{me, all}, K + (int64_t)blockIdx.y * X::ALL * 64,
                              scale_K[blockIdx.y], temp + ((int64_t)blockIdx.y * all + me) * X::WAITING, (__half *)smem, part);
    }
}
/* Not inlined, so that rows have all registers (forward 6 to 19% faster). */
template <class X>
__device__ __noinline__ float spectrum_apart(const uint4 *constants, const Filter *taps, int f, uint4 *smem, uint32_t *part,
                                             uint4 *K)
{
    X fft(constants);
    return spectrum_of(fft, *taps, f, (__half *)smem, part, K);
}
/* A block takes whole filters; K has room for one per block. */
template <class X, Form FORM, int BLOCKS>
__global__ void __launch_bounds__(X::THREADS, BLOCKS)
    whole_forward(Rows rows, Gates io, const __grid_constant__ Filter taps, const uint4 *constants, uint4 *K, uint4 *temp)
{
    if constexpr (here) {
        extern __shared__ uint4 smem[];
        __shared__ uint32_t part[2 * X::WARPS];
        X fft(constants);
        const int me = blockIdx.x, all = gridDim.x;
        K += (int64_t)me * X::ALL * 64, temp += (int64_t)me * X::WAITING;
        for (int f = me; f < rows.F; f += all) {
            float scale = spectrum_apart<typename X::Far>(constants, &taps, f, smem, part, K);
            forward_rows<X, FORM>(fft, rows, io, f, Share{0, 1}, K, scale, temp, (__half *)smem, part);
        }
    }
}

/* sum += scale d conj(a) */
__device__ __forceinline__ void correlate(Sums &sum, const Words &d, const Words &a, float scale)
{
#pragma unroll
    for (int q = 0; q < 4; q++) {
        float2 ar = __half22float2(halves(a.re[q])), ai = __half22float2(halves(a.im[q])), dr = __half22float2(halves(d.re[q])),
               di = __half22float2(halves(d.im[q]));
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

/* Where the backward of a block with KIB of shared memory keeps what it needs: two transforms there; or one, the other in
 * registers (HOLD); or one, and of the other a warp's first HELD groups, the rest in L2. Of the sums of the spectrum's gradient
 * a warp's first SHARED groups there, then KEPT in registers, others in L2. */
template <class X, int KIB, bool HOLD> struct Fits {
    static constexpr int least(int a, int b) { return a < b ? a : b; }
    static constexpr bool TWO = X::R < 128 && !HOLD;
    static constexpr int ROOM = (KIB * 1024 - (int)X::NEAR_SIZE - (TWO ? 2 : 1) * (int)X::BUFFER) / 1024 / X::WARPS,
                         HELD = TWO || HOLD ? 0 : least(ROOM, X::GROUPS), SHARED = least((ROOM - HELD) / 2, X::GROUPS),
                         KEPT = X::PASSES == 1 && X::GROUPS - SHARED <= 3 ? X::GROUPS - SHARED : 0;
    static constexpr size_t NEAR_AT = (TWO ? 2 : 1) * X::BUFFER + (HELD + 2 * SHARED) * X::WARPS * 1024;
    static constexpr size_t BYTES = NEAR_AT + X::NEAR_SIZE;
    static constexpr int TEMP = 2 * X::WAITING + (X::GROUPS - HELD) * (TWO ? 0 : X::WARPS * 64); /* units of 16 bytes in memory */
    static_assert(!HOLD || SHARED == X::GROUPS, "registers are what is short");
};

/* dpost = dy s of a row, by s = y / post: y's rounding is not more than dpost's own. */
template <class X, Form FORM> __device__ __forceinline__ void divided(const Line<FORM> &line, const Gates &io)
{
    constexpr int AT_ONCE = 2, STEP = 8 * X::THREADS;
    for (int n = 8 * (int)threadIdx.x; n < line.L; n += AT_ONCE * STEP) {
        Bits<3> got[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) got[i] = Bits<3>(line, n + i * STEP, io.dy, io.made, io.post);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float dy[8], y[8], post[8];
            unpack<8>(got[i].w[0], dy), unpack<8>(got[i].w[1], y), unpack<8>(got[i].w[2], post);
#pragma unroll
            for (int e = 0; e < 8; e++) dy[e] *= __fdividef(y[e], post[e]);
            line.put(io.dpost, n + i * STEP, dy, io.acc_dpost);
        }
    }
}

/* Backward of a share of the rows of filter f: `dK` gets the sums of the gradient of its spectrum, [k0][4 32]. `temp`: TEMP
 * units of the block's own; where two transforms do not fit shared memory, that of dy waits there. The convolution itself, of
 * which dpost is made, is transformed back only where it is not y / post: y is not there, or the row's post is too small. */
template <class X, Form FORM, int KIB, bool HOLD>
__device__ __forceinline__ void backward_rows(X &fft, const Rows &rows, const Gates &io, int f, Share share, const uint4 *K,
                                              float scale_K, float4 *dK, uint4 *temp, uint4 *smem, uint32_t *part)
{
    __half *buf = (__half *)smem;
    typedef Fits<X, KIB, HOLD> Fit;
    constexpr bool TWO = Fit::TWO;
    __half *bufd = TWO ? buf + 2 * X::PLANE : buf;
    const int lane = fft.lane;
    uint4 *const held = (uint4 *)((char *)smem + X::BUFFER * (TWO ? 2 : 1));
    float4 *const sums = (float4 *)(held + Fit::HELD * X::WARPS * 64);
    Sums kept[Fit::KEPT ? Fit::KEPT : 1] = {};
    Words near[HOLD ? X::GROUPS : 1];
    uint4 *const waiting = temp;
    auto aside = [&](int n) { /* where the n-th of this warp's groups of the other transform waits */
        return (n < Fit::HELD ? held : temp + 2 * X::WAITING - Fit::HELD * X::WARPS * 64) + (n * X::WARPS + fft.warp) * 64 + lane;
    };
    for (int all = share.first * X::PASSES; all < rows.count * X::PASSES; all = next_pass<X>(all, share)) {
        const int i = all / X::PASSES, pass = all % X::PASSES, shared = pass ? 0 : Fit::SHARED;
        const uint4 *of = K + pass * X::R * 64;
        float4 *out = dK + pass * X::R * 128;
        fft.take(pass);
        Line<FORM> line(rows, io.wide, f, i);
        int small;
        const float sd = enter_row(fft, line, io.dy, io.post, bufd, part, &small, [&]() {
            if (X::AHEAD & 1 && pass == X::PASSES - 1) line.template prefetch<X::THREADS, X::R <= 32>(io.made);
            if (X::AHEAD & 1) ask_for<X, FORM>(fft, rows, io.wide, f, i, io.u, io.pre);
        });
        const bool convolves = io.dpost && (!io.made || small);
        if (io.dpost && !convolves && pass == X::PASSES - 1) divided<X>(line, io);
        if (!TWO) {
            __syncthreads();
            fft.prepare();
#pragma unroll HOLD ? X::GROUPS : 1
            for (int n = 0; n < X::GROUPS; n++) {
                const Words z = fft.inner(bufd, n * X::WARPS + fft.warp);
                if (HOLD)
                    near[HOLD ? n : 0] = z;
                else
                    store_words(aside(n), z);
            }
        }
        const float sa = enter_row(fft, line, io.u, io.pre, buf, part + X::WARPS, nullptr, [&]() {
            if (X::AHEAD & 2) ask_for<X, FORM>(fft, rows, io.wide, f, i + share.step, io.dy, io.post);
        });
        __syncthreads();
        float both = inverse(sa) * inverse(sd);
        fft.prepare();
        auto group = [&](int n, Sums &sum) {
            const int k0 = n * X::WARPS + fft.warp;
            Words k = words_of(of[k0 * 64 + lane], of[k0 * 64 + 32 + lane]);
            Words zd = TWO    ? fft.inner(bufd, k0)
                       : HOLD ? near[HOLD ? n : 0]
                              : words_of(aside(n)[0], aside(n)[32]),
                  za = fft.inner(buf, k0);
            correlate(sum, zd, za, both);
            if (convolves) {
                times<false>(za, k);
                fft.keep(fft.inner_inverse(za, k0), buf, k0);
            }
            times<true>(zd, k);
            zd = fft.inner_inverse(zd, k0);
            if (TWO || !convolves)
                fft.keep(zd, bufd, k0);
            else
                store_words(aside(n), zd);
        };
        auto group_at = [&](int n, float4 *all) {
            float4 *at = all + (n * X::WARPS + fft.warp) * 128;
            Sums sum = {};
            if (i != share.first) sum = load_sums(at, lane);
            group(n, sum);
            store_sums(at, lane, sum);
        };
#pragma unroll HOLD ? X::GROUPS : 1
        for (int n = 0; n < (HOLD ? X::GROUPS : shared); n++) group_at(n, sums);
#pragma unroll
        for (int n = 0; n < Fit::KEPT; n++) group(Fit::SHARED + n, kept[n]);
#pragma unroll 1
        for (int n = shared + Fit::KEPT; n < X::GROUPS; n++) group_at(n, out);
        __syncthreads();
        float back_a = scale_K * inverse(sa), back_d = scale_K * inverse(sd);
        if (convolves) /* before du, which may be the memory of dy: each element has one thread here and there */
            fft.template leave<false>(
                buf, back_a, waiting, [&](int n) { return Bits<1>(line, n, io.dy); },
                [&](int n, float(&s)[8], const Bits<1> &got) {
                    float g[8];
                    unpack<8>(got.w[0], g);
#pragma unroll
                    for (int e = 0; e < 8; e++) s[e] *= g[e];
                    line.put(io.dpost, n, s, io.acc_dpost);
                });
        if (!TWO && convolves) {
            __syncthreads();
            for (int n = 0; n < X::GROUPS; n++) fft.keep(words_of(aside(n)[0], aside(n)[32]), buf, n * X::WARPS + fft.warp);
            __syncthreads();
        }
        fft.template leave<false>(
            bufd, back_d, waiting + X::WAITING,
            [&](int n) { return Bits<2>(line, n, io.du ? io.pre : nullptr, io.dpre ? io.u : nullptr); },
            [&](int n, float(&s)[8], const Bits<2> &got) {
                float g[8], v[8];
                unpack<8>(got.w[0], g);
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    v[e] = io.pre ? s[e] * g[e] : s[e];
                }
                if (io.du) line.put(io.du, n, v, io.acc_du);
                if (!io.dpre) return;
                unpack<8>(got.w[1], g);
#pragma unroll
                for (int e = 0; e < 8; e++) v[e] = s[e] * g[e];
                line.put(io.dpre, n, v, io.acc_dpre);
            });
    }
#pragma unroll
    for (int n = 0; n < Fit::SHARED + Fit::KEPT; n++) {
        int k0 = n * X::WARPS + fft.warp;
        store_sums(dK + k0 * 128, lane,
                   n < Fit::SHARED ? load_sums(sums + k0 * 128, lane) : kept[n < Fit::SHARED ? 0 : n - Fit::SHARED]);
    }
}
/* dK: [split][filter][k0][4 32], temp: [filter][split][TEMP] */
template <class X, Form FORM, int BLOCKS, int KIB, bool HOLD>
__global__ void __launch_bounds__(X::THREADS, BLOCKS) mma_backward(Rows rows, Gates io, const uint4 *constants, const uint4 *K,
                                                                   const float *scale_K, float4 *dK, uint4 *temp, int f0)
{
    if constexpr (here) {
        extern __shared__ uint4 smem[];
        __shared__ uint32_t part[2 * X::WARPS];
        X fft(constants);
        fft.bring(smem + Fits<X, KIB, HOLD>::NEAR_AT / 16);
        const int me = blockIdx.x, all = gridDim.x;
        backward_rows<X, FORM, KIB, HOLD>(fft, rows, io, f0 + blockIdx.y, Share{me, all}, K + (int64_t)blockIdx.y * X::ALL * 64,
                                          scale_K[blockIdx.y], dK + ((int64_t)me * gridDim.y + blockIdx.y) * X::ALL * 128,
                                          temp + ((int64_t)blockIdx.y * all + me) * Fits<X, KIB, HOLD>::TEMP, smem, part);
    }
}

/* Gradient of filter f's taps from the sums of its spectrum's gradient, `splits` of them at `stride`. `temp`: 2 X::WAITING
 * units. */
template <class X>
__device__ __forceinline__ void grad_of(X &fft, const Filter &to, int64_t f, const float4 *dK, int splits, int64_t stride,
                                        uint4 *temp, __half *buf, uint32_t *part)
{
    auto total = [&](int k0) {
        Sums s = {};
        for (int i = 0; i < splits; i++) {
            Sums one = load_sums(dK + i * stride + k0 * 128, fft.lane);
#pragma unroll
            for (int e = 0; e < 8; e++) s.re[e / 4][e % 4] += one.re[e / 4][e % 4], s.im[e / 4][e % 4] += one.im[e / 4][e % 4];
        }
        return s;
    };
    uint32_t top = 0;
    for (int n = 0; n < X::PASSES * X::GROUPS; n++) top = max(top, magnitude(total(n * X::WARPS + fft.warp)));
    float scale = scale_for(row_max(fft, top, part), 6), back = X::gain() * inverse(scale);
    auto fill = [&](int pass) {
        fft.take(pass);
        fft.prepare();
        for (int n = 0; n < X::GROUPS; n++) {
            int k0 = n * X::WARPS + fft.warp;
            fft.keep(fft.inner_inverse(packed(scaled(total(pass * X::R + k0), scale)), k0), buf, k0);
        }
        __syncthreads();
    };
    for (int pass = 0; pass < X::PASSES; pass++) {
        fill(pass);
        if (to.k || to.D)
            fft.template leave<false>(
                buf, back, temp, [](int) { return Nothing(); },
                [&](int n, float(&v)[8], Nothing) {
                    if (to.D && n == 0) to.D[f] = to.acc_D ? to.D[f] + v[0] : v[0];
                    if (to.k) to.put(to.k, f, n, v, to.acc_k);
                });
        if (!to.kr) continue;
        if (X::STAGED) fill(pass);
        fft.template leave<true>(
            buf, back, temp + X::WAITING, [](int) { return Nothing(); },
            [&](int n, float(&v)[8], Nothing) {
                float reversed[8];
#pragma unroll
                for (int e = 0; e < 8; e++) reversed[e] = -v[7 - e];
                to.put(to.kr, f, X::N - 8 - n, reversed, to.acc_kr);
            });
    }
}
template <class X>
__global__ void __launch_bounds__(X::THREADS)
    filter_grad(const __grid_constant__ Filter to, const uint4 *constants, const float4 *dK, int splits, uint4 *temp, int f0)
{
    if constexpr (here) {
        extern __shared__ uint4 smem[];
        __shared__ uint32_t part[X::WARPS];
        X fft(constants);
        const int f = blockIdx.x;
        grad_of(fft, to, f0 + f, dK + (int64_t)f * X::ALL * 128, splits, (int64_t)gridDim.x * X::ALL * 128,
                temp + (int64_t)f * 2 * X::WAITING, (__half *)smem, part);
    }
}
template <class X>
__device__ __noinline__ void grad_apart(const uint4 *constants, const Filter *to, int f, const float4 *dK, uint4 *temp,
                                        uint4 *smem, uint32_t *part)
{
    X fft(constants);
    grad_of(fft, *to, f, dK, 1, 0, temp, (__half *)smem, part);
}
/* A block takes whole filters, from taps to their gradient; K, dK and temp have room for one per block. */
template <class X, Form FORM, int BLOCKS, int KIB, bool HOLD>
__global__ void __launch_bounds__(X::THREADS, BLOCKS)
    whole_backward(Rows rows, Gates io, const __grid_constant__ Filter taps, const __grid_constant__ Filter to,
                   const uint4 *constants, uint4 *K, float4 *dK, uint4 *temp)
{
    if constexpr (here) {
        extern __shared__ uint4 smem[];
        __shared__ uint32_t part[2 * X::WARPS];
        X fft(constants);
        fft.bring(smem + Fits<X, KIB, HOLD>::NEAR_AT / 16);
        const int me = blockIdx.x, all = gridDim.x;
        K += (int64_t)me * X::ALL * 64, dK += (int64_t)me * X::ALL * 128, temp += (int64_t)me * Fits<X, KIB, HOLD>::TEMP;
        for (int f = me; f < rows.F; f += all) {
            float scale = spectrum_apart<typename X::Far>(constants, &taps, f, smem, part, K);
            backward_rows<X, FORM, KIB, HOLD>(fft, rows, io, f, Share{0, 1}, K, scale, dK, temp, smem, part);
            if (to.k || to.kr || to.D) {
                __syncthreads();
                grad_apart<typename X::Far>(constants, &to, f, dK, temp, smem, part);
            }
        }
    }
}

/* ---- launches ------------------------------------------------------------------------------------------------------- */
/* (x, y) blocks of X */
template <class X, class... A, class... B>
void launch(void (*kernel)(A...), int64_t x, int64_t y, size_t smem, cudaStream_t stream, B... args)
{
    if (smem > 48 * 1024) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    kernel<<<dim3((unsigned)x, (unsigned)y), X::THREADS, smem, stream>>>(static_cast<A>(args)...);
}

template <class X> void begin(const Job &j)
{
    fill_constants<X><<<(unsigned)ceil_div(X::CONSTANTS, 256), 256, 0, j.stream>>>(j.constants);
}
/* The filters' spectra, and their gradients: kernels of their own where several blocks share a filter. */
template <class X> void run_spectrum(const Job &j, int f0, int nf)
{
    launch<X>(filter_spectrum<typename X::Far>, nf, 1, X::BUFFER, j.stream, j.taps, j.constants, j.K, j.scales, f0);
}
template <class X, int BLOCKS> void run_forward(const Job &j, int f0, int nf)
{
    if constexpr (X::WHOLE)
        if (!j.p.splits)
            return launch<X>(j.regular() ? whole_forward<X, WIDE, BLOCKS> : whole_forward<X, ANY, BLOCKS>, j.p.nf, 1, X::BUFFER,
                             j.stream, j.p.rows, j.io, j.taps, j.constants, j.K, j.temp);
    run_spectrum<X>(j, f0, nf);
    if (j.p.rows.count)
        launch<X>(j.regular() ? mma_forward<X, WIDE, BLOCKS> : mma_forward<X, ANY, BLOCKS>, j.p.splits, nf, X::BUFFER, j.stream,
                  j.p.rows, j.io, j.constants, j.K, j.scales, j.temp, f0);
}
template <class X, int BLOCKS, int KIB, bool HOLD> void run_backward(const Job &j, int f0, int nf)
{
    if constexpr (X::WHOLE)
        if (!j.p.splits)
            return launch<X>(j.regular() ? whole_backward<X, WIDE, BLOCKS, KIB, HOLD> : whole_backward<X, ANY, BLOCKS, KIB, HOLD>,
                             j.p.nf, 1, Fits<X, KIB, HOLD>::BYTES, j.stream, j.p.rows, j.io, j.taps, j.dtaps, j.constants, j.K,
                             j.dK, j.temp);
    run_spectrum<X>(j, f0, nf);
    launch<X>(j.regular() ? mma_backward<X, WIDE, BLOCKS, KIB, HOLD> : mma_backward<X, ANY, BLOCKS, KIB, HOLD>, j.p.splits, nf,
              Fits<X, KIB, HOLD>::BYTES, j.stream, j.p.rows, j.io, j.constants, j.K, j.scales, j.dK, j.temp, f0);
    if (j.dtaps.k || j.dtaps.kr || j.dtaps.D)
        launch<X>(filter_grad<typename X::Far>, nf, 1, X::BUFFER, j.stream, j.dtaps, j.constants, j.dK, j.p.splits, j.temp, f0);
}

/* BLOCKS per SM: bounds the registers. */
template <class X, int BLOCKS> constexpr Variant forward_of(float cost, float filter = 0)
{
    return {X::N,     false, X::THREADS, X::CONSTANTS, 132 * BLOCKS,          X::WAITING,
            X::WHOLE, cost,  filter,     begin<X>,     run_forward<X, BLOCKS>};
}
template <class X, int BLOCKS, int KIB = 163 / BLOCKS, bool HOLD = false>
constexpr Variant backward_of(float cost, float filter = 0)
{
    return {X::N,
            true,
            X::THREADS,
            X::CONSTANTS,
            132 * BLOCKS,
            Fits<X, KIB, HOLD>::TEMP,
            X::WHOLE,
            cost,
            filter,
            begin<X>,
            run_backward<X, BLOCKS, KIB, HOLD>};
}

} // namespace
} // namespace m2cu
