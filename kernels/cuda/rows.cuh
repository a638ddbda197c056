/* rows.cuh - rows of channel-major tensors for the long convolution, read and written in registers.
 *
 * Rows lie in one piece, or in segments: u (S, C, B, L/S), as an exchange between ranks leaves them. */
#pragma once
#include "divide.cuh"
#include "fft.cuh"

namespace m2cu
{

struct Rows { /* the rows of one filter */
    int64_t B, L, F;
    int share;       /* channels per filter */
    int index;       /* 1: M2_SHARE_INDEX */
    int count;       /* rows per filter, share B */
    int64_t stride;  /* elements from a row to the next: L, or that of a segment */
    FastDiv segment; /* position n of a row in segments is at n + n / segment * jump */
    int64_t jump;    /* 0: not in segments */
    /* element offset of row i of filter f */
    __device__ __forceinline__ int64_t row(int f, int i) const
    {
        if (!index) return ((int64_t)f * count + i) * stride; /* neighbours: one run of rows */
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

/* One row. Loads are unconditional (indices clamped, then selected), so that a thread's loads are all in flight
 * together. */
template <class T, bool CUT = false> struct Row {
    int64_t start, jump;
    FastDiv segment;
    int L;
    __device__ __forceinline__ Row(const Rows &rows, int f, int i)
        : start(rows.row(f, i)), jump(rows.jump), segment(rows.segment), L((int)rows.L)
    {
    }
    /* Where position first + n is, from start + base(first). Plain rows keep n a constant. */
    __device__ __forceinline__ int64_t base(int first) const { return CUT ? start : start + first; }
    __device__ __forceinline__ auto at(int first, int n) const
    {
        if constexpr (CUT)
            return first + n + segment.div((uint32_t)(first + n)) * jump;
        else
            return n;
    }
    /* v[e] = p at positions first + e * step, e < COUNT; zero past the end */
    template <int COUNT> __device__ __forceinline__ void read(float *v, const T *p, int first, int step) const
    {
        const T *a = p + base(first);
        if (COUNT * step <= L) { /* rows fill the transform: plain offsets */
#pragma unroll
            for (int e = 0; e < COUNT; e++) v[e] = up(a[at(first, e * step)]);
        } else {
#pragma unroll
            for (int e = 0; e < COUNT; e++) {
                int n = min(first + e * step, L - 1) - first;
                v[e] = up(a[at(first, n)]);
                if (n < e * step) v[e] = 0;
            }
        }
    }
    /* z = rho of the quarter twist times p gate */
    template <int COUNT>
    __device__ __forceinline__ void load(c32 *z, const T *p, const T *gate, int first, int step) const
    {
        float v[COUNT], g[COUNT];
        read<COUNT>(v, p, first, step);
        if (gate) read<COUNT>(g, gate, first, step);
#pragma unroll
        for (int e = 0; e < COUNT; e++) z[e] = enter<COUNT>(gate ? v[e] * g[e] : v[e], e);
    }
    /* p = or += Re(z conj(rho)) gate */
    template <int COUNT>
    __device__ __forceinline__ void store(T *p, const T *gate, const c32 *z, int first, int step,
                                          bool acc) const
    {
        float v[COUNT], g[COUNT];
        if (acc) read<COUNT>(v, p, first, step);
        if (gate) read<COUNT>(g, gate, first, step);
        T *a = p + base(first);
#pragma unroll
        for (int e = 0; e < COUNT; e++) {
            if (COUNT * step > L && first + e * step >= L) break;
            float x = leave<COUNT>(z[e], e);
            if (gate) x *= g[e];
            a[at(first, e * step)] = down<T>(acc ? v[e] + x : x);
        }
    }
    /* p = or += dy y / post */
    template <int COUNT>
    __device__ __forceinline__ void store_ratio(T *p, const T *dy, const T *y, const T *post, int first, int step, bool acc) const
    {
        float old[COUNT], d[COUNT], v[COUNT], g[COUNT];
        if (acc) read<COUNT>(old, p, first, step);
        read<COUNT>(d, dy, first, step), read<COUNT>(v, y, first, step), read<COUNT>(g, post, first, step);
        T *a = p + base(first);
#pragma unroll
        for (int e = 0; e < COUNT; e++) {
            if (COUNT * step > L && first + e * step >= L) break;
            a[at(first, e * step)] = down<T>(d[e] * (v[e] / g[e]) + (acc ? old[e] : 0));
        }
    }
};

} // namespace m2cu
