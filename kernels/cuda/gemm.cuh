/* gemm.cuh - matrix products through cuBLASLt, planned once per shape. */
#pragma once
#include "common.cuh"

namespace m2cu
{

/* A matrix (rows, cols); by rows: element (i, j) at data[i * ld + j], by columns: data[j * ld + i]. In a batch, matrix b
 * starts b * step elements further. */
struct Matrix {
    void *data;
    m2_dtype dtype;
    int64_t rows, cols, ld;
    bool by_columns;
    int64_t step;
};

inline Matrix matrix(const m2_tensor &t, int64_t rows, int64_t cols, bool by_columns = false)
{
    return Matrix{t.data, t.dtype, rows, cols, by_columns ? rows : cols, by_columns, 0};
}
inline Matrix transposed(Matrix a)
{
    int64_t rows = a.rows;
    a.rows = a.cols, a.cols = rows, a.by_columns = !a.by_columns;
    return a;
}

/* c = a b [+ bias], or c += a b. bias: one element of c's dtype per column of c; `bias_step` between batches.
 * column_sums of b^T: sums[j] = sum over k of b[k][j], f32, for products that accumulate over k anyway (NULL: none). */
struct Product {
    Matrix c, a, b;
    const void *bias;
    int64_t bias_step;
    float *sums;
    bool acc;
    int batch; /* 0 means 1 */
};

/* Scratch the product of these sizes should be given. */
int64_t product_workspace(int64_t m, int64_t n, int64_t k);

/* Whether cuBLASLt has a kernel for it as it stands (epilogues are not available in every layout); plans it if so. */
bool product_possible(const m2_call *call, const Product &p, int64_t workspace_bytes);
m2_status product(const m2_call *call, const Product &p, void *workspace, int64_t workspace_bytes);

m2_status products_open(m2_device *dev); /* fills dev->state */
void products_close(m2_device *dev);

} // namespace m2cu
