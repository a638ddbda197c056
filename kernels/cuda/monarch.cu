/* monarch.cu - the two block stages of a cut sequence's long convolution (kernels/ops/monarch.c), f32.
 *
 *   columns    z[k][q][i] = e_ki sum_j g_kj (x[q][j][i] - i xr)         uncolumns  y[q][j][i] = Re(sum_k conj(g_kj e_ki) z)
 *   cyclic     rows of L2 points: gathered from their segments, DFT, product, inverse, given back
 *
 * columns, uncolumns: a thread has columns i, keeps their twiddles and walks over sequences: all loads and stores are of
 * neighbours. With 1, 2, 4 or 8 rows two columns and all k (or j), so that bytes are x and z once; else one column and one k
 * (or j), and what goes in comes N1 times from the caches.
 * cyclic: rows of M points, M = L2 where that is a power of two from 256 on, else the power of two that holds both factors side
 * by side. Up to 16384 points a block has a row, from its segments to what is given back; bytes: a row once each way (gradient:
 * and both spectra there and back), the filters' spectra from L2. Longer ones go through memory: outer stages of radix up to 16
 * in place, then one block per 4096 points (fft.cuh). Spectra stay permuted. Sums over rows have one order. */
#include "common.cuh"
#include "divide.cuh"
#include "fft.cuh"

namespace m2cu
{
namespace
{

/* ---- columns ------------------------------------------------------------------------------------------------------- */
struct Stage {
    Ref x, xr, x0; /* of columns in, of uncolumns out */
    float *z;
    int64_t width, at, own, count, used; /* as in kernels/ops/monarch.c */
    int rows;
    bool acc; /* z += */
};

/* w_n^q */
__device__ __forceinline__ c32 root_of(int64_t q, int64_t n)
{
    float re, im;
    q %= n;
    sincospif((float)(-2.0 * (double)q / (double)n), &im, &re);
    return make_float2(re, im);
}
__device__ __forceinline__ c32 g_of(const Stage &s, int k, int j)
{
    return root_of((int64_t)j * (4 * k - 1), 4 * s.rows);
}
__device__ __forceinline__ c32 e_of(const Stage &s, int k, int64_t i)
{
    return root_of((s.at + i) * (4 * k - 1), 4 * s.rows * s.width);
}

/* grid (columns / 256, rows k, shares of the sequences); shared memory: g of row k. */
__global__ void __launch_bounds__(256) columns(Stage s)
{
    extern __shared__ c32 g[];
    int k = blockIdx.y;
    for (int j = threadIdx.x; j < s.rows; j += 256) g[j] = g_of(s, k, j);
    __syncthreads();
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x, length = s.used * s.own;
    if (i >= s.own) return;
    c32 e = e_of(s, k, i);
    bool first = s.at + i == 0;
    for (int64_t q = blockIdx.z; q < s.count; q += gridDim.z) {
        c32 sum = make_float2(0, 0);
        for (int j = 0; s.x.data && j < s.used; j++) {
            float v = load_one(s.x, q * length + j * s.own + i);
            sum.x += g[j].x * v, sum.y += g[j].y * v;
        }
        for (int p = first && s.rows == s.used ? (int)s.used - 2 : (int)s.used - 1; s.xr.data && p >= 0; p--) {
            int j = s.rows - 1 - p; /* lag -N, at j = 0, touches nothing */
            float v = load_one(s.xr, q * length + p * s.own + s.own - 1 - i);
            sum.x += g[j].y * v, sum.y -= g[j].x * v;
        }
        if (s.x0.data && first) sum.x += load_one(s.x0, q);
        c32 z = mul(e, sum);
        float *to = s.z + ((int64_t)k * s.count + q) * 2 * s.own + i;
        to[0] = s.acc ? to[0] + z.x : z.x;
        to[s.own] = s.acc ? to[s.own] + z.y : z.y;
    }
}

__device__ __forceinline__ void give(const Ref &t, int64_t at, float v)
{
    store_one(t, at, t.acc ? load_one(t, at) + v : v);
}

/* Neighbours at an even place of aligned memory. */
__device__ __forceinline__ float2 load_two(const Ref &t, int64_t at)
{
    if (!t.bf16) return *(const float2 *)(t.data + at * 4);
    uint32_t w = *(const uint32_t *)(t.data + at * 2);
    return make_float2(__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u));
}
__device__ __forceinline__ void give_two(const Ref &t, int64_t at, float2 v)
{
    if (t.acc) v = v + load_two(t, at);
    if (t.bf16)
        *(uint32_t *)(t.data + at * 2) = pack_two(v.x, v.y);
    else
        *(float2 *)(t.data + at * 4) = v;
}

/* This thread's two columns, from i on; the block's table of g. A barrier. */
template <int ROWS> struct Two {
    int64_t i;
    c32 e[ROWS][2];
    __device__ __forceinline__ Two(const Stage &s, c32 (&g)[ROWS][ROWS]) : i(2 * ((int64_t)blockIdx.x * 256 + threadIdx.x))
    {
        const int k = threadIdx.x / ROWS, j = threadIdx.x % ROWS;
        if (k < ROWS) g[k][j] = g_of(s, k, j);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < ROWS; r++) e[r][0] = e_of(s, r, i), e[r][1] = e_of(s, r, i + 1);
    }
};

/* grid (columns / 512, shares of the sequences) */
template <int ROWS> __global__ void __launch_bounds__(256, ROWS > 4 ? 2 : 3) columns_at_once(Stage s)
{
    __shared__ c32 g[ROWS][ROWS];
    const Two<ROWS> two(s, g);
    const int64_t i = two.i, length = s.used * s.own;
    const bool first = s.at + i == 0;
    if (i >= s.own) return;
    for (int64_t q = blockIdx.y; q < s.count; q += gridDim.y) {
        float2 x[ROWS], xr[ROWS]; /* row j of two columns: real parts, and what is to be times -i */
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            const int p = ROWS - 1 - j; /* lag -N, at j = 0, touches nothing */
            x[j] = s.x.data && j < s.used ? load_two(s.x, q * length + j * s.own + i) : make_float2(0, 0);
            float2 v = s.xr.data && p < s.used ? load_two(s.xr, q * length + p * s.own + s.own - 2 - i) : make_float2(0, 0);
            xr[j] = make_float2(j == 0 && first ? 0.0f : v.y, v.x);
        }
        const float x0 = s.x0.data && first ? load_one(s.x0, q) : 0.0f;
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            c32 a = make_float2(x0, 0), b = make_float2(0, 0);
#pragma unroll
            for (int j = 0; j < ROWS; j++) {
                const c32 w = g[k][j];
                a.x += w.x * x[j].x + w.y * xr[j].x, a.y += w.y * x[j].x - w.x * xr[j].x;
                b.x += w.x * x[j].y + w.y * xr[j].y, b.y += w.y * x[j].y - w.x * xr[j].y;
            }
            a = mul(two.e[k][0], a), b = mul(two.e[k][1], b);
            const Ref z = {(char *)s.z, 0, 0, s.acc};
            const int64_t to = ((int64_t)k * s.count + q) * 2 * s.own + i;
            give_two(z, to, make_float2(a.x, b.x));
            give_two(z, to + s.own, make_float2(a.y, b.y));
        }
    }
}

template <int ROWS> __global__ void __launch_bounds__(256, ROWS > 4 ? 2 : 3) uncolumns_at_once(Stage s)
{
    __shared__ c32 g[ROWS][ROWS];
    const Two<ROWS> two(s, g);
    const int64_t i = two.i, length = s.used * s.own;
    const bool first = s.at + i == 0;
    if (i >= s.own) return;
    for (int64_t q = blockIdx.y; q < s.count; q += gridDim.y) {
        c32 a[ROWS], b[ROWS];
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            const float *z = s.z + ((int64_t)k * s.count + q) * 2 * s.own + i;
            const float2 re = *(const float2 *)z, im = *(const float2 *)(z + s.own);
            a[k] = mulc(make_float2(re.x, im.x), two.e[k][0]), b[k] = mulc(make_float2(re.y, im.y), two.e[k][1]);
        }
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            const int mirror = ROWS - 1 - j;
            c32 u = make_float2(0, 0), v = u;
#pragma unroll
            for (int k = 0; k < ROWS; k++) u = u + mulc(a[k], g[k][j]), v = v + mulc(b[k], g[k][j]);
            if (s.x.data && j < s.used) give_two(s.x, q * length + j * s.own + i, make_float2(u.x, v.x));
            if (s.xr.data && mirror < s.used)
                give_two(s.xr, q * length + mirror * s.own + s.own - 2 - i,
                         make_float2(-v.y, j == 0 && first ? 0.0f : -u.y));
            if (s.x0.data && j == 0 && first) give(s.x0, q, u.x);
        }
    }
}

constexpr int KEPT = 32; /* twiddles a thread remembers */

/* grid (columns / 256, rows j, shares of the sequences). */
__global__ void __launch_bounds__(256) uncolumns(Stage s)
{
    int j = blockIdx.y, mirror = s.rows - 1 - j;
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x, length = s.used * s.own;
    if (i >= s.own) return;
    c32 w[KEPT];
    for (int k = 0; k < s.rows && k < KEPT; k++) w[k] = mul(g_of(s, k, j), e_of(s, k, i));
    bool first = j == 0 && s.at + i == 0;
    for (int64_t q = blockIdx.z; q < s.count; q += gridDim.z) {
        c32 sum = make_float2(0, 0);
        for (int k = 0; k < s.rows; k++) {
            const float *z = s.z + ((int64_t)k * s.count + q) * 2 * s.own + i;
            c32 c = k < KEPT ? w[k] : mul(g_of(s, k, j), e_of(s, k, i));
            sum = sum + mulc(make_float2(z[0], z[s.own]), c);
        }
        if (s.x.data && j < s.used) give(s.x, q * length + j * s.own + i, sum.x);
        if (s.xr.data && mirror < s.used)
            give(s.xr, q * length + mirror * s.own + s.own - 1 - i, first ? 0.0f : -sum.y);
        if (s.x0.data && first) give(s.x0, q, sum.x);
    }
}

/* All rows at once where there are kernels for so many; false: there is none. */
bool run_at_once(void (*const kernels[4])(Stage), const Stage &s, cudaStream_t stream)
{
    const uintptr_t bits = (uintptr_t)s.x.data | (uintptr_t)s.xr.data | (uintptr_t)s.z;
    const int which = s.rows == 1 ? 0 : s.rows == 2 ? 1 : s.rows == 4 ? 2 : s.rows == 8 ? 3 : -1;
    if (which < 0 || s.own % 2 || bits % 8) return false;
    const int64_t shares = s.count < 1024 ? s.count : 1024;
    if (s.count && s.own)
        kernels[which]<<<dim3((unsigned)ceil_div(s.own, 512), (unsigned)shares), 256, 0, stream>>>(s);
    return true;
}

m2_status make_stage(const m2_call *c, Stage *s, dim3 *grid)
{
    M2_TRY(check(c));
    const int64_t *a = c->attrs.i;
    bool in = c->in[0].rank == 4; /* z comes in: uncolumns */
    const m2_tensor &z = in ? c->in[0] : c->out[0], *x = in ? c->out : c->in;
    if (z.dtype != M2_F32)
        return m2_fail(M2_USAGE, "%s on CUDA: z must be f32, not %s", c->op->name, m2_dtype_name(z.dtype));
    s->rows = (int)a[M2_COLUMNS_ROWS], s->width = a[M2_COLUMNS_WIDTH];
    s->at = a[M2_COLUMNS_AT], s->own = a[M2_COLUMNS_OWN];
    s->count = z.shape[1] * z.shape[2];
    s->z = (float *)z.data;
    s->acc = !in && (c->acc & 1);
    s->x = ref(x[0], 0, in && (c->acc & 1)), s->xr = ref(x[1], 0, in && (c->acc & 2));
    s->x0 = ref(x[2], 0, in && (c->acc & 4));
    for (int i = 0; i < 2; i++)
        if (x[i].data) s->used = x[i].shape[x[i].rank - 1] / s->own;
    int64_t shares = s->count < 1024 ? s->count : 1024;
    *grid = dim3((unsigned)ceil_div(s->own, 256), (unsigned)s->rows, (unsigned)shares);
    return s->rows > 4096 ? m2_fail(M2_USAGE, "%s on CUDA: %d rows are more than 4096", c->op->name, s->rows) : M2_OK;
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */
struct RowsJob {
    FastDiv by_own;
    int64_t own, width, M, rows, channels, batch, filters, sharing; /* as in kernels/ops/monarch.c; M points of a DFT */
    int segments, index, count;                                   /* by index; sequences of one filter */
    int64_t unit0, q0;                                            /* the chunk: units (k1, filter), sequences of each */
    int nq;
};

/* Sequence (channel, batch) q of filter f. */
__device__ __forceinline__ int64_t sequence_of(const RowsJob &j, int64_t f, int64_t q)
{
    int64_t c = q / j.batch, channel = j.index ? c * j.filters + f : f * j.sharing + c;
    return channel * j.batch + q % j.batch;
}
/* Where point p of a row is in an array with `per_row` sequences. */
__device__ __forceinline__ int64_t place_of(const RowsJob &j, int64_t k1, int64_t per_row, int64_t sequence, int64_t p)
{
    int64_t s = j.by_own.div((uint32_t)p);
    return ((s * j.rows + k1) * per_row + sequence) * 2 * j.own + p - s * j.own;
}

/* temp (items, M): rows of u (or of the filters themselves), then zeros or, `again`, the row once more. */
__global__ void __launch_bounds__(256)
    gather_rows(RowsJob j, const float *from, bool filters, bool again, c32 *temp, int64_t n)
{
    int64_t id = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (id >= n) return;
    int64_t item = id / j.M, p = id % j.M, unit = j.unit0 + (filters ? item : item / j.nq);
    int64_t k1 = unit / j.filters, f = unit % j.filters;
    if (again && p >= j.width) p -= j.width;
    c32 v = make_float2(0, 0);
    if (p < j.width) {
        int64_t at = filters ? place_of(j, k1, j.filters, f, p)
                             : place_of(j, k1, j.channels * j.batch, sequence_of(j, f, j.q0 + item % j.nq), p);
        v = make_float2(from[at], from[at + j.own]);
    }
    temp[id] = v;
}

/* The other way: n = items * width. `fold`: what is beyond the row is added to its beginning. */
__global__ void __launch_bounds__(256)
    scatter_points(RowsJob j, const c32 *temp, bool filters, bool fold, float scale, float *to, bool acc, int64_t n)
{
    int64_t id = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (id >= n) return;
    int64_t item = id / j.width, p = id % j.width, unit = j.unit0 + (filters ? item : item / j.nq);
    int64_t k1 = unit / j.filters, f = unit % j.filters;
    c32 v = temp[item * j.M + p];
    if (fold && p + j.width < j.M) v = v + temp[item * j.M + p + j.width];
    int64_t at = filters ? place_of(j, k1, j.filters, f, p)
                         : place_of(j, k1, j.channels * j.batch, sequence_of(j, f, j.q0 + item % j.nq), p);
    to[at] = acc ? to[at] + scale * v.x : scale * v.x;
    to[at + j.own] = acc ? to[at + j.own] + scale * v.y : scale * v.y;
}

/* a *= K of the item's filter, or its conjugate */
__global__ void __launch_bounds__(256) multiply(RowsJob j, c32 *a, const c32 *K, bool conj, int64_t n)
{
    int64_t id = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (id >= n) return;
    c32 k = K[id / j.M / j.nq * j.M + id % j.M];
    a[id] = conj ? mulc(a[id], k) : mul(a[id], k);
}

/* sum (units, M) (+)= sum over the rows of g conj(a). n = units * M. */
__global__ void __launch_bounds__(256) sum_products(RowsJob j, const c32 *a, const c32 *g, c32 *sum, bool acc, int64_t n)
{
    int64_t id = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (id >= n) return;
    int64_t unit = id / j.M, p = id % j.M;
    c32 total = acc ? sum[id] : make_float2(0, 0);
    for (int q = 0; q < j.nq; q++) {
        int64_t at = (unit * j.nq + q) * j.M + p;
        total = total + mulc(g[at], a[at]);
    }
    sum[id] = total;
}

/* One stage of radix R on groups of G points, in place; a thread per butterfly. */
template <int R, int SIGN> __global__ void __launch_bounds__(256) stage(c32 *temp, int64_t G, int64_t n)
{
    int64_t C = G / R, id = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (id >= n / R) return;
    int64_t c = id % C;
    c32 *at = temp + id / C * G + c, x[R];
#pragma unroll
    for (int r = 0; r < R; r++) x[r] = at[r * C];
    float re, im;
    sincospif(-2.0f * (float)c / (float)G, &im, &re);
    if (SIGN > 0) twiddle<R, SIGN>(x, make_float2(re, im));
    dft<R, SIGN>(x);
    if (SIGN < 0) twiddle<R, SIGN>(x, make_float2(re, im));
#pragma unroll
    for (int k = 0; k < R; k++) at[k * C] = x[k];
}

/* The inner transforms, one per X::T threads. */
template <class X, int SIGN> __global__ void __launch_bounds__(X::T < 128 ? 128 : X::T) inner(c32 *temp, int64_t items)
{
    extern __shared__ c32 smem[];
    int lane = threadIdx.x % X::T, slot = threadIdx.x / X::T;
    int64_t item = (int64_t)blockIdx.x * (blockDim.x / X::T) + slot;
    bool live = item < items;
    c32 *at = temp + (live ? item : items - 1) * X::N, z[X::P];
    X fft;
    fft.init(lane);
#pragma unroll
    for (int e = 0; e < X::P; e++) z[e] = at[e * X::T + lane];
    if (SIGN < 0)
        fft.template forward<false>(z, smem + slot * X::words, lane);
    else
        fft.template inverse<false>(z, smem + slot * X::words, lane);
    if (!live) return;
#pragma unroll
    for (int e = 0; e < X::P; e++) at[e * X::T + lane] = z[e];
}

template <class X, int SIGN> void run_inner(c32 *temp, int64_t n, cudaStream_t s)
{
    constexpr int threads = X::T < 128 ? 128 : X::T, slots = threads / X::T;
    int64_t items = n / X::N;
    inner<X, SIGN><<<(unsigned)ceil_div(items, slots), threads, sizeof(c32) * slots * X::words, s>>>(temp, items);
}

template <int SIGN> void inner_of(int64_t size, c32 *temp, int64_t n, cudaStream_t s)
{
    switch (size) {
    case 256: run_inner<Fft<256, 16>, SIGN>(temp, n, s); break;
    case 512: run_inner<Fft<512, 16>, SIGN>(temp, n, s); break;
    case 1024: run_inner<Fft<1024, 16>, SIGN>(temp, n, s); break;
    case 2048: run_inner<Fft<2048, 16>, SIGN>(temp, n, s); break;
    default: run_inner<Fft<4096, 16>, SIGN>(temp, n, s); break;
    }
}

template <int SIGN> void stage_of(int radix, c32 *temp, int64_t G, int64_t n, cudaStream_t s)
{
    unsigned grid = (unsigned)ceil_div(n / radix, 256);
    switch (radix) {
    case 2: stage<2, SIGN><<<grid, 256, 0, s>>>(temp, G, n); break;
    case 4: stage<4, SIGN><<<grid, 256, 0, s>>>(temp, G, n); break;
    case 8: stage<8, SIGN><<<grid, 256, 0, s>>>(temp, G, n); break;
    default: stage<16, SIGN><<<grid, 256, 0, s>>>(temp, G, n); break;
    }
}

constexpr int64_t INNER = 4096;

int radix_at(int64_t G)
{
    return (int)(G / INNER < 16 ? G / INNER : 16);
}

/* n / M rows of M points each, n > 0. Inverse: unscaled, the same stages backwards. */
void transform(int64_t M, c32 *temp, int64_t n, cudaStream_t s)
{
    for (int64_t G = M; G > INNER; G /= radix_at(G)) stage_of<-1>(radix_at(G), temp, G, n, s);
    inner_of<-1>(M < INNER ? M : INNER, temp, n, s);
}
void transform_back(int64_t M, c32 *temp, int64_t n, cudaStream_t s)
{
    int64_t groups[16];
    int levels = 0;
    for (int64_t G = M; G > INNER; G /= radix_at(G)) groups[levels++] = G;
    inner_of<1>(M < INNER ? M : INNER, temp, n, s);
    while (levels--) stage_of<1>(radix_at(groups[levels]), temp, groups[levels], n, s);
}

/* ---- rows that a block holds --------------------------------------------------------------------------------------- */
constexpr int64_t WHOLE = 16384; /* points at most */

/* What becomes of rows: from their segments to spectra, which are kept; times K or its conjugate; back, and given back. */
struct Pass {
    const float *from = nullptr; /* NULL: they are spectra, which the way back may use up */
    c32 *spectra = nullptr;      /* to keep; NULL: not */
    const c32 *K = nullptr;      /* NULL: no product */
    float *to = nullptr;         /* NULL: they stay spectra */
    bool filters = false, again = false, conj = false, fold = false, acc = false; /* as in gather_rows and scatter_points */
    float scale = 1;
};

/* A row per X::T threads. Spectra: (items, M), K (units, M). */
template <class X> __global__ void __launch_bounds__(X::T < 128 ? 128 : X::T) rows_pass(RowsJob j, Pass a, int64_t items)
{
    extern __shared__ c32 smem[];
    const int lane = threadIdx.x % X::T, slot = threadIdx.x / X::T;
    const int64_t mine = (int64_t)blockIdx.x * (blockDim.x / X::T) + slot, item = mine < items ? mine : items - 1,
                  of = a.filters ? item : item / j.nq, unit = j.unit0 + of, k1 = unit / j.filters, f = unit % j.filters;
    const int64_t per_row = a.filters ? j.filters : j.channels * j.batch,
                  sequence = a.filters ? f : sequence_of(j, f, j.q0 + item % j.nq);
    c32 *buf = smem + slot * X::words, z[X::P];
    X fft;
    fft.init(lane);
#pragma unroll
    for (int e = 0; e < X::P; e++) {
        int64_t p = e * X::T + lane;
        z[e] = make_float2(0, 0);
        if (!a.from) {
            z[e] = a.spectra[item * X::N + p];
        } else if (p < j.width || a.again) {
            int64_t at = place_of(j, k1, per_row, sequence, p < j.width ? p : p - j.width);
            if (p < 2 * j.width) z[e] = make_float2(a.from[at], a.from[at + j.own]);
        }
    }
    if (a.from) fft.template forward<false>(z, buf, lane);
#pragma unroll
    for (int e = 0; a.from && a.spectra && e < X::P; e++)
        if (mine < items) a.spectra[item * X::N + e * X::T + lane] = z[e];
    if (!a.to) return;
#pragma unroll
    for (int e = 0; a.K && e < X::P; e++) {
        c32 k = a.K[of * X::N + e * X::T + lane];
        z[e] = a.conj ? mulc(z[e], k) : mul(z[e], k);
    }
    fft.template inverse<false>(z, buf, lane);
    if (a.fold) { /* what is beyond the row is added to its beginning */
        __syncthreads();
#pragma unroll
        for (int e = 0; e < X::P; e++) buf[X::pad(e * X::T + lane)] = z[e];
        __syncthreads();
#pragma unroll
        for (int e = 0; e < X::P; e++) {
            int p = e * X::T + lane + (int)j.width;
            if (p < X::N) z[e] = z[e] + buf[X::pad(p)];
        }
    }
    if (mine >= items) return;
#pragma unroll
    for (int e = 0; e < X::P; e++) {
        int64_t p = e * X::T + lane;
        if (p >= j.width) break;
        float *to = a.to + place_of(j, k1, per_row, sequence, p);
        to[0] = a.acc ? to[0] + a.scale * z[e].x : a.scale * z[e].x;
        to[j.own] = a.acc ? to[j.own] + a.scale * z[e].y : a.scale * z[e].y;
    }
}

template <class X> void run_pass(const RowsJob &j, const Pass &a, int64_t items, cudaStream_t s)
{
    constexpr int threads = X::T < 128 ? 128 : X::T, slots = threads / X::T;
    constexpr size_t bytes = sizeof(c32) * slots * X::words;
    if (bytes > 48 * 1024) cudaFuncSetAttribute(rows_pass<X>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (items) rows_pass<X><<<(unsigned)ceil_div(items, slots), threads, bytes, s>>>(j, a, items);
}

/* The same through memory: `temp` has room for the rows. */
void long_pass(const RowsJob &j, const Pass &a, c32 *temp, int64_t items, cudaStream_t s)
{
    const int64_t n = items * j.M, points = items * j.width;
    auto blocks = [](int64_t n) { return (unsigned)ceil_div(n, 256); };
    c32 *z = a.spectra ? a.spectra : temp;
    if (a.from) gather_rows<<<blocks(n), 256, 0, s>>>(j, a.from, a.filters, a.again, z, n);
    if (a.from) transform(j.M, z, n, s);
    if (!a.to) return;
    if (a.K) multiply<<<blocks(n), 256, 0, s>>>(j, z, a.K, a.conj, n);
    transform_back(j.M, z, n, s);
    scatter_points<<<blocks(points), 256, 0, s>>>(j, z, a.filters, a.fold, a.scale, a.to, a.acc, points);
}

void pass(const RowsJob &j, const Pass &a, c32 *temp, int64_t items, cudaStream_t s)
{
    if (j.M > WHOLE) return long_pass(j, a, temp, items, s);
    switch (j.M) {
    case 256: run_pass<Fft<256, 16>>(j, a, items, s); break;
    case 512: run_pass<Fft<512, 16>>(j, a, items, s); break;
    case 1024: run_pass<Fft<1024, 16>>(j, a, items, s); break;
    case 2048: run_pass<Fft<2048, 16>>(j, a, items, s); break;
    case 4096: run_pass<Fft<4096, 16>>(j, a, items, s); break;
    case 8192: run_pass<Fft<8192, 16>>(j, a, items, s); break;
    default: run_pass<Fft<WHOLE, 16>>(j, a, items, s); break;
    }
}

/* ---- a call of cyclic ---------------------------------------------------------------------------------------------- */
constexpr int64_t BUDGET = 16 << 20; /* points in flight */

struct Chunks {
    int64_t units, most_units, most_q; /* in all; at a time */
};

RowsJob make_rows(const m2_attrs *attrs, const m2_desc *u, const m2_desc *k, Chunks *c)
{
    RowsJob j = {};
    j.own = u->shape[3] / 2, j.by_own = FastDiv(j.own > 0 ? j.own : 1), j.segments = (int)attrs->i[M2_CYCLIC_SEGMENTS];
    j.width = j.own * j.segments, j.rows = u->shape[0] / j.segments;
    j.channels = u->shape[1], j.batch = u->shape[2], j.filters = k->shape[1];
    j.sharing = j.channels / j.filters;
    j.index = attrs->i[M2_CYCLIC_SHARE] == M2_SHARE_INDEX;
    j.count = (int)(j.sharing * j.batch);
    for (j.M = 256; j.M < j.width;) j.M *= 2;
    while (j.M != j.width && j.M < 2 * j.width - 1) j.M *= 2;
    c->units = j.rows * j.filters;
    c->most_q = BUDGET / j.M < j.count ? BUDGET / j.M : j.count;
    if (c->most_q < 1) c->most_q = 1;
    c->most_units = BUDGET / (j.M * c->most_q);
    if (c->most_units < 1) c->most_units = 1;
    if (c->most_units > c->units) c->most_units = c->units > 0 ? c->units : 1;
    return j;
}

int64_t cyclic_bytes(const m2_attrs *attrs, const m2_desc *in, bool grad)
{
    Chunks c;
    RowsJob j = make_rows(attrs, &in[0], &in[1], &c);
    int64_t rows = grad ? 2 : j.M > WHOLE ? 1 : 0, items = c.most_units * (c.most_q * rows + (grad ? 2 : 1));
    return align256(items * j.M * (int64_t)sizeof(c32));
}

m2_status run_cyclic(const m2_call *call, bool grad)
{
    M2_TRY(check(call));
    m2_desc in[2] = {m2_tensor_desc(&call->in[0]), m2_tensor_desc(&call->in[1])};
    if (in[0].dtype != M2_F32)
        return m2_fail(M2_USAGE, "%s on CUDA takes f32, not %s", call->op->name, m2_dtype_name(in[0].dtype));
    M2_TRY(check_workspace(call, cyclic_bytes(&call->attrs, in, grad)));
    Chunks c;
    RowsJob j = make_rows(&call->attrs, &in[0], &in[1], &c);
    cudaStream_t s = stream_of(call);
    c32 *K = (c32 *)call->workspace, *a = K + c.most_units * j.M, *g = a + c.most_units * c.most_q * j.M,
        *sum = g + c.most_units * c.most_q * j.M;
    const float *u = (const float *)call->in[0].data, *k = (const float *)call->in[1].data,
                *dy = (const float *)call->in[2].data;
    float *out = (float *)call->out[0].data, *dk = grad ? (float *)call->out[1].data : nullptr;
    const float scale = 1.0f / ((float)j.M * (float)(j.rows * j.segments));
    const bool padded = j.M > j.width;
    for (j.unit0 = 0; j.unit0 < c.units; j.unit0 += c.most_units) {
        const int64_t units = c.units - j.unit0 < c.most_units ? c.units - j.unit0 : c.most_units, nk = units * j.M;
        j.nq = 1;
        pass(j, {.from = k, .spectra = K, .filters = true}, nullptr, units, s);
        for (j.q0 = 0; j.q0 < j.count; j.q0 += c.most_q) {
            j.nq = (int)(j.count - j.q0 < c.most_q ? j.count - j.q0 : c.most_q);
            const int64_t items = units * j.nq;
            if (!grad) {
                pass(j, {.from = u, .K = K, .to = out, .fold = padded, .scale = scale}, a, items, s);
                continue;
            }
            pass(j, {.from = u, .spectra = a}, nullptr, items, s);
            pass(j, {.from = dy, .spectra = g, .again = padded}, nullptr, items, s);
            sum_products<<<(unsigned)ceil_div(nk, 256), 256, 0, s>>>(j, a, g, sum, j.q0 > 0, nk);
            if (out)
                pass(j, {.spectra = g, .K = K, .to = out, .conj = true, .acc = (call->acc & 1) != 0, .scale = scale}, nullptr,
                     items, s);
        }
        j.nq = 1;
        if (dk)
            pass(j, {.spectra = sum, .to = dk, .filters = true, .acc = (call->acc & 2) != 0, .scale = scale}, nullptr, units, s);
    }
    return launched(call);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_columns(const m2_call *c)
{
    using namespace m2cu;
    static void (*const at_once[])(Stage) = {columns_at_once<1>, columns_at_once<2>, columns_at_once<4>, columns_at_once<8>};
    Stage s = {};
    dim3 grid;
    M2_TRY(make_stage(c, &s, &grid));
    if (run_at_once(at_once, s, stream_of(c))) return launched(c);
    if (s.count && s.own) columns<<<grid, 256, (size_t)s.rows * sizeof(c32), stream_of(c)>>>(s);
    return launched(c);
}

extern "C" m2_status m2i_cuda_uncolumns(const m2_call *c)
{
    using namespace m2cu;
    static void (*const at_once[])(Stage) = {uncolumns_at_once<1>, uncolumns_at_once<2>, uncolumns_at_once<4>,
                                             uncolumns_at_once<8>};
    Stage s = {};
    dim3 grid;
    M2_TRY(make_stage(c, &s, &grid));
    const m2_tensor &y0 = c->out[2];
    if (y0.data && s.at > 0 && !(c->acc & 4)) /* another rank has lag 0 */
        cudaMemsetAsync(y0.data, 0, (size_t)m2_tensor_bytes(&y0), stream_of(c));
    if (run_at_once(at_once, s, stream_of(c))) return launched(c);
    if (s.count && s.own) uncolumns<<<grid, 256, 0, stream_of(c)>>>(s);
    return launched(c);
}

extern "C" m2_status m2i_cuda_cyclic(const m2_call *c)
{
    return m2cu::run_cyclic(c, false);
}

extern "C" m2_status m2i_cuda_cyclic_grad(const m2_call *c)
{
    return m2cu::run_cyclic(c, true);
}

extern "C" int64_t m2i_cuda_cyclic_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *)
{
    return m2cu::cyclic_bytes(attrs, in, false);
}

extern "C" int64_t m2i_cuda_cyclic_grad_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *)
{
    return m2cu::cyclic_bytes(attrs, in, true);
}
