/* common.h - what the CPU kernels in this folder share. Private.
 *
 * A kernel is a pair of bodies over a range of items (rows, elements), for float and for double, made by twice.h.
 * Sums over rows go through a fixed number of partial sums that depends on the shape alone, so that results do not
 * change with the number of threads: chunk k of the rows adds into partial k, then the partials are added in order. */
#ifndef M2_KERNELS_OPS_COMMON_H
#define M2_KERNELS_OPS_COMMON_H

#include "kernels/base/threads.h"
#include "kernels/ops.h"
#include "kernels/ops/vmath.h"

#define SIMD _Pragma("omp simd")
#define SIMD_SUM(...) SIMD_(omp simd reduction(+ : __VA_ARGS__))
#define SIMD_MAX(...) SIMD_(omp simd reduction(max : __VA_ARGS__))
#define SIMD_(text) _Pragma(#text)

/* y[i] = expr(i) or y[i] += expr(i) for i < n; y may be an array that expr reads at i. */
#define STORE_EACH(i, n, y, acc, expr)                                                                          \
    do {                                                                                                        \
        if (acc) {                                                                                              \
            SIMD for (int64_t i = 0; i < (n); i++)(y)[i] += (expr);                                             \
        } else {                                                                                                \
            SIMD for (int64_t i = 0; i < (n); i++)(y)[i] = (expr);                                              \
        }                                                                                                       \
    } while (0)

typedef struct m2i_pair {
    m2_body f32, f64;
} m2i_pair;
#define M2I_PAIR(name) ((m2i_pair){name##_f32, name##_f64})

/* M2_OK if every present tensor is dense and all float ones have one dtype, f32 or f64 (returned); `loose` are slots
 * whose dtype the op checks itself: bit i for in[i], bit 8 + j for out[j]. */
m2_status m2i_check(const m2_call *c, unsigned loose, m2_dtype *real);
/* m2i_check, then the body of that dtype over n items of about `work` elements each. ctx of the body is the call. */
m2_status m2i_each(const m2_call *c, m2i_pair body, int64_t n, int64_t work);
/* The body of dtype `real` with any context. */
void m2i_spread(const m2_call *c, m2_dtype real, m2i_pair body, int64_t n, int64_t work, void *ctx);

/* ---- shapes */
static inline int64_t m2i_last(const m2_desc *d)
{
    return d->rank > 0 ? d->shape[d->rank - 1] : 1;
}

static inline int64_t m2i_rows(const m2_desc *d)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < d->rank; i++) n *= d->shape[i];
    return n;
}

static inline int64_t m2i_tensor_last(const m2_tensor *t)
{
    return t->rank > 0 ? t->shape[t->rank - 1] : 1;
}

static inline int m2i_is_vector(const m2_desc *d, int64_t n)
{
    return d->rank == 1 && d->shape[0] == n;
}

/* d with another last dimension and dtype. */
static inline m2_desc m2i_with_last(m2_desc d, int64_t last, m2_dtype dtype)
{
    d.shape[d.rank - 1] = last;
    d.dtype = dtype;
    return d;
}

static inline m2_dtype m2i_precise(m2_dtype t)
{
    return t == M2_F64 ? M2_F64 : M2_F32;
}

/* M2_USAGE: "linear needs x (..., m), W (n, m); got x f32 (...), W ...". */
m2_status m2i_bad_shape(const m2_op *op, const m2_desc *in, const char *needs);
/* Shape rule of ops whose single output is like in[0]. */
m2_status m2i_shape_same(const m2_attrs *attrs, const m2_desc *in, m2_desc *out);

/* ---- sums over rows */
enum { M2I_CHUNKS = 64, M2I_CHUNK_ROWS = 16 };

static inline int64_t m2i_chunk_rows(int64_t rows)
{
    int64_t n = (rows + M2I_CHUNKS - 1) / M2I_CHUNKS;
    return n > M2I_CHUNK_ROWS ? n : M2I_CHUNK_ROWS;
}

static inline int64_t m2i_chunk_count(int64_t rows)
{
    int64_t n = m2i_chunk_rows(rows);
    return (rows + n - 1) / n;
}

/* out[w] (+)= sum over chunks of partial[chunk][w], chunks ordered. */
void m2i_fold(const m2_call *c, m2_dtype real, const void *partial, int64_t chunks, int64_t width, int64_t stride,
              void *out, int acc);
/* out[w] (+)= sum over rows of x (rows, width); partial holds m2i_chunk_count(rows) * width elements. */
void m2i_column_sums(const m2_call *c, m2_dtype real, const void *x, int64_t rows, int64_t width, void *partial,
                     void *out, int acc);
/* to[idx[i]] += from[i] for rows i < n of `width`, those with idx[i] < 0 or == skip left out; `rows` rows in `to`, which
 * is zeroed first unless acc. Cut over columns: an index may repeat, and sums have one order. */
void m2i_scatter_rows(const m2_call *c, m2_dtype real, const int32_t *idx, int64_t n, int64_t skip, const void *from,
                      int64_t width, void *to, int64_t rows, int acc);
static inline int64_t m2i_partial_bytes(int64_t rows, int64_t width, m2_dtype real)
{
    return m2i_chunk_count(rows) * width * m2_dtype_size(real);
}
#endif
