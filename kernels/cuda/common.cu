/* common.cu - checks before and after launches. */
#include "common.cuh"

namespace m2cu
{

static m2_status check_tensor(const m2_call *c, const m2_tensor &t, const char *name, bool f64)
{
    if (m2_absent(&t)) return M2_OK;
    if (!(c->op->rows ? m2_tensor_rows(&t) : m2_tensor_dense(&t)))
        return m2_fail(M2_BUG, "%s on CUDA: %s is not dense", c->op->name, name);
    if (t.dtype == M2_F64 && !f64)
        return m2_fail(M2_USAGE,
                       "%s on CUDA: %s is f64, but the GPU computes in f32 and bf16; use the CPU for f64",
                       c->op->name, name);
    return M2_OK;
}

m2_status check(const m2_call *c, unsigned f64_slots)
{
    for (int i = 0; i < c->n_in; i++)
        M2_TRY(check_tensor(c, c->in[i], c->op->in_name[i], f64_slots >> i & 1));
    for (int j = 0; j < c->n_out; j++)
        M2_TRY(check_tensor(c, c->out[j], c->op->out_name[j], f64_slots >> (8 + j) & 1));
    return M2_OK;
}

m2_status launched(const m2_call *c)
{
    cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? M2_OK
                            : m2_fail(M2_BUG, "%s on CUDA failed: %s", c->op->name, cudaGetErrorString(e));
}

m2_status check_workspace(const m2_call *c, int64_t need)
{
    if (c->workspace_bytes >= need) return M2_OK;
    return m2_fail(M2_BUG, "%s on CUDA needs %lld bytes of workspace and got %lld", c->op->name,
                   (long long)need, (long long)c->workspace_bytes);
}

} // namespace m2cu
