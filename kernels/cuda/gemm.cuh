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

/* c = a b [+ bias], or c = a b + start, or c += a b. bias: one element of c's dtype per column of c, `bias_step` apart
 * between batches; only where c is stored by rows. start: a matrix of c's sizes, dtype and order, in a batch the same for
 * all if its step is 0. */
struct Product {
    Matrix c, a, b;
    const void *bias;
    int64_t bias_step;
    Matrix start; /* data NULL: none */
    bool acc;
    int batch; /* 0 means 1 */
};

/* Scratch the product of these sizes should be given. */
int64_t product_workspace(int64_t m, int64_t n, int64_t k);

m2_status product(const m2_call *call, const Product &p, void *workspace, int64_t workspace_bytes);

m2_status products_open(m2_device *dev); /* fills dev->state */
/* From now on large products' candidates are measured when met first, choices kept in this folder (choices.cuh). */
m2_status products_tune(m2_device *dev, const char *folder);
void products_close(m2_device *dev);

} // namespace m2cu
