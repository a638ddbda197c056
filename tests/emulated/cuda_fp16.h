/* cuda_fp16.h - f16 on the CPU (cuda_runtime.h): each operation rounded once. */
#pragma once
#include "cuda_runtime.h"
typedef _Float16 __half;
struct alignas(4) __half2 {
    __half x, y;
    __half &operator[](int i) { return i ? y : x; }
};
static inline __half2 __floats2half2_rn(float x, float y) { return {(__half)x, (__half)y}; }
static inline __half2 __float2half2_rn(float x) { return {(__half)x, (__half)x}; }
static inline float2 __half22float2(__half2 v) { return {(float)v.x, (float)v.y}; }
static inline float __low2float(__half2 v) { return (float)v.x; }
static inline float __high2float(__half2 v) { return (float)v.y; }
static inline __half2 __hmul2(__half2 a, __half2 b)
{
    return {(__half)((float)a.x * (float)b.x), (__half)((float)a.y * (float)b.y)};
}
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    return {(__half)((double)a.x * (double)b.x + (double)c.x), (__half)((double)a.y * (double)b.y + (double)c.y)};
}
static inline __half2 __hneg2(__half2 a) { return {-a.x, -a.y}; }
static inline __half2 __habs2(__half2 a) { return {a.x < 0 ? -a.x : a.x, a.y < 0 ? -a.y : a.y}; }
static inline __half2 __hmax2(__half2 a, __half2 b) { return {a.x < b.x ? b.x : a.x, a.y < b.y ? b.y : a.y}; }
