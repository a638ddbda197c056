/* monarch.cu - the two block stages of a cut sequence's long convolution (kernels/ops/monarch.c), f32.
 *
 *   columns    z[k][q][i] = e_ki sum_j g_kj (x[q][j][i] - i xr)         uncolumns  y[q][j][i] = Re(sum_k conj(g_kj e_ki) z)
 *   cyclic     rows of L2 points: gathered from their segments, DFT, product, inverse, given back
 *
 * columns, uncolumns: a thread has one column i and one k (or j), keeps its twiddles and walks over sequences: all loads and
 * stores are of neighbouring columns. Bytes: x N1 times from the caches and z once; z N1 times and y once. N1 is small.
 * cyclic: rows of M points through memory, M = L2 where that is a power of two from 256 on, else the power of two that holds
 * both factors side by side. A transform is outer stages of radix up to 16 in place, then one block per 4096 points (fft.cuh).
 * Spectra stay permuted. Sums over rows have one order. */
#include "common.cuh"
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
    int64_t s = p / j.own;
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

/* a *= K of the item's filter */
__global__ void __launch_bounds__(256) multiply(RowsJob j, c32 *a, const c32 *K, int64_t n)
{
    int64_t id = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (id < n) a[id] = mul(a[id], K[id / j.M / j.nq * j.M + id % j.M]);
}

/* sum (units, M) (+)= sum over the rows of g conj(a); g *= conj(K). n = units * M. */
__global__ void __launch_bounds__(256)
    multiply_grad(RowsJob j, const c32 *a, c32 *g, const c32 *K, c32 *sum, bool acc, int64_t n)
{
    int64_t id = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (id >= n) return;
    int64_t unit = id / j.M, p = id % j.M;
    c32 k = K[id], total = acc ? sum[id] : make_float2(0, 0);
    for (int q = 0; q < j.nq; q++) {
        int64_t at = (unit * j.nq + q) * j.M + p;
        c32 v = g[at];
        total = total + mulc(v, a[at]);
        g[at] = mulc(v, k);
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

/* ---- a call of cyclic ---------------------------------------------------------------------------------------------- */
constexpr int64_t BUDGET = 16 << 20; /* points in flight */

struct Chunks {
    int64_t units, most_units, most_q; /* in all; at a time */
};

RowsJob make_rows(const m2_attrs *attrs, const m2_desc *u, const m2_desc *k, Chunks *c)
{
    RowsJob j = {};
    j.own = u->shape[3] / 2, j.segments = (int)attrs->i[M2_CYCLIC_SEGMENTS];
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
    int64_t items = c.most_units * c.most_q * (grad ? 2 : 1) + c.most_units * (grad ? 2 : 1);
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
    float scale = 1.0f / ((float)j.M * (float)(j.rows * j.segments));
    auto blocks = [](int64_t n) { return (unsigned)ceil_div(n, 256); };
    for (j.unit0 = 0; j.unit0 < c.units; j.unit0 += c.most_units) {
        int64_t units = c.units - j.unit0 < c.most_units ? c.units - j.unit0 : c.most_units, nk = units * j.M;
        j.nq = 1;
        gather_rows<<<blocks(nk), 256, 0, s>>>(j, k, true, false, K, nk);
        transform(j.M, K, nk, s);
        for (j.q0 = 0; j.q0 < j.count; j.q0 += c.most_q) {
            j.nq = (int)(j.count - j.q0 < c.most_q ? j.count - j.q0 : c.most_q);
            int64_t n = nk * j.nq, points = units * j.nq * j.width;
            gather_rows<<<blocks(n), 256, 0, s>>>(j, u, false, false, a, n);
            transform(j.M, a, n, s);
            if (grad) {
                gather_rows<<<blocks(n), 256, 0, s>>>(j, dy, false, j.M > j.width, g, n);
                transform(j.M, g, n, s);
                multiply_grad<<<blocks(nk), 256, 0, s>>>(j, a, g, K, sum, j.q0 > 0, nk);
                if (!out) continue;
                transform_back(j.M, g, n, s);
                scatter_points<<<blocks(points), 256, 0, s>>>(j, g, false, false, scale, out, call->acc & 1, points);
            } else {
                multiply<<<blocks(n), 256, 0, s>>>(j, a, K, n);
                transform_back(j.M, a, n, s);
                scatter_points<<<blocks(points), 256, 0, s>>>(j, a, false, j.M > j.width, scale, out, false, points);
            }
        }
        if (!dk) continue;
        j.nq = 1;
        transform_back(j.M, sum, nk, s);
        scatter_points<<<blocks(units * j.width), 256, 0, s>>>(j, sum, true, false, scale, dk, call->acc & 2,
                                                               units * j.width);
    }
    return launched(call);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_columns(const m2_call *c)
{
    m2cu::Stage s = {};
    dim3 grid;
    M2_TRY(m2cu::make_stage(c, &s, &grid));
    if (s.count && s.own)
        m2cu::columns<<<grid, 256, (size_t)s.rows * sizeof(m2cu::c32), m2cu::stream_of(c)>>>(s);
    return m2cu::launched(c);
}

extern "C" m2_status m2i_cuda_uncolumns(const m2_call *c)
{
    m2cu::Stage s = {};
    dim3 grid;
    M2_TRY(m2cu::make_stage(c, &s, &grid));
    const m2_tensor &y0 = c->out[2];
    if (y0.data && s.at > 0 && !(c->acc & 4)) /* another rank has lag 0 */
        cudaMemsetAsync(y0.data, 0, (size_t)m2_tensor_bytes(&y0), m2cu::stream_of(c));
    if (s.count && s.own) m2cu::uncolumns<<<grid, 256, 0, m2cu::stream_of(c)>>>(s);
    return m2cu::launched(c);
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
