/* act.cu - pointwise nonlinearities, alone and as the gate of a gated linear unit; formulas as in kernels/ops/act.c.
 *
 *   act: y = f(x), dx = dy f'(x).   glu, h = [g, v]: z = f(g) v, dg = dz v f'(g), dv = dz f(g).
 * A thread takes 8 elements (glu: 8 of each half of a row). Bytes: every input and output once. */
#include "map.cuh"

namespace m2cu
{
namespace
{

/* Value, and slope into *d. */
template <int KIND> __device__ __forceinline__ float value(float x, float *d)
{
    if constexpr (KIND == M2_ACT_GELU_ERF) {
        /* Phi(-|x|) = t q(t) exp(-x^2/2) / 2, absolute error 1e-7 (Abramowitz and Stegun 7.1.26) */
        float e = power_of_two(-0.72134752044448170368f * x * x),
              t = __fdividef(1.0f, fmaf(0.23164189f, fabsf(x), 1.0f));
        float q = fmaf(t, fmaf(t, fmaf(t, fmaf(t, 1.061405429f, -1.453152027f), 1.421413741f), -0.284496736f),
                       0.254829592f);
        float tail = 0.5f * t * q * e, phi = x < 0 ? tail : 1.0f - tail;
        *d = phi + x * 0.39894228040143267794f * e;
        return x * phi;
    } else if constexpr (KIND == M2_ACT_GELU_TANH) {
        const float c = 0.79788456080286535588f, a = 0.044715f;
        float t = tanhf(c * (x + a * x * x * x)), half = 0.5f + 0.5f * t;
        *d = half + 0.5f * x * (1 - t * t) * c * (1 + 3 * a * x * x);
        return x * half;
    } else if constexpr (KIND == M2_ACT_RELU) {
        *d = x > 0 ? 1.0f : 0.0f;
        return x < 0 ? 0.0f : x; /* NaN stays */
    } else if constexpr (KIND == M2_ACT_SILU) {
        float s = 1 / (1 + power_of_two(-1.4426950408889634f * x));
        *d = s * (1 + x * (1 - s));
        return x * s;
    } else {
        float t = tanhf(x);
        *d = 1 - t * t;
        return t;
    }
}

template <int KIND> struct Act {
    __device__ void operator()(float (&x)[1][8], float (&y)[1][8]) const
    {
        float d;
#pragma unroll
        for (int i = 0; i < 8; i++) y[0][i] = value<KIND>(x[0][i], &d);
    }
};

template <int KIND> struct ActGrad { /* x, dy -> dx */
    __device__ void operator()(float (&x)[2][8], float (&y)[1][8]) const
    {
        float d;
#pragma unroll
        for (int i = 0; i < 8; i++) value<KIND>(x[0][i], &d), y[0][i] = x[1][i] * d;
    }
};

/* h (rows, 2e), z (rows, e); a thread's 8 columns are those of both halves. */
struct Glu {
    Ref h, z, dh;
    int64_t n; /* groups of 8 in z's rows, all rows */
    int e;
    FastDiv groups; /* per row */
    __device__ __forceinline__ bool place(int64_t *at_h, int64_t *at_z, int *count) const
    {
        int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
        if (i >= n) return false;
        uint32_t row = groups.div((uint32_t)i), col = ((uint32_t)i - row * groups.d) * 8;
        *at_h = (int64_t)row * 2 * e + col;
        *at_z = (int64_t)row * e + col;
        *count = e - (int)col;
        return true;
    }
};

template <int KIND> __global__ void __launch_bounds__(256) glu(Glu j)
{
    int64_t at, to;
    int n;
    if (!j.place(&at, &to, &n)) return;
    Eight a = fetch(j.h, at, n), b = fetch(j.h, at + j.e, n);
    float g[8], v[8], d;
    unpack(j.h, a, n, g);
    unpack(j.h, b, n, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= value<KIND>(g[i], &d);
    store(j.z, to, n, v);
}

template <int KIND> __global__ void __launch_bounds__(256) glu_grad(Glu j)
{
    int64_t at, to;
    int n;
    if (!j.place(&at, &to, &n)) return;
    Eight a = fetch(j.h, at, n), b = fetch(j.h, at + j.e, n), z = fetch(j.z, to, n);
    float g[8], v[8], dz[8], d;
    unpack(j.h, a, n, g);
    unpack(j.h, b, n, v);
    unpack(j.z, z, n, dz);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float y = value<KIND>(g[i], &d);
        g[i] = dz[i] * v[i] * d;
        v[i] = dz[i] * y;
    }
    put(j.dh, at, n, g);
    put(j.dh, at + j.e, n, v);
}

/* launch<KIND>(c) for the call's kind. */
#define BY_KIND(c, launch)                                                                                   \
    switch ((c)->attrs.i[M2_ACT_KIND]) {                                                                     \
    case M2_ACT_GELU_ERF: return launch<M2_ACT_GELU_ERF>(c);                                                 \
    case M2_ACT_GELU_TANH: return launch<M2_ACT_GELU_TANH>(c);                                               \
    case M2_ACT_RELU: return launch<M2_ACT_RELU>(c);                                                         \
    case M2_ACT_SILU: return launch<M2_ACT_SILU>(c);                                                         \
    case M2_ACT_TANH: return launch<M2_ACT_TANH>(c);                                                         \
    default:                                                                                                 \
        return m2_fail(M2_USAGE, "%s: kind %lld is not an m2_act", (c)->op->name,                            \
                       (long long)(c)->attrs.i[0]);                                                          \
    }

template <int KIND> m2_status run_act(const m2_call *c)
{
    return map_call<1, 1>(c, Act<KIND>());
}
template <int KIND> m2_status run_act_grad(const m2_call *c)
{
    return map_call<2, 1>(c, ActGrad<KIND>());
}

m2_status make_glu(const m2_call *c, const m2_tensor &z, Glu *j)
{
    M2_TRY(check(c));
    j->e = (int)last_of(z);
    j->h = ref(c->in[0], j->e), j->z = ref(z, j->e);
    int64_t groups = ceil_div(j->e, 8);
    j->n = rows_of(z) * groups;
    j->groups = FastDiv(groups ? groups : 1);
    if (j->n >> 31) return m2_fail(M2_USAGE, "%s on CUDA: more than 2^31 groups of elements", c->op->name);
    return M2_OK;
}

template <int KIND> m2_status run_glu(const m2_call *c)
{
    Glu j = {};
    M2_TRY(make_glu(c, c->out[0], &j));
    if (j.n) glu<KIND><<<(unsigned)ceil_div(j.n, 256), 256, 0, stream_of(c)>>>(j);
    return launched(c);
}

template <int KIND> m2_status run_glu_grad(const m2_call *c)
{
    Glu j = {};
    M2_TRY(make_glu(c, c->in[1], &j));
    j.dh = ref(c->out[0], j.e, c->acc & 1);
    if (j.n) glu_grad<KIND><<<(unsigned)ceil_div(j.n, 256), 256, 0, stream_of(c)>>>(j);
    return launched(c);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_act(const m2_call *c)
{
    BY_KIND(c, m2cu::run_act)
}

extern "C" m2_status m2i_cuda_act_grad(const m2_call *c)
{
    BY_KIND(c, m2cu::run_act_grad)
}

extern "C" m2_status m2i_cuda_glu(const m2_call *c)
{
    BY_KIND(c, m2cu::run_glu)
}

extern "C" m2_status m2i_cuda_glu_grad(const m2_call *c)
{
    BY_KIND(c, m2cu::run_glu_grad)
}
