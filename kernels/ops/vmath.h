/* vmath.h - elementary functions a compiler can vectorise: no branches, no tables, no errno.
 *
 * Float: minimax polynomials over the ranges below. Largest errors (tests/op/invariants.c measures them): exp, tanh and
 * sigmoid 3 ulp; cdf 1e-7 absolute, and 1e-5 relative down to Phi(-3). exp of less than -86.98 is 0.
 * Double: the C library, which is the reference. */
#ifndef M2_KERNELS_OPS_VMATH_H
#define M2_KERNELS_OPS_VMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds and leaves n in the low bits. */
static inline float m2i_vexp_f32(float x)
{
    const float shift = 12582912.0f;
    x = x < -87.33654f ? -87.33654f : x;
    x = x > 89.0f ? 89.0f : x;
    float t = x * 1.44269504f + shift, n = t - shift;
    float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.395048806e-3f;
    p = p * r + 8.368887939e-3f;
    p = p * r + 4.166620597e-2f;
    p = p * r + 1.666651815e-1f;
    p = p * r + 0.5f;
    p = p * (r * r) + r + 1.0f;
    uint32_t bits;
    float half; /* 2^(n-1): 2^128 has no float */
    memcpy(&bits, &t, 4);
    bits = (bits << 23) + (126u << 23);
    memcpy(&half, &bits, 4);
    return p * half * 2.0f;
}

static inline float m2i_vtanh_f32(float x)
{
    float a = fabsf(x), s = x * x;
    float p = -5.704986397e-3f;
    p = p * s + 2.063908614e-2f;
    p = p * s - 5.373971537e-2f;
    p = p * s + 1.333144158e-1f;
    p = p * s - 3.333328068e-1f;
    float small = p * s * x + x;
    float large = copysignf(1.0f - 2.0f / (m2i_vexp_f32(2.0f * a) + 1.0f), x);
    return a < 0.625f ? small : large;
}

/* The normal distribution function Phi. Phi(-a) = exp(Q(a)), Q = log Phi(-a) fitted on [0, 6.5]; beyond it is 0. */
static inline float m2i_vcdf_f32(float x)
{
    float a = fabsf(x);
    float q = -1.921432386e-6f;
    q = q * a + 2.676979238e-5f;
    q = q * a - 1.265320316e-4f;
    q = q * a - 1.011102140e-4f;
    q = q * a + 4.904344212e-3f;
    q = q * a - 3.639371321e-2f;
    q = q * a - 3.182965815e-1f;
    q = q * a - 7.978857160e-1f;
    q = q * a - 6.931471825e-1f;
    float h = a > 6.5f ? 0.0f : m2i_vexp_f32(q); /* NaN stays */
    return x < 0.0f ? h : 1.0f - h;
}

static inline float m2i_vsigmoid_f32(float x)
{
    return 1.0f / (1.0f + m2i_vexp_f32(-x));
}

static inline float m2i_vsqrt_f32(float x)
{
    return sqrtf(x);
}

/* sin(x + quarters pi/2). The reduction to |r| <= pi/4 is in double: exact enough for every float below 2^30. */
static inline float m2i_vsine_f32(float x, uint32_t quarters)
{
    const double shift = 6755399441055744.0; /* 1.5 * 2^52 rounds to an integer and leaves it in the low bits */
    double t = x * 0.63661977236758134308 + shift;
    uint64_t bits;
    memcpy(&bits, &t, 8);
    uint32_t q = (uint32_t)bits + quarters;
    float r = (float)(x - (t - shift) * 1.57079632679489661923), s = r * r;
    float a = ((-1.9515295891e-4f * s + 8.3321608736e-3f) * s - 1.6666654611e-1f) * s * r + r;
    float b = ((2.4433157118e-5f * s - 1.3887316255e-3f) * s + 4.1666645683e-2f) * s * s - 0.5f * s + 1.0f;
    float v = q & 1 ? b : a;
    return q & 2 ? -v : v;
}

static inline float m2i_vsin_f32(float x)
{
    return m2i_vsine_f32(x, 0);
}

static inline float m2i_vcos_f32(float x)
{
    return m2i_vsine_f32(x, 1);
}

static inline double m2i_vsin_f64(double x)
{
    return sin(x);
}

static inline double m2i_vcos_f64(double x)
{
    return cos(x);
}

static inline double m2i_vexp_f64(double x)
{
    return exp(x);
}

static inline double m2i_vtanh_f64(double x)
{
    return tanh(x);
}

static inline double m2i_vcdf_f64(double x)
{
    return 0.5 * erfc(x * -0.70710678118654752440);
}

static inline double m2i_vsigmoid_f64(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static inline double m2i_vsqrt_f64(double x)
{
    return sqrt(x);
}
#endif
