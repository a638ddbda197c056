/* eltwise.cu - the one-line elementwise ops: a thread takes 8 elements of everything.
 *
 *   add: a + b.  mul: a b; da = dy b, db = dy a.  scale: factor x.  cast: x.  fill: value.
 * Bytes: every input once, every output once (twice where it accumulates). */
#include "map.cuh"

namespace m2cu
{
namespace
{

struct Add {
    __device__ void operator()(float (&x)[2][8], float (&y)[1][8]) const
    {
#pragma unroll
        for (int i = 0; i < 8; i++) y[0][i] = x[0][i] + x[1][i];
    }
};

struct Mul {
    __device__ void operator()(float (&x)[2][8], float (&y)[1][8]) const
    {
#pragma unroll
        for (int i = 0; i < 8; i++) y[0][i] = x[0][i] * x[1][i];
    }
};

struct MulGrad { /* a, b, dy -> da, db */
    __device__ void operator()(float (&x)[3][8], float (&y)[2][8]) const
    {
#pragma unroll
        for (int i = 0; i < 8; i++) y[0][i] = x[2][i] * x[1][i], y[1][i] = x[2][i] * x[0][i];
    }
};

struct Scale {
    float factor;
    __device__ void operator()(float (&x)[1][8], float (&y)[1][8]) const
    {
#pragma unroll
        for (int i = 0; i < 8; i++) y[0][i] = factor * x[0][i];
    }
};

struct Fill {
    float value;
    __device__ void operator()(float (&)[1][8], float (&y)[1][8]) const
    {
#pragma unroll
        for (int i = 0; i < 8; i++) y[0][i] = value;
    }
};

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_add(const m2_call *c)
{
    return m2cu::map_call<2, 1>(c, m2cu::Add());
}

extern "C" m2_status m2i_cuda_mul(const m2_call *c)
{
    return m2cu::map_call<2, 1>(c, m2cu::Mul());
}

extern "C" m2_status m2i_cuda_mul_grad(const m2_call *c)
{
    return m2cu::map_call<3, 2>(c, m2cu::MulGrad());
}

extern "C" m2_status m2i_cuda_scale(const m2_call *c)
{
    return m2cu::map_call<1, 1>(c, m2cu::Scale{(float)c->attrs.f[M2_SCALE_FACTOR]});
}

extern "C" m2_status m2i_cuda_cast(const m2_call *c)
{
    return m2cu::map_call<1, 1>(c, m2cu::Scale{1.0f});
}

extern "C" m2_status m2i_cuda_fill(const m2_call *c)
{
    return m2cu::map_call<1, 1>(c, m2cu::Fill{(float)c->attrs.f[M2_FILL_VALUE]});
}
