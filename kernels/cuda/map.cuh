/* map.cuh - elementwise kernels: y[0..O) = f(x[0..I)), a thread takes 8 elements of each tensor. */
#pragma once
#include "common.cuh"

namespace m2cu
{

template <int I, int O> struct Map {
    Ref in[I], out[O]; /* absent: reads zero, is not written */
    int64_t n;
};

template <int I, int O, class F> __global__ void __launch_bounds__(256) map(Map<I, O> m, F f)
{
    int64_t at = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8;
    int n = (int)min(m.n - at, (int64_t)8);
    if (n <= 0) return;
    Eight in[I];
    float x[I][8], y[O][8];
#pragma unroll
    for (int i = 0; i < I; i++) in[i] = fetch(m.in[i], at, m.in[i].data ? n : 0);
#pragma unroll
    for (int i = 0; i < I; i++) unpack(m.in[i], in[i], m.in[i].data ? n : 0, x[i]);
    f(x, y);
#pragma unroll
    for (int o = 0; o < O; o++)
        if (m.out[o].data) put(m.out[o], at, n, y[o]);
}

/* The op's inputs and outputs in order; all of one shape. */
template <int I, int O, class F> m2_status map_call(const m2_call *c, const F &f)
{
    M2_TRY(check(c));
    Map<I, O> m = {};
    for (int i = 0; i < I && i < c->n_in; i++) {
        m.in[i] = ref(c->in[i]);
        if (c->in[i].data) m.n = m2_tensor_count(&c->in[i]);
    }
    for (int o = 0; o < O; o++) {
        m.out[o] = ref(c->out[o], 0, c->acc >> o & 1);
        if (c->out[o].data) m.n = m2_tensor_count(&c->out[o]);
    }
    if (m.n > 0) map<<<(unsigned)ceil_div(m.n, 2048), 256, 0, stream_of(c)>>>(m, f);
    return launched(c);
}

} // namespace m2cu
