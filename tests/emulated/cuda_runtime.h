/* cuda_runtime.h - what the kernels and kernels/base/device_cuda.cu use of CUDA, on the CPU: a thread of a block is a fiber,
 * blocks run one after another, a stream is done when a call returns. For tests without a GPU (tests/emulated/emulator.cpp);
 * translate.py turns launches, shared memory and PTX into calls of emu. */
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>

#define __CUDA_ARCH__ 900
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__

/* ---- types ------------------------------------------------------------------------------------------------------- */
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

/* ---- a block ----------------------------------------------------------------------------------------------------- */
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads();
int __syncthreads_or(int mine);

namespace emu
{
void *dynamic_shared();
/* What all lanes of the warp gave, by lane. All that have not ended must call. */
const uint64_t *exchange(uint64_t mine);
int lane();

struct Operand {
    void *out; /* NULL: an input */
    uint64_t in;
};
template <class T> Operand out(T &x) { return {&x, 0}; }
template <class T> Operand in(T x)
{
    Operand o = {nullptr, 0};
    static_assert(sizeof x <= sizeof o.in, "an operand is a register");
    memcpy(&o.in, &x, sizeof x);
    return o;
}
void ptx(const char *text, std::initializer_list<Operand> operands);

void run(dim3 grid, dim3 block, size_t shared, void *stream, std::function<void()> body);
template <class F> struct Launch {
    F kernel;
    dim3 grid, block;
    size_t shared;
    void *stream;
    template <class... A> void operator()(A... a) const
    {
        auto call = [kernel = kernel, arguments = std::make_tuple(a...)] { std::apply(kernel, arguments); };
        run(grid, block, shared, stream, call);
    }
};
template <class F> Launch<F> launch(F kernel, dim3 grid, dim3 block, size_t shared = 0, void *stream = nullptr)
{
    return {kernel, grid, block, shared, stream};
}
template <class T> T bits_of(uint64_t v)
{
    T x;
    memcpy(&x, &v, sizeof x);
    return x;
}
template <class T> uint64_t as_bits(T x)
{
    uint64_t v = 0;
    memcpy(&v, &x, sizeof x);
    return v;
}
} // namespace emu

template <class T> T __shfl_sync(unsigned, T x, int from) { return emu::bits_of<T>(emu::exchange(emu::as_bits(x))[from & 31]); }
template <class T> T __shfl_xor_sync(unsigned mask, T x, int by) { return __shfl_sync(mask, x, emu::lane() ^ by); }
static inline unsigned __reduce_max_sync(unsigned, unsigned x)
{
    const uint64_t *all = emu::exchange(x);
    return (unsigned)*std::max_element(all, all + 32);
}
static inline void __syncwarp(unsigned = ~0u) { emu::exchange(0); }
template <class T> T atomicAdd(T *at, T x) { return std::exchange(*at, *at + x); }
template <class T> T atomicMin(T *at, T x) { return std::exchange(*at, std::min(*at, x)); }
template <class T> T __ldg(const T *p) { return *p; }
size_t __cvta_generic_to_shared(const void *p);

/* ---- arithmetic -------------------------------------------------------------------------------------------------- */
using std::isfinite;
using std::isnan;
template <class A, class B> constexpr typename std::common_type<A, B>::type min(A a, B b) { return b < a ? b : a; }
template <class A, class B> constexpr typename std::common_type<A, B>::type max(A a, B b) { return a < b ? b : a; }
static inline float __uint_as_float(unsigned v) { return emu::bits_of<float>(v); }
static inline unsigned __float_as_uint(float v) { return (unsigned)emu::as_bits(v); }
static inline float __int_as_float(int v) { return __uint_as_float((unsigned)v); }
static inline int __float_as_int(float v) { return (int)__float_as_uint(v); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned how)
{
    uint64_t all = (uint64_t)b << 32 | a;
    unsigned v = 0;
    for (int i = 0; i < 4; i++) v |= (unsigned)(all >> (how >> 4 * i & 7) * 8 & 255) << 8 * i;
    return v;
}
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float v) { return 1 / sqrtf(v); }
static inline double rsqrt(double v) { return 1 / sqrt(v); }
static inline void sincospif(float v, float *s, float *c)
{
    *s = (float)sin(M_PI * (double)v), *c = (float)cos(M_PI * (double)v);
}
static inline void sincospi(double v, double *s, double *c) { *s = sin(M_PI * v), *c = cos(M_PI * v); }

/* ---- the runtime ------------------------------------------------------------------------------------------------- */
enum cudaError_t {
    cudaSuccess,
    cudaErrorMemoryAllocation,
    cudaErrorECCUncorrectable,
    cudaErrorDevicesUnavailable,
    cudaErrorUnknown
};
enum { cudaMemcpyDefault, cudaMemcpyDeviceToDevice };
enum { cudaStreamDefault, cudaStreamCaptureModeThreadLocal, cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaDevAttrClockRate, cudaDevAttrMemoryClockRate, cudaDevAttrGlobalMemoryBusWidth, cudaDevAttrComputeCapabilityMajor };
enum { cudaIpcMemLazyEnablePeerAccess, cudaEnableDefault };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
typedef struct emu_stream *cudaStream_t;
typedef double *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t, *cudaGraphExec_t;
struct cudaIpcMemHandle_t {
    char reserved[64];
};
struct cudaUUID_t {
    char bytes[16];
};
struct cudaDeviceProp {
    char name[256];
    cudaUUID_t uuid;
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};
cudaError_t cudaGetDeviceCount(int *), cudaGetDevice(int *), cudaSetDevice(int), cudaGetLastError();
const char *cudaGetErrorString(cudaError_t);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *, int), cudaDeviceGetAttribute(int *, int, int);
cudaError_t cudaMemGetInfo(size_t *, size_t *);
cudaError_t emu_alloc(void **, size_t), cudaFree(void *), cudaFreeHost(void *);
template <class T> cudaError_t cudaMalloc(T **p, size_t n) { return emu_alloc((void **)p, n); }
template <class T> cudaError_t cudaMallocHost(T **p, size_t n) { return emu_alloc((void **)p, n); }
cudaError_t cudaMemcpyAsync(void *, const void *, size_t, int, cudaStream_t), cudaMemsetAsync(void *, int, size_t, cudaStream_t);
cudaError_t cudaMemcpy2DAsync(void *, size_t, const void *, size_t, size_t, size_t, int, cudaStream_t);
cudaError_t cudaDeviceGetStreamPriorityRange(int *, int *), cudaStreamCreateWithPriority(cudaStream_t *, unsigned, int);
cudaError_t cudaStreamDestroy(cudaStream_t), cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaEventCreate(cudaEvent_t *), cudaEventDestroy(cudaEvent_t), cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventSynchronize(cudaEvent_t), cudaEventElapsedTime(float *, cudaEvent_t, cudaEvent_t);
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned);
cudaError_t cudaStreamBeginCapture(cudaStream_t, int), cudaStreamEndCapture(cudaStream_t, cudaGraph_t *);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *, cudaGraph_t, int), cudaGraphDestroy(cudaGraph_t);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t), cudaGraphExecDestroy(cudaGraphExec_t);
template <class F> cudaError_t cudaFuncSetAttribute(F, int, int) { return cudaSuccess; }
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *, void *), cudaIpcOpenMemHandle(void **, cudaIpcMemHandle_t, int);
cudaError_t cudaIpcCloseMemHandle(void *);
cudaError_t cudaGetDriverEntryPointByVersion(const char *, void **, int, int, cudaDriverEntryPointQueryResult *);
