#ifndef REAL
#include "kernels/ops/common.h"

#include <stdio.h>

enum { GRAIN = 8192 }; /* elements that are worth a thread */

static m2_status check(const m2_call *c, const m2_tensor *t, const char *name, int loose, m2_dtype *real)
{
    if (m2_absent(t)) return M2_OK;
    if (!(c->op->rows ? m2_tensor_rows(t) : m2_tensor_dense(t)))
        return m2_fail(M2_BUG, "%s on the CPU: %s is not dense", c->op->name, name);
    if (loose || t->dtype == M2_I32 || t->dtype == M2_U8) return M2_OK;
    if ((t->dtype != M2_F32 && t->dtype != M2_F64) || (*real != M2_DTYPE_COUNT && *real != t->dtype))
        return m2_fail(M2_USAGE, "%s on the CPU computes all in f32 or all in f64, but %s is %s%s",
                       c->op->name, name, m2_dtype_name(t->dtype),
                       *real == M2_DTYPE_COUNT ? "" : " and others are not");
    *real = t->dtype;
    return M2_OK;
}

m2_status m2i_check(const m2_call *c, unsigned loose, m2_dtype *real)
{
    *real = M2_DTYPE_COUNT;
    for (int i = 0; i < c->n_in; i++) M2_TRY(check(c, &c->in[i], c->op->in_name[i], loose >> i & 1, real));
    for (int j = 0; j < c->n_out; j++)
        M2_TRY(check(c, &c->out[j], c->op->out_name[j], loose >> (8 + j) & 1, real));
    return M2_OK;
}

void m2i_spread(const m2_call *c, m2_dtype real, m2i_pair body, int64_t n, int64_t work, void *ctx)
{
    m2_threads_for(c->device->threads, n, work > 0 ? (GRAIN + work - 1) / work : GRAIN,
                   real == M2_F64 ? body.f64 : body.f32, ctx);
}

m2_status m2i_each(const m2_call *c, m2i_pair body, int64_t n, int64_t work)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    m2i_spread(c, real, body, n, work, (void *)(uintptr_t)c);
    return M2_OK;
}

m2_status m2i_bad_shape(const m2_op *op, const m2_desc *in, const char *needs)
{
    char got[M2_MAX_IN * 128] = "", one[96];
    size_t n = 0;
    for (int i = 0; i < op->n_in && n < sizeof got; i++)
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%s %s", i ? ", " : "", op->in_name[i],
                              m2_desc_print(one, &in[i]));
    return m2_fail(M2_USAGE, "%s needs %s; got %s", op->name, needs, got);
}

m2_status m2i_shape_same(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    out[0] = in[0];
    return M2_OK;
}

typedef struct fold {
    const void *from;
    void *to;
    int64_t rows, width, stride;
    int acc;
} fold;

typedef struct scatter {
    const int32_t *idx;
    const void *from;
    void *to;
    int64_t n, skip, width;
} scatter;

#define SELF "kernels/ops/common.c"
#include "kernels/ops/twice.h"

void m2i_fold(const m2_call *c, m2_dtype real, const void *partial, int64_t chunks, int64_t width,
              int64_t stride, void *out, int acc)
{
    fold f = {partial, out, chunks, width, stride, acc};
    m2i_spread(c, real, M2I_PAIR(fold_columns), width, chunks, &f);
}

void m2i_column_sums(const m2_call *c, m2_dtype real, const void *x, int64_t rows, int64_t width,
                     void *partial, void *out, int acc)
{
    fold f = {x, partial, rows, width, width, 0};
    m2i_spread(c, real, M2I_PAIR(sum_chunk), m2i_chunk_count(rows), m2i_chunk_rows(rows) * width, &f);
    m2i_fold(c, real, partial, m2i_chunk_count(rows), width, width, out, acc);
}

void m2i_scatter_rows(const m2_call *c, m2_dtype real, const int32_t *idx, int64_t n, int64_t skip,
                      const void *from, int64_t width, void *to, int64_t rows, int acc)
{
    scatter s = {idx, from, to, n, skip, width};
    if (!acc) m2i_spread(c, real, M2I_PAIR(zero), rows * width, 1, &s);
    m2i_spread(c, real, M2I_PAIR(scatter_columns), width, n, &s);
}

#else
static void NAME(sum_rows)(const REAL *x, int64_t rows, int64_t width, int64_t stride, REAL *y)
{
    for (int64_t r = 0; r < rows; r++) STORE_EACH(i, width, y, 1, x[r * stride + i]);
}

static void NAME(fold_columns)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const fold *f = ctx;
    REAL *y = (REAL *)f->to + begin;
    if (!f->acc) memset(y, 0, (size_t)(end - begin) * sizeof *y);
    NAME(sum_rows)((const REAL *)f->from + begin, f->rows, end - begin, f->stride, y);
}

static void NAME(sum_chunk)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const fold *f = ctx;
    int64_t step = m2i_chunk_rows(f->rows);
    for (int64_t k = begin; k < end; k++) {
        int64_t from = k * step, count = from + step < f->rows ? step : f->rows - from;
        REAL *y = (REAL *)f->to + k * f->width;
        memset(y, 0, (size_t)f->width * sizeof *y);
        NAME(sum_rows)((const REAL *)f->from + from * f->width, count, f->width, f->width, y);
    }
}

static void NAME(zero)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const scatter *s = ctx;
    memset((REAL *)s->to + begin, 0, (size_t)(end - begin) * sizeof(REAL));
}

static void NAME(scatter_columns)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const scatter *s = ctx;
    for (int64_t i = 0; i < s->n; i++) {
        if (s->idx[i] < 0 || s->idx[i] == s->skip) continue;
        const REAL *x = (const REAL *)s->from + i * s->width;
        REAL *y = (REAL *)s->to + s->idx[i] * s->width;
        SIMD
        for (int64_t k = begin; k < end; k++) y[k] += x[k];
    }
}
#endif
