/* linear.cu - y = x W^T + b and its gradient through cuBLASLt (gemm.cuh); the mathematics is kernels/ops/linear.c's.
 *
 * Storage order of the token matrices becomes transposition flags. The bias is cuBLASLt's epilogue where y is stored by
 * tokens; a channel-major y gets it as the start of the sum: a few rows of biases, small enough for the L2 cache, serve all
 * rows as a batch with step 0. dW and db are f32 whatever the operands: dW is summed in f32 and added to with beta = 1; a small
 * one is the sum of products of a share of the tokens each, since its tiles are few and cuBLASLt gives each to one SM, and so is
 * a small dx in f32, of shares of W's rows (the last layer of a filter's network: its x are weights); db by sums.cu. */
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

/* m by `r` rows, as the first of a batch. */
Matrix sliced(Matrix m, int64_t r)
{
    m.rows = r, m.step = m.by_columns ? r : r * m.ld;
    return m;
}

/* y (rows, n), by columns: y[., j] = b[j]. A thread fills 8 elements of one column. */
__global__ void __launch_bounds__(128) fill_columns(Ref y, Ref b, int64_t rows)
{
    int64_t at = ((int64_t)blockIdx.x * 128 + threadIdx.x) * 8;
    if (at >= rows) return;
    float x[8], v = load_one(b, blockIdx.y);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = v;
    store(y, blockIdx.y * rows + at, (int)min(rows - at, (int64_t)8), x);
}

/* Rows that share one matrix of biases: a divisor of all rows, a multiple of 8, at most 512 (measured on an H200: 734
 * TFLOP/s, with 1024 rows 679, with 2048 643); or 0. */
int64_t shared_rows(int64_t rows)
{
    for (int64_t r = 512; r >= 128; r -= 8)
        if (rows % r == 0) return r;
    return 0;
}

/* y starts as the bias and the product adds to it. */
m2_status forward_by_columns(const m2_call *c, Product p, int64_t bytes)
{
    Matrix y = p.c;
    int64_t r = shared_rows(y.rows);
    m2_tensor start = c->out[0];
    if (r) start.data = (char *)c->workspace + bytes;
    int64_t filled = r ? r : y.rows;
    if (!y.rows || !y.cols) return M2_OK;
    dim3 grid((unsigned)ceil_div(filled, 1024), (unsigned)y.cols);
    fill_columns<<<grid, 128, 0, stream_of(c)>>>(ref(start, filled), ref(c->in[2]), filled);
    p.bias = nullptr;
    p.acc = !r;
    if (r) {
        p.batch = (int)(y.rows / r);
        p.c = sliced(p.c, r), p.a = sliced(p.a, r);
        p.start = Matrix{start.data, y.dtype, r, y.cols, r, true, 0};
    }
    return product(c, p, c->workspace, bytes);
}

int64_t start_bytes(int64_t rows, int64_t n, m2_dtype t)
{
    return shared_rows(rows) * n * m2_dtype_size(t);
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
    bool from_start = p.bias && y.by_columns;
    M2_TRY(check_workspace(c, bytes + (from_start ? start_bytes(y.rows, y.cols, y.dtype) : 0)));
    M2_TRY(from_start ? forward_by_columns(c, p, bytes) : product(c, p, c->workspace, bytes));
    return launched(c);
}

/* Shares of the rows whose products of n x m are summed: a divisor of all rows. H200, 32768 rows, n = m = 64, f32: dx, dW and
 * db in 115 us with one, 50 with 128; the last layer's of 192 filters, where dx has shares, in 73 us and 35. */
int64_t shares(int64_t rows, int64_t n, int64_t m)
{
    if (n * m > 32768) return 1;
    for (int64_t s = rows / 128 < 128 ? rows / 128 : 128; s > 1; s--)
        if (rows % s == 0 && rows / s % 8 == 0) return s;
    return 1;
}
int64_t share_bytes(int64_t rows, int64_t n, int64_t m)
{
    int64_t s = shares(rows, n, m);
    return s > 1 ? s * n * m * (int64_t)sizeof(float) : 0;
}
int64_t all_share_bytes(int64_t rows, int64_t n, int64_t m) /* of dx's, then of dW's: one place */
{
    int64_t dw = share_bytes(rows, n, m), dx = share_bytes(n, rows, m);
    return dw > dx ? dw : dx;
}

/* to = or += a^T b, f32, over their rows. */
m2_status sum_over_rows(const m2_call *c, Matrix a, Matrix b, Matrix to, bool acc, int64_t bytes)
{
    const int64_t s = shares(b.rows, to.rows, to.cols), r = b.rows / s, size = to.rows * to.cols;
    Product p = {};
    p.c = to, p.a = transposed(a), p.b = b;
    p.acc = acc;
    if (s == 1) return product(c, p, c->workspace, bytes);
    float *parts = (float *)((char *)c->workspace + bytes);
    p.c.data = parts, p.c.step = size;
    p.a = transposed(sliced(a, r)), p.b = sliced(b, r);
    p.acc = false, p.batch = (int)s;
    M2_TRY(product(c, p, c->workspace, bytes));
    fold(parts, s, size, size, (float *)to.data, acc, nullptr, false, stream_of(c));
    return M2_OK;
}

m2_status input_grad(const m2_call *c, Matrix dy, Matrix w, Matrix dx, int64_t bytes)
{
    if (dx.dtype == M2_F32 && !dx.by_columns) return sum_over_rows(c, transposed(dy), w, dx, c->acc & 1, bytes);
    Product p = {};
    p.c = dx, p.a = dy, p.b = w;
    p.acc = c->acc & 1;
    return product(c, p, c->workspace, bytes);
}

m2_status backward(const m2_call *c)
{
    M2_TRY(check(c));
    bool x_cm = c->attrs.i[M2_LINEAR_X_CM] != 0, y_cm = c->attrs.i[M2_LINEAR_Y_CM] != 0;
    Matrix x = tokens(c->in[0], x_cm), dy = tokens(c->in[2], y_cm);
    const m2_tensor &w = c->in[1], &dx = c->out[0], &dw = c->out[1], &db = c->out[2];
    Matrix wm = matrix(w, w.shape[0], w.shape[1]);
    int64_t bytes = product_workspace(x.rows, w.shape[0], w.shape[1]);
    M2_TRY(check_workspace(c, bytes + all_share_bytes(x.rows, w.shape[0], w.shape[1])));
    if (!m2_absent(&dx)) M2_TRY(input_grad(c, dy, wm, tokens(dx, x_cm), bytes));
    if (!m2_absent(&dw))
        M2_TRY(sum_over_rows(c, dy, x, matrix(dw, w.shape[0], w.shape[1]), c->acc & 2, bytes));
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

extern "C" int64_t m2i_cuda_linear_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *)
{
    int64_t n = in[1].shape[0], m = in[1].shape[1], rows = m ? m2_desc_count(&in[0]) / m : 0;
    bool from_start = attrs->i[M2_LINEAR_Y_CM] && in[2].rank >= 0;
    return m2cu::product_workspace(rows, n, m) + (from_start ? m2cu::start_bytes(rows, n, in[0].dtype) : 0);
}

extern "C" int64_t m2i_cuda_linear_grad_workspace(const m2_attrs *, const m2_desc *in, const m2_desc *)
{
    int64_t n = in[1].shape[0], m = in[1].shape[1], rows = m ? m2_desc_count(&in[0]) / m : 0;
    int64_t products = m2cu::product_workspace(rows, n, m) + m2cu::all_share_bytes(rows, n, m);
    int64_t sums = n ? m2cu::column_partials(m2_desc_count(&in[2]) / n, n) * (int64_t)sizeof(float) : 0;
    return products > sums ? products : sums;
}
