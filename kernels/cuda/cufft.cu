/* cufft.cu - the long convolution through cuFFT, opened at run time: what it would be without this project (kernels/rival.h).
 *
 *   A = r2c([u pre, 0]), K = r2c([k, D, kr]);  y = c2r(A K)[0:L] post / 2L, and the gradient the same way; f32, in place.
 * Gates, padding and products are a pass each, which is how a composition of library calls runs. */
#include "common.cuh"
#include "kernels/rival.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#if __has_include(<cufft.h>)
#include <cufft.h>

namespace m2cu
{
namespace
{

using c32 = float2;

struct Shape { /* of the rows and filters */
    int64_t C, B, L, F, taps;
    bool index;
    __device__ __forceinline__ int64_t filter(int64_t row) const
    {
        int64_t c = row / B;
        return index ? c % F : c / (C / F);
    }
    __device__ __forceinline__ int64_t row(int64_t f, int64_t i) const /* i < C / F * B */
    {
        int64_t c = i / B;
        return (index ? f + F * c : f * (C / F) + c) * B + i % B;
    }
};

#define EACH(i, n)                                                                                           \
    (int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x; i < (n); i += (int64_t)gridDim.x * 256)

template <class T> __global__ void enter(float *x, const T *a, const T *gate, Shape s)
{
    for
        EACH(i, s.C * s.B * 2 * s.L)
        {
            int64_t row = i / (2 * s.L), n = i % (2 * s.L), at = row * s.L + n;
            x[row * (2 * s.L + 2) + n] = n < s.L ? (float)a[at] * (gate ? (float)gate[at] : 1.0f) : 0.0f;
        }
}

template <class T> __global__ void leave(T *out, const float *x, const T *gate, bool acc, Shape s)
{
    for
        EACH(i, s.C * s.B * s.L)
        {
            float v = x[i / s.L * (2 * s.L + 2) + i % s.L] * (gate ? (float)gate[i] : 1.0f);
            out[i] = (T)(acc ? (float)out[i] + v : v);
        }
}

__global__ void enter_taps(float *x, const float *k, const float *kr, const float *D, Shape s)
{
    for
        EACH(i, s.F * 2 * s.L)
        {
            int64_t f = i / (2 * s.L), n = i % (2 * s.L), m = 2 * s.L - 1 - n;
            float v = n < s.taps ? k[f * s.taps + n] : 0;
            if (kr && m < s.taps) v += kr[f * s.taps + m];
            if (D && n == 0) v += D[f];
            x[f * (2 * s.L + 2) + n] = v / (float)(2 * s.L);
        }
}

/* x as enter_taps fills it: gradients scale alike. */
__global__ void leave_taps(const float *x, float *k, float *kr, float *D, unsigned acc, Shape s)
{
    for
        EACH(i, s.F * s.taps)
        {
            int64_t f = i / s.taps, n = i % s.taps;
            const float *row = x + f * (2 * s.L + 2);
            float scale = 1 / (float)(2 * s.L), v = row[n] * scale, w = row[2 * s.L - 1 - n] * scale;
            if (n == s.L - 1) w = 0; /* lag -L touches nothing */
            if (k) k[i] = acc & 2 ? k[i] + v : v;
            if (kr) kr[i] = acc & 4 ? kr[i] + w : w;
            if (D && n == 0) D[f] = acc & 8 ? D[f] + v : v;
        }
}

template <bool CONJ> __global__ void times(c32 *x, const c32 *k, Shape s)
{
    for
        EACH(i, s.C * s.B * (s.L + 1))
        {
            c32 a = x[i], b = k[s.filter(i / (s.L + 1)) * (s.L + 1) + i % (s.L + 1)];
            if (CONJ) b.y = -b.y;
            x[i] = make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
        }
}

__global__ void sum_rows(c32 *out, const c32 *g, const c32 *a, Shape s)
{
    for
        EACH(i, s.F * (s.L + 1))
        {
            c32 sum = make_float2(0, 0);
            for (int64_t r = 0; r < s.C / s.F * s.B; r++) {
                int64_t at = s.row(i / (s.L + 1), r) * (s.L + 1) + i % (s.L + 1);
                sum.x += g[at].x * a[at].x + g[at].y * a[at].y;
                sum.y += g[at].y * a[at].x - g[at].x * a[at].y;
            }
            out[i] = sum;
        }
}

/* ---- the library ----------------------------------------------------------------------------------------- */
struct Library {
    void *handle;
    decltype(&cufftPlanMany) plan;
    decltype(&cufftExecR2C) r2c;
    decltype(&cufftExecC2R) c2r;
    decltype(&cufftDestroy) destroy;
    decltype(&cufftGetVersion) version;
};

template <class F> bool find(void *handle, const char *name, F &out)
{
    out = (F)dlsym(handle, name);
    return out != nullptr;
}

m2_status load(Library &l)
{
    char name[32];
    snprintf(name, sizeof name, "libcufft.so.%d", CUFFT_VER_MAJOR);
    l.handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!l.handle) return m2_fail(M2_USAGE, "%s could not be loaded (%s)", name, dlerror());
    bool all = find(l.handle, "cufftPlanMany", l.plan) && find(l.handle, "cufftExecR2C", l.r2c) &&
               find(l.handle, "cufftExecC2R", l.c2r) && find(l.handle, "cufftDestroy", l.destroy) &&
               find(l.handle, "cufftGetVersion", l.version);
    return all ? M2_OK : m2_fail(M2_USAGE, "%s lacks functions that it should have", name);
}

struct Rival {
    m2_rival base;
    m2_device *device;
    Library lib;
    Shape s;
    cufftHandle r2c, c2r, taps_r2c, taps_c2r;
    int plans; /* how many of them exist */
    c32 *a, *g, *k, *sum;
};

void destroy(m2_rival *base)
{
    Rival *r = (Rival *)base;
    cufftHandle handles[] = {r->r2c, r->c2r, r->taps_r2c, r->taps_c2r};
    for (int i = 0; i < r->plans; i++) r->lib.destroy(handles[i]);
    c32 *buffers[] = {r->a, r->g, r->k, r->sum};
    for (c32 *p : buffers)
        if (p) r->device->api->free(r->device, M2_MEM_DEVICE, p);
    free(r);
}

m2_status plan(Rival *r, cufftHandle *handle, bool forward, int64_t rows)
{
    int n = (int)(2 * r->s.L), real = n + 2, half = (int)r->s.L + 1;
    cufftResult e =
        r->lib.plan(handle, 1, &n, forward ? &real : &half, 1, forward ? real : half, forward ? &half : &real,
                    1, forward ? half : real, forward ? CUFFT_R2C : CUFFT_C2R, (int)rows);
    if (e != CUFFT_SUCCESS)
        return m2_fail(M2_USAGE, "cuFFT has no plan for %lld rows of %d points (error %d)", (long long)rows,
                       n, (int)e);
    r->plans++;
    return M2_OK;
}

m2_status fill(Rival *r)
{
    const m2_device_api *api = r->device->api;
    int64_t rows = r->s.C * r->s.B, points = (r->s.L + 1) * (int64_t)sizeof(c32);
    int version = 0;
    M2_TRY(load(r->lib));
    if (r->lib.version(&version) == CUFFT_SUCCESS)
        snprintf(r->base.name, sizeof r->base.name, "cuFFT %d.%d", version / 1000, version / 100 % 10);
    M2_TRY(plan(r, &r->r2c, true, rows));
    M2_TRY(plan(r, &r->c2r, false, rows));
    M2_TRY(plan(r, &r->taps_r2c, true, r->s.F));
    M2_TRY(plan(r, &r->taps_c2r, false, r->s.F));
    M2_TRY(api->alloc(r->device, M2_MEM_DEVICE, rows * points, (void **)&r->a));
    M2_TRY(api->alloc(r->device, M2_MEM_DEVICE, rows * points, (void **)&r->g));
    M2_TRY(api->alloc(r->device, M2_MEM_DEVICE, r->s.F * points, (void **)&r->k));
    return api->alloc(r->device, M2_MEM_DEVICE, r->s.F * points, (void **)&r->sum);
}

/* ---- the convolution ------------------------------------------------------------------------------------- */
unsigned blocks(int64_t n)
{
    int64_t b = ceil_div(n, 256);
    return (unsigned)(b < 1 << 20 ? b : 1 << 20);
}

struct Transforms { /* collects the first error */
    Rival *r;
    cufftResult e;
    void forward(cufftHandle h, c32 *x)
    {
        if (e == CUFFT_SUCCESS) e = r->lib.r2c(h, (float *)x, (cufftComplex *)x);
    }
    void inverse(cufftHandle h, c32 *x)
    {
        if (e == CUFFT_SUCCESS) e = r->lib.c2r(h, (cufftComplex *)x, (float *)x);
    }
};

template <class T> void convolve(Rival *r, const m2_call *c, Transforms &t)
{
    const Shape &s = r->s;
    int64_t rows = s.C * s.B;
    enter<T><<<blocks(rows * 2 * s.L), 256>>>((float *)r->a, (const T *)c->in[0].data,
                                              (const T *)c->in[4].data, s);
    t.forward(r->r2c, r->a);
    times<false><<<blocks(rows * s.L), 256>>>(r->a, r->k, s);
    t.inverse(r->c2r, r->a);
    leave<T>
        <<<blocks(rows * s.L), 256>>>((T *)c->out[0].data, (float *)r->a, (const T *)c->in[5].data, false, s);
}

template <class T> void gradient(Rival *r, const m2_call *c, Transforms &t)
{
    const Shape &s = r->s;
    int64_t rows = s.C * s.B, points = rows * s.L;
    const T *u = (const T *)c->in[0].data, *pre = (const T *)c->in[4].data, *dy = (const T *)c->in[7].data;
    T *du = (T *)c->out[0].data, *dpre = (T *)c->out[4].data, *dpost = (T *)c->out[5].data;
    enter<T><<<blocks(2 * points), 256>>>((float *)r->a, u, pre, s);
    enter<T><<<blocks(2 * points), 256>>>((float *)r->g, dy, (const T *)c->in[5].data, s);
    t.forward(r->r2c, r->a);
    t.forward(r->r2c, r->g);
    sum_rows<<<blocks(s.F * s.L), 256>>>(r->sum, r->g, r->a, s);
    if (dpost) { /* before du, which may be the memory of dy */
        times<false><<<blocks(points), 256>>>(r->a, r->k, s);
        t.inverse(r->c2r, r->a);
        leave<T><<<blocks(points), 256>>>(dpost, (float *)r->a, dy, c->acc >> 5 & 1, s);
    }
    times<true><<<blocks(points), 256>>>(r->g, r->k, s);
    t.inverse(r->c2r, r->g);
    if (du) leave<T><<<blocks(points), 256>>>(du, (float *)r->g, pre, c->acc & 1, s);
    if (dpre) leave<T><<<blocks(points), 256>>>(dpre, (float *)r->g, u, c->acc >> 4 & 1, s);
    t.inverse(r->taps_c2r, r->sum);
    leave_taps<<<blocks(s.F * s.taps), 256>>>((float *)r->sum, (float *)c->out[1].data,
                                              (float *)c->out[2].data, (float *)c->out[3].data, c->acc, s);
}

m2_status run(m2_rival *base, const m2_call *c)
{
    Rival *r = (Rival *)base;
    Transforms t = {r, CUFFT_SUCCESS};
    bool grad = c->op == &m2_op_longconv_grad, half = c->in[0].dtype == M2_BF16;
    r->s.index = c->attrs.i[M2_LONGCONV_SHARE] == M2_SHARE_INDEX;
    enter_taps<<<blocks(r->s.F * 2 * r->s.L), 256>>>((float *)r->k, (const float *)c->in[1].data,
                                                     (const float *)c->in[2].data,
                                                     (const float *)c->in[3].data, r->s);
    t.forward(r->taps_r2c, r->k);
    if (grad)
        half ? gradient<__nv_bfloat16>(r, c, t) : gradient<float>(r, c, t);
    else
        half ? convolve<__nv_bfloat16>(r, c, t) : convolve<float>(r, c, t);
    if (t.e != CUFFT_SUCCESS) return m2_fail(M2_BUG, "a transform of cuFFT failed with error %d", (int)t.e);
    return launched(c);
}

} // namespace
} // namespace m2cu

m2_status m2i_rival_cufft(m2_device *dev, const m2_desc *in, m2_rival **out)
{
    using namespace m2cu;
    if (in[0].rank != 3 || in[0].shape[2] > 1 << 29)
        return m2_fail(M2_USAGE, "cuFFT's turn takes rows in one piece of at most 2^29 positions");
    Rival *r = (Rival *)calloc(1, sizeof *r);
    if (!r) return m2_fail(M2_TRANSIENT, "out of memory for cuFFT's turn");
    r->base.run = run, r->base.close = destroy, r->base.gradient = 1;
    r->device = dev;
    r->s = {in[0].shape[0], in[0].shape[1], in[0].shape[2], in[1].shape[0], in[1].shape[1], false};
    m2_status st = fill(r);
    if (st == M2_OK)
        *out = &r->base;
    else
        destroy(&r->base);
    return st;
}

#else
m2_status m2i_rival_cufft(m2_device *, const m2_desc *, m2_rival **)
{
    return m2_fail(M2_USAGE, "this CUDA module was built without cufft.h, so it cannot call cuFFT");
}
#endif
