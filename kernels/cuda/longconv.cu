/* longconv.cu - gated long convolution, forward and backward, fused (kernels/ops.h longconv;
 * SPEC 1.2-1.3, 7.3-7.4).
 *
 *   a = u pre;  A = DFT(t a), K = DFT(t c) / N, t the quarter twist of kernels/fft.h, N >= L complex points,
 *   c[j] = k[j] - i kr[N - 1 - j], c[0] += D;   s = Re(conj(t) IDFT(A K));   y = s post
 *   G = DFT(t dy post):   da = Re(conj(t) IDFT(G conj(K))),  dpost = s dy,  dc = conj(t) IDFT(sum G conj(A)) / N
 *
 * Two paths, one set of kernels:
 *   N <= 8192 (backward, which holds two transforms, 4096): one block holds the transform of a row (fft.cuh) and
 * loops over rows of one filter, so twiddles stay in registers and the spectrum in L1/L2. Memory moved: u, [pre],
 * post in, y out, once each. Larger ones spill registers: 16384 took 1.10 ms here, 0.95 through memory.
 *   longer: outer stages of radix <= 32 through memory, one thread per column, a chunk of rows at a time; the
 * inner transforms run as above on complex rows. Only here s is y / post, where y is there (kernels/ops.h).
 *
 * Bound at 65,536 tokens x 1024 channels, gated, bf16: 0.124 / 0.346 ms of memory traffic, 0.25 / 0.6 ms of f32
 * issue slots (about 119 instructions per point forward). Measured (H200, ms, forward / with backward):
 *   L = 1024 0.37 / 1.45   2048 0.39 / 1.50   4096 0.46 / 1.53   8192 0.60 / 2.9   32768 0.97 / 3.1   65536 1.00 / 3.3
 * (the last two with a filter for 8 channels; with one each 1.23 / 3.9, 1.52 / 4.9; all before y spared the way back of dpost).
 * In one block, latency of row loads is what is left, at 4 and 2 blocks of 128 threads per SM (registers: 128 and 255;
 * fewer spill, and measured slower). Longer rows: f32 intermediates through memory.
 * All arithmetic is f32; only loads and stores round (bf16). Sums over rows are taken in a fixed order:
 * deterministic. Rows in segments, u (S, C, B, L/S), go through the outer stages only, whatever their length: those
 * kernels come in two instances, the rest in one. */
#include "kernels/base/log.h"
#include "kernels/ops.h"
#include "band.cuh"
#include "longconv_mma.cuh"
#include "rows.cuh"
#include "ways.cuh"
#include <cuda_runtime.h>
#include <stdio.h>
#include <type_traits>

namespace m2cu
{
namespace
{

/* ---- what a launch knows -------------------------------------------------------------------------------- */
template <class T> struct Tensors {
    const T *u, *pre, *post, *dy;
    const T *made; /* what forward made of them, or NULL */
    T *y, *du, *dpre, *dpost;
    bool acc_du, acc_dpre, acc_dpost;
};

struct Taps { /* a filter in time, read: k, kr, D; or written: their gradients */
    float *k, *kr, *D;
    int64_t Lk;
    bool acc_k, acc_kr, acc_D;
    /* c[n] */
    __device__ __forceinline__ c32 load(int f, int64_t n, int64_t N) const
    {
        int64_t m = N - 1 - n;
        float v = n < Lk ? k[f * Lk + n] : 0.0f;
        return make_float2(n == 0 && D ? v + D[f] : v, kr && m < Lk ? -kr[f * Lk + m] : 0.0f);
    }
    __device__ __forceinline__ void store(int f, int64_t n, int64_t N, c32 v) const
    {
        if (k && n < Lk) k[f * Lk + n] = acc_k ? k[f * Lk + n] + v.x : v.x;
        if (D && n == 0) D[f] = acc_D ? D[f] + v.x : v.x;
        int64_t m = N - 1 - n;
        if (kr && m < Lk) kr[f * Lk + m] = acc_kr ? kr[f * Lk + m] - v.y : -v.y;
    }
};

/* ---- in one block --------------------------------------------------------------------------------------- */
/* Source and destination of an inner transform of group `g` in filter f, row p; N is the whole transform's
 * length. ROWS and TAPS only when there is no outer stage. */
enum Where { ROWS, TAPS, TEMP };

constexpr int block_threads(int T)
{
    return T < 128 ? 128 : T;
}
/* Register budget: blocks per SM that the compiler must leave room for. */
template <class X> constexpr int min_blocks(bool grad)
{
    int threads = X::P > 16 || grad ? 256 : 512;
    return threads / block_threads(X::T) > 0 ? threads / block_threads(X::T) : 1;
}

#define FOR_POINTS(e) _Pragma("unroll") for (int e = 0; e < X::P; e++)

/* Spectra of filters f0 ... f0 + nf - 1: out[f - f0][g][slot] = DFT / N. One transform per slot of the grid.
 */
template <class X, Where src>
__global__ void __launch_bounds__(block_threads(X::T))
    spectrum(Taps taps, const c32 *temp, c32 *out, int64_t N, int f0, int nf)
{
    extern __shared__ c32 smem[];
    int lane = threadIdx.x % X::T, slot = threadIdx.x / X::T, per = blockDim.x / X::T;
    int64_t groups = N / X::N, item = (int64_t)blockIdx.x * per + slot;
    bool live = item < nf * groups;
    if (!live) item = nf * groups - 1;
    X fft;
    fft.init(lane);
    c32 z[X::P];
    FOR_POINTS(e)
    {
        int n = e * X::T + lane;
        z[e] = src == TAPS ? mul(taps.load(f0 + (int)item, n, N), rho<X::P>(e)) : temp[item * X::N + n];
    }
    fft.template forward<src == TAPS>(z, smem + slot * X::words, lane);
    float scale = 1.0f / (float)N;
    if (live) FOR_POINTS(e) out[item * X::N + e * X::T + lane] = make_float2(z[e].x * scale, z[e].y * scale);
}

/* Forward over rows [p0, p1) of filters [f0, ...): the block takes rows p0 + slot, + stride, ... of one
 * filter group. grid (splits, groups, filters). temp rows: ((f - f0) (p1 - p0) + p - p0) N. */
template <class X, class T, Where at>
__global__ void __launch_bounds__(block_threads(X::T), min_blocks<X>(false))
    convolve(Rows rows, Tensors<T> io, const c32 *__restrict__ K, c32 *temp, int64_t N, int f0, int p0,
             int p1)
{
    extern __shared__ c32 smem[];
    int lane = threadIdx.x % X::T, slot = threadIdx.x / X::T, per = blockDim.x / X::T;
    int f = f0 + blockIdx.z, g = blockIdx.y;
    c32 *mine = smem + slot * X::words;
    const c32 *Kf = K + (int64_t)blockIdx.z * N + (int64_t)g * X::N;
    X fft;
    fft.init(lane);
    int first = p0 + blockIdx.x * per, stride = gridDim.x * per;
    for (int base = first; base < p1; base += stride) { /* the whole block stays in step */
        fft.forget_powers();
        int p = base + slot;
        bool live = p < p1;
        if (!live) p = p1 - 1;
        c32 z[X::P];
        Row<T> row(rows, f, p);
        c32 *inner = temp + ((int64_t)blockIdx.z * (p1 - p0) + (p - p0)) * N + (int64_t)g * X::N;
        if (at == TEMP)
            FOR_POINTS(e) z[e] = inner[e * X::T + lane];
        else
            row.template load<X::P>(z, io.u, io.pre, lane, X::T);
        fft.template forward<at == ROWS>(z, mine, lane);
        FOR_POINTS(e) z[e] = mul(z[e], Kf[e * X::T + lane]);
        fft.template inverse<at == ROWS>(z, mine, lane);
        if (!live) continue;
        if (at == TEMP)
            FOR_POINTS(e) inner[e * X::T + lane] = z[e];
        else
            row.template store<X::P>(io.y, io.post, z, lane, X::T, false);
    }
}

/* Backward. temp holds the transforms' inputs of a, temp2 those of g (TEMP); on exit of TEMP, temp = s (of rows
 * that `small` counts, if it is there), temp2 = da. dK[split][f][g][slot] gets this block's sum over its rows. */
template <class X, class T, Where at, bool GATE>
__global__ void __launch_bounds__(block_threads(X::T), min_blocks<X>(true))
    convolve_grad(Rows rows, Tensors<T> io, const c32 *__restrict__ K, c32 *temp, c32 *temp2, c32 *dK,
                  const int *small, int64_t N, int f0, int p0, int p1, int split0)
{
    extern __shared__ c32 smem[];
    int lane = threadIdx.x % X::T, slot = threadIdx.x / X::T, per = blockDim.x / X::T;
    int f = f0 + blockIdx.z, g = blockIdx.y;
    c32 *mine = smem + slot * (X::words + X::N), *sum = mine + X::words;
    const c32 *Kf = K + (int64_t)blockIdx.z * N + (int64_t)g * X::N;
    X fft;
    fft.init(lane);
    FOR_POINTS(e) sum[e * X::T + lane] = make_float2(0, 0);
    int first = p0 + blockIdx.x * per, stride = gridDim.x * per;
    for (int base = first; base < p1; base += stride) {
        fft.forget_powers();
        int p = base + slot;
        bool live = p < p1;
        if (!live) p = p1 - 1;
        c32 a[X::P], d[X::P];
        Row<T> row(rows, f, p);
        int64_t item = (int64_t)blockIdx.z * (p1 - p0) + (p - p0), at_row = item * N + (int64_t)g * X::N;
        const bool again = GATE && (at != TEMP || !small || small[item]); /* TEMP: one row per block */
        if (at == TEMP)
            FOR_POINTS(e) d[e] = temp2[at_row + e * X::T + lane];
        else
            row.template load<X::P>(d, io.dy, io.post, lane, X::T);
        fft.template forward<at == ROWS>(d, mine, lane);
        __syncthreads(); /* two transforms in the same direction share the buffer */
        if (at == TEMP)
            FOR_POINTS(e) a[e] = temp[at_row + e * X::T + lane];
        else
            row.template load<X::P>(a, io.u, io.pre, lane, X::T);
        fft.template forward<at == ROWS>(a, mine, lane);
        FOR_POINTS(e)
        {
            int n = e * X::T + lane;
            c32 k = Kf[n];
            if (live) sum[n] = sum[n] + mulc(d[e], a[e]);
            d[e] = mulc(d[e], k);
            if (again) a[e] = mul(a[e], k);
        }
        if (again) { /* dpost before du: du may be the memory of dy */
            fft.template inverse<at == ROWS>(a, mine, lane);
            if (live && at == TEMP) {
                FOR_POINTS(e) temp[at_row + e * X::T + lane] = a[e];
            } else if (live) {
                row.template store<X::P>(io.dpost, io.dy, a, lane, X::T, io.acc_dpost);
            }
            __syncthreads();
        }
        fft.template inverse<at == ROWS>(d, mine, lane);
        if (live && at == TEMP) {
            FOR_POINTS(e) temp2[at_row + e * X::T + lane] = d[e];
        } else if (live) {
            if (io.du) row.template store<X::P>(io.du, io.pre, d, lane, X::T, io.acc_du);
            if (io.dpre) row.template store<X::P>(io.dpre, io.u, d, lane, X::T, io.acc_dpre);
        }
    }
    int64_t split = split0 + (int64_t)blockIdx.x * per + slot;
    c32 *out = dK + ((split * gridDim.z + blockIdx.z) * gridDim.y + g) * X::N;
    FOR_POINTS(e) out[e * X::T + lane] = sum[e * X::T + lane];
}

/* Gradient of the taps: sums the partial spectra in order, inverse transform; TAPS finishes, TEMP leaves
 * complex rows. */
template <class X, Where dst>
__global__ void __launch_bounds__(block_threads(X::T))
    taps_grad(Taps taps, const c32 *dK, int splits, c32 *temp, int64_t N, int f0, int nf)
{
    extern __shared__ c32 smem[];
    int lane = threadIdx.x % X::T, slot = threadIdx.x / X::T, per = blockDim.x / X::T;
    int64_t groups = N / X::N, items = nf * groups, item = (int64_t)blockIdx.x * per + slot;
    bool live = item < items;
    if (!live) item = items - 1;
    X fft;
    fft.init(lane);
    c32 z[X::P];
    FOR_POINTS(e)
    {
        z[e] = make_float2(0, 0);
        for (int s = 0; s < splits; s++)
            z[e] = z[e] + dK[((int64_t)s * items + item) * X::N + e * X::T + lane];
    }
    fft.template inverse<dst == TAPS>(z, smem + slot * X::words, lane);
    float scale = 1.0f / (float)N;
    if (live) FOR_POINTS(e)
        {
            int n = e * X::T + lane;
            c32 v = mulc(z[e], rho<X::P>(e));
            if (dst == TAPS)
                taps.store(f0 + (int)item, n, N, make_float2(v.x * scale, v.y * scale));
            else
                temp[item * X::N + n] = z[e];
        }
}

/* ---- outer stages, through memory ----------------------------------------------------------------------- */
/* One thread per column: groups of M points, radix R, column c of group g. First stage reads rows or taps,
 * the rest temp. grid covers (rows or filters) x groups x columns. */
template <int R, class T, Where src, bool DY, bool CUT>
__global__ void __launch_bounds__(256) outer(Rows rows, Tensors<T> io, Taps taps, c32 *temp, int64_t N,
                                             int64_t M, int f0, int p0, int np, int64_t items)
{
    int64_t C = M / R, id = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= items * (N / R)) return;
    int64_t item = id / (N / R), rest = id % (N / R), g = rest / C, c = rest % C;
    c32 *at = temp + item * N + g * M + c;
    c32 x[R];
    if constexpr (src == ROWS) {
        Row<T, CUT> row(rows, f0 + (int)(item / np), p0 + (int)(item % np));
        row.template load<R>(x, DY ? io.dy : io.u, DY ? io.post : io.pre, (int)c, (int)C);
    } else {
#pragma unroll
        for (int r = 0; r < R; r++)
            x[r] = src == TAPS ? mul(taps.load(f0 + (int)item, r * C + c, N), rho<R>(r)) : at[r * C];
    }
    dft<R, -1>(x);
    float re, im;
    sincospif(-2.0f * (float)c / (float)M, &im, &re);
    twiddle<R, -1, src != TEMP>(x, make_float2(re, im), tau_of(c, N));
#pragma unroll
    for (int k = 0; k < R; k++) at[k * C] = x[k];
}

enum Into { KEEP, OUT_Y, OUT_DA, OUT_DPOST, OUT_TAPS };
constexpr int GATES_AT_ONCE = 2048;

/* small[item] = 1 in rows that have a gate below the least: y / post is not what was convolved. */
template <class T, bool CUT>
__global__ void __launch_bounds__(256) small_gates(Rows rows, const T *post, int *small, int f0, int p0, int np, int64_t pieces)
{
    const int64_t item = blockIdx.x / pieces;
    const int from = (int)(blockIdx.x % pieces) * GATES_AT_ONCE + threadIdx.x;
    Row<T, CUT> row(rows, f0 + (int)(item / np), p0 + (int)(item % np));
    int found = 0;
#pragma unroll
    for (int n = from; n < from + GATES_AT_ONCE; n += 256)
        if (n < row.L) found |= !(fabsf(up(post[row.base(n) + row.at(n, 0)])) >= (float)M2_LONGCONV_LEAST_GATE);
    if (__syncthreads_or(found) && threadIdx.x == 0) small[item] = 1;
}

/* `small`: NULL, or rows it does not count are left alone (KEEP), or y / post (OUT_DPOST). */
template <int R, class T, Into dst, bool CUT>
__global__ void __launch_bounds__(256)
    outer_inverse(Rows rows, Tensors<T> io, Taps taps, c32 *temp, const int *small, int64_t N, int64_t M, int f0, int p0,
                  int np, int64_t items)
{
    int64_t C = M / R, id = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= items * (N / R)) return;
    int64_t item = id / (N / R), rest = id % (N / R), g = rest / C, c = rest % C;
    c32 *at = temp + item * N + g * M + c;
    c32 x[R];
    if (dst == KEEP && small && !small[item]) return;
    if constexpr (dst == OUT_DPOST)
        if (small && !small[item]) {
            Row<T, CUT> row(rows, f0 + (int)(item / np), p0 + (int)(item % np));
            row.template store_ratio<R>(io.dpost, io.dy, io.made, io.post, (int)c, (int)C, io.acc_dpost);
            return;
        }
#pragma unroll
    for (int k = 0; k < R; k++) x[k] = at[k * C];
    float re, im;
    sincospif(-2.0f * (float)c / (float)M, &im, &re);
    twiddle<R, 1, dst != KEEP>(x, make_float2(re, im), tau_of(c, N));
    dft<R, 1>(x);
    if constexpr (dst == KEEP) {
#pragma unroll
        for (int r = 0; r < R; r++) at[r * C] = x[r];
    } else if constexpr (dst == OUT_TAPS) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            c32 v = mulc(x[r], rho<R>(r));
            taps.store(f0 + (int)item, r * C + c, N, make_float2(v.x / (float)N, v.y / (float)N));
        }
    } else {
        Row<T, CUT> row(rows, f0 + (int)(item / np), p0 + (int)(item % np));
        int n = (int)c, step = (int)C;
        if (dst == OUT_Y) row.template store<R>(io.y, io.post, x, n, step, false);
        if (dst == OUT_DPOST) row.template store<R>(io.dpost, io.dy, x, n, step, io.acc_dpost);
        if (dst == OUT_DA && io.du) row.template store<R>(io.du, io.pre, x, n, step, io.acc_du);
        if (dst == OUT_DA && io.dpre) row.template store<R>(io.dpre, io.u, x, n, step, io.acc_dpre);
    }
}
/* ---- plan ---------------------------------------------------------------------------------------------- */
struct Plan {
    Rows rows;
    int64_t N, inner;
    int levels, radix[2]; /* outer stages; levels 0 = the whole transform in one block */
    int nf, np, splits;   /* filters and rows per chunk; blocks (slots) that share a filter's rows */
    int64_t K, temp, dK, small; /* elements (c32) of each buffer; temp twice in the backward */
};

/* Elements (c32) of spectra and of rows in flight. Chunks that would fit L2 starve the chip of blocks:
 * 128 MiB measured faster than 6, 12, 24 and 80 MiB at every L from 8K on (H200). */
constexpr int64_t spectra_budget = 32 << 20, chunk_budget = 16 << 20;

/* Everything a launch needs, from shapes alone: workspace query and run agree by construction. */
Plan make_plan(const m2_attrs *attrs, const m2_desc *u, const m2_desc *k, bool grad)
{
    Plan p = {};
    const int64_t *cbl = u->shape + u->rank - 3,
                  segments = u->rank == 4 ? u->shape[0] : 1; /* C, B, L / segments */
    p.rows = {cbl[1],
              cbl[2] * segments,
              k->shape[0],
              (int)(cbl[0] / k->shape[0]),
              attrs->i[M2_LONGCONV_SHARE] == M2_SHARE_INDEX,
              (int)(cbl[0] / k->shape[0] * cbl[1]),
              cbl[2],
              FastDiv(cbl[2]),
              segments > 1 ? (cbl[0] * cbl[1] - 1) * cbl[2] : 0};
    for (p.N = p.rows.jump ? 16384 : 256; p.N < p.rows.L;) p.N *= 2;
    int list[WAYS], n = list_ways(p.N, p.rows.jump != 0, grad, list),
        variant = (int)attrs->i[M2_LONGCONV_VARIANT];
    if (variant > n || n == 0) return p; /* inner 0: run_any says so */
    p.inner = ways[list[variant > 0 ? variant - 1 : 0]].inner;
    p.levels = levels_over(p.N, p.inner);
    if (p.levels) {
        int64_t rest = p.N / p.inner;
        p.radix[0] = (int)rest;
        if (p.levels == 2)
            for (p.radix[0] = 4; (int64_t)p.radix[0] * p.radix[0] < rest;) p.radix[0] *= 2;
        p.radix[1] = (int)(rest / p.radix[0]);
    }
    int64_t nf = spectra_budget / p.N;
    p.np = p.rows.count > 0 ? p.rows.count : 1; /* a slab may have no rows */
    if (p.levels) {
        if (p.np * p.N > 2 * chunk_budget)
            p.np = (int)(2 * chunk_budget / p.N > 0 ? 2 * chunk_budget / p.N : 1);
        int64_t fit = chunk_budget / (p.np * p.N);
        nf = fit < nf ? fit : nf;
    }
    p.nf = (int)(nf < 1 ? 1 : nf > p.rows.F ? p.rows.F : nf > 65535 ? 65535 : nf);
    int per = p.inner < 2048 ? (int)(2048 / p.inner) : 1; /* slots per block: 128 threads of 16 points */
    int64_t blocks = (int64_t)p.nf * (p.N / p.inner), want = (132 * 6 + blocks - 1) / blocks * per;
    p.splits = (int)(want < p.np ? want : p.np);
    p.splits = (p.splits + per - 1) / per * per;
    int64_t pieces = (p.rows.count + p.np - 1) / p.np;
    p.K = p.nf * p.N;
    p.temp = p.levels ? (int64_t)p.nf * p.np * p.N : 0;
    if (p.temp < p.K && p.levels) p.temp = p.K; /* taps ride through temp as well */
    p.dK = grad ? pieces * p.splits * p.nf * p.N : 0;
    p.small = grad && p.levels ? ((int64_t)p.nf * p.np + 1) / 2 : 0; /* an int per row */
    return p;
}

int64_t bytes(int64_t elements)
{
    return (elements * (int64_t)sizeof(c32) + 255) / 256 * 256;
}

int64_t total_bytes(const Plan &p, bool grad)
{
    return bytes(p.K) + (grad ? 2 : 1) * bytes(p.temp) + bytes(p.dK) + bytes(p.small);
}

/* ---- launches ------------------------------------------------------------------------------------------- */
template <class T> struct Job {
    Plan p;
    Tensors<T> io;
    Taps taps, dtaps;
    c32 *K, *temp, *temp2, *dK;
    int *small; /* NULL: s is computed again in every row */
    int f0, nf, p0, np, split0;
    cudaStream_t stream;
};

template <class X> constexpr int slots()
{
    return block_threads(X::T) / X::T;
}
template <class X> constexpr size_t buffer(bool sums)
{
    return sizeof(c32) * (size_t)slots<X>() * (X::words + (sums ? X::N : 0));
}

template <class... A, class... B>
void launch(void (*kernel)(A...), dim3 grid, int threads, size_t smem, cudaStream_t stream, B... args)
{
    if (smem > 48 * 1024)
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    kernel<<<grid, threads, smem, stream>>>(args...);
}

inline unsigned ceil_div(int64_t a, int64_t b)
{
    return (unsigned)((a + b - 1) / b);
}

/* The inner stages of one plan size: a table row. */
template <class T> struct Inner {
    int64_t N;
    bool grad;   /* serves the backward (its register budget differs) or the forward */
    bool levels; /* under outer stages: complex rows in and out */
    void (*spectrum)(const Job<T> &);
    void (*convolve)(const Job<T> &);
    void (*taps_grad)(const Job<T> &);
};

template <class X, class T, bool LEVELS> void run_spectrum(const Job<T> &j)
{
    int64_t items = (int64_t)j.nf * (j.p.N / X::N);
    launch(spectrum < X, LEVELS ? TEMP : TAPS >, dim3(ceil_div(items, slots<X>())), block_threads(X::T),
           buffer<X>(false), j.stream, j.taps, (const c32 *)j.temp, j.K, j.p.N, j.f0, j.nf);
}

template <class X, class T, bool LEVELS> void run_convolve(const Job<T> &j)
{
    dim3 grid(j.p.splits / slots<X>(), (unsigned)(j.p.N / X::N), j.nf);
    launch(convolve < X, T, LEVELS ? TEMP : ROWS >, grid, block_threads(X::T), buffer<X>(false), j.stream,
           j.p.rows, j.io, (const c32 *)j.K, j.temp, j.p.N, j.f0, j.p0, j.p0 + j.np);
}

template <class X, class T, bool LEVELS> void run_grad(const Job<T> &j)
{
    dim3 grid(j.p.splits / slots<X>(), (unsigned)(j.p.N / X::N), j.nf);
    constexpr Where at = LEVELS ? TEMP : ROWS;
    launch(j.io.dpost ? convolve_grad<X, T, at, true> : convolve_grad<X, T, at, false>, grid,
           block_threads(X::T), buffer<X>(true), j.stream, j.p.rows, j.io, (const c32 *)j.K, j.temp, j.temp2,
           j.dK, (const int *)j.small, j.p.N, j.f0, j.p0, j.p0 + j.np, j.split0);
}

template <class X, class T, bool LEVELS> void run_taps_grad(const Job<T> &j)
{
    int64_t items = (int64_t)j.nf * (j.p.N / X::N);
    launch(taps_grad < X, LEVELS ? TEMP : TAPS >, dim3(ceil_div(items, slots<X>())), block_threads(X::T),
           buffer<X>(false), j.stream, j.dtaps, (const c32 *)j.dK, j.split0, j.temp, j.p.N, j.f0, j.nf);
}

template <class X, class T, bool LEVELS> constexpr Inner<T> forward_row()
{
    return {X::N, false, LEVELS, run_spectrum<X, T, LEVELS>, run_convolve<X, T, LEVELS>, nullptr};
}
template <class X, class T, bool LEVELS> constexpr Inner<T> backward_row()
{
    return {
        X::N, true, LEVELS, run_spectrum<X, T, LEVELS>, run_grad<X, T, LEVELS>, run_taps_grad<X, T, LEVELS>};
}

template <class T> const Inner<T> *find_inner(int64_t N, bool grad, bool levels)
{
    static const Inner<T> table[] = {
        forward_row<Fft<256, 16>, T, false>(),   backward_row<Fft<256, 16>, T, false>(),
        forward_row<Fft<512, 16>, T, false>(),   backward_row<Fft<512, 16>, T, false>(),
        forward_row<Fft<1024, 16>, T, false>(),  backward_row<Fft<1024, 16>, T, false>(),
        forward_row<Fft<2048, 16>, T, false>(),  backward_row<Fft<2048, 16>, T, false>(),
        forward_row<Fft<4096, 16>, T, false>(),  backward_row<Fft<4096, 16>, T, false>(),
        forward_row<Fft<8192, 32>, T, false>(),  backward_row<Fft<2048, 16>, T, true>(),
        forward_row<Fft<4096, 16>, T, true>(),   backward_row<Fft<4096, 16>, T, true>(),
        forward_row<Fft<8192, 32>, T, true>(),   backward_row<Fft<8192, 32>, T, true>(),
    };
    for (const Inner<T> &row : table)
        if (row.N == N && row.grad == grad && row.levels == levels) return &row;
    return nullptr;
}

/* All outer stages of `items` rows of N, forward: the first reads src. */
template <class T, Where src, bool DY, int R>
void one_outer(const Job<T> &j, c32 *temp, int64_t M, int64_t items)
{
    auto *kernel = outer<R, T, src, DY, false>;
    if constexpr (src == ROWS)
        if (j.p.rows.jump) kernel = outer<R, T, src, DY, true>;
    launch(kernel, dim3(ceil_div(items * (j.p.N / R), 256)), 256, 0, j.stream, j.p.rows, j.io, j.taps, temp,
           j.p.N, M, j.f0, j.p0, j.np, items);
}
template <class T, Into dst, int R>
void one_outer_inverse(const Job<T> &j, c32 *temp, const int *small, int64_t M, int64_t items)
{
    auto *kernel = outer_inverse<R, T, dst, false>;
    if constexpr (dst != KEEP && dst != OUT_TAPS)
        if (j.p.rows.jump) kernel = outer_inverse<R, T, dst, true>;
    launch(kernel, dim3(ceil_div(items * (j.p.N / R), 256)), 256, 0, j.stream, j.p.rows, j.io, j.dtaps, temp, small,
           j.p.N, M, j.f0, j.p0, j.np, items);
}
template <class T> void find_small(const Job<T> &j, int64_t items)
{
    const int64_t pieces = ceil_div(j.p.rows.L, GATES_AT_ONCE);
    cudaMemsetAsync(j.small, 0, (size_t)items * sizeof(int), j.stream);
    launch(j.p.rows.jump ? small_gates<T, true> : small_gates<T, false>, dim3((unsigned)(items * pieces)), 256, 0, j.stream,
           j.p.rows, j.io.post, j.small, j.f0, j.p0, j.np, pieces);
}
template <class F> void by_radix(int radix, F f)
{
    switch (radix) {
    case 4: return f(std::integral_constant<int, 4>());
    case 8: return f(std::integral_constant<int, 8>());
    case 16: return f(std::integral_constant<int, 16>());
    default: return f(std::integral_constant<int, 32>());
    }
}
template <class T, Where src, bool DY> void outer_forward(const Job<T> &j, c32 *temp, int64_t items)
{
    by_radix(j.p.radix[0], [&](auto R) { one_outer<T, src, DY, decltype(R)::value>(j, temp, j.p.N, items); });
    if (j.p.levels < 2) return;
    const int64_t M = j.p.N / j.p.radix[0];
    by_radix(j.p.radix[1], [&](auto R) { one_outer<T, TEMP, false, decltype(R)::value>(j, temp, M, items); });
}
template <class T, Into dst> void outer_backward(const Job<T> &j, c32 *temp, int64_t items)
{
    const int *small = dst == OUT_DPOST ? j.small : nullptr;
    const int64_t M = j.p.N / j.p.radix[0];
    if (j.p.levels == 2)
        by_radix(j.p.radix[1], [&](auto R) { one_outer_inverse<T, KEEP, decltype(R)::value>(j, temp, small, M, items); });
    by_radix(j.p.radix[0], [&](auto R) { one_outer_inverse<T, dst, decltype(R)::value>(j, temp, small, j.p.N, items); });
}

/* Chunk by chunk: spectra of nf filters, np rows at a time, then (backward) their taps'
 * gradients. */
template <class T> m2_status run_all(Job<T> &j, bool grad)
{
    const Inner<T> *inner = find_inner<T>(j.p.inner, grad, j.p.levels > 0);
    M2_CHECK(inner);
    for (j.f0 = 0; j.f0 < j.p.rows.F; j.f0 += j.p.nf) {
        j.nf = (int)(j.p.rows.F - j.f0 < j.p.nf ? j.p.rows.F - j.f0 : j.p.nf);
        if (j.p.levels) outer_forward<T, TAPS, false>(j, j.temp, j.nf);
        inner->spectrum(j);
        j.split0 = 0;
        for (j.p0 = 0; j.p0 < j.p.rows.count; j.p0 += j.p.np) {
            j.np = j.p.rows.count - j.p0 < j.p.np ? j.p.rows.count - j.p0 : j.p.np;
            int64_t items = (int64_t)j.nf * j.np;
            if (j.p.levels) outer_forward<T, ROWS, false>(j, j.temp, items);
            if (j.p.levels && grad) outer_forward<T, ROWS, true>(j, j.temp2, items);
            if (j.small) find_small(j, items);
            inner->convolve(j);
            j.split0 += j.p.splits;
            if (!j.p.levels) continue;
            if (!grad) outer_backward<T, OUT_Y>(j, j.temp, items);
            if (grad && j.io.dpost) outer_backward<T, OUT_DPOST>(j, j.temp, items); /* reads dy */
            if (grad && (j.io.du || j.io.dpre)) outer_backward<T, OUT_DA>(j, j.temp2, items);
        }
        if (!grad || !(j.dtaps.k || j.dtaps.kr || j.dtaps.D)) continue;
        inner->taps_grad(j);
        if (j.p.levels) outer_backward<T, OUT_TAPS>(j, j.temp, j.nf);
    }
    cudaError_t e = cudaGetLastError();
    if (e != cudaSuccess)
        return m2_fail(M2_TRANSIENT, "launching the long convolution failed: %s", cudaGetErrorString(e));
    return M2_OK;
}

template <class T> m2_status run_typed(const m2_call *call, bool grad)
{
    const m2_tensor *in = call->in, *out = call->out;
    m2_desc u = m2_tensor_desc(&in[0]), k = m2_tensor_desc(&in[1]);
    Job<T> j = {};
    j.p = make_plan(&call->attrs, &u, &k, grad);
    if (!j.p.inner)
        return m2_fail(M2_USAGE, "variant %lld of a long convolution of %lld positions does not exist on CUDA",
                       (long long)call->attrs.i[M2_LONGCONV_VARIANT], (long long)j.p.rows.L);
    char *at = (char *)call->workspace;
    int64_t need = total_bytes(j.p, grad);
    if (call->workspace_bytes < need)
        return m2_fail(M2_BUG, "long convolution needs %lld bytes of workspace, got %lld", (long long)need,
                       (long long)call->workspace_bytes);
    j.K = (c32 *)at, at += bytes(j.p.K);
    j.temp = (c32 *)at, at += bytes(j.p.temp);
    if (grad) j.temp2 = (c32 *)at, at += bytes(j.p.temp);
    j.dK = (c32 *)at, at += bytes(j.p.dK);
    j.stream = (cudaStream_t)call->stream;
    j.taps = {
        (float *)in[1].data, (float *)in[2].data, (float *)in[3].data, in[1].shape[1], false, false, false};
    j.io.u = (const T *)in[0].data, j.io.pre = (const T *)in[4].data, j.io.post = (const T *)in[5].data;
    if (!grad) {
        j.io.y = (T *)out[0].data;
        return run_all(j, false);
    }
    j.io.made = (const T *)in[6].data, j.io.dy = (const T *)in[7].data;
    j.io.du = (T *)out[0].data, j.io.dpre = (T *)out[4].data, j.io.dpost = (T *)out[5].data;
    if (j.p.levels && j.io.dpost && j.io.made) j.small = (int *)at;
    j.io.acc_du = call->acc & 1, j.io.acc_dpre = call->acc & 16, j.io.acc_dpost = call->acc & 32;
    j.dtaps = {(float *)out[1].data, (float *)out[2].data, (float *)out[3].data, in[1].shape[1],
               (call->acc & 2) != 0, (call->acc & 4) != 0, (call->acc & 8) != 0};
    return run_all(j, true);
}

/* Where tensor cores can do it (longconv_mma.cu) their variants are the first: which of them, or -1. */
int64_t on_tensor_cores(const m2_attrs *attrs, const m2_desc &u, const m2_desc &k, bool grad)
{
    int64_t which = attrs->i[M2_LONGCONV_VARIANT] > 0 ? attrs->i[M2_LONGCONV_VARIANT] - 1 : 0;
    return which < mma_conv_count(u, k, grad) ? which : -1;
}
m2_attrs among_ways(const m2_attrs *attrs, const m2_desc &u, const m2_desc &k, bool grad)
{
    m2_attrs a = *attrs;
    if (a.i[M2_LONGCONV_VARIANT] > 0) a.i[M2_LONGCONV_VARIANT] -= mma_conv_count(u, k, grad);
    return a;
}

m2_status run_any(const m2_call *call, bool grad)
{
    m2_desc u = m2_tensor_desc(&call->in[0]), k = m2_tensor_desc(&call->in[1]);
    int64_t which = on_tensor_cores(&call->attrs, u, k, grad);
    if (which >= 0) return mma_conv_run(call, grad, which);
    m2_call here = *call;
    here.attrs = among_ways(&call->attrs, u, k, grad);
    call = &here;
    switch (call->in[0].dtype) {
    case M2_F32: return run_typed<float>(call, grad);
    case M2_BF16: return run_typed<__nv_bfloat16>(call, grad);
    default:
        return m2_fail(M2_USAGE, "%s on CUDA takes f32 or bf16, not %s", call->op->name,
                       m2_dtype_name(call->in[0].dtype));
    }
}
} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_longconv(const m2_call *call)
{
    if (m2cu::band_of(&call->attrs)) return m2cu::run_band(call, false);
    return m2cu::run_any(call, false);
}

extern "C" m2_status m2i_cuda_longconv_grad(const m2_call *call)
{
    if (m2cu::band_of(&call->attrs)) return m2cu::run_band(call, true);
    return m2cu::run_any(call, true);
}

/* Bytes of call->workspace; in[] as for the CPU op's query. */
extern "C" int64_t m2i_cuda_longconv_workspace(const m2_attrs *attrs, const m2_desc *in, bool grad)
{
    if (m2cu::band_of(attrs)) return m2cu::band_workspace(attrs, in, grad);
    int64_t which = m2cu::on_tensor_cores(attrs, in[0], in[1], grad);
    if (which >= 0) return m2cu::mma_conv_workspace(attrs, in[0], in[1], grad, which);
    m2_attrs here = m2cu::among_ways(attrs, in[0], in[1], grad);
    m2cu::Plan p = m2cu::make_plan(&here, &in[0], &in[1], grad);
    return m2cu::total_bytes(p, grad);
}

/* The ways that make_plan chooses from, the cheapest first. */
extern "C" int m2i_cuda_longconv_variants(const m2_attrs *attrs, const m2_desc *in, bool grad, m2_variant *list,
                                          int most)
{
    using namespace m2cu;
    m2_attrs chosen = *attrs;
    chosen.i[M2_LONGCONV_VARIANT] = 0;
    Plan p = make_plan(&chosen, &in[0], &in[1], grad);
    int order[WAYS], n = list_ways(p.N, p.rows.jump != 0, grad, order);
    int count = 0;
    for (int all = mma_conv_count(in[0], in[1], grad); count < all && count < most; count++)
        list[count] = mma_conv_variant(in[0], in[1], grad, count);
    for (int i = 0; i < n && count < most; i++, count++) {
        const Way &way = ways[order[i]];
        snprintf(list[count].name, sizeof list[count].name, "%lld x %lld in one block", (long long)(p.N / way.inner),
                 (long long)way.inner);
        list[count].seconds = m2cu::seconds_of(way, p.N, p.rows.jump != 0, grad, p.rows.count, p.rows.F);
    }
    return count;
}
