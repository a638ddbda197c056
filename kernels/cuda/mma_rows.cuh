/* mma_rows.cuh - what longconv_mma.cu reads and writes: gated rows of bf16, taps of filters, words of spectra; all scaled.
 *
 * A row enters scaled by a power of two to a maximum in [128, 256): the stages are unitary, so with N <= 32768 no value can
 * exceed 256 sqrt(N) = 46341 < 65504. Half of that, where two parts of it are added (TOP). */
#pragma once
#include "mma_fft_long.cuh"
#include "pieces.cuh"

namespace m2cu
{

struct Gates {
    const bf16 *u, *pre, *post, *dy;
    const bf16 *made; /* what forward made of them, or NULL */
    bf16 *y, *du, *dpre, *dpost;
    bool acc_du, acc_dpre, acc_dpost;
    bool wide; /* pieces of 8 columns start at multiples of 16 bytes */
};
struct Filter {
    float *k, *kr, *D;
    int64_t Lk;
    bool acc_k, acc_kr, acc_D;
    bool wide; /* pieces of 8 taps start at multiples of 16 bytes */
    /* v[i] = p[n + i] of filter f's taps; zero past the end. n: a multiple of W. */
    template <int W> __device__ __forceinline__ void fetch(const float *p, int64_t f, int n, float (&v)[W]) const
    {
        const float *a = p + f * Lk + n;
        if (W >= 4 && wide) {
#pragma unroll
            for (int i = 0; i < W; i += 4) {
                float4 four = n < Lk ? *(const float4 *)(a + i) : make_float4(0, 0, 0, 0);
                v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
            }
        } else {
#pragma unroll
            for (int i = 0; i < W; i++) v[i] = n + i < Lk ? a[i] : 0.0f;
        }
    }
    /* p[n + i] = or += v[i] */
    __device__ __forceinline__ void put(float *p, int64_t f, int n, const float (&v)[8], bool acc) const
    {
        float *a = p + f * Lk + n, old[8] = {};
        if (acc) fetch<8>(p, f, n, old);
        if (wide) {
            if (n >= Lk) return;
            *(float4 *)a = make_float4(v[0] + old[0], v[1] + old[1], v[2] + old[2], v[3] + old[3]);
            *(float4 *)(a + 4) = make_float4(v[4] + old[4], v[5] + old[5], v[6] + old[6], v[7] + old[7]);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (n + i < Lk) a[i] = v[i] + old[i];
        }
    }
};

/* ---- rows of a filter, scaled ------------------------------------------------------------------------------------- */
/* The largest number of all the block's threads; every thread calls, and has it. `part`: WARPS words of shared memory that
 * nobody has read since a barrier before the last. `any`, if not NULL: whether it is so for any thread. */
template <class X> __device__ __forceinline__ uint32_t row_max(const X &fft, uint32_t top, uint32_t *part, int *any = nullptr)
{
    top = __reduce_max_sync(~0u, top);
    if (fft.lane == 0) part[fft.warp] = top;
    if (any)
        *any = __syncthreads_or(*any);
    else
        __syncthreads();
    return __reduce_max_sync(~0u, part[fft.lane % X::WARPS]);
}

/* x = p gate at this lane's pieces of part `part` of a row, each batch scaled to the warp's maximum, whose bits `top` gets.
 * `large`, if not NULL: Line::large of the gates. */
template <class X> struct Taken {
    typename X::Entry x;
    uint32_t top[X::BATCHES];

    template <class Line>
    __device__ __forceinline__ Taken(const X &fft, const Line &line, int part, const bf16 *p, const bf16 *gate,
                                     uint32_t *large)
    {
#pragma unroll
        for (int b = 0; b < X::BATCHES; b++) {
            constexpr int COUNT = X::BATCH, W = X::W;
            uint32_t raw[COUNT][W / 2], gates[COUNT][W / 2];
            float v[COUNT][W];
#pragma unroll
            for (int i = 0; i < COUNT; i++) line.template fetch<W>(p, part * X::M + fft.position(b * COUNT + i), raw[i]);
#pragma unroll
            for (int i = 0; i < COUNT; i++) line.template fetch<W>(gate, part * X::M + fft.position(b * COUNT + i), gates[i]);
            float most = 0;
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                unpack<W>(raw[i], v[i]);
                if (large) line.template large<W>(part * X::M + fft.position(b * COUNT + i), gates[i], *large);
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
            X::pack_entry(v, scale_for(top[b], X::TOP), x, b);
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
        X::rescale(x, top, X::TOP, scale);
    }
};

/* The outer stage of p gate, this pass of it, into buf; the row's scale. A barrier; before it what is staged touches this warp's
 * part of buf alone. `then` is called once the last of the row is on its way. `small`, if not NULL: whether some of the gate's
 * magnitudes are below M2_LONGCONV_LEAST_GATE. */
template <class X, class Line, class Then>
__device__ __forceinline__ float enter_row(const X &fft, const Line &line, const bf16 *p, const bf16 *gate, __half *buf,
                                           uint32_t *part, int *small, Then then)
{
    float scale;
    uint32_t all = Line::LARGE, *large = small ? &all : nullptr;
    if constexpr (X::PASSES > 1) {
        Taken<X> low(fft, line, 0, p, gate, large);
        uint32_t top = low.largest();
        float mine = scale_for(top, X::TOP);
        low.rescale(mine);
        fft.stage(low.x, buf);
        Taken<X> high(fft, line, 1, p, gate, large);
        then();
        if (uint32_t more = high.largest(); more > top) {
            fft.restage(buf, scale_for(more, X::TOP) * inverse(mine));
            top = more, mine = scale_for(top, X::TOP);
        }
        high.rescale(mine);
        fft.stage(high.x, buf + X::PLANE);
        if (small) *small = all != Line::LARGE;
        scale = scale_for(row_max(fft, top, part, small), X::TOP);
        fft.template enter<PART>(buf, part, X::TOP, scale);
    } else {
        Taken<X> row(fft, line, 0, p, gate, large);
        then();
        const uint32_t top = row.largest();
        if (small) *small = all != Line::LARGE;
        if constexpr (X::STAGED) {
            row.rescale(scale_for(top, X::TOP));
            fft.stage(row.x, buf);
            scale = scale_for(row_max(fft, top, part, small), X::TOP);
            fft.template enter<NONE>(buf, part, X::TOP, scale);
        } else {
            scale = scale_for(row_max(fft, top, part, small), X::TOP);
            row.rescale(scale);
            fft.template enter<NONE>(row.x, row.x, buf);
        }
    }
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
    for (int q = 0; q < 4; q++) top = __hmax2(top, __hmax2(__habs2(halves(z.re[q])), __habs2(halves(z.im[q]))));
    return __float_as_uint(fmaxf(__low2float(top), __high2float(top)));
}
__device__ __forceinline__ Words scaled(Words z, float by)
{
    __half2 h = __float2half2_rn(by);
#pragma unroll
    for (int q = 0; q < 4; q++) z.re[q] = bits(__hmul2(halves(z.re[q]), h)), z.im[q] = bits(__hmul2(halves(z.im[q]), h));
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

} // namespace m2cu
