/* band.cu - frequency-sparse filters (kernels/ops.h, longconv's BAND), for whatever kernels convolve with them.
 *
 * A filter c[j] = k[j] - i kr[n - 1 - j], c[0] += D, n points, loses the frequencies of DFT(t c) out of the band (t the quarter
 * twist of kernels/fft.h): P c. As outputs need the lags in (-L, L) of P c only, that is an ordinary two-sided filter of L taps
 * each way, and the convolution with it an ordinary one: k, kr, D -> k', kr' here, then longconv. P is self-adjoint, so
 * backward dk', dkr' -> P -> dk, dkr, dD = lag 0.
 *
 * A transform is log2 n passes of radix 2 over memory, out of place and in natural order (Stockham): work that does not
 * grow with the batch, of 2 log2 n / B passes per row. Skipping products with zeros would save less than a pass. */
#include "band.cuh"
#include "common.cuh"
#include "fft.cuh"
#include "kernels/fft.h"

extern "C" m2_status m2i_cuda_longconv(const m2_call *call);
extern "C" m2_status m2i_cuda_longconv_grad(const m2_call *call);
extern "C" int64_t m2i_cuda_longconv_workspace(const m2_attrs *attrs, const m2_desc *in, bool grad);

namespace m2cu
{
namespace
{

enum { U, K, KR, D, DK = 1, DKR, DD };
constexpr int64_t budget = 16 << 20; /* points in flight */

struct Taps {
    const float *k, *kr, *D;
    float *k_out, *kr_out, *D_out;
    int64_t in, out, L; /* taps read and written each way; positions of a row */
    unsigned acc;       /* 1 k, 2 kr, 4 D */
};

__device__ __forceinline__ c32 twist_of(int64_t j, int64_t n)
{
    float re, im;
    sincospif(0.5f * ((float)j / (float)n), &im, &re);
    return make_float2(re, im);
}

__global__ void __launch_bounds__(256) enter(Taps t, c32 *z, int64_t n, int64_t f0, int64_t points)
{
    int64_t id = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (id >= points) return;
    int64_t f = f0 + id / n, j = id % n, m = n - 1 - j;
    float x = j < t.in ? t.k[f * t.in + j] : 0, y = t.kr && m < t.in && m < t.L - 1 ? -t.kr[f * t.in + m] : 0;
    if (t.D && j == 0) x += t.D[f];
    z[id] = mul(make_float2(x, y), twist_of(j, n));
}

/* Pass of a transform over `span` = 1, 2, 4, ...: from[j], from[j + n/2] -> to, at distance span. */
template <int SIGN>
__global__ void __launch_bounds__(256) pass(const c32 *from, c32 *to, int64_t n, int64_t span, int64_t pairs)
{
    int64_t id = (int64_t)blockIdx.x * 256 + threadIdx.x, h = n / 2;
    if (id >= pairs) return;
    int64_t row = id / h * n, i = id % h, low = i % span, high = i / span;
    c32 a = from[row + i], b = from[row + i + h], w;
    float re, im;
    sincospif(-2.0f * ((float)(high * span) / (float)n), &im, &re);
    w = make_float2(re, im);
    to[row + 2 * high * span + low] = a + b;
    to[row + 2 * high * span + low + span] = twist<SIGN>(a - b, w);
}

__global__ void __launch_bounds__(256) cut(c32 *z, int64_t n, double band, int64_t points)
{
    int64_t id = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (id >= points) return;
    float scale = m2_fft_in_band(id % n, n, band) ? 1 / (float)n : 0;
    z[id] = make_float2(scale * z[id].x, scale * z[id].y);
}

__device__ __forceinline__ void put(float *to, float v, bool acc)
{
    *to = acc ? *to + v : v;
}

__global__ void __launch_bounds__(256) leave(Taps t, const c32 *z, int64_t n, int64_t f0, int64_t filters)
{
    int64_t id = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (id >= filters * t.out) return;
    int64_t f = id / t.out, j = id % t.out, m = n - 1 - j;
    c32 here = mulc(z[f * n + j], twist_of(j, n)), there = mulc(z[f * n + m], twist_of(m, n));
    if (t.k_out) put(&t.k_out[(f0 + f) * t.out + j], here.x, t.acc & 1);
    if (t.kr_out) put(&t.kr_out[(f0 + f) * t.out + j], j < t.L - 1 ? -there.y : 0, t.acc & 2);
    if (t.D_out && j == 0) put(&t.D_out[f0 + f], here.x, t.acc & 4);
}

/* ---- the filters' way ----------------------------------------------------------------------------------- */
struct Plan {
    int64_t filters, taps, length, n, chunk; /* filters at a time */
    int64_t transforms, wide;                /* bytes: of both buffers; of k' or kr' of all filters */
};

Plan make_plan(const m2_desc *in)
{
    Plan p = {};
    const m2_desc &u = in[U];
    p.length = u.shape[u.rank - 1] * (u.rank == 4 ? u.shape[0] : 1);
    p.filters = in[K].shape[0], p.taps = in[K].shape[1];
    p.n = m2_fft_band_points(p.length);
    p.chunk = budget / p.n > 0 ? budget / p.n : 1;
    if (p.chunk > p.filters) p.chunk = p.filters;
    p.transforms = align256(2 * p.chunk * p.n * (int64_t)sizeof(c32));
    p.wide = align256(p.filters * p.length * (int64_t)sizeof(float));
    return p;
}

template <int SIGN> c32 *transform(c32 *z, c32 *spare, const Plan &p, int64_t filters, cudaStream_t stream)
{
    int64_t pairs = filters * p.n / 2;
    for (int64_t span = 1; span < p.n; span *= 2) {
        pass<SIGN><<<(unsigned)ceil_div(pairs, 256), 256, 0, stream>>>(z, spare, p.n, span, pairs);
        c32 *t = z;
        z = spare, spare = t;
    }
    return z;
}

void filter_all(const Plan &p, const Taps &t, double band, char *buffers, cudaStream_t stream)
{
    for (int64_t f0 = 0; f0 < p.filters; f0 += p.chunk) {
        int64_t filters = p.filters - f0 < p.chunk ? p.filters - f0 : p.chunk, points = filters * p.n;
        c32 *a = (c32 *)buffers, *b = a + p.chunk * p.n, *z;
        enter<<<(unsigned)ceil_div(points, 256), 256, 0, stream>>>(t, a, p.n, f0, points);
        z = transform<-1>(a, b, p, filters, stream);
        cut<<<(unsigned)ceil_div(points, 256), 256, 0, stream>>>(z, p.n, band, points);
        z = transform<1>(z, z == a ? b : a, p, filters, stream);
        leave<<<(unsigned)ceil_div(filters * t.out, 256), 256, 0, stream>>>(t, z, p.n, f0, filters);
    }
}

/* The inputs of the convolution that is left to do. */
void plain(const Plan &p, const m2_attrs *attrs, m2_attrs *own, m2_desc *in)
{
    *own = *attrs;
    own->f[M2_LONGCONV_BAND] = 0;
    in[K].shape[1] = p.length;
    in[KR] = in[K];
    in[D] = m2_desc_none();
}

} // namespace

int64_t band_workspace(const m2_attrs *attrs, const m2_desc *in, bool grad)
{
    Plan p = make_plan(in);
    m2_desc own_in[M2_MAX_IN];
    m2_attrs own;
    memcpy(own_in, in, sizeof own_in);
    plain(p, attrs, &own, own_in);
    return p.transforms + (grad ? 4 : 2) * p.wide + m2i_cuda_longconv_workspace(&own, own_in, grad);
}

m2_status run_band(const m2_call *call, bool grad)
{
    m2_desc in[M2_MAX_IN];
    for (int i = 0; i < M2_MAX_IN; i++)
        in[i] = call->in[i].data ? m2_tensor_desc(&call->in[i]) : m2_desc_none();
    Plan p = make_plan(in);
    double band = band_of(&call->attrs);
    cudaStream_t stream = stream_of(call);
    m2_call own = *call;
    char *at = (char *)call->workspace;
    M2_TRY(check_workspace(call, band_workspace(&call->attrs, in, grad)));
    plain(p, &call->attrs, &own.attrs, in);
    float *wide[4]; /* k', kr', and their gradients */
    at += p.transforms;
    for (int i = 0; i < (grad ? 4 : 2); i++, at += p.wide) wide[i] = (float *)at;
    own.workspace = at;
    own.workspace_bytes = call->workspace_bytes - (at - (char *)call->workspace);
    own.in[K] = m2_tensor_make(&in[K], wide[0]);
    own.in[KR] = m2_tensor_make(&in[KR], wide[1]);
    own.in[D] = m2_tensor{};

    Taps t = {};
    t.k = (const float *)call->in[K].data, t.kr = (const float *)call->in[KR].data;
    t.D = (const float *)call->in[D].data;
    t.k_out = wide[0], t.kr_out = wide[1];
    t.in = p.taps, t.out = t.L = p.length;
    filter_all(p, t, band, (char *)call->workspace, stream);
    if (!grad) return m2i_cuda_longconv(&own);

    bool wanted = call->out[DK].data || call->out[DKR].data || call->out[DD].data;
    own.out[DD] = m2_tensor{};
    own.out[DK] = wanted ? m2_tensor_make(&in[K], wide[2]) : m2_tensor{};
    own.out[DKR] = wanted ? m2_tensor_make(&in[KR], wide[3]) : m2_tensor{};
    own.acc &= ~(1u << DK | 1u << DKR | 1u << DD);
    M2_TRY(m2i_cuda_longconv_grad(&own));
    if (!wanted) return M2_OK;
    Taps back = {};
    back.k = wide[2], back.kr = wide[3];
    back.k_out = (float *)call->out[DK].data, back.kr_out = (float *)call->out[DKR].data;
    back.D_out = (float *)call->out[DD].data;
    back.in = back.L = p.length, back.out = p.taps;
    back.acc = call->acc >> DK & 7;
    filter_all(p, back, band, (char *)call->workspace, stream);
    return launched(call);
}

} // namespace m2cu
