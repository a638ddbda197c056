/* blockdiag.cu - block-diagonal linear layer: a strided batch of cuBLASLt products on the token matrix, nothing copied.
 *
 * As in kernels/ops/blockdiag.c: block k has p_k = clamp(m - k p, 0, p) inputs and q_k = clamp(n - k q, 0, q) outputs; full
 * blocks go as one batch, ragged ones one by one, entries of W beyond them are unused and get a zero gradient. */
#include "gemm.cuh"

namespace m2cu
{
namespace
{

enum What { PRODUCT_Y, PRODUCT_DX, PRODUCT_DW };

struct Blocks {
    int64_t rows, m, n, nb, q, p;
};

int64_t clamp(int64_t x, int64_t hi)
{
    return x < 0 ? 0 : x > hi ? hi : x;
}

Matrix part(const m2_tensor &t, int64_t rows, int64_t cols, int64_t ld, int64_t offset, int64_t step)
{
    char *data = (char *)t.data + offset * m2_dtype_size(t.dtype);
    return Matrix{data, t.dtype, rows, cols, ld, false, step};
}

/* `count` blocks from block k on. x, w, y are whole tensors or their gradients. */
Product blocks_product(const Blocks &s, What what, int64_t k, int64_t count, const m2_tensor &x,
                       const m2_tensor &w, const m2_tensor &y)
{
    int64_t pk = clamp(s.m - k * s.p, s.p), qk = clamp(s.n - k * s.q, s.q);
    Matrix mx = part(x, s.rows, pk, s.m, k * s.p, s.p), my = part(y, s.rows, qk, s.n, k * s.q, s.q);
    Matrix mw = part(w, qk, pk, s.p, k * s.q * s.p, s.q * s.p);
    Product g = {};
    g.batch = (int)count;
    if (what == PRODUCT_Y) g.c = my, g.a = mx, g.b = transposed(mw);
    if (what == PRODUCT_DX) g.c = mx, g.a = my, g.b = mw;
    if (what == PRODUCT_DW) g.c = mw, g.a = transposed(my), g.b = mx;
    return g;
}

Blocks blocks_of(const m2_tensor &x, const m2_tensor &w, const m2_tensor &y)
{
    return Blocks{rows_of(x), last_of(x), last_of(y), w.shape[0], w.shape[1], w.shape[2]};
}

m2_status multiply(const m2_call *c, What what, const m2_tensor &x, const m2_tensor &w, const m2_tensor &y,
                   const m2_tensor *bias, bool acc)
{
    Blocks s = blocks_of(x, w, y);
    int64_t bytes = product_workspace(s.rows, s.q, s.p);
    M2_TRY(check_workspace(c, bytes));
    int64_t full = s.m / s.p < s.n / s.q ? s.m / s.p : s.n / s.q;
    for (int64_t k = 0; k < s.nb; k += k < full ? full : 1) {
        Product g = blocks_product(s, what, k, k < full ? full : 1, x, w, y);
        g.acc = acc;
        if (bias && bias->data) {
            g.bias = (char *)bias->data + k * s.q * m2_dtype_size(bias->dtype);
            g.bias_step = s.q;
        }
        M2_TRY(product(c, g, c->workspace, bytes));
    }
    return M2_OK;
}

m2_status backward(const m2_call *c)
{
    M2_TRY(check(c));
    const m2_tensor &x = c->in[0], &w = c->in[1], &dy = c->in[2], &dx = c->out[0], &dw = c->out[1],
                    &db = c->out[2];
    Blocks s = blocks_of(x, w, dy);
    if (!m2_absent(&dx)) M2_TRY(multiply(c, PRODUCT_DX, dx, w, dy, nullptr, c->acc & 1));
    if (!m2_absent(&dw)) {
        bool ragged = s.m < s.nb * s.p || s.n < s.nb * s.q;
        if (ragged && !(c->acc & 2)) cudaMemsetAsync(dw.data, 0, (size_t)m2_tensor_bytes(&dw), stream_of(c));
        M2_TRY(multiply(c, PRODUCT_DW, x, dw, dy, nullptr, c->acc & 2));
    }
    if (!m2_absent(&db)) {
        M2_TRY(check_workspace(c, column_partials(s.rows, s.n) * (int64_t)sizeof(float)));
        column_sums(dy, s.rows, s.n, (float *)c->workspace, (float *)db.data, c->acc & 4, stream_of(c));
    }
    return launched(c);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_blockdiag(const m2_call *c)
{
    M2_TRY(m2cu::check(c));
    return m2cu::multiply(c, m2cu::PRODUCT_Y, c->in[0], c->in[1], c->out[0], &c->in[2], false);
}

extern "C" m2_status m2i_cuda_blockdiag_grad(const m2_call *c)
{
    return m2cu::backward(c);
}

extern "C" int64_t m2i_cuda_blockdiag_workspace(const m2_attrs *, const m2_desc *in, const m2_desc *)
{
    return m2cu::product_workspace(m2cu::rows_of(in[0]), in[1].shape[1], in[1].shape[2]);
}

extern "C" int64_t m2i_cuda_blockdiag_grad_workspace(const m2_attrs *attrs, const m2_desc *in,
                                                     const m2_desc *out)
{
    int64_t products = m2i_cuda_blockdiag_workspace(attrs, in, out);
    int64_t sums = m2cu::column_partials(m2cu::rows_of(in[2]), m2cu::last_of(in[2])) * (int64_t)sizeof(float);
    return products > sums ? products : sums;
}
