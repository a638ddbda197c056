/* transpose.c - token-major to channel-major: y[c,b,t] = x[b,t,c], and back: dx[b,t,c] = dy[c,b,t].
 *
 * Where a tensor feeds the mixer without a projection that could write it channel-major by itself (SPEC 3.2: the residual
 * long convolution reads the mixer's own input). Bytes: everything read once and written once. */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status transpose_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    if (in[0].rank != 3) return m2i_bad_shape(&m2_op_transpose, in, "x (B, L, C)");
    out[0] = in[0];
    for (int d = 0; d < 3; d++) {
        out[0].shape[d] = in[0].shape[(d + 2) % 3];
        out[0].axis[d] = in[0].axis[(d + 2) % 3];
    }
    return M2_OK;
}

/* Items are tiles of SIDE channels of one row of the batch. */
enum { SIDE = 32 };

static int64_t tiles_of(int64_t channels)
{
    return (channels + SIDE - 1) / SIDE;
}

#define SELF "kernels/ops/transpose.c"
#include "kernels/ops/twice.h"

static m2_status transpose_run(const m2_call *c)
{
    const int64_t *n = c->in[0].shape;
    return m2i_each(c, M2I_PAIR(transpose_tiles), n[0] * tiles_of(n[2]), n[1] * SIDE);
}

static m2_status transpose_grad_run(const m2_call *c)
{
    const int64_t *n = c->in[0].shape; /* (C, B, L) */
    return m2i_each(c, M2I_PAIR(transpose_grad_tiles),
                    m2_absent(&c->out[0]) ? 0 : n[1] * tiles_of(n[0]), n[2] * SIDE);
}

#else
/* ---- both directions: to[j, i] (+)= from[i, j] --------------------------------------------------------- */
static void NAME(turn)(const REAL *from, int64_t from_stride, REAL *to, int64_t to_stride, int64_t rows,
                       int64_t columns, int acc)
{
    for (int64_t i0 = 0; i0 < rows; i0 += SIDE) {
        int64_t n = rows - i0 < SIDE ? rows - i0 : SIDE;
        for (int64_t j = 0; j < columns; j++)
            STORE_EACH(i, n, to + j * to_stride + i0, acc, from[(i0 + i) * from_stride + j]);
    }
}

static int64_t NAME(width)(int64_t tile, int64_t channels)
{
    return channels - tile * SIDE < SIDE ? channels - tile * SIDE : SIDE;
}

/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(transpose_tiles)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    int64_t B = c->in[0].shape[0], L = c->in[0].shape[1], C = c->in[0].shape[2];
    for (int64_t item = begin; item < end; item++) {
        int64_t b = item / tiles_of(C), tile = item % tiles_of(C);
        const REAL *x = (const REAL *)c->in[0].data + b * L * C + tile * SIDE;
        REAL *y = (REAL *)c->out[0].data + tile * SIDE * B * L + b * L;
        NAME(turn)(x, C, y, B * L, L, NAME(width)(tile, C), 0);
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static void NAME(transpose_grad_tiles)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    int64_t C = c->in[0].shape[0], B = c->in[0].shape[1], L = c->in[0].shape[2];
    for (int64_t item = begin; item < end; item++) {
        int64_t b = item / tiles_of(C), tile = item % tiles_of(C);
        const REAL *dy = (const REAL *)c->in[0].data + tile * SIDE * B * L + b * L;
        REAL *dx = (REAL *)c->out[0].data + b * L * C + tile * SIDE;
        NAME(turn)(dy, B * L, dx, C, NAME(width)(tile, C), L, c->acc & 1);
    }
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_transpose = {
    .name = "transpose",
    .id = M2_OP_transpose,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"y"},
    .shape = transpose_shape,
    .cost = m2_op_cost_bytes,
    .run = transpose_run,
    .grad = &m2_op_transpose_grad,
    .diff_out = 1,
    .diff_in = 1,
    .linear = 1,
};

const m2_op m2_op_transpose_grad = {
    .name = "transpose_grad",
    .id = M2_OP_transpose_grad,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"dy"},
    .out_name = {"dx"},
    .cost = m2_op_cost_bytes,
    .run = transpose_grad_run,
    .acc = 1,
};
#endif
