/* pieces.cuh - rows of bf16 (rows.cuh) in pieces of 2, 4 or 8 neighbours. */
#pragma once
#include "common.cuh"
#include "rows.cuh"

namespace m2cu
{

typedef __nv_bfloat16 bf16;

template <int W> __device__ __forceinline__ void unpack(const uint32_t (&w)[W / 2], float (&v)[W])
{
#pragma unroll
    for (int i = 0; i < W / 2; i++)
        v[2 * i] = __uint_as_float(w[i] << 16), v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
}

/* One row. PLAIN: in one piece, of a length and at addresses that are multiples of 8 columns; else anything. */
template <bool PLAIN> struct Line {
    int64_t start, jump;
    FastDiv segment;
    int L;
    bool wide;
    __device__ __forceinline__ Line(const Rows &rows, bool wide_, int f, int i)
        : start(rows.row(f, i)), jump(rows.jump), segment(rows.segment), L((int)rows.L), wide(wide_)
    {
    }
    __device__ __forceinline__ int64_t at(int n) const
    {
        return PLAIN ? start + n : start + n + (int64_t)segment.div((uint32_t)n) * jump;
    }
    /* The bits of positions n ... n + W - 1; zero past the end. */
    template <int W> __device__ __forceinline__ void fetch(const bf16 *p, int n, uint32_t (&w)[W / 2]) const
    {
#pragma unroll
        for (int i = 0; i < W / 2; i++) w[i] = 0;
        if (PLAIN || wide) {
            if (n >= L) return;
            const bf16 *a = p + at(n);
            if constexpr (W == 8) {
                uint4 v = __ldg((const uint4 *)a);
                w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
            } else if constexpr (W == 4) {
                uint2 v = __ldg((const uint2 *)a);
                w[0] = v.x, w[1] = v.y;
            } else {
                w[0] = __ldg((const uint32_t *)a);
            }
        } else {
#pragma unroll
            for (int i = 0; i < W; i++)
                if (n + i < L) w[i / 2] |= (uint32_t)__bfloat16_as_ushort(p[at(n + i)]) << i % 2 * 16;
        }
    }
    /* Asks for the whole row, a cache line per thread. */
    template <int THREADS> __device__ __forceinline__ void prefetch(const bf16 *p) const
    {
        for (int n = (int)threadIdx.x * 64; PLAIN && p && n < L; n += THREADS * 64)
            asm volatile("prefetch.global.L1 [%0];" ::"l"(p + start + n));
    }
    /* p[n + i] = or += v[i] */
    __device__ __forceinline__ void put(bf16 *p, int n, const float (&v)[8], bool acc) const
    {
        if (n >= L) return;
        float old[8] = {};
        uint32_t w[4];
        if (acc) {
            fetch<8>(p, n, w); /* not through the read-only cache's promise: nobody else writes these */
            unpack<8>(w, old);
        }
        if (PLAIN || wide) {
#pragma unroll
            for (int i = 0; i < 4; i++) w[i] = pack_two(v[2 * i] + old[2 * i], v[2 * i + 1] + old[2 * i + 1]);
            *(uint4 *)(p + at(n)) = make_uint4(w[0], w[1], w[2], w[3]);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (n + i < L) p[at(n + i)] = __float2bfloat16_rn(v[i] + old[i]);
        }
    }
};

} // namespace m2cu
