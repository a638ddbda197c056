/* divide.cuh - division of 31-bit numbers by one that is known before the launch. */
#pragma once
#include <stdint.h>

namespace m2cu
{

struct FastDiv {
    uint32_t d, factor, shift;
    FastDiv() = default;
    explicit FastDiv(int64_t divisor) : d((uint32_t)divisor), factor(0), shift(0)
    {
        while ((1ull << shift) < d) shift++;
        factor = (uint32_t)(((1ull << 32) * ((1ull << shift) - d)) / d + 1);
    }
    __device__ __forceinline__ uint32_t div(uint32_t n) const { return (__umulhi(n, factor) + n) >> shift; }
};

} // namespace m2cu
