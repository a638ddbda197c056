/* adam.cu - one AdamW step over a flat shard in one launch, everything read and written once; formulas of
 * kernels/ops/adam.c.
 *
 * A shard is one row, or rows with gaps between them, which are other ranks' pieces: rows are blocks in y.
 * A thread takes 4 elements, which share a group; a block strides over the shard. What changes per step (learning rate,
 * clip, step number) and the gradient norm are read from device memory, so the launch can be captured; the first thread of
 * a block turns them into factors. Bytes per element: p, m, v in and out, g in, p16 out: 30. H200: 100% of copy speed. */
#include "common.cuh"

namespace m2cu
{
namespace
{

struct Adam {
    float *p, *m, *v;
    const float *g;
    __nv_bfloat16 *p16; /* NULL: none */
    const uint8_t *groups;
    const double *norm2; /* NULL: no clipping, no skipping */
    const m2_step *step;
    double beta1, beta2, eps;
    bool coupled;
    int64_t n;                         /* of a row */
    int64_t step_p, step_s, step_g, step_p16; /* from row to row of p, of m and v, ... */
};

struct Factors {
    float clip, fix_m, fix_v;
    bool skip;
    float lr[M2_MAX_GROUPS], keep[M2_MAX_GROUPS];
};

__device__ void make_factors(const Adam &j, Factors *f)
{
    const m2_step *s = j.step;
    double norm = j.norm2 ? sqrt(*j.norm2) : 0, clip = 1;
    f->skip = j.norm2 && (!isfinite(norm) || (s->outlier > 0 && norm > s->outlier));
    if (s->clip > 0 && norm > s->clip) clip = s->clip / norm;
    double fix_m = 1 / (1 - pow(j.beta1, (double)s->step));
    f->clip = (float)clip;
    f->fix_v = (float)(1 / (1 - pow(j.beta2, (double)s->step)));
    for (int g = 0; g < M2_MAX_GROUPS; g++) {
        double lr = s->lr * s->group[g].lr_scale, wd = s->group[g].weight_decay;
        f->lr[g] = (float)(lr * fix_m);
        f->keep[g] = (float)(1 - (j.coupled ? lr * wd : lr / s->lr_peak * wd));
    }
}

__global__ void __launch_bounds__(256) adam(Adam j)
{
    __shared__ Factors f;
    if (threadIdx.x == 0) make_factors(j, &f);
    __syncthreads();
    if (f.skip) return;
    float b1 = (float)j.beta1, b2 = (float)j.beta2, a1 = (float)(1 - j.beta1), a2 = (float)(1 - j.beta2),
          eps = (float)j.eps;
    int64_t row = blockIdx.y;
    j.p += row * j.step_p, j.m += row * j.step_s, j.v += row * j.step_s, j.g += row * j.step_g;
    j.groups += row * (j.n / M2_GROUP_BLOCK);
    if (j.p16) j.p16 += row * j.step_p16;
    for (int64_t at = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 4; at < j.n;
         at += (int64_t)gridDim.x * 1024) {
        float4 p = *(float4 *)(j.p + at), g = *(const float4 *)(j.g + at), m = *(float4 *)(j.m + at),
               v = *(float4 *)(j.v + at);
        int group = j.groups[at / M2_GROUP_BLOCK];
        float rate = f.lr[group], keep = f.keep[group];
        auto one = [&](float &pi, float gi, float &mi, float &vi) {
            float x = gi * f.clip;
            mi = b1 * mi + a1 * x;
            vi = b2 * vi + a2 * x * x;
            pi = keep * pi - rate * mi / (sqrtf(vi * f.fix_v) + eps);
        };
        one(p.x, g.x, m.x, v.x), one(p.y, g.y, m.y, v.y), one(p.z, g.z, m.z, v.z), one(p.w, g.w, m.w, v.w);
        *(float4 *)(j.p + at) = p, *(float4 *)(j.m + at) = m, *(float4 *)(j.v + at) = v;
        if (j.p16) *(uint2 *)(j.p16 + at) = make_uint2(pack_two(p.x, p.y), pack_two(p.z, p.w));
    }
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_adam(const m2_call *c)
{
    using namespace m2cu;
    M2_TRY(check(c, 1 << 5));
    if (!c->step) return m2_fail(M2_BUG, "adam was called without a step");
    Adam j = {};
    j.p = (float *)c->out[0].data, j.m = (float *)c->out[1].data, j.v = (float *)c->out[2].data;
    j.p16 = (__nv_bfloat16 *)c->out[3].data;
    j.g = (const float *)c->in[1].data;
    j.groups = (const uint8_t *)c->in[4].data;
    j.norm2 = (const double *)c->in[5].data;
    j.step = c->step;
    j.beta1 = c->attrs.f[M2_ADAM_BETA1], j.beta2 = c->attrs.f[M2_ADAM_BETA2], j.eps = c->attrs.f[M2_ADAM_EPS];
    j.coupled = c->attrs.i[M2_ADAM_DECAY] == M2_DECAY_COUPLED;
    j.n = last_of(c->in[0]);
    int64_t rows = rows_of(c->in[0]), blocks = ceil_div(j.n, 1024);
    j.step_p = step_of(c->out[0]), j.step_g = step_of(c->in[1]), j.step_s = step_of(c->out[1]);
    j.step_p16 = j.p16 ? step_of(c->out[3]) : 0;
    if (rows > 65535 || (rows > 1 && step_of(c->out[2]) != j.step_s))
        return m2_fail(M2_BUG, "adam on CUDA: %lld rows, or moments with different steps", (long long)rows);
    int64_t most = ceil_div(8 * 132, rows ? rows : 1); /* every block repeats make_factors: a few per SM */
    dim3 grid((unsigned)(blocks < most ? blocks : most), (unsigned)rows);
    if (j.n && rows) adam<<<grid, 256, 0, stream_of(c)>>>(j);
    return launched(c);
}
