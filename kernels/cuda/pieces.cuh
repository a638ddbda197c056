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

/* WORDS words that no thread of this launch has written, or zeros. A predicated load that compilers leave where it is: as a
 * branch or a clamped address it takes registers that rows need. */
template <int WORDS> __device__ __forceinline__ void load_if(bool there, const void *from, uint32_t (&w)[WORDS])
{
    if constexpr (WORDS == 4)
        asm volatile("{\n.reg .pred p;\n setp.ne.s32 p, %5, 0;\n mov.b32 %0, 0;\n mov.b32 %1, 0;\n mov.b32 %2, 0;\n"
                     " mov.b32 %3, 0;\n @p ld.global.nc.v4.b32 {%0,%1,%2,%3}, [%4];\n}"
                     : "=&r"(w[0]), "=&r"(w[1]), "=&r"(w[2]), "=&r"(w[3])
                     : "l"(from), "r"((int)there));
    else if constexpr (WORDS == 2)
        asm volatile("{\n.reg .pred p;\n setp.ne.s32 p, %3, 0;\n mov.b32 %0, 0;\n mov.b32 %1, 0;\n"
                     " @p ld.global.nc.v2.b32 {%0,%1}, [%2];\n}"
                     : "=&r"(w[0]), "=&r"(w[1])
                     : "l"(from), "r"((int)there));
    else
        asm volatile("{\n.reg .pred p;\n setp.ne.s32 p, %2, 0;\n mov.b32 %0, 0;\n @p ld.global.nc.b32 %0, [%1];\n}"
                     : "=&r"(w[0])
                     : "l"(from), "r"((int)there));
}

/* What is known of rows: nothing; or that they are in one piece, of a length and at addresses that are multiples of 8 columns. */
enum Form { ANY, WIDE };

/* One row. */
template <Form FORM> struct Line {
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
        return FORM != ANY ? start + n : start + n + (int64_t)segment.div((uint32_t)n) * jump;
    }
    /* The bits of positions n ... n + W - 1; zero past the end, and if p is absent. */
    template <int W> __device__ __forceinline__ void fetch(const bf16 *p, int n, uint32_t (&w)[W / 2]) const
    {
        if (FORM != ANY || wide) {
            load_if<W / 2>(p && n < L, p + at(n), w);
        } else {
#pragma unroll
            for (int i = 0; i < W / 2; i++) w[i] = 0;
#pragma unroll
            for (int i = 0; i < W; i++)
                if (p && n + i < L) w[i / 2] |= (uint32_t)__bfloat16_as_ushort(p[at(n + i)]) << i % 2 * 16;
        }
    }
    /* all &= bits of positions n ... n + W - 1 as fetched, 1 at bits 14 and 30 where |p| >=
     * M2_LONGCONV_LEAST_GATE; past the end they stay. */
    template <int W> __device__ __forceinline__ void large(int n, const uint32_t (&w)[W / 2], uint32_t &all) const
    {
#pragma unroll
        for (int i = 0; i < W / 2; i++) {
            uint32_t is = w[i] | w[i] << 1; /* of 2^-63 or more, an exponent of 64: it has one of its two high bits */
            if (FORM == ANY && n + 2 * i + 1 >= L) is |= 0xffff0000u;
            if ((FORM == ANY ? n + 2 * i : n) < L) all &= is;
        }
    }
    static constexpr uint32_t LARGE = 0x40004000u;
    /* Asks for the row: into L1, or L2 only. */
    template <int THREADS, bool L1> __device__ __forceinline__ void prefetch(const bf16 *p) const
    {
        constexpr int UNIT = 64; /* a cache line */
        if constexpr (FORM != ANY)
            for (int n = (int)threadIdx.x * UNIT; p && n < L; n += THREADS * UNIT)
                if (L1)
                    asm volatile("prefetch.global.L1 [%0];" ::"l"(p + start + n));
                else
                    asm volatile("prefetch.global.L2 [%0];" ::"l"(p + start + n));
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
        if (FORM != ANY || wide) {
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
