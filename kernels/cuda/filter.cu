/* filter.cu - the implicit filter's small ops, all f32.
 *
 *   sine: y = sin(a x);  dx = dy a cos(a x),  da = sum over rows of dy x cos(a x)
 *   decay: k[c,n] = h[c,n] exp(-t_n |delta_c|), t_n = n/(lmax-1), delta_c = linspace(delta0, delta1, whole F)[c]; its own
 *   gradient.
 * A thread per element; da in two stages (sums.cu): a block of 256 columns takes a strip of rows, one row after another. */
#include "common.cuh"

namespace m2cu
{
namespace
{

__global__ void __launch_bounds__(256)
    sine(const float *x, const float *a, float *y, int64_t n, int64_t width)
{
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i < n) y[i] = sinf(a[i % width] * x[i]);
}

__global__ void __launch_bounds__(256)
    sine_grad(const float *x, const float *a, const float *dy, float *dx, bool acc, float *partial,
              int64_t rows, int64_t width, int64_t strip)
{
    int64_t c = (int64_t)blockIdx.x * 256 + threadIdx.x, row = blockIdx.y * strip,
            end = min(row + strip, rows);
    if (c >= width) return;
    float sum = 0, f = a[c];
    for (; row < end; row++) {
        int64_t i = row * width + c;
        float g = dy[i] * cosf(f * x[i]);
        sum += g * x[i];
        if (dx) dx[i] = acc ? dx[i] + f * g : f * g;
    }
    partial[blockIdx.y * width + c] = sum;
}

struct Decay {
    const float *h;
    float *k;
    int64_t n, length, first_row, first_column, run, jump;
    double t_step, delta0, delta_step; /* t_n = n t_step, delta_c = delta0 + c delta_step */
    bool acc;
};

__global__ void __launch_bounds__(256) decay(Decay j)
{
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= j.n) return;
    double delta = j.delta0 + (double)(j.first_row + i / j.length) * j.delta_step;
    int64_t column = i % j.length, at = j.first_column + column + column / j.run * j.jump;
    float v = j.h[i] * expf((float)(-(double)at * j.t_step * fabs(delta)));
    j.k[i] = j.acc ? j.k[i] + v : v;
}

/* ---- host ---------------------------------------------------------------------------------------------------------- */
constexpr int STRIPS = 264;

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
    dim3 grid((unsigned)ceil_div(width, 256), (unsigned)strips);
    float *partial = (float *)c->workspace, *da = (float *)c->out[1].data;
    if (rows && width)
        sine_grad<<<grid, 256, 0, stream_of(c)>>>((const float *)c->in[0].data, (const float *)c->in[1].data,
                                                  (const float *)c->in[2].data, (float *)c->out[0].data,
                                                  c->acc & 1, partial, rows, width, strip);
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
    j.n = m2_tensor_count(&h), j.length = h.shape[1];
    j.first_row = h.origin[0], j.first_column = h.origin[1] + c->attrs.i[M2_DECAY_AT];
    bool runs = c->attrs.i[M2_DECAY_RUN] > 0;
    j.run = runs ? c->attrs.i[M2_DECAY_RUN] : j.length + 1, j.jump = runs ? c->attrs.i[M2_DECAY_JUMP] : 0;
    j.t_step = lmax > 1 ? 1.0 / (double)(lmax - 1) : 0;
    j.delta0 = from, j.delta_step = F > 1 ? (to - from) / (double)(F - 1) : 0;
    j.acc = c->acc & 1;
    if (j.n) decay<<<(unsigned)ceil_div(j.n, 256), 256, 0, stream_of(c)>>>(j);
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
        sine<<<(unsigned)ceil_div(n, 256), 256, 0, stream_of(c)>>>(
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
