/* linear.cu - y = x W^T + b and its gradient through cuBLASLt (gemm.cuh); the mathematics is kernels/ops/linear.c's.
 *
 * Storage order of the token matrices becomes transposition flags; the bias is cuBLASLt's epilogue. Where it has none for
 * the layout, y starts as the bias in every row and the product adds to it (one more write and read of y).
 * dW and db are f32 whatever the operands: dW is summed in f32 and added to with beta = 1; db by sums.cu. */
#include "gemm.cuh"

namespace m2cu
{
namespace
{

Matrix tokens(const m2_tensor &t, bool channel_major)
{
    int64_t width = t.shape[channel_major ? 0 : t.rank - 1], count = width ? m2_tensor_count(&t) / width : 0;
    return matrix(t, count, width, channel_major);
}

/* y (rows, n), by columns: y[., j] = b[j]. A thread fills 8 elements of one column. */
__global__ void __launch_bounds__(256) fill_columns(Ref y, Ref b, int64_t rows, int64_t n)
{
    int64_t at = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8;
    if (at >= rows || blockIdx.y >= n) return;
    float x[8], v = load_one(b, blockIdx.y);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = v;
    store(y, blockIdx.y * rows + at, (int)min(rows - at, (int64_t)8), x);
}

m2_status forward(const m2_call *c)
{
    M2_TRY(check(c));
    const m2_tensor &w = c->in[1];
    Matrix x = tokens(c->in[0], c->attrs.i[M2_LINEAR_X_CM] != 0),
           y = tokens(c->out[0], c->attrs.i[M2_LINEAR_Y_CM] != 0);
    Product p = {};
    p.c = y, p.a = x, p.b = transposed(matrix(w, w.shape[0], w.shape[1]));
    p.bias = c->in[2].data;
    int64_t bytes = product_workspace(x.rows, w.shape[0], w.shape[1]);
    M2_TRY(check_workspace(c, bytes));
    if (p.bias && y.by_columns && !product_possible(c, p, bytes)) {
        m2_log_once(M2_LOG_DEBUG,
                    "linear: cuBLASLt has no bias epilogue for channel-major results, y starts as the bias");
        dim3 grid((unsigned)ceil_div(y.rows, 2048), (unsigned)y.cols);
        if (y.rows && y.cols)
            fill_columns<<<grid, 256, 0, stream_of(c)>>>(ref(c->out[0], y.rows), ref(c->in[2]), y.rows,
                                                         y.cols);
        p.bias = nullptr;
        p.acc = true;
    }
    M2_TRY(product(c, p, c->workspace, bytes));
    return launched(c);
}

m2_status backward(const m2_call *c)
{
    M2_TRY(check(c));
    bool x_cm = c->attrs.i[M2_LINEAR_X_CM] != 0, y_cm = c->attrs.i[M2_LINEAR_Y_CM] != 0;
    Matrix x = tokens(c->in[0], x_cm), dy = tokens(c->in[2], y_cm);
    const m2_tensor &w = c->in[1], &dx = c->out[0], &dw = c->out[1], &db = c->out[2];
    Matrix wm = matrix(w, w.shape[0], w.shape[1]);
    int64_t bytes = product_workspace(x.rows, w.shape[0], w.shape[1]);
    M2_TRY(check_workspace(c, bytes));
    Product p = {};
    if (!m2_absent(&dx)) {
        p.c = tokens(dx, x_cm), p.a = dy, p.b = wm;
        p.acc = c->acc & 1;
        M2_TRY(product(c, p, c->workspace, bytes));
    }
    if (!m2_absent(&dw)) {
        p.c = matrix(dw, w.shape[0], w.shape[1]), p.a = transposed(dy), p.b = x;
        p.acc = c->acc & 2;
        M2_TRY(product(c, p, c->workspace, bytes));
    }
    if (!m2_absent(&db) && y_cm)
        row_sums(c->in[2], dy.cols, dy.rows, (float *)db.data, c->acc & 4, stream_of(c));
    if (!m2_absent(&db) && !y_cm) {
        M2_TRY(check_workspace(c, column_partials(dy.rows, dy.cols) * (int64_t)sizeof(float)));
        column_sums(c->in[2], dy.rows, dy.cols, (float *)c->workspace, (float *)db.data, c->acc & 4,
                    stream_of(c));
    }
    return launched(c);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_linear(const m2_call *c)
{
    return m2cu::forward(c);
}

extern "C" m2_status m2i_cuda_linear_grad(const m2_call *c)
{
    return m2cu::backward(c);
}

extern "C" int64_t m2i_cuda_linear_workspace(const m2_attrs *, const m2_desc *in, const m2_desc *)
{
    int64_t n = in[1].shape[0], m = in[1].shape[1];
    return m2cu::product_workspace(m ? m2_desc_count(&in[0]) / m : 0, n, m);
}

extern "C" int64_t m2i_cuda_linear_grad_workspace(const m2_attrs *attrs, const m2_desc *in,
                                                  const m2_desc *out)
{
    int64_t products = m2i_cuda_linear_workspace(attrs, in, out), n = in[1].shape[0];
    int64_t sums = n ? m2cu::column_partials(m2_desc_count(&in[2]) / n, n) * (int64_t)sizeof(float) : 0;
    return products > sums ? products : sums;
}
