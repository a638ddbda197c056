/* filter.cu - the implicit filter's small ops, all f32.
 *
 *   sine: y = sin(a x);  dx = dy a cos(a x),  da = sum over rows of dy x cos(a x)
 *   decay: k[c,n] = h[c,n] exp(-t_n |delta_c|), t_n = n/(lmax-1), delta_c = linspace(delta0, delta1, whole F)[c]; its own
 *   gradient.
 * A thread per element, a few elements each; da in two stages (sums.cu): a block takes a strip of rows, as many at a time as
 * it has threads for. */
#include "common.cuh"

namespace m2cu
{
namespace
{

constexpr int THREADS = 256, COLUMNS = 4;

__global__ void __launch_bounds__(THREADS)
    sine(const float *x, const float *a, float *y, int64_t n, int64_t width)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) y[i] = sinf(a[i % width] * x[i]);
}

/* A strip of rows per block, 256 / columns of them at a time. */
__global__ void __launch_bounds__(THREADS)
    sine_grad(const float *x, const float *a, const float *dy, float *dx, bool acc, float *partial, int64_t rows,
              int width, int columns, int64_t strip)
{
    __shared__ float part[THREADS];
    int64_t end = min((blockIdx.y + 1) * strip, rows);
    int c = blockIdx.x * columns + threadIdx.x % columns, groups = THREADS / columns,
        group = threadIdx.x / columns;
    bool mine = c < width && group < groups;
    float sum = 0, f = mine ? a[c] : 0.0f;
#pragma unroll 4
    for (int64_t row = blockIdx.y * strip + group; mine && row < end; row += groups) {
        int64_t i = row * width + c;
        float v = x[i], g = dy[i] * cosf(f * v);
        sum += g * v;
        if (dx) dx[i] = acc ? dx[i] + f * g : f * g;
    }
    part[threadIdx.x] = sum;
    __syncthreads();
    if (!mine || group) return;
    for (int i = 1; i < groups; i++) sum += part[i * columns + threadIdx.x];
    partial[(int64_t)blockIdx.y * width + c] = sum;
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

m2_status run_sine_grad(const m2_call *c)
{
    M2_TRY(all_f32(c));
    int64_t rows = rows_of(c->in[0]), width = last_of(c->in[0]), strip = strip_rows(rows),
            strips = ceil_div(rows, strip);
    M2_TRY(check_workspace(c, strips * width * (int64_t)sizeof(float)));
    int columns = width < THREADS ? (int)width : THREADS;
    dim3 grid((unsigned)ceil_div(width, THREADS), (unsigned)strips);
    float *partial = (float *)c->workspace, *da = (float *)c->out[1].data;
    if (rows && width)
        sine_grad<<<grid, THREADS, 0, stream_of(c)>>>(
            (const float *)c->in[0].data, (const float *)c->in[1].data, (const float *)c->in[2].data,
            (float *)c->out[0].data, c->acc & 1, partial, rows, (int)width, columns, strip);
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
    int64_t n = m2_tensor_count(&c->in[0]);
    if (n)
        sine<<<(unsigned)ceil_div(n, THREADS), THREADS, 0, stream_of(c)>>>(
            (const float *)c->in[0].data, (const float *)c->in[1].data, (float *)c->out[0].data, n,
            last_of(c->in[0]));
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
