/* filter.cu - the implicit filter's small ops, all f32.
 *
 *   sine: y = sin(a x);  dx = dy a cos(a x),  da = sum over rows of dy x cos(a x)
 *   decay: k[c,n] = h[c,n] exp(-t_n |delta_c|), t_n = n/(lmax-1), delta_c = linspace(delta0, delta1, whole F)[c]; its own
 *   gradient.
 * A thread takes 4 neighbours where they lie at multiples of 16 bytes, else one; da in two stages (sums.cu): a block takes a
 * strip of rows, as many at a time as it has threads for. */
#include "common.cuh"

namespace m2cu
{
namespace
{

constexpr int THREADS = 256, COLUMNS = 4;

/* W neighbours: one load where W = 4 */
template <int W> __device__ __forceinline__ void read(const float *p, float (&v)[W])
{
    if constexpr (W == 4) {
        float4 four = *(const float4 *)p;
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else {
        v[0] = *p;
    }
}
template <int W> __device__ __forceinline__ void write(float *p, const float (&v)[W])
{
    if constexpr (W == 4)
        *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
    else
        *p = v[0];
}

/* W divides width. */
template <int W>
__global__ void __launch_bounds__(THREADS) sine(const float *x, const float *a, float *y, int64_t n, int64_t width)
{
    int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * W;
    float v[W], f[W];
    if (at >= n) return;
    read<W>(x + at, v);
    read<W>(a + at % width, f);
#pragma unroll
    for (int e = 0; e < W; e++) v[e] = sinf(f[e] * v[e]);
    write<W>(y + at, v);
}

/* A strip of rows per block, THREADS W / columns of them at a time. */
template <int W>
__global__ void __launch_bounds__(THREADS)
    sine_grad(const float *x, const float *a, const float *dy, float *dx, bool acc, float *partial, int64_t rows,
              int width, int columns, int64_t strip)
{
    __shared__ float part[THREADS * W];
    const int lanes = columns / W, groups = THREADS / lanes, group = threadIdx.x / lanes,
              c = blockIdx.x * columns + threadIdx.x % lanes * W;
    const int64_t end = min((blockIdx.y + 1) * strip, rows);
    const bool mine = c < width && group < groups;
    float sum[W] = {}, f[W] = {};
    if (mine) read<W>(a + c, f);
#pragma unroll 4
    for (int64_t row = blockIdx.y * strip + group; mine && row < end; row += groups) {
        float v[W], g[W], old[W] = {};
        read<W>(x + row * width + c, v);
        read<W>(dy + row * width + c, g);
        if (dx && acc) read<W>(dx + row * width + c, old);
#pragma unroll
        for (int e = 0; e < W; e++) {
            g[e] *= cosf(f[e] * v[e]);
            sum[e] += g[e] * v[e];
            old[e] += f[e] * g[e];
        }
        if (dx) write<W>(dx + row * width + c, old);
    }
#pragma unroll
    for (int e = 0; e < W; e++) part[threadIdx.x * W + e] = sum[e];
    __syncthreads();
    if (!mine || group) return;
    for (int e = 0; e < W; e++) {
        for (int i = 1; i < groups; i++) sum[e] += part[(i * lanes + threadIdx.x) * W + e];
        partial[(int64_t)blockIdx.y * width + c + e] = sum[e];
    }
}

struct Decay {
    const float *h;
    float *k;
    int64_t rows, length, first_row, first_column, run, jump;
    double t_step, delta0, delta_step; /* t_n = n t_step, delta_c = delta0 + c delta_step */
    bool acc;
};

/* Blocks of x: columns of a row, blocks of y: rows, again and again. */
__global__ void __launch_bounds__(THREADS) decay(Decay j)
{
    for (int64_t row = blockIdx.y; row < j.rows; row += gridDim.y) {
        double delta = fabs(j.delta0 + (double)(j.first_row + row) * j.delta_step);
#pragma unroll
        for (int e = 0; e < COLUMNS; e++) {
            int64_t column = ((int64_t)blockIdx.x * COLUMNS + e) * THREADS + threadIdx.x,
                    i = row * j.length + column, at = j.first_column + column;
            if (column >= j.length) break;
            if (j.jump) at += column / j.run * j.jump;
            float v = j.h[i] * expf((float)(-(double)at * j.t_step * delta));
            j.k[i] = j.acc ? j.k[i] + v : v;
        }
    }
}

/* ---- host ---------------------------------------------------------------------------------------------------------- */
constexpr int STRIPS = 1056;

int64_t strip_rows(int64_t rows)
{
    int64_t strip = ceil_div(rows, STRIPS);
    return strip > 8 ? strip : 8;
}

m2_status all_f32(const m2_call *c)
{
    M2_TRY(check(c));
    for (int i = 0; i < c->n_in; i++)
        if (!m2_absent(&c->in[i]) && c->in[i].dtype != M2_F32)
            return m2_fail(M2_USAGE, "%s on CUDA: %s must be f32, not %s", c->op->name, c->op->in_name[i],
                           m2_dtype_name(c->in[i].dtype));
    return M2_OK;
}

bool by_fours(const m2_call *c)
{
    uintptr_t bits = 0;
    for (int i = 0; i < c->n_in; i++) bits |= (uintptr_t)c->in[i].data;
    for (int j = 0; j < c->n_out; j++) bits |= (uintptr_t)c->out[j].data;
    return last_of(c->in[0]) % 4 == 0 && bits % 16 == 0;
}

m2_status run_sine_grad(const m2_call *c)
{
    M2_TRY(all_f32(c));
    int64_t rows = rows_of(c->in[0]), width = last_of(c->in[0]), strip = strip_rows(rows),
            strips = ceil_div(rows, strip);
    M2_TRY(check_workspace(c, strips * width * (int64_t)sizeof(float)));
    float *partial = (float *)c->workspace, *da = (float *)c->out[1].data;
    auto run = [&](auto kernel, int w) {
        const int columns = width < THREADS * w ? (int)width : THREADS * w;
        kernel<<<dim3((unsigned)ceil_div(width, columns), (unsigned)strips), THREADS, 0, stream_of(c)>>>(
            (const float *)c->in[0].data, (const float *)c->in[1].data, (const float *)c->in[2].data,
            (float *)c->out[0].data, c->acc & 1, partial, rows, (int)width, columns, strip);
    };
    if (rows && width) by_fours(c) ? run(sine_grad<4>, 4) : run(sine_grad<1>, 1);
    if (da) fold(partial, strips, width, width, da, c->acc & 2, nullptr, false, stream_of(c));
    return launched(c);
}

m2_status run_decay(const m2_call *c)
{
    M2_TRY(all_f32(c));
    const m2_tensor &h = c->in[0];
    int64_t lmax = c->attrs.i[M2_DECAY_LMAX], F = h.whole[0];
    double from = c->attrs.f[M2_DECAY_DELTA0], to = c->attrs.f[M2_DECAY_DELTA1];
    Decay j = {};
    j.h = (const float *)h.data, j.k = (float *)c->out[0].data;
    j.rows = h.shape[0], j.length = h.shape[1];
    j.first_row = h.origin[0], j.first_column = h.origin[1] + c->attrs.i[M2_DECAY_AT];
    bool runs = c->attrs.i[M2_DECAY_RUN] > 0;
    j.run = runs ? c->attrs.i[M2_DECAY_RUN] : j.length + 1, j.jump = runs ? c->attrs.i[M2_DECAY_JUMP] : 0;
    j.t_step = lmax > 1 ? 1.0 / (double)(lmax - 1) : 0;
    j.delta0 = from, j.delta_step = F > 1 ? (to - from) / (double)(F - 1) : 0;
    j.acc = c->acc & 1;
    dim3 grid((unsigned)ceil_div(j.length, COLUMNS * THREADS), (unsigned)(j.rows < 32768 ? j.rows : 32768));
    if (j.rows && j.length) decay<<<grid, THREADS, 0, stream_of(c)>>>(j);
    return launched(c);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_sine(const m2_call *c)
{
    using namespace m2cu;
    M2_TRY(all_f32(c));
    const int64_t n = m2_tensor_count(&c->in[0]), width = last_of(c->in[0]);
    auto run = [&](auto kernel, int w) {
        kernel<<<(unsigned)ceil_div(n, THREADS * w), THREADS, 0, stream_of(c)>>>(
            (const float *)c->in[0].data, (const float *)c->in[1].data, (float *)c->out[0].data, n, width);
    };
    if (n) by_fours(c) ? run(sine<4>, 4) : run(sine<1>, 1);
    return launched(c);
}

extern "C" m2_status m2i_cuda_sine_grad(const m2_call *c)
{
    return m2cu::run_sine_grad(c);
}

extern "C" int64_t m2i_cuda_sine_grad_workspace(const m2_attrs *, const m2_desc *in, const m2_desc *)
{
    int64_t rows = m2cu::rows_of(in[0]), width = m2cu::last_of(in[0]);
    return rows ? m2cu::ceil_div(rows, m2cu::strip_rows(rows)) * width * (int64_t)sizeof(float) : 0;
}

extern "C" m2_status m2i_cuda_decay(const m2_call *c)
{
    return m2cu::run_decay(c);
}
