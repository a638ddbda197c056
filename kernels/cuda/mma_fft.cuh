/* mma_fft.cuh - the Monarch DFT of one row on tensor cores: f16 operands, f32 sums.
 *
 * N = 256 R points, R = 1 ... 128 (SPEC 1.2, order 3: R x 16 x 16). Position n = j0 256 + c, c = j1 16 + j2; frequency
 * k0 + R k1 + 16 R k2 stays at (k0, k1, k2). All stages are unitary, so no value exceeds the row's 2-norm.
 *   outer   Y[k0][c] = sum_j0 exp(-2 pi i (k0 - 1/4) j0 / R) x[j0][c],  times exp(-2 pi i (k0 - 1/4) c / N)
 * The quarter in k0 - 1/4 is the quarter twist of kernels/fft.h: real rows in, real parts out, N = L.
 *   inner   for each k0, a 16 x 16 matrix over (j1, j2):  F (Y * twiddle) F
 * The outer stage goes through shared memory, one group of 256 points per k0. A warp does a group's inner stages, the
 * product with the spectrum and the way back in registers: an accumulator C(a; b) of mma.sync is, packed to f16, the left
 * operand of a product over b, and also the right operand of the transposed one. With F on the left, right, left, left
 * the four products run C(k1; j2), C(k1; k2), C(j2; k1), C(j1; j2): no shuffle, and the last is in memory's order again.
 *
 * The outer stage comes in two ways: MmaFft (R <= 32) as one product with a matrix of R x R; MmaFftLong (mma_fft_long.cuh,
 * R = 64, 128) as 16 x R / 16, once or (65536 points) in two passes. R < 16: the 16 rows are real and imaginary parts of 8
 * virtual rows; R = 4, say, takes two halves of the columns as rows 0-3 and 4-7. Constants (twiddles, DFT blocks) lie in memory
 * in the order lanes read them. */
#pragma once
#include <cuda_fp16.h>
#include <stdint.h>

namespace m2cu
{

/* ---- fragments --------------------------------------------------------------------------------------------------- */
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_half(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(b));
}
/* d = a b, d += a b with f16 sums: the tensor core adds 16 products exactly enough and rounds once. */
__device__ __forceinline__ void mma_first(uint32_t &d0, uint32_t &d1, const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%8,%8};"
        : "=r"(d0), "=r"(d1)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
}
__device__ __forceinline__ void mma_next(uint32_t &d0, uint32_t &d1, const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
        : "+r"(d0), "+r"(d1)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* Four 8 x 8 tiles, transposed; lane l gives the address of row l % 8 of tile l / 8. */
__device__ __forceinline__ void load_tiles(uint32_t (&w)[4], const __half *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

__device__ __forceinline__ uint32_t bits(__half2 v)
{
    return *reinterpret_cast<uint32_t *>(&v);
}
__device__ __forceinline__ __half2 halves(uint32_t v)
{
    return *reinterpret_cast<__half2 *>(&v);
}
__device__ __forceinline__ uint32_t pack(float x, float y)
{
    return bits(__floats2half2_rn(x, y));
}
__device__ __forceinline__ uint32_t minus(uint32_t v)
{
    return v ^ 0x80008000u;
}

/* Two complex numbers (real parts, imaginary parts) times w, or its conjugate. */
template <bool CONJ> __device__ __forceinline__ void times(uint32_t &re, uint32_t &im, uint32_t wr, uint32_t wi)
{
    __half2 a = halves(re), b = halves(im), r = halves(wr), i = halves(CONJ ? minus(wi) : wi);
    re = bits(__hfma2(a, r, __hneg2(__hmul2(b, i))));
    im = bits(__hfma2(a, i, __hmul2(b, r)));
}

/* A group's 256 complex points: word q = r + 2 h holds rows g + 8 r, columns 2 t + 8 h and the next (g = lane / 4,
 * t = lane % 4). */
struct Words {
    uint32_t re[4], im[4];
};
struct Sums {
    float re[2][4], im[2][4]; /* [h][2 r + e] */
};

__device__ __forceinline__ Words packed(const Sums &s)
{
    Words w;
#pragma unroll
    for (int q = 0; q < 4; q++) {
        w.re[q] = pack(s.re[q / 2][q % 2 * 2], s.re[q / 2][q % 2 * 2 + 1]);
        w.im[q] = pack(s.im[q / 2][q % 2 * 2], s.im[q / 2][q % 2 * 2 + 1]);
    }
    return w;
}
template <bool CONJ> __device__ __forceinline__ void times(Words &z, const Words &w)
{
#pragma unroll
    for (int q = 0; q < 4; q++) times<CONJ>(z.re[q], z.im[q], w.re[q], w.im[q]);
}
__device__ __forceinline__ Words load_words(const uint4 *p, int lane)
{
    uint4 a = __ldg(p + lane), b = __ldg(p + 32 + lane);
    return Words{{a.x, a.y, a.z, a.w}, {b.x, b.y, b.z, b.w}};
}

/* i w */
__device__ __forceinline__ Words turned(const Words &w)
{
    return Words{{minus(w.im[0]), minus(w.im[1]), minus(w.im[2]), minus(w.im[3])}, {w.re[0], w.re[1], w.re[2], w.re[3]}};
}

struct Block16 { /* the unitary DFT of 16 as left operand; symmetric, so also as right */
    uint32_t re[4], im[4], neg[4];
};

/* F z for right operand z (rows: what is summed), or conj(F) z */
template <bool CONJ> __device__ __forceinline__ Words from_left(const Block16 &F, const Words &z)
{
    Words s;
    const uint32_t(&up)[4] = CONJ ? F.neg : F.im, (&down)[4] = CONJ ? F.im : F.neg;
#pragma unroll
    for (int n = 0; n < 2; n++) {
        mma_first(s.re[2 * n], s.re[2 * n + 1], F.re, z.re[n], z.re[n + 2]);
        mma_first(s.im[2 * n], s.im[2 * n + 1], F.re, z.im[n], z.im[n + 2]);
        mma_next(s.re[2 * n], s.re[2 * n + 1], down, z.im[n], z.im[n + 2]);
        mma_next(s.im[2 * n], s.im[2 * n + 1], up, z.re[n], z.re[n + 2]);
    }
    return s;
}
/* z F for left operand z */
__device__ __forceinline__ Words from_right(const Words &z, const Block16 &F)
{
    Words s;
#pragma unroll
    for (int n = 0; n < 2; n++) {
        mma_first(s.re[2 * n], s.re[2 * n + 1], z.re, F.re[n], F.re[n + 2]);
        mma_first(s.im[2 * n], s.im[2 * n + 1], z.re, F.im[n], F.im[n + 2]);
        mma_next(s.re[2 * n], s.re[2 * n + 1], z.im, F.neg[n], F.neg[n + 2]);
        mma_next(s.im[2 * n], s.im[2 * n + 1], z.im, F.re[n], F.re[n + 2]);
    }
    return s;
}

/* exp(-2 pi i a / b) scale: its real part, or the imaginary one */
__device__ __forceinline__ float root(bool imag, int a, int b, float scale)
{
    float re, im;
    sincospif(-2.0f * (float)(a % b) / (float)b, &im, &re);
    return (imag ? im : re) * scale;
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

/* What a row x has besides: y, its imaginary part; or its second part (mma_fft_long.cuh). */
enum Second { NONE, IMAGINARY, PART };

/* ---- what all sizes share: rows as operands, the inner stages ------------------------------------------------------ */
/* R: radix of the outer stage; a lane loads PIECES of W columns of a row, BATCH of them scaled together. A row is transformed in
 * PASSES (mma_fft_long.cuh), of R groups each. */
template <int R_, int WARPS_, int W_, int PIECES, int BATCH_, int PASSES_ = 1> struct MmaStages {
    static constexpr int R = R_, WARPS = WARPS_, W = W_, PASSES = PASSES_, M = 256 * R, N = PASSES * M, THREADS = 32 * WARPS;
    static constexpr int ALL = PASSES * R, GROUPS = R / WARPS; /* groups of 256 points: a row's, and a warp's in a pass */
    static constexpr int STRIDE = 264, PLANE = R * STRIDE;     /* halves: a group, all real parts */
    static constexpr size_t BUFFER = 2 * PLANE * sizeof(__half);
    static constexpr int BATCH = BATCH_, BATCHES = PIECES / BATCH;
    static constexpr int TOP = PASSES > 1 ? 6 : 7;         /* a row's largest number is brought to [2^TOP, 2^(TOP + 1)) */
    static constexpr int WAITING = PASSES > 1 ? N / 8 : 0; /* units of 16 bytes that `leave` has in memory */
    static constexpr int AHEAD = 3;        /* asks ahead, while it works, for 1: this row's other tensors, 2: the next row */
    static constexpr size_t NEAR_SIZE = 0; /* bytes of constants that `bring` puts into shared memory */
    __device__ __forceinline__ void bring(uint4 *) {}
    static constexpr bool WHOLE = R > 32;                  /* few rows per filter: a block may take its transform too */
    static constexpr bool STAGED = false; /* a row comes by way of the buffer: `stage`, a barrier, `enter`; and goes: `leave` uses
                                             it up */

    /* Constants, in units of 16 bytes per lane: these, then the outer stage's. */
    static constexpr int DFT16 = 0, TWIDDLE = 64, OUTER = 128;
    /* Word w of unit `at` < OUTER. */
    static __device__ uint32_t inner_constant(int at, int w)
    {
        int lane = at % 32, row = lane / 4 + 8 * (w % 2), col = 2 * (lane % 4) + 8 * (w / 2);
        bool imag = at / 32 % 2;
        if (at >= TWIDDLE) return pack(root(imag, row * col, 256, 1), root(imag, row * (col + 1), 256, 1));
        return pack(root(imag, row * col, 16, 0.25f), root(imag, row * (col + 1), 16, 0.25f));
    }

    Block16 F;
    Words tw;
    const uint4 *constants;
    int lane, warp;

    __device__ __forceinline__ explicit MmaStages(const uint4 *c) : constants(c), lane(threadIdx.x % 32), warp(threadIdx.x / 32)
    {
        load_inner(c);
    }
    __device__ __forceinline__ void take(int) {}                                        /* the pass */
    static __device__ __forceinline__ float gain() { return sqrtf((float)M) / PASSES; } /* of two transforms and one back */
    __device__ __forceinline__ void fold(int, const float (&x)[W], const float (&y)[W], float (&re)[W], float (&im)[W]) const
    {
#pragma unroll
        for (int i = 0; i < W; i++) re[i] = x[i], im[i] = y[i];
    }
    __device__ __forceinline__ void load_inner(const uint4 *c)
    {
        Words f = load_words(c + DFT16, lane);
#pragma unroll
        for (int q = 0; q < 4; q++) F.re[q] = f.re[q], F.im[q] = f.im[q], F.neg[q] = minus(f.im[q]);
        tw = load_words(c + TWIDDLE, lane);
    }
    /* Before the inner stages of each row; MmaFftLong loads their constants here, to have the registers elsewhere. */
    __device__ __forceinline__ void prepare() {}
    /* Where the outer stage leaves (k0, c) for the inner ones; every group of 256 in a run. */
    static __device__ __forceinline__ int place(int k0, int c)
    {
        return k0 * STRIDE + ((c & ~8) | ((c ^ c >> 3) & 8));
    }
    /* A lane's part of a row: word [p][i] holds column i of pieces 2 p and 2 p + 1, or (STAGED) [p][4 h + i] columns 2 i and
     * 2 i + 1 of piece 2 p + h. */
    typedef uint32_t Entry[PIECES / 2][W];

    template <bool AS_THEY_ARE>
    static __device__ __forceinline__ void pack_pieces(const float (&v)[BATCH][W], float scale, Entry &x, int batch)
    {
#pragma unroll
        for (int p = 0; p < BATCH / 2; p++)
#pragma unroll
            for (int i = 0; i < W; i++) {
                const int h = 2 * i / W, k = 2 * i % W;
                x[batch * BATCH / 2 + p][i] = AS_THEY_ARE ? pack(v[2 * p + h][k] * scale, v[2 * p + h][k + 1] * scale)
                                                          : pack(v[2 * p][i] * scale, v[2 * p + 1][i] * scale);
            }
    }
    static __device__ __forceinline__ void pack_entry(const float (&v)[BATCH][W], float scale, Entry &x, int batch)
    {
        pack_pieces<false>(v, scale, x, batch);
    }
    static __device__ __forceinline__ void scale_entry(Entry &x, float scale, int batch)
    {
        __half2 by = __float2half2_rn(scale);
#pragma unroll
        for (int p = 0; p < BATCH / 2; p++)
#pragma unroll
            for (int i = 0; i < W; i++) {
                uint32_t &w = x[batch * BATCH / 2 + p][i];
                w = bits(__hmul2(halves(w), by));
            }
    }

    /* From the scales that bring batches' maxima to 2^to, to one. */
    static __device__ __forceinline__ void rescale(Entry &x, const uint32_t (&tops)[BATCHES], int to, float scale)
    {
#pragma unroll
        for (int b = 0; b < BATCHES; b++) scale_entry(x, scale * inverse(scale_for(tops[b], to)), b);
    }

    /* The inner stages of a group; its part of buf is then free for the way back. */
    __device__ __forceinline__ Words inner(const __half *buf, int group) const
    {
        int id = lane / 8, j1 = id / 2 * 8 + lane % 8;
        const __half *row = buf + place(group, j1 * 16 + id % 2 * 8);
        Words z;
        load_tiles(z.re, row);
        load_tiles(z.im, row + PLANE);
        z = from_left<false>(F, z);
        times<false>(z, tw);
        return from_right(z, F);
    }
    /* Back; in memory's order, still to be twiddled for the outer stage. */
    __device__ __forceinline__ Words back(Words z) const
    {
        z = from_left<true>(F, z);
        times<true>(z, tw);
        return from_left<true>(F, z);
    }
};

/* ---- R <= 32 -------------------------------------------------------------------------------------------------- */
constexpr int pieces_of(int R)
{
    return R < 16 ? 2 : R / 4;
}
template <int R_, int WARPS_, int W_> struct MmaFft : MmaStages<R_, WARPS_, W_, pieces_of(R_), pieces_of(R_)> {
    typedef MmaFft Far;
    typedef MmaStages<R_, WARPS_, W_, pieces_of(R_), pieces_of(R_)> Base;
    using Base::constants, Base::lane, Base::warp, Base::OUTER, Base::PLANE, Base::STRIDE, Base::place, Base::back;
    using typename Base::Entry;
    static constexpr int R = R_, WARPS = WARPS_, W = W_, N = 256 * R;
    static constexpr bool SMALL = R < 16;
    static constexpr int VIRTUAL = SMALL ? 8 : R, COLUMNS = N / VIRTUAL; /* the outer stage's matrix */
    static constexpr int TILES = SMALL ? 1 : R / 16;                     /* of 16 rows in it */
    static constexpr int SLOTS = SMALL ? 1 : 2;                          /* rows per lane and tile of its result */
    static_assert(COLUMNS == 8 * W * WARPS && R % WARPS == 0 && COLUMNS % 32 == 0, "every warp has work");

    static constexpr int OUTER_SIZE = WARPS * TILES * SLOTS * W / 2 * 32, GROUP_SIZE = R * 2 * 32,
                         BLOCK_SIZE = SMALL ? 32 : TILES * TILES * 2 * 32;
    static constexpr int GROUP = OUTER + OUTER_SIZE, IN = GROUP + GROUP_SIZE, OUT = IN + BLOCK_SIZE,
                         CONSTANTS = OUT + BLOCK_SIZE;

    static __device__ __forceinline__ float outer_twiddle(bool imag, int k0, int c)
    {
        return root(imag, (4 * k0 + 4 * N - 1) % (4 * N) * c, 4 * N, 1.0f);
    }
    static __device__ __forceinline__ float outer_block(bool imag, int k0, int j0)
    {
        return root(imag, (4 * k0 + 4 * R - 1) * j0, 4 * R, rsqrtf((float)R));
    }
    /* Entry of the outer DFT as it stands in the product: SMALL has real and imaginary rows (in) or columns (out). */
    static __device__ float in_small(int row, int v, bool of_imag)
    {
        int k = row % 8;
        if (k / R != v / R) return 0;
        float re = outer_block(false, k % R, v % R), im = outer_block(true, k % R, v % R);
        return of_imag ? (row < 8 ? -im : re) : (row < 8 ? re : im);
    }
    static __device__ float out_small(int row, int col) /* rows: real parts of 8, imaginary parts; columns: same */
    {
        int j = row % 8, k = col % 8;
        if (j / R != k / R) return 0;
        float re = outer_block(false, k % R, j % R), im = outer_block(true, k % R, j % R);
        return row < 8 ? (col < 8 ? re : im) : (col < 8 ? -im : re); /* conj(block) (a + i b) */
    }
    /* Word w of unit `at` of the constants. */
    static __device__ uint32_t constant(int at, int w)
    {
        if (at < OUTER) return Base::inner_constant(at, w);
        at -= OUTER;
        int lane = at % 32, g = lane / 4, t = lane % 4, unit = at / 32;
        int row = g + 8 * (w % 2), col = 2 * t + 8 * (w / 2); /* of a 16 x 16 fragment */
        if (unit >= (IN - OUTER) / 32) {
            bool out = unit >= (OUT - OUTER) / 32;
            unit -= ((out ? OUT : IN) - OUTER) / 32;
            if (SMALL && out) return pack(out_small(row, col), out_small(row, col + 1));
            if (SMALL) return pack(in_small(row, 2 * t, w / 2), in_small(row, 2 * t + 1, w / 2));
            bool imag = unit % 2;
            row += unit / 2 / TILES * 16, col += unit / 2 % TILES * 16;
            return out ? pack(outer_block(imag, col, row), outer_block(imag, col + 1, row))
                       : pack(outer_block(imag, row, col), outer_block(imag, row, col + 1));
        }
        if (unit >= (GROUP - OUTER) / 32) {
            unit -= (GROUP - OUTER) / 32;
            int k0 = unit / 2, c = row * 16 + col;
            return pack(outer_twiddle(unit % 2, k0, c), outer_twiddle(unit % 2, k0, c + 1));
        }
        int task = unit / (TILES * SLOTS * W / 2), tile = unit / (SLOTS * W / 2) % TILES, word = unit % (SLOTS * W / 2) * 4 + w,
            m = word % W, imag = word / W % 2, r = word / W / 2, k0 = SMALL ? g % R : 16 * tile + g + 8 * r,
            c = (SMALL ? g / R * COLUMNS : 0) + task * 8 * W + 2 * W * t + 2 * m;
        return pack(outer_twiddle(imag, k0, c), outer_twiddle(imag, k0, c + 1));
    }

    /* ---- one row ------------------------------------------------------------------------------------------------- */
    using Base::Base;
    /* Position of this lane's piece x, W columns. */
    __device__ __forceinline__ int position(int x) const
    {
        int g = lane / 4, t = lane % 4, c = warp * 8 * W + W * g, v = 2 * t + x % 2 + (SMALL ? 0 : x / 4 * 16 + x % 4 / 2 * 8);
        return SMALL ? v % R * 256 + v / R * COLUMNS + c : v * 256 + c;
    }
    /* Outer stage of the row x [+ i y] into buf. */
    template <Second SECOND> __device__ __forceinline__ void enter(const Entry &x, const Entry &y, __half *buf) const
    {
#pragma unroll 1
        for (int tile = 0; tile < TILES; tile++) {
            float sr[W][4] = {}, si[SMALL ? 1 : W][4] = {};
            if constexpr (SMALL) {
                uint4 A = __ldg(constants + IN + lane);
#pragma unroll
                for (int i = 0; i < W; i++) {
                    mma_half(sr[i], A.x, A.y, x[0][i]);
                    if (SECOND) mma_half(sr[i], A.z, A.w, y[0][i]);
                }
            } else {
#pragma unroll
                for (int k = 0; k < TILES; k++) {
                    Words A = load_words(constants + IN + (tile * TILES + k) * 64, lane);
#pragma unroll
                    for (int i = 0; i < W; i++) {
                        mma(sr[i], A.re, x[2 * k][i], x[2 * k + 1][i]);
                        mma(si[i], A.im, x[2 * k][i], x[2 * k + 1][i]);
                        if (!SECOND) continue;
                        const uint32_t neg[4] = {minus(A.im[0]), minus(A.im[1]), minus(A.im[2]), minus(A.im[3])};
                        mma(sr[i], neg, y[2 * k][i], y[2 * k + 1][i]);
                        mma(si[i], A.re, y[2 * k][i], y[2 * k + 1][i]);
                    }
                }
            }
            leave_outer(sr, si, tile, buf);
        }
    }

    /* Back; result in registers, twiddled for the outer stage. */
    __device__ __forceinline__ Words inner_inverse(Words z, int k0) const
    {
        z = back(z);
        times<true>(z, load_words(constants + GROUP + k0 * 64, lane));
        return z;
    }
    /* ... and to where `leave` reads it: within 32 columns, 8 t + 2 i + e at 8 i + 2 t + e, so that a lane ends up with 8
     * neighbours. */
    __device__ __forceinline__ void keep(const Words &z, __half *buf, int k0) const
    {
        int g = lane / 4, t = lane % 4;
        __syncwarp(); /* other lanes have read */
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int j1 = g + 8 * r;
            __half *to = buf + k0 * STRIDE + 32 * (j1 / 2) + 8 * t + 4 * (j1 % 2);
            *(uint2 *)to = make_uint2(z.re[r], z.re[r + 2]);
            *(uint2 *)(to + PLANE) = make_uint2(z.im[r], z.im[r + 2]);
        }
    }

    /* Outer stage back: emit(n, v, got) gets the real (or imaginary) parts of positions n ... n + 7, times `by`, and what
     * ask(n) returned before they were computed. */
    template <bool IMAG, class Ask, class Emit>
    __device__ __forceinline__ void leave(const __half *buf, float by, uint4 *, Ask ask, Emit emit) const
    {
        int g = lane / 4, t = lane % 4, id = lane / 8, row = lane % 8;
        if constexpr (SMALL) {
            uint4 A = __ldg(constants + OUT + lane);
            const uint32_t a[4] = {A.x, A.y, A.z, A.w};
            for (int b = warp; b < COLUMNS / 32; b += WARPS) {
                const __half *from = buf + id / 2 * PLANE + row % R * STRIDE + row / R * COLUMNS + 32 * b + id % 2 * 8;
                const int n = g % R * 256 + g / R * COLUMNS + 32 * b + 8 * t;
                auto got = ask(n);
                float s[4][4] = {};
#pragma unroll
                for (int i = 0; i < 4; i += 2) {
                    uint32_t B[4];
                    load_tiles(B, from + 8 * i);
                    mma(s[i], a, B[0], B[2]);
                    mma(s[i + 1], a, B[1], B[3]);
                }
                constexpr int o = IMAG ? 2 : 0;
                float v[8] = {s[0][o], s[0][o + 1], s[1][o], s[1][o + 1], s[2][o], s[2][o + 1], s[3][o], s[3][o + 1]};
#pragma unroll
                for (int e = 0; e < 8; e++) v[e] *= by;
                emit(n, v, got);
            }
        } else {
            constexpr int ALL = 8 * TILES, M = ALL / WARPS >= 4 ? 4 : ALL / WARPS >= 2 && TILES >= 2 ? 2 : 1;
            for (int item = warp; item < ALL / M; item += WARPS) {
                int b = item % 8, tile = item / 8 * M;
                const __half *from = buf + (id / 2 * 8 + row) * STRIDE + 32 * b + id % 2 * 8;
                auto place_of = [&](int m, int r) { return ((tile + m) * 16 + g + 8 * r) * 256 + 32 * b + 8 * t; };
                decltype(ask(0)) got[M][2];
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int r = 0; r < 2; r++) got[m][r] = ask(place_of(m, r));
                float s[M][4][4] = {};
#pragma unroll 1
                for (int k = 0; k < TILES; k++) {
                    Words B[2];
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        load_tiles(B[i].re, from + k * 16 * STRIDE + 16 * i);
                        load_tiles(B[i].im, from + k * 16 * STRIDE + 16 * i + PLANE);
                    }
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        Words A = load_words(constants + OUT + ((tile + m) * TILES + k) * 64, lane);
                        if (IMAG)
#pragma unroll
                            for (int q = 0; q < 4; q++) A.im[q] = minus(A.im[q]);
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            const Words &z = B[i / 2];
                            int n = i % 2;
                            mma(s[m][i], A.re, IMAG ? z.im[n] : z.re[n], IMAG ? z.im[n + 2] : z.re[n + 2]);
                            mma(s[m][i], A.im, IMAG ? z.re[n] : z.im[n], IMAG ? z.re[n + 2] : z.im[n + 2]);
                        }
                    }
                }
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        float v[8];
#pragma unroll
                        for (int i = 0; i < 8; i++) v[i] = by * s[m][i / 2][2 * r + i % 2];
                        emit(place_of(m, r), v, got[m][r]);
                    }
            }
        }
    }

  private:
    /* Twiddles one tile of rows of the outer stage's result and stores it: 2 W neighbours per lane and row. */
    __device__ __forceinline__ void leave_outer(const float (&sr)[W][4], const float (&si)[SMALL ? 1 : W][4], int tile,
                                                __half *buf) const
    {
        int g = lane / 4, t = lane % 4;
        const uint4 *twiddles = constants + OUTER + (warp * TILES + tile) * (SLOTS * W / 2 * 32) + lane;
#pragma unroll
        for (int r = 0; r < SLOTS; r++) {
            uint32_t w[2 * W], re[W], im[W];
#pragma unroll
            for (int q = 0; q < W / 2; q++) {
                uint4 four = __ldg(twiddles + (r * W / 2 + q) * 32);
                w[4 * q] = four.x, w[4 * q + 1] = four.y, w[4 * q + 2] = four.z, w[4 * q + 3] = four.w;
            }
#pragma unroll
            for (int m = 0; m < W; m++) {
                int e = m / (W / 2), i = m % (W / 2) * 2;
                re[m] = pack(sr[i][2 * r + e], sr[i + 1][2 * r + e]);
                im[m] = SMALL ? pack(sr[i][2 + e], sr[i + 1][2 + e])
                              : pack(si[SMALL ? 0 : i][2 * r + e], si[SMALL ? 0 : i + 1][2 * r + e]);
                times<false>(re[m], im[m], w[m], w[W + m]);
            }
            int k0 = SMALL ? g % R : 16 * tile + g + 8 * r, c = (SMALL ? g / R * COLUMNS : 0) + warp * 8 * W + 2 * W * t;
            if constexpr (W == 2) {
                __half *to = buf + place(k0, c);
                *(uint2 *)to = make_uint2(re[0], re[1]);
                *(uint2 *)(to + PLANE) = make_uint2(im[0], im[1]);
            } else {
#pragma unroll
                for (int m = 0; m < W; m += 4) {
                    __half *to = buf + place(k0, c + 2 * m);
                    *(uint4 *)to = make_uint4(re[m], re[m + 1], re[m + 2], re[m + 3]);
                    *(uint4 *)(to + PLANE) = make_uint4(im[m], im[m + 1], im[m + 2], im[m + 3]);
                }
            }
        }
    }
};

} // namespace m2cu
