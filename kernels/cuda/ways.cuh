/* ways.cuh - the ways to cut a long convolution's transform of N points, and what each costs: how longconv.cu chooses. */
#pragma once
#include <stdint.h>

namespace m2cu
{

/* What a block of each size costs: picoseconds per point of a row, measured with `m2 bench conv` on an H200 at 64 million
 * points; alone, under one outer stage (radix to 32), under two. 0: there is no such kernel. A filter costs as much more under
 * outer stages: its taps go through memory too. */
struct Way {
    int64_t inner;
    float forward[3], backward[3];
};
constexpr Way ways[] = {
    {256, {6.0f, 0, 0}, {16.0f, 0, 0}},
    {512, {5.7f, 0, 0}, {16.0f, 0, 0}},
    {1024, {5.5f, 0, 0}, {16.1f, 0, 0}},
    {2048, {5.8f, 0, 0}, {16.5f, 31.0f, 0}},
    {4096, {6.9f, 14.1f, 22.5f}, {16.0f, 31.6f, 59.0f}},
    {8192, {10.2f, 16.4f, 19.5f}, {0, 46.0f, 55.0f}},
};
constexpr float filter_forward = 8.5f, filter_backward = 18.0f;
enum { WAYS = sizeof ways / sizeof *ways };

inline int levels_over(int64_t N, int64_t inner) /* -1: the outer stages do not reach */
{
    int64_t rest = inner <= N ? N / inner : 0;
    return rest == 1 ? 0 : rest >= 4 && rest <= 32 ? 1 : rest > 32 && rest <= 1024 ? 2 : -1;
}

inline float cost_of(const Way &way, int64_t N, bool segments, bool grad)
{
    int levels = levels_over(N, way.inner);
    if (levels < 0 || (segments && levels == 0)) return 0;
    return (grad ? way.backward : way.forward)[levels];
}

/* Seconds of `rows` rows of each of F filters. */
inline double seconds_of(const Way &way, int64_t N, bool segments, bool grad, int64_t rows, int64_t F)
{
    float filter = levels_over(N, way.inner) > 0 ? (grad ? filter_backward : filter_forward) : 0;
    return 1e-12 * (double)N * (double)F * ((double)rows * cost_of(way, N, segments, grad) + filter);
}

/* The ways that can run it, as indices: the `variant` of attrs, or the cheapest first. */
inline int list_ways(int64_t N, bool segments, bool grad, int *list)
{
    int n = 0;
    for (int i = 0; i < WAYS; i++) {
        float cost = cost_of(ways[i], N, segments, grad);
        if (cost <= 0) continue;
        int at = n++;
        for (; at > 0 && cost_of(ways[list[at - 1]], N, segments, grad) > cost; at--) list[at] = list[at - 1];
        list[at] = i;
    }
    return n;
}

} // namespace m2cu
