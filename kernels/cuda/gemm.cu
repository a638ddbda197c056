/* gemm.cu - matrix products through cuBLASLt: bf16 in with f32 sums, tf32, or true f32.
 *
 * cuBLASLt thinks in columns: a matrix stored by rows is its transpose stored by columns. A result stored by rows is
 * computed as (AB)^T = B^T A^T; what is left are transposition flags, so nothing is ever transposed in memory.
 *
 * cuBLASLt's first choice by its heuristics is looked up once per shape and kept in a table of plans; making a plan touches
 * no GPU memory, so it may even happen during graph capture. It is the fastest for most shapes, but takes up to 1.8 times as
 * long for some: where the device has a file of choices (choices.cuh), a large product's candidates are measured when it is
 * met first. cuBLASLt's kernels are deterministic on one stream. */
#include "choices.cuh"
#include "gemm.cuh"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>

namespace m2cu
{
namespace
{

/* Everything a plan depends on; compared as bytes. m, n, k and the layouts are cuBLASLt's. */
struct Key {
    int64_t m, n, k, lda, ldb, ldc, ldd, step_a, step_b, step_c, step_d, bias_step, workspace;
    int type_ab, type_d, compute, trans_a, trans_b, bias, batch, align_a, align_b, align_c, align_d, pad;
};

struct Plan {
    Key key;
    bool possible, settled; /* has a kernel; its choice is final */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c, d;
    cublasLtMatmulAlgo_t algo;
};

struct Plans {
    cublasLtHandle_t handle;
    Plan *plan;
    int count, room;
    Choices *choices; /* NULL: the first choice is good enough */
};

struct Job {
    Key key;
    const void *a, *b, *c;
    void *d;
};

int alignment(const void *p, int64_t step, int64_t size)
{
    uintptr_t bits = (uintptr_t)p | (uintptr_t)(step * size) | 256;
    return (int)(bits & (~bits + 1));
}

cudaDataType_t type_of(m2_dtype t)
{
    return t == M2_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* The product in cuBLASLt's terms. */
Job describe(const m2_call *call, const Product &p, int64_t workspace_bytes)
{
    Matrix a = p.a, b = p.b, c = p.c;
    Matrix start = p.start.data ? p.start : p.c;
    if (!c.by_columns) {
        Matrix t = transposed(a);
        a = transposed(b), b = t, c = transposed(c), start = transposed(start);
    }
    Job j;
    memset(&j, 0, sizeof j); /* keys are compared with their padding */
    Key &k = j.key;
    k.m = c.rows, k.n = c.cols, k.k = a.cols;
    k.lda = a.ld, k.ldb = b.ld, k.ldc = start.ld, k.ldd = c.ld;
    k.step_a = a.step, k.step_b = b.step, k.step_c = start.step, k.step_d = c.step;
    k.trans_a = !a.by_columns, k.trans_b = !b.by_columns;
    k.batch = p.batch ? p.batch : 1;
    k.type_ab = type_of(a.dtype), k.type_d = type_of(c.dtype);
    k.compute = a.dtype == M2_F32 && call->device->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    k.bias = p.bias != nullptr;
    k.bias_step = p.bias ? p.bias_step : 0;
    k.workspace = workspace_bytes;
    int64_t size = m2_dtype_size(a.dtype), size_d = m2_dtype_size(c.dtype);
    k.align_a = alignment(a.data, a.step, size), k.align_b = alignment(b.data, b.step, size);
    k.align_c = alignment(start.data, start.step, size_d), k.align_d = alignment(c.data, c.step, size_d);
    j.a = a.data, j.b = b.data, j.c = start.data, j.d = c.data;
    return j;
}

cublasLtMatrixLayout_t layout(int type, int64_t rows, int64_t cols, int64_t ld, int64_t step, int batch)
{
    cublasLtMatrixLayout_t l = nullptr;
    cublasLtMatrixLayoutCreate(&l, (cudaDataType_t)type, (uint64_t)rows, (uint64_t)cols, ld);
    if (batch > 1) {
        cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch);
        cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step);
    }
    return l;
}

void set(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what, const void *value, size_t size)
{
    cublasLtMatmulDescSetAttribute(d, what, value, size);
}

void describe_desc(const Key &k, cublasLtMatmulDesc_t *out)
{
    cublasLtMatmulDescCreate(out, (cublasComputeType_t)k.compute, CUDA_R_32F);
    cublasOperation_t ta = k.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, tb = k.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    set(*out, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta);
    set(*out, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb);
    if (!k.bias) return;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cudaDataType_t type = (cudaDataType_t)k.type_d;
    set(*out, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    set(*out, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type);
    if (k.batch > 1) set(*out, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, &k.bias_step, sizeof k.bias_step);
}

/* The best kernels by cuBLASLt's heuristics, best first; returns how many, at most `most`. */
int candidates(Plans *plans, const Plan *p, cublasLtMatmulHeuristicResult_t *out, int most)
{
    const Key &k = p->key;
    cublasLtMatmulPreference_t pref = nullptr;
    cublasLtMatmulPreferenceCreate(&pref);
    auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const void *value, size_t size) {
        cublasLtMatmulPreferenceSetAttribute(pref, what, value, size);
    };
    uint64_t bytes = (uint64_t)k.workspace;
    uint32_t align[4] = {(uint32_t)k.align_a, (uint32_t)k.align_b, (uint32_t)k.align_c, (uint32_t)k.align_d};
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align[0], sizeof align[0]);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align[1], sizeof align[1]);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align[2], sizeof align[2]);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align[3], sizeof align[3]);
    int found = 0;
    cublasStatus_t st = cublasLtMatmulAlgoGetHeuristic(plans->handle, p->desc, p->a, p->b, p->c, p->d, pref,
                                                       most, out, &found);
    cublasLtMatmulPreferenceDestroy(pref);
    return st == CUBLAS_STATUS_SUCCESS ? found : 0;
}

bool choose(Plans *plans, Plan *p)
{
    cublasLtMatmulHeuristicResult_t best;
    if (!candidates(plans, p, &best, 1) || best.state != CUBLAS_STATUS_SUCCESS) return false;
    p->algo = best.algo;
    return true;
}

void make_plan(Plans *plans, const Key &k, Plan *p)
{
    p->key = k;
    p->settled = false;
    describe_desc(k, &p->desc);
    p->a = layout(k.type_ab, k.trans_a ? k.k : k.m, k.trans_a ? k.m : k.k, k.lda, k.step_a, k.batch);
    p->b = layout(k.type_ab, k.trans_b ? k.n : k.k, k.trans_b ? k.k : k.n, k.ldb, k.step_b, k.batch);
    p->c = layout(k.type_d, k.m, k.n, k.ldc, k.step_c, k.batch);
    p->d = layout(k.type_d, k.m, k.n, k.ldd, k.step_d, k.batch);
    p->possible = choose(plans, p);
}

void free_plan(Plan *p)
{
    cublasLtMatmulDescDestroy(p->desc);
    cublasLtMatrixLayoutDestroy(p->a);
    cublasLtMatrixLayoutDestroy(p->b);
    cublasLtMatrixLayoutDestroy(p->c);
    cublasLtMatrixLayoutDestroy(p->d);
}

/* The plan of a key, made at the first question; NULL when out of memory. */
Plan *find_plan(const m2_call *call, const Key &key)
{
    Plans *plans = (Plans *)call->device->state;
    for (int i = 0; i < plans->count; i++)
        if (!memcmp(&plans->plan[i].key, &key, sizeof key)) return &plans->plan[i];
    if (plans->count == plans->room) {
        int room = plans->room ? 2 * plans->room : 64;
        Plan *more = (Plan *)realloc(plans->plan, (size_t)room * sizeof *more);
        if (!more) return nullptr;
        plans->plan = more;
        plans->room = room;
    }
    make_plan(plans, key, &plans->plan[plans->count]);
    return &plans->plan[plans->count++];
}

/* ---- measured choices ---------------------------------------------------------------------------------------------- */
constexpr int MOST_CANDIDATES = 16, ROUNDS = 4;
constexpr double WORTH_MEASURING = 1e10; /* floating-point operations: about 15 us on a large GPU */

struct Launch { /* one product, ready to be run with any algorithm */
    const m2_call *call;
    const Plan *plan;
    const Job *job;
    float beta;
    void *workspace;
    int64_t workspace_bytes;

    cublasStatus_t operator()(const cublasLtMatmulAlgo_t &algo) const
    {
        float alpha = 1;
        return cublasLtMatmul(((Plans *)call->device->state)->handle, plan->desc, &alpha, job->a, plan->a, job->b,
                              plan->b, &beta, job->c, plan->c, job->d, plan->d, &algo, workspace,
                              (size_t)workspace_bytes, stream_of(call));
    }
};

double operations(const Key &k)
{
    return 2.0 * (double)k.m * (double)k.n * (double)k.k * k.batch;
}

/* ms[i]: the best time of candidate i in ROUNDS turns; beyond any where it fails. */
void measure(const Launch &run, const cublasLtMatmulHeuristicResult_t *candidate, int count, float *ms)
{
    cudaEvent_t from, to;
    cudaEventCreate(&from), cudaEventCreate(&to);
    for (int i = 0; i < count; i++) ms[i] = 1e30f;
    for (int round = 0; round <= ROUNDS; round++) /* the first turn only warms up */
        for (int i = 0; i < count; i++) {
            float t = 1e30f;
            cudaEventRecord(from, stream_of(run.call));
            cublasStatus_t st = run(candidate[i].algo);
            cudaEventRecord(to, stream_of(run.call));
            cudaEventSynchronize(to);
            cudaEventElapsedTime(&t, from, to);
            if (round && st == CUBLAS_STATUS_SUCCESS && t < ms[i]) ms[i] = t;
        }
    cudaEventDestroy(from), cudaEventDestroy(to);
}

/* Measures the candidates and keeps the fastest; the first unless another gains 2%. What the product adds to is saved and
 * put back; without memory for that, nothing is measured. */
m2_status measure_and_add(Plans *plans, Plan *p, const Launch &run)
{
    const Key &k = p->key;
    cublasLtMatmulHeuristicResult_t candidate[MOST_CANDIDATES];
    float ms[MOST_CANDIDATES];
    int count = candidates(plans, p, candidate, MOST_CANDIDATES), best = 0;
    if (count < 2) return M2_OK;
    size_t size = (size_t)(k.type_d == CUDA_R_16BF ? 2 : 4),
           bytes = ((size_t)(k.batch - 1) * (size_t)k.step_d + (size_t)(k.n - 1) * (size_t)k.ldd + (size_t)k.m) * size;
    void *saved = nullptr;
    bool adds = run.beta != 0 && run.job->c == run.job->d;
    if (adds && cudaMalloc(&saved, bytes) != cudaSuccess) {
        cudaGetLastError();
        return M2_OK;
    }
    if (adds) cudaMemcpyAsync(saved, run.job->d, bytes, cudaMemcpyDeviceToDevice, stream_of(run.call));
    measure(run, candidate, count, ms);
    if (adds) cudaMemcpyAsync(run.job->d, saved, bytes, cudaMemcpyDeviceToDevice, stream_of(run.call));
    if (adds) cudaStreamSynchronize(stream_of(run.call)), cudaFree(saved);
    for (int i = 1; i < count; i++)
        if (ms[i] < ms[best]) best = i;
    float fastest = ms[best];
    if (ms[0] <= 1.02f * fastest) best = 0;
    char remark[256];
    snprintf(remark, sizeof remark,
             "%s: m %lld, n %lld, k %lld, batch %d: %.3f ms, %.0f TFLOP/s, %.3f of the fastest of %d; the first takes %.3f ms",
             run.call->op->name, (long long)k.m, (long long)k.n, (long long)k.k, k.batch, ms[best],
             operations(k) / ms[best] / 1e9, fastest / ms[best], count, ms[0]);
    p->algo = candidate[best].algo;
    return choices_add(plans->choices, &k, sizeof k, p->algo, remark);
}

bool settle_as_known(Plans *plans, Plan *p)
{
    p->settled = choices_find(plans->choices, &p->key, sizeof p->key, &p->algo);
    return p->settled;
}

/* Ranks wait for the one that measures, so it must wait for none of them: a collective that its GPU was given before may need
 * a rank that waits for the file. All such work is done before the file is taken. */
m2_status settle(Plans *plans, Plan *p, const Launch &run)
{
    cudaStreamCaptureStatus capturing;
    if (!plans->choices || operations(p->key) < WORTH_MEASURING) {
        p->settled = true;
        return M2_OK;
    }
    if (settle_as_known(plans, p)) return M2_OK;
    M2_TRY(choices_read(plans->choices));
    if (settle_as_known(plans, p)) return M2_OK;
    if (cudaStreamIsCapturing(stream_of(run.call), &capturing) != cudaSuccess || capturing) return M2_OK;
    cudaError_t e = cudaDeviceSynchronize();
    if (e != cudaSuccess) return m2_fail(M2_BUG, "%s: CUDA: %s", run.call->op->name, cudaGetErrorString(e));
    M2_TRY(choices_lock(plans->choices));
    m2_status st = choices_read(plans->choices);
    if (st == M2_OK && !settle_as_known(plans, p)) st = measure_and_add(plans, p, run);
    choices_unlock(plans->choices);
    p->settled = true;
    return st;
}

/* A sum over nothing: c = bias, or 0. Only where a block has no inputs or a batch no tokens. */
__global__ void __launch_bounds__(256) empty_product(Ref c, Ref bias, Matrix m, int64_t bias_step)
{
    int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (at >= m.rows * m.cols) return;
    int64_t i = at / m.cols, j = at % m.cols;
    store_one(c, blockIdx.y * m.step + (m.by_columns ? j * m.ld + i : i * m.ld + j),
              bias.data ? load_one(bias, blockIdx.y * bias_step + j) : 0.0f);
}

m2_status nothing_to_sum(const m2_call *call, const Product &p)
{
    Ref c = {(char *)p.c.data, p.c.dtype == M2_BF16, 0, 0},
        bias = {(char *)p.bias, p.c.dtype == M2_BF16, 0, 0};
    dim3 grid((unsigned)ceil_div(p.c.rows * p.c.cols, 256), p.batch ? p.batch : 1);
    if (!p.acc) empty_product<<<grid, 256, 0, stream_of(call)>>>(c, bias, p.c, p.bias_step);
    return launched(call);
}

} // namespace

int64_t product_workspace(int64_t m, int64_t n, int64_t k)
{
    double work = (double)m * (double)n * (double)k;
    return work > 1e9 ? 32 << 20 : 1 << 20; /* what cuBLAS recommends for Hopper; small products split less */
}

m2_status product(const m2_call *call, const Product &p, void *workspace, int64_t workspace_bytes)
{
    Job j = describe(call, p, workspace_bytes);
    if (j.key.m <= 0 || j.key.n <= 0) return M2_OK;
    if (p.a.dtype != p.b.dtype)
        return m2_fail(M2_USAGE, "%s on CUDA multiplies matrices of one dtype, got %s and %s", call->op->name,
                       m2_dtype_name(p.a.dtype), m2_dtype_name(p.b.dtype));
    if (j.key.k <= 0) return nothing_to_sum(call, p);
    Plan *plan = find_plan(call, j.key);
    if (!plan || !plan->possible)
        return m2_fail(M2_BUG,
                       "%s: cuBLASLt has no kernel for the product of (%lld, %lld) and (%lld, %lld) in %s",
                       call->op->name, (long long)p.a.rows, (long long)p.a.cols, (long long)p.b.rows,
                       (long long)p.b.cols, m2_dtype_name(p.a.dtype));
    if (p.bias) set(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof p.bias);
    Launch run = {call, plan, &j, p.acc || p.start.data ? 1.0f : 0.0f, workspace, workspace_bytes};
    if (!plan->settled) M2_TRY(settle((Plans *)call->device->state, plan, run));
    cublasStatus_t st = run(plan->algo);
    if (st == CUBLAS_STATUS_SUCCESS) return M2_OK;
    return m2_fail(M2_BUG, "%s: cuBLASLt failed to multiply (%lld, %lld) by (%lld, %lld): %s", call->op->name,
                   (long long)p.a.rows, (long long)p.a.cols, (long long)p.b.rows, (long long)p.b.cols,
                   cublasLtGetStatusString(st));
}

m2_status products_open(m2_device *dev)
{
    Plans *plans = (Plans *)calloc(1, sizeof *plans);
    if (!plans) return m2_fail(M2_TRANSIENT, "out of memory for a device");
    dev->state = plans;
    cublasStatus_t st = cublasLtCreate(&plans->handle);
    if (st == CUBLAS_STATUS_SUCCESS) return M2_OK;
    plans->handle = nullptr;
    products_close(dev);
    return m2_fail(M2_USAGE, "cuBLASLt cannot use this GPU: %s", cublasLtGetStatusString(st));
}

m2_status products_tune(m2_device *dev, const char *folder)
{
    Plans *plans = (Plans *)dev->state;
    choices_close(plans->choices);
    return choices_open(folder, dev->name, &plans->choices);
}

void products_close(m2_device *dev)
{
    Plans *plans = (Plans *)dev->state;
    if (!plans) return;
    for (int i = 0; i < plans->count; i++) free_plan(&plans->plan[i]);
    if (plans->handle) cublasLtDestroy(plans->handle);
    choices_close(plans->choices);
    free(plans->plan);
    free(plans);
    dev->state = nullptr;
}

} // namespace m2cu
