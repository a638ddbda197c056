/* cluster.cuh - blocks of a cluster: their barrier, and each other's shared memory. Compute capability 9.0; older devices are
 * never given a cluster (their instances of such kernels trap). */
#pragma once
#include <stdint.h>

namespace m2cu
{

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define M2_CLUSTER_ASM(...) __trap()
#else
#define M2_CLUSTER_ASM(...) asm volatile(__VA_ARGS__)
#endif

__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t r = 0;
    M2_CLUSTER_ASM("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
/* All threads of all its blocks; what was written to shared memory before is seen after. */
__device__ __forceinline__ void cluster_sync()
{
    M2_CLUSTER_ASM("barrier.cluster.arrive.aligned;\n barrier.cluster.wait.aligned;" ::: "memory");
}
/* Block `rank`'s copy of what `here` is in this block's shared memory. */
__device__ __forceinline__ uint32_t cluster_address(const void *here, uint32_t rank)
{
    uint32_t at = 0;
    M2_CLUSTER_ASM("mapa.shared::cluster.u32 %0, %1, %2;"
                   : "=r"(at)
                   : "r"((uint32_t)__cvta_generic_to_shared(here)), "r"(rank));
    return at;
}
__device__ __forceinline__ void cluster_store(void *here, uint32_t rank, uint32_t v)
{
    M2_CLUSTER_ASM("st.shared::cluster.b32 [%0], %1;" ::"r"(cluster_address(here, rank)), "r"(v) : "memory");
}
__device__ __forceinline__ void cluster_store(void *here, uint32_t rank, const uint4 &v)
{
    M2_CLUSTER_ASM("st.shared::cluster.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(cluster_address(here, rank)), "r"(v.x), "r"(v.y),
                   "r"(v.z), "r"(v.w)
                   : "memory");
}
__device__ __forceinline__ uint4 cluster_load(const void *here, uint32_t rank)
{
    uint4 v = {};
    M2_CLUSTER_ASM("ld.shared::cluster.v4.b32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                   : "r"(cluster_address(here, rank)));
    return v;
}

} // namespace m2cu
