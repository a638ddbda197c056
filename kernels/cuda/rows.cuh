/* rows.cuh - rows of channel-major tensors for the long convolution: two at a time, as one complex row in registers.
 *
 * Rows lie in one piece, or in segments: u (S, C, B, L/S), as an exchange between ranks leaves them. */
#pragma once
#include "divide.cuh"
#include "fft.cuh"

namespace m2cu
{

struct Rows { /* the rows of one filter, in pairs */
    int64_t B, L, F;
    int share;       /* channels per filter */
    int index;       /* 1: M2_SHARE_INDEX */
    int pairs;       /* per filter */
    int64_t stride;  /* elements from a row to the next: L, or that of a segment */
    FastDiv segment; /* position n of a row in segments is at n + n / segment * jump */
    int64_t jump;    /* 0: not in segments */
    /* element offset of row i of filter f, or -1 past the end */
    __device__ __forceinline__ int64_t row(int f, int64_t i) const
    {
        if (i >= share * B) return -1;
        if (!index) return ((int64_t)f * share * B + i) * stride; /* neighbours: one run of rows */
        unsigned c = (unsigned)i / (unsigned)B, b = (unsigned)i % (unsigned)B;
        return ((f + F * c) * B + b) * stride;
    }
};

template <class T> __device__ __forceinline__ float up(T v)
{
    return (float)v;
}
template <class T> __device__ __forceinline__ T down(float v)
{
    return (T)v;
}

/* Two rows of one filter as one complex row. Loads are unconditional (indices clamped, then selected), so
 * that a thread's loads are all in flight together; a missing second row reads the first and counts as zero.
 */
template <class T, bool CUT = false> struct Pair {
    int64_t i0, i1, jump;
    FastDiv segment;
    int L;
    bool two;
    __device__ __forceinline__ Pair(const Rows &rows, int f, int pair)
        : jump(rows.jump), segment(rows.segment), L((int)rows.L)
    {
        i0 = rows.row(f, 2 * (int64_t)pair), i1 = rows.row(f, 2 * (int64_t)pair + 1);
        two = i1 >= 0;
        if (!two) i1 = i0;
    }
    /* Where position first + n is, from the row's start + base(first). Plain rows keep n a constant. */
    __device__ __forceinline__ static int base(int first) { return CUT ? 0 : first; }
    __device__ __forceinline__ auto at(int first, int n) const
    {
        if constexpr (CUT)
            return first + n + segment.div((uint32_t)(first + n)) * jump;
        else
            return n;
    }
    /* z[e] = p at positions first + e * step, e < COUNT */
    template <int COUNT> __device__ __forceinline__ void read(c32 *z, const T *p, int first, int step) const
    {
        const T *a = p + i0 + base(first), *b = p + i1 + base(first);
        if (COUNT * step <= L) { /* rows fill the transform's half: plain offsets */
#pragma unroll
            for (int e = 0; e < COUNT; e++)
                z[e] = make_float2(up(a[at(first, e * step)]), up(b[at(first, e * step)]));
        } else {
#pragma unroll
            for (int e = 0; e < COUNT; e++) {
                int n = min(e * step, L - 1 - first);
                z[e] = make_float2(up(a[at(first, n)]), up(b[at(first, n)]));
                if (n < e * step) z[e] = make_float2(0, 0);
            }
        }
        if (two) return;
#pragma unroll
        for (int e = 0; e < COUNT; e++) z[e].y = 0;
    }
    /* z = p * gate */
    template <int COUNT>
    __device__ __forceinline__ void load(c32 *z, const T *p, const T *gate, int first, int step) const
    {
        read<COUNT>(z, p, first, step);
        if (gate) scale<COUNT>(z, gate, first, step);
    }
    template <int COUNT>
    __device__ __forceinline__ void scale(c32 *z, const T *gate, int first, int step) const
    {
        c32 g[COUNT];
        read<COUNT>(g, gate, first, step);
#pragma unroll
        for (int e = 0; e < COUNT; e++) z[e].x *= g[e].x, z[e].y *= g[e].y;
    }
    /* p = or += z * gate */
    template <int COUNT>
    __device__ __forceinline__ void store(T *p, const T *gate, const c32 *z, int first, int step,
                                          bool acc) const
    {
        c32 v[COUNT];
        if (acc) read<COUNT>(v, p, first, step);
        if (gate) {
            c32 g[COUNT];
            read<COUNT>(g, gate, first, step);
#pragma unroll
            for (int e = 0; e < COUNT; e++)
                v[e] =
                    make_float2(z[e].x * g[e].x + (acc ? v[e].x : 0), z[e].y * g[e].y + (acc ? v[e].y : 0));
        } else {
#pragma unroll
            for (int e = 0; e < COUNT; e++) v[e] = acc ? v[e] + z[e] : z[e];
        }
        T *a = p + i0 + base(first), *b = p + i1 + base(first);
#pragma unroll
        for (int e = 0; e < COUNT; e++) {
            if (COUNT * step > L && first + e * step >= L) break;
            a[at(first, e * step)] = down<T>(v[e].x);
            if (two) b[at(first, e * step)] = down<T>(v[e].y);
        }
    }
};

} // namespace m2cu
