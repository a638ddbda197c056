/* device_cuda.cu - one GPU as a device: plain cudaMalloc, pinned host memory, streams, events, graphs, the kernel table.
 *
 * CUDA keeps the current GPU per thread: every function here makes its own GPU current, so a thread that launches must have
 * called one of them before (it made its stream, memory or events here). */
#include "kernels/base/log.h"
#include "kernels/cuda/gemm.cuh"
#include "kernels/rival.h"

#include <cuda.h>
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CUDA(call)                                                                                           \
    do {                                                                                                     \
        cudaError_t e_ = (call);                                                                             \
        if (e_ != cudaSuccess) return failed(e_, #call);                                                     \
    } while (0)

static m2_status failed(cudaError_t e, const char *what)
{
    cudaGetLastError(); /* clear it, unless the context is lost */
    return m2_fail(e == cudaErrorECCUncorrectable || e == cudaErrorDevicesUnavailable ? M2_TRANSIENT : M2_BUG,
                   "CUDA: %s (%s)", cudaGetErrorString(e), what);
}

/* ---- memory ------------------------------------------------------------------------------------------------------- */
static m2_status cuda_alloc(m2_device *dev, m2_memory kind, int64_t bytes, void **out)
{
    CUDA(cudaSetDevice(dev->index));
    dev->allocations++;
    size_t n = bytes > 0 ? (size_t)bytes : 1, left = 0, all = 0;
    *out = NULL;
    cudaError_t e = kind == M2_MEM_DEVICE ? cudaMalloc(out, n) : cudaMallocHost(out, n);
    if (e == cudaSuccess) return M2_OK;
    if (e != cudaErrorMemoryAllocation) return failed(e, "allocating memory");
    cudaGetLastError();
    cudaMemGetInfo(&left, &all);
    char asked[32], there[32];
    if (kind == M2_MEM_HOST)
        return m2_fail(M2_TRANSIENT, "out of memory: %s of pinned host memory could not be had",
                       m2_human_bytes(asked, bytes));
    return m2_fail(
        M2_USAGE,
        "out of GPU memory: %s were asked for and %s are left on %s: use a smaller microbatch, recompute, "
        "or more GPUs",
        m2_human_bytes(asked, bytes), m2_human_bytes(there, (int64_t)left), dev->name);
}

static void cuda_free(m2_device *dev, m2_memory kind, void *ptr)
{
    cudaSetDevice(dev->index);
    if (kind == M2_MEM_DEVICE)
        cudaFree(ptr);
    else
        cudaFreeHost(ptr);
}

static m2_status cuda_copy(m2_device *dev, void *dst, const void *src, int64_t bytes, m2_stream *stream)
{
    CUDA(cudaSetDevice(dev->index));
    if (bytes > 0 && dst != src)
        CUDA(cudaMemcpyAsync(dst, src, (size_t)bytes, cudaMemcpyDefault, (cudaStream_t)stream));
    return M2_OK;
}

static m2_status cuda_copy_rows(m2_device *dev, void *dst, int64_t dst_step, const void *src,
                                int64_t src_step, int64_t bytes, int64_t rows, m2_stream *stream)
{
    CUDA(cudaSetDevice(dev->index));
    if (bytes > 0 && rows > 0)
        CUDA(cudaMemcpy2DAsync(dst, (size_t)dst_step, src, (size_t)src_step, (size_t)bytes, (size_t)rows,
                               cudaMemcpyDefault, (cudaStream_t)stream));
    return M2_OK;
}

static m2_status cuda_fill(m2_device *dev, void *dst, int byte, int64_t bytes, m2_stream *stream)
{
    CUDA(cudaSetDevice(dev->index));
    if (bytes > 0) CUDA(cudaMemsetAsync(dst, byte, (size_t)bytes, (cudaStream_t)stream));
    return M2_OK;
}

/* ---- streams and events -------------------------------------------------------------------------------------------- */
/* Streams are ordered after, and before, work on the default stream: set-up there needs no synchronisation. */
static m2_status cuda_stream_create(m2_device *dev, int urgent, m2_stream **out)
{
    int least = 0, greatest = 0;
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA(cudaStreamCreateWithPriority((cudaStream_t *)out, cudaStreamDefault, urgent ? greatest : least));
    return M2_OK;
}

static void cuda_stream_destroy(m2_device *dev, m2_stream *stream)
{
    cudaSetDevice(dev->index);
    if (stream) cudaStreamDestroy((cudaStream_t)stream);
}

static m2_status cuda_stream_sync(m2_device *dev, m2_stream *stream)
{
    CUDA(cudaSetDevice(dev->index));
    dev->drains++;
    CUDA(cudaStreamSynchronize((cudaStream_t)stream));
    return M2_OK;
}

static m2_status cuda_event_create(m2_device *dev, m2_event **out)
{
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaEventCreate((cudaEvent_t *)out));
    return M2_OK;
}

static void cuda_event_destroy(m2_device *dev, m2_event *event)
{
    cudaSetDevice(dev->index);
    if (event) cudaEventDestroy((cudaEvent_t)event);
}

static m2_status cuda_event_record(m2_device *dev, m2_event *event, m2_stream *stream)
{
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaEventRecord((cudaEvent_t)event, (cudaStream_t)stream));
    return M2_OK;
}

static m2_status cuda_event_wait(m2_device *dev, m2_event *event, m2_stream *stream)
{
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaStreamWaitEvent((cudaStream_t)stream, (cudaEvent_t)event, 0));
    return M2_OK;
}

static m2_status cuda_event_sync(m2_device *dev, m2_event *event)
{
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaEventSynchronize((cudaEvent_t)event));
    return M2_OK;
}

static m2_status cuda_event_seconds(m2_device *dev, m2_event *from, m2_event *to, double *out)
{
    float ms = 0;
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaEventSynchronize((cudaEvent_t)to));
    CUDA(cudaEventElapsedTime(&ms, (cudaEvent_t)from, (cudaEvent_t)to));
    *out = ms * 1e-3;
    return M2_OK;
}

/* ---- other processes ------------------------------------------------------------------------------------------------ */
static m2_status cuda_lend(m2_device *dev, void *base, m2_ticket *out)
{
    static_assert(sizeof(cudaIpcMemHandle_t) == sizeof out->bytes, "a ticket is a handle");
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaIpcGetMemHandle((cudaIpcMemHandle_t *)out->bytes, base));
    return M2_OK;
}

static m2_status cuda_borrow(m2_device *dev, const m2_ticket *ticket, void **out)
{
    cudaIpcMemHandle_t handle;
    memcpy(&handle, ticket->bytes, sizeof handle);
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaIpcOpenMemHandle(out, handle, cudaIpcMemLazyEnablePeerAccess));
    return M2_OK;
}

static void cuda_give_back(m2_device *dev, void *borrowed)
{
    cudaSetDevice(dev->index);
    cudaIpcCloseMemHandle(borrowed);
}

/* The driver's own functions: the runtime has no such calls, and the module must load where there is no driver. */
template <class F> static m2_status driver(const char *name, F *out)
{
    cudaDriverEntryPointQueryResult found;
    CUDA(cudaGetDriverEntryPointByVersion(name, (void **)out, 12000, cudaEnableDefault, &found));
    if (found == cudaDriverEntryPointSuccess) return M2_OK;
    return m2_fail(M2_USAGE, "CUDA: this driver has no %s", name);
}

static m2_status done(CUresult r, const char *what)
{
    return r == CUDA_SUCCESS ? M2_OK : m2_fail(M2_BUG, "CUDA: %s failed: error %d", what, (int)r);
}

static m2_status cuda_raise(m2_device *dev, uint32_t *flag, uint32_t value, m2_stream *stream)
{
    static decltype(&cuStreamWriteValue32) write;
    CUDA(cudaSetDevice(dev->index));
    if (!write) M2_TRY(driver("cuStreamWriteValue32", &write));
    return done(write((CUstream)stream, (CUdeviceptr)flag, value, CU_STREAM_WRITE_VALUE_DEFAULT), "setting a flag");
}

static m2_status cuda_await(m2_device *dev, const uint32_t *flag, uint32_t value, m2_stream *stream)
{
    static decltype(&cuStreamWaitValue32) wait;
    CUDA(cudaSetDevice(dev->index));
    if (!wait) M2_TRY(driver("cuStreamWaitValue32", &wait));
    return done(wait((CUstream)stream, (CUdeviceptr)flag, value, CU_STREAM_WAIT_VALUE_GEQ), "waiting for a flag");
}

/* ---- graphs -------------------------------------------------------------------------------------------------------- */
static m2_status cuda_capture_begin(m2_device *dev, m2_stream *stream)
{
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaStreamBeginCapture((cudaStream_t)stream, cudaStreamCaptureModeThreadLocal));
    return M2_OK;
}

static m2_status cuda_capture_end(m2_device *dev, m2_stream *stream, m2_graph **out)
{
    cudaGraph_t graph = NULL;
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaStreamEndCapture((cudaStream_t)stream, &graph));
    cudaError_t e = cudaGraphInstantiate((cudaGraphExec_t *)out, graph, 0);
    cudaGraphDestroy(graph);
    return e == cudaSuccess ? M2_OK : failed(e, "instantiating a captured graph");
}

static m2_status cuda_graph_launch(m2_device *dev, m2_graph *graph, m2_stream *stream)
{
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaGraphLaunch((cudaGraphExec_t)graph, (cudaStream_t)stream));
    return M2_OK;
}

static void cuda_graph_destroy(m2_device *dev, m2_graph *graph)
{
    cudaSetDevice(dev->index);
    if (graph) cudaGraphExecDestroy((cudaGraphExec_t)graph);
}

static void cuda_range(m2_device *, const char *path)
{
    if (path)
        nvtxRangePushA(path);
    else
        nvtxRangePop();
}

/* ---- the kernel table ---------------------------------------------------------------------------------------------- */
/* Every op of ops.def has m2i_cuda_<op>; a missing one is a link error when the module is opened. */
extern "C" {
#define M2_OP(name) m2_status m2i_cuda_##name(const m2_call *call);
#include "kernels/ops.def"
#undef M2_OP
typedef int64_t workspace_fn(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out);
workspace_fn m2i_cuda_linear_workspace, m2i_cuda_linear_grad_workspace, m2i_cuda_blockdiag_workspace,
    m2i_cuda_blockdiag_grad_workspace, m2i_cuda_norm_grad_workspace, m2i_cuda_addnorm_grad_workspace,
    m2i_cuda_xent_workspace, m2i_cuda_xent_grad_workspace, m2i_cuda_softxent_workspace, m2i_cuda_sumsq_workspace,
    m2i_cuda_embed_grad_workspace, m2i_cuda_shortconv_grad_workspace, m2i_cuda_sine_grad_workspace,
    m2i_cuda_cyclic_workspace, m2i_cuda_cyclic_grad_workspace;
int64_t m2i_cuda_longconv_workspace(const m2_attrs *attrs, const m2_desc *in, bool grad);
int m2i_cuda_longconv_variants(const m2_attrs *attrs, const m2_desc *in, bool grad, m2_variant *list, int most);
}

static int64_t longconv_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *)
{
    return m2i_cuda_longconv_workspace(attrs, in, false);
}

static int64_t longconv_grad_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *)
{
    return m2i_cuda_longconv_workspace(attrs, in, true);
}

static const m2_run_fn kernels[] = {
#define M2_OP(name) m2i_cuda_##name,
#include "kernels/ops.def"
#undef M2_OP
};

static const struct {
    int op;
    workspace_fn *bytes;
} workspaces[] = {
    {M2_OP_linear, m2i_cuda_linear_workspace},
    {M2_OP_linear_grad, m2i_cuda_linear_grad_workspace},
    {M2_OP_blockdiag, m2i_cuda_blockdiag_workspace},
    {M2_OP_blockdiag_grad, m2i_cuda_blockdiag_grad_workspace},
    {M2_OP_norm_grad, m2i_cuda_norm_grad_workspace},
    {M2_OP_addnorm_grad, m2i_cuda_addnorm_grad_workspace},
    {M2_OP_xent, m2i_cuda_xent_workspace},
    {M2_OP_xent_grad, m2i_cuda_xent_grad_workspace},
    {M2_OP_softxent, m2i_cuda_softxent_workspace},
    {M2_OP_sumsq, m2i_cuda_sumsq_workspace},
    {M2_OP_embed_grad, m2i_cuda_embed_grad_workspace},
    {M2_OP_shortconv_grad, m2i_cuda_shortconv_grad_workspace},
    {M2_OP_sine_grad, m2i_cuda_sine_grad_workspace},
    {M2_OP_cyclic, m2i_cuda_cyclic_workspace},
    {M2_OP_cyclic_grad, m2i_cuda_cyclic_grad_workspace},
    {M2_OP_longconv, longconv_workspace},
    {M2_OP_longconv_grad, longconv_grad_workspace},
};

static m2_run_fn cuda_lookup(m2_device *, const m2_op *op)
{
    return op->id >= 0 && op->id < M2_OP_COUNT ? kernels[op->id] : op->run; /* collectives bring their own */
}

static int64_t cuda_workspace(m2_device *, const m2_op *op, const m2_attrs *attrs, const m2_desc *in,
                              const m2_desc *out)
{
    for (size_t i = 0; i < sizeof workspaces / sizeof *workspaces; i++)
        if (workspaces[i].op == op->id) return workspaces[i].bytes(attrs, in, out);
    return 0;
}

static int cuda_variants(m2_device *, const m2_op *op, const m2_attrs *attrs, const m2_desc *in, m2_variant *list,
                         int most)
{
    bool grad = op->id == M2_OP_longconv_grad;
    return grad || op->id == M2_OP_longconv ? m2i_cuda_longconv_variants(attrs, in, grad, list, most) : 0;
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */
static void cuda_close(m2_device *dev)
{
    cudaSetDevice(dev->index);
    m2cu::products_close(dev);
    free(dev);
}

static m2_device_api make_api()
{
    m2_device_api a = {};
    a.kind = "cuda";
    a.close = cuda_close;
    a.alloc = cuda_alloc, a.free = cuda_free, a.copy = cuda_copy, a.copy_rows = cuda_copy_rows,
    a.fill = cuda_fill;
    a.stream_create = cuda_stream_create, a.stream_destroy = cuda_stream_destroy,
    a.stream_sync = cuda_stream_sync;
    a.event_create = cuda_event_create, a.event_destroy = cuda_event_destroy,
    a.event_record = cuda_event_record;
    a.event_wait = cuda_event_wait, a.event_sync = cuda_event_sync, a.event_seconds = cuda_event_seconds;
    a.lend = cuda_lend, a.borrow = cuda_borrow, a.give_back = cuda_give_back, a.raise = cuda_raise, a.await = cuda_await;
    a.lookup = cuda_lookup, a.workspace = cuda_workspace, a.variants = cuda_variants, a.rival = m2i_rival_cufft;
    a.capture_begin = cuda_capture_begin, a.capture_end = cuda_capture_end;
    a.graph_launch = cuda_graph_launch, a.graph_destroy = cuda_graph_destroy;
    a.range = cuda_range;
    a.tune = m2cu::products_tune;
    return a;
}

/* Dense bf16 FLOP/s by datasheet; the first name contained in the device's wins. */
static const struct {
    const char *name;
    double flops;
} datasheet[] = {
    {"H200", 989.4e12}, {"GH200", 989.4e12}, {"H100 PCIe", 756e12},  {"H100 NVL", 835e12}, {"H100", 989.4e12},
    {"H800", 989.4e12}, {"A100", 312e12},    {"A800", 312e12},       {"B200", 2250e12},    {"L40S", 362e12},
    {"L40", 181e12},    {"A40", 149.7e12},   {"RTX 4090", 165.2e12}, {"RTX 3090", 71e12},
};

/* Other GPUs: 2048 (Ampere class) or 4096 (Hopper and later) bf16 operations per clock and multiprocessor. */
static double peak_flops(const char *name, int major, int sms, int khz)
{
    for (size_t i = 0; i < sizeof datasheet / sizeof *datasheet; i++)
        if (strstr(name, datasheet[i].name)) return datasheet[i].flops;
    return (major >= 9 ? 4096.0 : 2048.0) * sms * khz * 1e3;
}

static m2_status describe(m2_device *dev)
{
    cudaDeviceProp prop;
    int khz = 0, memory_khz = 0, bits = 0;
    CUDA(cudaSetDevice(dev->index));
    CUDA(cudaGetDeviceProperties(&prop, dev->index));
    CUDA(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, dev->index));
    CUDA(cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, dev->index));
    CUDA(cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, dev->index));
    if (prop.major < 8)
        return m2_fail(M2_USAGE, "%s has compute capability %d.%d: m2 needs 8.0 (Ampere) or later", prop.name,
                       prop.major, prop.minor);
    snprintf(dev->name, sizeof dev->name, "%.95s", prop.name);
    for (int i = 0; i < 16; i++)
        snprintf(dev->uid + 2 * i, sizeof dev->uid - 2 * i, "%02x", (unsigned char)prop.uuid.bytes[i]);
    dev->memory = (int64_t)prop.totalGlobalMem;
    dev->peak_flops = peak_flops(prop.name, prop.major, prop.multiProcessorCount, khz);
    dev->peak_bandwidth = 2.0 * memory_khz * 1e3 * bits / 8; /* double data rate */
    return M2_OK;
}

extern "C" M2_API int m2_device_cuda_count()
{
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

extern "C" M2_API m2_status m2_device_cuda_open(int index, int threads, m2_device **out)
{
    static const m2_device_api api = make_api();
    int count = 0;
    *out = NULL;
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess) return m2_fail(M2_USAGE, "no usable GPU: %s", cudaGetErrorString(e));
    if (index >= count) return m2_fail(M2_USAGE, "there is no GPU %d: this process sees %d", index, count);
    m2_device *dev = (m2_device *)calloc(1, sizeof *dev);
    if (!dev) return m2_fail(M2_TRANSIENT, "out of memory for a device");
    dev->api = &api;
    dev->index = index;
    dev->threads = threads > 0 ? threads : 1;
    m2_status st = describe(dev);
    if (st == M2_OK) st = m2cu::products_open(dev);
    if (st != M2_OK) {
        free(dev);
        return st;
    }
    *out = dev;
    return M2_OK;
}
