/* emulator.cpp - the CUDA module on the CPU: kernels/cuda and kernels/base/device_cuda.cu, translated (translate.py), thread by
 * thread.
 *
 * A thread of a block is a fiber. It runs until it waits: for its block (__syncthreads) or its warp (shuffles, tensor cores); who
 * waits for ever, because others have ended or wait elsewhere, ends the process. Blocks run one after another, streams are done
 * on return, graphs keep closures. Matrix products are loops here, in place of cuBLASLt (gemm.cu). For correctness, not for
 * speed; races between threads that a GPU would show may not show here. */
#include "cuda.h"
#include "cuda_fp16.h"
#include "kernels/cuda/gemm.cuh"
#include "kernels/rival.h"

#include <chrono>
#include <mutex>
#include <setjmp.h>
#include <ucontext.h>
#include <vector>

#define EXPECT(x)                                                                          \
    do {                                                                                   \
        if (x) break;                                                                      \
        fprintf(stderr, "emulated CUDA: expected %s (line %d)\n", #x, __LINE__);           \
        abort();                                                                           \
    } while (0)

/* ---- fibers ------------------------------------------------------------------------------------------------------ */
dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emu
{
namespace
{

enum State { READY, WARP, BLOCK, DONE };
constexpr size_t STACK = 256 << 10;

struct Fiber {
    State state;
    bool started;
    int phase; /* of its warp's words */
    jmp_buf at;
    ucontext_t begin;
    std::vector<char> stack;
};
struct WarpWords {
    uint64_t word[2][32];
};

std::recursive_mutex lock; /* one kernel at a time */
std::vector<Fiber> fibers;
std::vector<WarpWords> words;
std::vector<char> dynamic;
const std::function<void()> *body;
jmp_buf scheduler;
int current;

void begin_fiber()
{
    (*body)();
    fibers[current].state = DONE;
    _longjmp(scheduler, 1);
}

void wait_for(State what)
{
    Fiber &f = fibers[current];
    f.state = what;
    if (!_setjmp(f.at)) _longjmp(scheduler, 1);
}

void resume(int i)
{
    Fiber &f = fibers[i];
    current = i;
    threadIdx = dim3((unsigned)i % blockDim.x, (unsigned)i / blockDim.x % blockDim.y, (unsigned)i / (blockDim.x * blockDim.y));
    if (_setjmp(scheduler)) return;
    if (f.started) _longjmp(f.at, 1);
    f.started = true;
    setcontext(&f.begin);
}

/* Those of [from, to) that are not done wait for `what`: they go on. Returns 1 if there are any. */
bool release(int from, int to, State what)
{
    bool any = false;
    for (int i = from; i < to; i++) {
        if (fibers[i].state == DONE) continue;
        if (fibers[i].state != what) return false;
        any = true;
    }
    for (int i = from; any && i < to; i++)
        if (fibers[i].state == what) fibers[i].state = READY;
    return any;
}

void run_block(int n)
{
    std::fill(dynamic.begin(), dynamic.end(), (char)0xff);
    for (int i = 0; i < n; i++) {
        Fiber &f = fibers[i];
        f.state = READY, f.started = false, f.phase = 0;
        f.stack.resize(STACK);
        getcontext(&f.begin);
        f.begin.uc_stack.ss_sp = f.stack.data(), f.begin.uc_stack.ss_size = STACK, f.begin.uc_link = nullptr;
        makecontext(&f.begin, begin_fiber, 0);
    }
    for (bool more = true; more;) {
        more = false;
        for (int w = 0; w < n; w += 32) {
            int end = std::min(w + 32, n);
            do
                for (int i = w; i < end; i++)
                    if (fibers[i].state == READY) resume(i);
            while (release(w, end, WARP));
        }
        more = release(0, n, BLOCK);
    }
    for (int i = 0; i < n; i++) EXPECT(fibers[i].state == DONE); /* else it waits for ever */
}

} // namespace

void *dynamic_shared()
{
    return (void *)(((uintptr_t)dynamic.data() + 255) / 256 * 256);
}

int lane()
{
    return current % 32;
}

const uint64_t *exchange(uint64_t mine)
{
    Fiber &f = fibers[current];
    uint64_t *w = words[current / 32].word[f.phase ^= 1];
    w[current % 32] = mine;
    wait_for(WARP);
    return w;
}

} // namespace emu

void __syncthreads()
{
    emu::wait_for(emu::BLOCK);
}

int __syncthreads_or(int mine)
{
    static int any; /* of the one block that runs */
    any |= mine != 0;
    __syncthreads();
    int all = any;
    __syncthreads();
    any = 0;
    __syncthreads();
    return all;
}

size_t __cvta_generic_to_shared(const void *p)
{
    return (size_t)((const char *)p - (char *)emu::dynamic_shared());
}

/* ---- PTX --------------------------------------------------------------------------------------------------------- */
namespace emu
{
namespace
{

struct Registers { /* of a lane, for the others to read until all have come to the next exchange */
    float a[8], b[4], c[4]; /* a, b: two of a word each */
};

/* d = a b + c of a warp: 16 x 8, DEPTH products each. a: row g, g + 8; word of columns 2 t, 2 t + 1, then + 8. */
template <int DEPTH> void mma(const Registers &mine, float (&d)[4])
{
    const int g = lane() / 4, t = lane() % 4;
    const uint64_t *given = exchange((uint64_t)(uintptr_t)&mine);
    auto of = [&](int l) -> const Registers & { return *(const Registers *)(uintptr_t)given[l]; };
    for (int e = 0; e < 4; e++) {
        const int row = g + 8 * (e / 2), column = 2 * t + e % 2;
        double sum = mine.c[e];
        for (int k = 0; k < DEPTH; k++) {
            const float *a = of(row % 8 * 4 + k % 8 / 2).a, *b = of(column * 4 + k % 8 / 2).b;
            sum += (double)a[2 * (row / 8 + 2 * (k / 8)) + k % 2] * (double)b[2 * (k / 8) + k % 2];
        }
        d[e] = (float)sum;
    }
    exchange(0); /* all have read */
}

void halves_of(uint64_t word, float *to)
{
    const __half2 v = bits_of<__half2>(word);
    to[0] = (float)v.x, to[1] = (float)v.y;
}

struct Operands {
    const Operand *out, *in;
    int outs, ins;
};

template <int DEPTH, bool WIDE> void run_mma(const Operands &o)
{
    constexpr int b_at = DEPTH / 4, c_at = b_at + DEPTH / 8; /* inputs: a, b and, unless it is d's registers, c */
    Registers mine = {};
    float d[4];
    for (int i = 0; i < c_at; i++) halves_of(o.in[i].in, i < b_at ? mine.a + 2 * i : mine.b + 2 * (i - b_at));
    for (int e = 0; e < 4 && WIDE; e++) mine.c[e] = *(float *)o.out[e].out;
    for (int e = 0; e < 2 && !WIDE; e++) halves_of(o.ins > c_at ? o.in[c_at].in : *(uint32_t *)o.out[e].out, mine.c + 2 * e);
    mma<DEPTH>(mine, d);
    for (int e = 0; e < 4 && WIDE; e++) *(float *)o.out[e].out = d[e];
    for (int e = 0; e < 2 && !WIDE; e++) *(uint32_t *)o.out[e].out = (uint32_t)as_bits(__floats2half2_rn(d[2 * e], d[2 * e + 1]));
}

/* Four 8 x 8 tiles of halves; lane l names row l % 8 of tile l / 8. A lane has (l / 4, 2 (l % 4)) and the next column. */
template <bool LOAD, bool TRANSPOSED> void run_tiles(const Operands &o)
{
    const uint64_t *given = exchange(o.in[0].in & 0xffffffffu);
    __half *row[32];
    for (int l = 0; l < 32; l++) row[l] = (__half *)((char *)dynamic_shared() + given[l]);
    const int g = lane() / 4, t = lane() % 4;
    for (int tile = 0; tile < 4; tile++) {
        __half2 v = {};
        for (int e = 0; e < 2; e++) {
            __half *at = TRANSPOSED ? row[tile * 8 + 2 * t + e] + g : row[tile * 8 + g] + 2 * t + e;
            if (LOAD) v[e] = *at;
            else *at = bits_of<__half2>(o.in[tile + 1].in)[e];
        }
        if (LOAD) *(uint32_t *)o.out[tile].out = (uint32_t)as_bits(v);
    }
    exchange(0);
}

void run_load_if(const Operands &o)
{
    for (int i = 0; i < o.outs; i++) *(uint32_t *)o.out[i].out = (uint32_t)o.in[1].in ? ((uint32_t *)o.in[0].in)[i] : 0;
}

void run_exp2(const Operands &o)
{
    *(float *)o.out[0].out = exp2f(bits_of<float>(o.in[0].in));
}

void run_nothing(const Operands &) {}

const struct {
    const char *word; /* that the text has */
    void (*run)(const Operands &);
} instructions[] = {
    {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", run_mma<16, true>},
    {"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", run_mma<8, true>},
    {"mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", run_mma<16, false>},
    {"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", run_tiles<true, true>},
    {"stmatrix.sync.aligned.m8n8.x4.shared.b16", run_tiles<false, false>},
    {"@p ld.global.nc", run_load_if},
    {"ex2.approx.ftz.f32", run_exp2},
    {"prefetch.", run_nothing},
};

} // namespace

void ptx(const char *text, std::initializer_list<Operand> operands)
{
    static std::unordered_map<const char *, void (*)(const Operands &)> known;
    auto found = known.find(text);
    if (found == known.end()) {
        void (*run)(const Operands &) = *text ? nullptr : run_nothing;
        for (const auto &i : instructions)
            if (!run && strstr(text, i.word)) run = i.run;
        if (!run) fprintf(stderr, "emulated CUDA lacks '%s'\n", text);
        EXPECT(run);
        found = known.emplace(text, run).first;
    }
    Operands o = {operands.begin(), operands.begin(), 0, 0};
    for (const Operand &x : operands) (x.out ? o.outs : o.ins)++;
    o.in = o.out + o.outs;
    found->second(o);
}

} // namespace emu

/* ---- streams, graphs ----------------------------------------------------------------------------------------------- */
struct emu_graph {
    std::vector<std::function<void()>> nodes;
};
struct emu_stream {
    emu_graph *capturing;
};

static void enqueue(void *stream, std::function<void()> work)
{
    emu_graph *graph = stream ? ((emu_stream *)stream)->capturing : nullptr;
    if (graph) graph->nodes.push_back(work);
    else work();
}

void emu::run(dim3 grid, dim3 block, size_t shared, void *stream, std::function<void()> kernel)
{
    EXPECT(grid.x && grid.y && grid.z && block.x * block.y * block.z <= 1024 && shared <= 227 * 1024);
    enqueue(stream, [=] {
        std::lock_guard<std::recursive_mutex> one(lock);
        const int n = (int)(block.x * block.y * block.z);
        if ((int)fibers.size() < n) fibers.resize((size_t)n), words.resize((size_t)n / 32 + 1);
        dynamic.resize(shared + 256);
        gridDim = grid, blockDim = block, body = &kernel;
        for (unsigned z = 0; z < grid.z; z++)
            for (unsigned y = 0; y < grid.y; y++)
                for (unsigned x = 0; x < grid.x; x++) {
                    blockIdx = dim3(x, y, z);
                    run_block(n);
                }
    });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, int)
{
    s->capturing = new emu_graph;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out)
{
    *out = s->capturing;
    s->capturing = nullptr;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, int)
{
    *out = new emu_graph(*g);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) { return cudaGraphDestroy(g); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t)
{
    for (const auto &node : g->nodes) node();
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned, int)
{
    *s = new emu_stream{nullptr};
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0, *greatest = -1;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    *e = new double(0);
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t)
{
    *e = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = (float)((*to - *from) * 1e3);
    return cudaSuccess;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */
cudaError_t emu_alloc(void **p, size_t n)
{
    *p = aligned_alloc(256, (n + 255) / 256 * 256);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void *p)
{
    free(p);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, int, cudaStream_t s)
{
    enqueue(s, [=] { memmove(to, from, n); });
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int byte, size_t n, cudaStream_t s)
{
    enqueue(s, [=] { memset(to, byte, n); });
    return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_step, const void *from, size_t from_step, size_t n, size_t rows, int,
                              cudaStream_t s)
{
    enqueue(s, [=] {
        for (size_t r = 0; r < rows; r++) memmove((char *)to + r * to_step, (const char *)from + r * from_step, n);
    });
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *left, size_t *all)
{
    *left = *all = (size_t)8 << 30;
    return cudaSuccess;
}

/* ---- the device ---------------------------------------------------------------------------------------------------- */
cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *index)
{
    *index = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t) { return "an emulated error"; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    *p = {};
    snprintf(p->name, sizeof p->name, "emulated CUDA");
    p->totalGlobalMem = (size_t)8 << 30, p->major = 9, p->multiProcessorCount = 132;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, int what, int)
{
    *value = what == cudaDevAttrComputeCapabilityMajor ? 9 : 1;
    return cudaSuccess;
}
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *, void *) { return cudaErrorUnknown; }
cudaError_t cudaIpcOpenMemHandle(void **, cudaIpcMemHandle_t, int) { return cudaErrorUnknown; }
cudaError_t cudaIpcCloseMemHandle(void *) { return cudaErrorUnknown; }
cudaError_t cudaGetDriverEntryPointByVersion(const char *, void **, int, int, cudaDriverEntryPointQueryResult *found)
{
    *found = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

/* ---- matrix products, in place of gemm.cu ----------------------------------------------------------------------------- */
namespace m2cu
{

static int64_t element(const Matrix &m, int64_t batch, int64_t i, int64_t j)
{
    return batch * m.step + (m.by_columns ? j * m.ld + i : i * m.ld + j);
}
static float value(const void *data, m2_dtype t, int64_t at)
{
    return t == M2_BF16 ? __bfloat162float(((const __nv_bfloat16 *)data)[at]) : ((const float *)data)[at];
}

int64_t product_workspace(int64_t, int64_t, int64_t)
{
    return 256;
}

m2_status product(const m2_call *call, const Product &given, void *, int64_t)
{
    enqueue(call->stream, [p = given] {
        for (int64_t batch = 0; batch < (p.batch ? p.batch : 1); batch++)
            for (int64_t i = 0; i < p.c.rows; i++)
                for (int64_t j = 0; j < p.c.cols; j++) {
                    const int64_t at = element(p.c, batch, i, j);
                    double sum = p.bias ? value(p.bias, p.c.dtype, batch * p.bias_step + j) : 0;
                    if (p.start.data) sum += value(p.start.data, p.start.dtype, element(p.start, batch, i, j));
                    if (p.acc) sum += value(p.c.data, p.c.dtype, at);
                    for (int64_t k = 0; k < p.a.cols; k++)
                        sum += (double)value(p.a.data, p.a.dtype, element(p.a, batch, i, k)) *
                               (double)value(p.b.data, p.b.dtype, element(p.b, batch, k, j));
                    if (p.c.dtype == M2_BF16) ((__nv_bfloat16 *)p.c.data)[at] = __float2bfloat16_rn((float)sum);
                    else ((float *)p.c.data)[at] = (float)sum;
                }
    });
    return M2_OK;
}

m2_status products_open(m2_device *) { return M2_OK; }
m2_status products_tune(m2_device *, const char *) { return M2_OK; }
void products_close(m2_device *) {}

} // namespace m2cu

extern "C" m2_status m2i_rival_cufft(m2_device *, const m2_desc *, m2_rival **)
{
    return m2_fail(M2_USAGE, "there is no cuFFT in emulated CUDA");
}
