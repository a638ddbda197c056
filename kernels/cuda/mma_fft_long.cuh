/* mma_fft_long.cuh - the outer stage of mma_fft.cuh for R = 16 Q, Q = 4 or 8, as 16 x Q: as one product with a matrix of
 * R x R its constants, 64 KiB each way at R = 128, would come from L2 for every row; these fit registers.
 *
 *   k0 = q + 16 m, j0 = Q jA + jB:  exp(-2 pi i (k0 - 1/4) j0 / R) = A[q][jA] T[q][jB] B[m][jB]
 *   A = exp(-2 pi i (q - 1/4) jA / 16),  T = exp(-2 pi i (q - 1/4) jB / R),  B = exp(-2 pi i m jB / Q)
 * A task's columns are c = COLUMNS task + i, so the twiddle exp(-2 pi i (k0 - 1/4) c / N) is S[k0][i], the same for all tasks,
 * times a factor of q, which T takes, and one of m, which B takes.
 *
 * In:   per column i, C(q; (i', jB)) = A x, times T, is the left operand of the product with B: C(q; (i', m)), times S.
 *       A lane ends up with 8 neighbours of a group. Q = 4: i' are two blocks of 8 columns, B two blocks beside each other.
 * Out:  per lane 8 neighbours of group (q, m), times conj S; C((i', jB); q) = conj(B) z, times conj T, is the right operand
 *       of the product with conj(A), whose lanes get 8 neighbours of positions j0.
 * Group (q, m) lies at Q q + (m ^ 4 (q & 1)) (Q = 4: Q q + m), so that 8 lanes' 16 bytes never share a bank.
 * Rows come and go by way of the buffer, whole lines at a time, since lanes want 16 bytes of 16 or 32 rows j0 each.
 *
 * PASSES = 2: rows of N = 2 M points, M = 256 R being what shared memory holds. Pass p has the frequencies k = p + 2 k' of the
 * row's two parts, n = M h + m (decimation in frequency):
 *   (k - 1/4) n / N  =  (p - 1/4) h / 2  +  (k' + (p - 1/4) / 2) m / M   (mod 1)
 * It transforms the sum over h of exp(-2 pi i (p - 1/4) h / 2) x[M h + m], which the outer stage takes as a second operand, with
 * another twist than 1/4: constants, no more arithmetic. Back, it adds to each part the real part of
 * exp(2 pi i (p - 1/4) h / 2) u[m], rows of the last product; what the first pass adds waits in memory, in f16. */
#pragma once
#include "mma_fft.cuh"

namespace m2cu
{

/* Four 8 x 8 tiles; lane l gives the address of row l % 8 of tile l / 8. The inverse of ldmatrix. */
__device__ __forceinline__ void store_tiles(__half *row, const uint32_t (&w)[4], int lane)
{
#if __CUDA_ARCH__ >= 900
    (void)lane;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"((uint32_t)__cvta_generic_to_shared(row)),
                 "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3])
                 : "memory");
#else
#pragma unroll
    for (int tile = 0; tile < 4; tile++) {
        uint64_t to = __shfl_sync(~0u, (uint64_t)row, tile * 8 + lane / 4);
        *(uint32_t *)((__half *)to + 2 * (lane % 4)) = w[tile];
    }
#endif
}

/* A warp has ROUNDS tasks of 16 columns. NEAR: S lies in shared memory, where that leaves L1 little. Rows of
 * R = 128 are not asked for ahead: the next one loses by it, a row's own other tensors win where NEAR. */
template <int R_, int PASSES_ = 1, int WARPS_ = 16, int AHEAD_ = R_ <= 64 ? 3 : 0, bool NEAR = false>
struct MmaFftLong : MmaStages<R_, WARPS_, 8, R_ / WARPS_, 4, PASSES_> {
    static_assert(!NEAR || PASSES_ == 1, "each pass has an S of its own");
    typedef MmaFftLong<R_, PASSES_, WARPS_, AHEAD_> Far; /* the same without NEAR */
    typedef MmaStages<R_, WARPS_, 8, R_ / WARPS_, 4, PASSES_> Base;
    using Base::constants, Base::lane, Base::warp, Base::OUTER, Base::PLANE, Base::place, Base::back;
    using typename Base::Entry;
    static constexpr int R = R_, WARPS = WARPS_, PASSES = PASSES_, Q = R / 16, M = 256 * R, TASKS = 16, COLUMNS = 16,
                         ROUNDS = TASKS / WARPS;
    static constexpr bool STAGED = true;
    static constexpr int AHEAD = AHEAD_;
    static constexpr bool TALL = Q == 8; /* a lane holds two m's, else one m and two blocks of columns */
    static_assert(Q == 4 || Q == 8, "whole products");

    /* ---- constants, in units of 16 bytes per lane --------------------------------------------------------------- */
    static constexpr int PAIRS = TALL ? COLUMNS / 2 : 4; /* S: a unit of real and one of imaginary parts per pair of columns */
    static constexpr int S = OUTER, IN = S + PAIRS * 2 * 32,         /* A of each part: 2 units; a warp's: T 1, B 1 */
        A_UNITS = 2 * PASSES, OUT = IN + (A_UNITS + 2 * TASKS) * 32, /* A of each part: 2 units; a warp's: B 2, T 2 */
        SET = OUT + (A_UNITS + 4 * TASKS) * 32, CONSTANTS = PASSES * SET;
    static constexpr size_t NEAR_SIZE = NEAR ? PAIRS * 64 * sizeof(uint4) : 0;

    /* Turns are counted in TURN parts: those of k0 + (pass - 1/4) / PASSES, of M. */
    static constexpr int TURN = 4 * PASSES * M;
    static __device__ __forceinline__ int twisted(int pass, int k0) { return (4 * PASSES * k0 + 4 * pass - 1 + TURN) % TURN; }
    static __device__ __forceinline__ float s_factor(bool imag, int pass, int k0, int i)
    {
        return root(imag, twisted(pass, k0) * i, TURN, 1);
    }
    static __device__ __forceinline__ float a_factor(bool imag, int pass, int part, int q, int j)
    {
        constexpr int ALL = 64 * PASSES;
        return root(imag, (4 * PASSES * q + 4 * pass - 1 + ALL) * j + (4 * pass - 1 + ALL) * 16 * part, ALL, 0.25f);
    }
    static __device__ __forceinline__ float t_factor(bool imag, int pass, int q, int jB, int of)
    {
        return root(imag, twisted(pass, q) * (256 * jB + COLUMNS * of), TURN, 1);
    }
    static __device__ __forceinline__ float b_factor(bool imag, int m, int jB, int of)
    {
        return root(imag, m * (M / Q * jB + 16 * COLUMNS * of), M, rsqrtf((float)Q));
    }
    /* Of the inward product with B: row n = (i', jB), column l = (m, i'). */
    static __device__ float b_in(bool imag, int n, int l, int of)
    {
        int m = TALL ? l / 2 + 4 * (l % 2) : l / 2, block = TALL ? 0 : l % 2;
        return n / Q == block ? b_factor(imag, m, n % Q, of) : 0.0f;
    }
    /* Of the outward one: row a, column k; both 8 r + 2 t + e, e the column of a pair. TALL: m or jB = t + 4 r, else t, and
     * r the pair. */
    static __device__ float b_out(bool imag, int a, int k, int of)
    {
        if (a % 2 != k % 2 || (!TALL && a / 8 != k / 8)) return 0;
        int jB = a % 8 / 2 + (TALL ? a / 8 * 4 : 0), m = k % 8 / 2 + (TALL ? k / 8 * 4 : 0);
        float v = b_factor(imag, m, jB, of);
        return imag ? -v : v;
    }
    static __device__ uint32_t constant(int at, int w)
    {
        const int pass = at / SET;
        at %= SET;
        if (at < OUTER) return Base::inner_constant(at, w);
        int lane = at % 32, g = lane / 4, t = lane % 4;
        int row = g + 8 * (w % 2), col = 2 * t + 8 * (w / 2); /* of a 16 x 16 fragment */
        if (at < IN) {
            int unit = (at - S) / 32, i = unit / 2 * 2, q = g + 8 * (w / 2), m = TALL ? t + 4 * (w % 2) : t;
            return pack(s_factor(unit % 2, pass, q + 16 * m, i % 8 + (TALL ? i / 8 : w % 2) * 8),
                        s_factor(unit % 2, pass, q + 16 * m, i % 8 + (TALL ? i / 8 : w % 2) * 8 + 1));
        }
        bool out = at >= OUT;
        int unit = (at - (out ? OUT : IN)) / 32;
        if (unit < A_UNITS) {
            const bool imag = unit % 2;
            const int part = unit / 2;
            float sign = out && imag ? -1 : 1;
            return out ? pack(sign * a_factor(imag, pass, part, col, row), sign * a_factor(imag, pass, part, col + 1, row))
                       : pack(a_factor(imag, pass, part, row, col), a_factor(imag, pass, part, row, col + 1));
        }
        unit -= A_UNITS;
        if (!out) {
            int of = unit / 2;
            if (unit % 2) return w < 2 ? pack(b_in(w, 2 * t, g, of), b_in(w, 2 * t + 1, g, of)) : 0;
            return pack(t_factor(w / 2, pass, g + 8 * (w % 2), 2 * t % Q, of),
                        t_factor(w / 2, pass, g + 8 * (w % 2), (2 * t + 1) % Q, of));
        }
        int of = unit / 4;
        bool imag = unit % 2;
        if (unit % 4 < 2) return pack(b_out(imag, row, col, of), b_out(imag, row, col + 1, of));
        int jB = g / 2 + (TALL ? w % 2 * 4 : 0); /* T of result row 8 (w % 2) + g, columns q, q + 1 */
        return pack(t_factor(imag, pass, col, jB, of), t_factor(imag, pass, col + 1, jB, of));
    }

    /* ---- one row ------------------------------------------------------------------------------------------------- */
    using Base::Base;
    int pass = 0;
    const uint4 *near = nullptr;
    /* All of the block's threads; a barrier. */
    __device__ __forceinline__ void bring(uint4 *to)
    {
        if (!NEAR) return;
        near = to;
        for (int i = threadIdx.x; i < PAIRS * 64; i += 32 * WARPS) to[i] = constants[S + i];
        __syncthreads();
    }
    __device__ __forceinline__ void take(int which)
    {
        constants += (which - pass) * SET;
        pass = which;
    }
    /* Part h of x + i y into 8 points of this pass's row. */
    __device__ __forceinline__ void fold(int h, const float (&x)[8], const float (&y)[8], float (&re)[8], float (&im)[8]) const
    {
        float c = 1, s = 0;
        if (h) sincospif((0.5f - 2 * (float)pass) / PASSES * (float)h, &s, &c);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float v = c * x[i] - s * y[i], w = s * x[i] + c * y[i];
            re[i] = h ? re[i] + v : v, im[i] = h ? im[i] + w : w;
        }
    }
    /* The constants, by a pointer that the compiler cannot know to be the last row's: it would keep what it loaded. */
    __device__ __forceinline__ const uint4 *fresh() const
    {
        const uint4 *c = constants;
        asm volatile("" : "+l"(c));
        return c;
    }
    __device__ __forceinline__ void prepare()
    {
        Base::load_inner(fresh());
    }
    __device__ __forceinline__ int task(int round) const
    {
        return round * WARPS + warp;
    }
    /* A row waits in the buffer, j0 = (jA, jB) where group slot_of will be. A warp has the slots of its groups: whoever else
     * works on others need not have finished. Lanes' pieces of jA = 2 t + ..., jB = g have banks of their own, and were put
     * there by one warp, slot_of % WARPS, at that warp's scale. */
    static __device__ __forceinline__ int slot_of(int jA, int jB)
    {
        return jA / 2 % 4 | jB % 4 << 2 | jA % 2 << 4 | jA / 8 << 5 | jB / 4 << 6;
    }
    /* Position of this lane's piece x, 8 columns: of slot warp + x WARPS. */
    __device__ __forceinline__ int position(int x) const
    {
        int s = warp + x * WARPS, jA = s / 16 % 2 | s % 4 << 1 | s / 32 % 2 << 3, jB = s / 4 % 4 | s / 64 << 2;
        return (Q * jA + jB) * 256 + 8 * lane;
    }
    template <class V> static __device__ __forceinline__ void pack_entry(const V &v, float scale, Entry &x, int batch)
    {
        Base::template pack_pieces<true>(v, scale, x, batch);
    }
    __device__ __forceinline__ void stage(const Entry &x, __half *plane) const
    {
        __syncwarp(); /* other lanes have read this warp's groups */
#pragma unroll
        for (int p = 0; p < R / WARPS; p++) {
            const uint32_t(&w)[8] = x[p / 2];
            const int h = p % 2 * 4;
            *(uint4 *)(plane + place(warp + p * WARPS, 8 * lane)) = make_uint4(w[h], w[h + 1], w[h + 2], w[h + 3]);
        }
    }
    /* What this thread staged there, times `by`. */
    __device__ __forceinline__ void restage(__half *plane, float by) const
    {
        const __half2 h = __float2half2_rn(by);
#pragma unroll 1
        for (int p = 0; p < R / WARPS; p++) {
            uint4 *at = (uint4 *)(plane + place(warp + p * WARPS, 8 * lane)), w = *at;
            *at = make_uint4(bits(__hmul2(halves(w.x), h)), bits(__hmul2(halves(w.y), h)), bits(__hmul2(halves(w.z), h)),
                             bits(__hmul2(halves(w.w), h)));
        }
    }
    /* Column i of rows jA = 2 t + 8 h and the next, 8 columns from `column` on, times `by`. */
    __device__ __forceinline__ void operands(const __half *plane, int h, int column, __half2 by, uint32_t (&x)[8]) const
    {
        const int t = lane % 4, jB = lane / 4 % Q;
        uint4 a = *(const uint4 *)(plane + place(slot_of(2 * t + 8 * h, jB), column)),
              b = *(const uint4 *)(plane + place(slot_of(2 * t + 8 * h + 1, jB), column));
        const uint32_t v[4] = {a.x, a.y, a.z, a.w}, w[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = bits(__hmul2(halves(__byte_perm(v[i / 2], w[i / 2], i % 2 ? 0x7632 : 0x5410)), by));
    }
    static __device__ __forceinline__ int group_of(int q, int m)
    {
        return Q * q + (TALL ? m ^ 4 * (q & 1) : m);
    }
    /* Complex words, one per (r, b): q = g + 8 r, and b m's second bit or a block of columns. */
    struct Four {
        uint32_t re[4], im[4];
    };
    __device__ __forceinline__ Four s_words(const uint4 *c, int pair) const
    {
        const uint4 *at = (NEAR ? near : c + S) + pair * 64 + lane;
        uint4 a = NEAR ? at[0] : __ldg(at), b = NEAR ? at[32] : __ldg(at + 32);
        return Four{{a.x, a.y, a.z, a.w}, {b.x, b.y, b.z, b.w}};
    }

    /* Outer stage of what is staged in buf [and its second plane], there; `tops`: the warps' maxima, brought to
     * [2^to, 2^(to + 1)) each; `scale`: the row's. */
    template <Second SECOND> __device__ __forceinline__ void enter(__half *buf, const uint32_t *tops, int to, float scale) const
    {
        const int g = lane / 4, t = lane % 4;
        const uint4 *c = fresh();
        const Words A = load_words(c + IN, lane), A2 = SECOND == IMAGINARY ? turned(A)
                                                       : SECOND == PART    ? load_words(c + IN + 64, lane)
                                                                           : A;
        const __half2 by = __float2half2_rn(scale * inverse(scale_for(tops[slot_of(2 * t, g % Q) % WARPS], to)));
#pragma unroll 1
        for (int all = 0; all < (TALL ? 2 : 1) * ROUNDS; all++) {
            const int block = TALL ? all % 2 : 0, task = this->task(TALL ? all / 2 : all);
            const uint4 *mine = c + IN + (A_UNITS + 2 * task) * 32;
            const uint4 T = __ldg(mine + lane), B = __ldg(mine + 32 + lane);
            const uint32_t Tre[2] = {T.x, T.y}, Tim[2] = {T.z, T.w};
            uint32_t x[2][8], y[2][8];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int column = COLUMNS * task + 8 * (TALL ? block : g / Q);
                operands(buf, h, column, by, x[h]);
                if (SECOND) operands(buf + PLANE, h, column, by, y[h]);
            }
            __syncwarp();                /* all have read what they now replace */
            uint32_t re[4][4], im[4][4]; /* [(r, b)][pair] */
#pragma unroll
            for (int pair = 0; pair < 4; pair++) {
                float sr[2][4] = {}, si[2][4] = {};
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int i = 2 * pair + e;
                    uint32_t zr[2], zi[2];
                    mma_first(zr[0], zr[1], A.re, x[0][i], x[1][i]);
                    mma_first(zi[0], zi[1], A.im, x[0][i], x[1][i]);
                    if (SECOND) {
                        mma_next(zr[0], zr[1], A2.re, y[0][i], y[1][i]);
                        mma_next(zi[0], zi[1], A2.im, y[0][i], y[1][i]);
                    }
#pragma unroll
                    for (int r = 0; r < 2; r++) times<false>(zr[r], zi[r], Tre[r], Tim[r]);
                    mma_half(sr[e], zr[0], zr[1], B.x);
                    mma_half(si[e], zr[0], zr[1], B.y);
                    mma_half(sr[e], zi[0], zi[1], minus(B.y));
                    mma_half(si[e], zi[0], zi[1], B.x);
                }
                const Four s = s_words(c, 4 * block + pair);
#pragma unroll
                for (int rb = 0; rb < 4; rb++) {
                    re[rb][pair] = pack(sr[0][rb], sr[1][rb]);
                    im[rb][pair] = pack(si[0][rb], si[1][rb]);
                    times<false>(re[rb][pair], im[rb][pair], s.re[rb], s.im[rb]);
                }
            }
#pragma unroll
            for (int rb = 0; rb < 4; rb++) {
                int m = TALL ? t + rb % 2 * 4 : t, column = COLUMNS * task + 8 * (TALL ? block : rb % 2),
                    group = group_of(g + rb / 2 * 8, m);
                __half *at = buf + place(group, column);
                *(uint4 *)at = make_uint4(re[rb][0], re[rb][1], re[rb][2], re[rb][3]);
                *(uint4 *)(at + PLANE) = make_uint4(im[rb][0], im[rb][1], im[rb][2], im[rb][3]);
            }
        }
    }

    __device__ __forceinline__ Words inner_inverse(const Words &z, int) const
    {
        return back(z);
    }
    __device__ __forceinline__ void keep(const Words &z, __half *buf, int group) const
    {
        int id = lane / 8, j1 = id % 2 * 8 + lane % 8;
        __half *row = buf + place(group, j1 * 16 + id / 2 * 8);
        __syncwarp(); /* other lanes have read */
        store_tiles(row, z.re, lane);
        store_tiles(row + PLANE, z.im, lane);
    }

    /* Outer stage back: emit(n, v, got) gets the real (or imaginary) parts of positions n ... n + 7, times `by`, and what ask(n)
     * returned. By way of the buffer, that of j0 = (jA, jB) where group (q = jA, m = jB) was: so that a warp reads and writes
     * whole lines of rows, where the product's lanes have halves of sectors. All of the block's threads; barriers. */
    template <bool IMAG, class Ask, class Emit>
    __device__ __forceinline__ void leave(__half *buf, float by, uint4 *waiting, Ask ask, Emit emit) const
    {
        leave_products<IMAG>(buf);
        __syncthreads();
        constexpr int AT_ONCE = 4;
#pragma unroll 1
        for (int all = 0; all < PASSES * R; all += AT_ONCE * WARPS) {
            const int part = all / R, k0 = all % R + warp;
            decltype(ask(0)) got[AT_ONCE];
            uint4 first[AT_ONCE];
            auto at = [&](int i) {
                int group = k0 + i * WARPS, q = group / Q, m = group % Q;
                return part * M + (Q * q + (TALL ? m ^ 4 * (q & 1) : m)) * 256 + 8 * lane;
            };
            auto there = [&](int i) { return waiting + (all + warp + i * WARPS) * 32 + lane; };
            auto here = [&](int i) { return *(const uint4 *)(buf + part * PLANE + place(k0 + i * WARPS, 8 * lane)); };
            if (pass < PASSES - 1) { /* what this pass adds waits in memory, where this thread will look for it */
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) *there(i) = here(i);
                continue;
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                got[i] = ask(at(i));
                if (PASSES > 1) first[i] = *there(i);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const uint4 w = here(i);
                const uint32_t word[4] = {w.x, w.y, w.z, w.w}, before[4] = {first[i].x, first[i].y, first[i].z, first[i].w};
                float v[8];
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float2 two = __half22float2(halves(word[e])), more = __half22float2(halves(before[e]));
                    v[2 * e] = by * (PASSES > 1 ? two.x + more.x : two.x),
                          v[2 * e + 1] = by * (PASSES > 1 ? two.y + more.y : two.y);
                }
                emit(at(i), v, got[i]);
            }
        }
    }

  private:
    template <bool IMAG> __device__ __forceinline__ void leave_products(__half *buf) const
    {
        const int g = lane / 4, t = lane % 4;
        const uint4 *c = fresh();
        Words A[PASSES]; /* a product's real or imaginary part: A.re (re or im) + up (im or re) */
        uint32_t up[PASSES][4];
#pragma unroll
        for (int part = 0; part < PASSES; part++) {
            A[part] = load_words(c + OUT + 64 * part, lane);
#pragma unroll
            for (int q = 0; q < 4; q++) up[part][q] = IMAG ? A[part].im[q] : minus(A[part].im[q]);
        }
#pragma unroll 1
        for (int all = 0; all < COLUMNS / 8 * ROUNDS; all++) {
            const int block = all % (COLUMNS / 8), task = this->task(all / (COLUMNS / 8));
            const uint4 *mine = c + OUT + (A_UNITS + 4 * task) * 32;
            const Words B = load_words(mine, lane), T = load_words(mine + 64, lane);
            const uint32_t down[4] = {minus(B.im[0]), minus(B.im[1]), minus(B.im[2]), minus(B.im[3])};
            uint32_t out[PASSES][2][TALL ? 2 : 1][4]; /* [part][jA's r][jB's second bit], two columns a word */
            Words z[2][TALL ? 2 : 1];
#pragma unroll
            for (int r = 0; r < 2; r++)
#pragma unroll
                for (int b = 0; b < (TALL ? 2 : 1); b++) {
                    const __half *at = buf + place(group_of(g + 8 * r, t + 4 * b), COLUMNS * task + 8 * block);
                    uint4 v = *(const uint4 *)at, w = *(const uint4 *)(at + PLANE);
                    z[r][b] = Words{{v.x, v.y, v.z, v.w}, {w.x, w.y, w.z, w.w}};
                }
#pragma unroll
            for (int step = 0; step < (TALL ? 4 : 2); step++) {
                uint32_t cr[2][2], ci[2][2]; /* [q's r][row's r] */
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    uint32_t zr[2], zi[2];
#pragma unroll
                    for (int b = 0; b < 2; b++) {
                        const int pair = TALL ? step : 2 * step + b;
                        const Four s = s_words(c, TALL ? 4 * block + pair : pair);
                        zr[b] = z[r][TALL ? b : 0].re[pair], zi[b] = z[r][TALL ? b : 0].im[pair];
                        if constexpr (TALL)
                            times<true>(zr[b], zi[b], s.re[2 * r + b], s.im[2 * r + b]);
                        else
                            times<true>(zr[b], zi[b], block ? s.re[2 * r + 1] : s.re[2 * r],
                                        block ? s.im[2 * r + 1] : s.im[2 * r]);
                    }
                    mma_first(cr[r][0], cr[r][1], B.re, zr[0], zr[1]);
                    mma_first(ci[r][0], ci[r][1], B.re, zi[0], zi[1]);
                    mma_next(cr[r][0], cr[r][1], down, zi[0], zi[1]);
                    mma_next(ci[r][0], ci[r][1], B.im, zr[0], zr[1]);
#pragma unroll
                    for (int a = 0; a < 2; a++) times<true>(cr[r][a], ci[r][a], T.re[2 * r + a], T.im[2 * r + a]);
                }
#pragma unroll
                for (int a = 0; a < 2; a++)
#pragma unroll
                    for (int part = 0; part < PASSES; part++) {
                        float s[4] = {};
                        mma(s, A[part].re, IMAG ? ci[0][a] : cr[0][a], IMAG ? ci[1][a] : cr[1][a]);
                        mma(s, up[part], IMAG ? cr[0][a] : ci[0][a], IMAG ? cr[1][a] : ci[1][a]);
#pragma unroll
                        for (int r = 0; r < 2; r++)
                            out[part][r][TALL ? a : 0][TALL ? step : 2 * step + a] = pack(s[2 * r], s[2 * r + 1]);
                    }
            }
#pragma unroll
            for (int part = 0; part < PASSES; part++)
#pragma unroll
                for (int r = 0; r < 2; r++)
#pragma unroll
                    for (int b = 0; b < (TALL ? 2 : 1); b++) {
                        const uint32_t(&w)[4] = out[part][r][b];
                        *(uint4 *)(buf + part * PLANE + place(group_of(g + 8 * r, t + 4 * b), COLUMNS * task + 8 * block)) =
                            make_uint4(w[0], w[1], w[2], w[3]);
                    }
        }
    }
};

} // namespace m2cu
