#include "kernels/base/tensor.h"

#include <stdarg.h>
#include <stdio.h>

m2_desc m2_desc_make(m2_dtype dtype, const char *axes, ...)
{
    m2_desc d = {.dtype = dtype};
    va_list ap;
    va_start(ap, axes);
    for (; d.rank < M2_MAX_RANK && axes[d.rank]; d.rank++) {
        d.shape[d.rank] = va_arg(ap, int64_t);
        d.axis[d.rank] = axes[d.rank];
    }
    va_end(ap);
    return d;
}

m2_desc m2_desc_none(void)
{
    return (m2_desc){.rank = -1};
}

static int64_t count(int rank, const int64_t *shape)
{
    int64_t n = rank >= 0;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
}

int64_t m2_desc_count(const m2_desc *d)
{
    return count(d->rank, d->shape);
}

int64_t m2_desc_bytes(const m2_desc *d)
{
    return m2_desc_count(d) * m2_dtype_size(d->dtype);
}

int m2_desc_same_shape(const m2_desc *a, const m2_desc *b)
{
    return a->rank == b->rank && (a->rank <= 0 || !memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape));
}

char *m2_desc_print(char *buf, const m2_desc *d)
{
    size_t n = (size_t)snprintf(buf, 96, d->rank < 0 ? "absent" : "%s (", m2_dtype_name(d->dtype));
    if (d->rank < 0) return buf;
    for (int i = 0; i < d->rank && n < 90; i++) {
        char tag[3] = {d->axis[i], ' ', 0};
        n += (size_t)snprintf(buf + n, 96 - n, "%s%s%lld", i ? ", " : "", d->axis[i] == '.' ? "" : tag,
                              (long long)d->shape[i]);
    }
    snprintf(buf + n, n < 96 ? 96 - n : 0, ")");
    return buf;
}

m2_tensor m2_tensor_make(const m2_desc *d, void *data)
{
    m2_tensor t = {.data = data, .dtype = d->dtype, .rank = d->rank};
    int64_t step = 1;
    for (int i = d->rank - 1; i >= 0; i--) {
        t.shape[i] = t.whole[i] = d->shape[i];
        t.axis[i] = d->axis[i];
        t.stride[i] = step;
        step *= d->shape[i];
    }
    return t;
}

m2_desc m2_tensor_desc(const m2_tensor *t)
{
    m2_desc d = {.dtype = t->dtype, .rank = t->data ? t->rank : -1};
    for (int i = 0; i < t->rank; i++) d.shape[i] = t->shape[i], d.axis[i] = t->axis[i];
    return d;
}

int64_t m2_tensor_count(const m2_tensor *t)
{
    return t->data ? count(t->rank, t->shape) : 0;
}

int64_t m2_tensor_bytes(const m2_tensor *t)
{
    return m2_tensor_count(t) * m2_dtype_size(t->dtype);
}

int m2_tensor_rows(const m2_tensor *t)
{
    return m2_tensor_dense(t) || (t->rank == 2 && t->stride[1] == 1 && t->stride[0] >= t->shape[1]);
}

int m2_tensor_dense(const m2_tensor *t)
{
    int64_t step = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != step) return 0;
        step *= t->shape[i];
    }
    return 1;
}
