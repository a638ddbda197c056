/* cuda_bf16.h - bf16 on the CPU (cuda_runtime.h). */
#pragma once
#include "cuda_runtime.h"
struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float v)
    {
        unsigned w = __float_as_uint(v);
        bits = v != v ? (uint16_t)0x7fff : (uint16_t)((w + 0x7fff + (w >> 16 & 1)) >> 16);
    }
    operator float() const { return __uint_as_float((unsigned)bits << 16); }
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
static inline float __bfloat162float(__nv_bfloat16 v) { return v; }
static inline __nv_bfloat16 __float2bfloat16_rn(float v) { return v; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)}; }
static inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 v) { return v.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(uint16_t v)
{
    __nv_bfloat16 x;
    x.bits = v;
    return x;
}
