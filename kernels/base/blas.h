/* blas.h - matrix products of row-major matrices on the CPU, through OpenBLAS, cut over our own threads.
 *
 * OpenBLAS is loaded on first use, because its kernels are chosen while it loads: version 0.3.21 takes SSE or AVX2
 * code on CPUs it does not know, up to 5 times slower than what they can do. OPENBLAS_CORETYPE, if the user set it,
 * is left alone. It runs single-threaded; m2_threads_for does the cutting. Safe to call from several threads. */
#ifndef M2_BASE_BLAS_H
#define M2_BASE_BLAS_H

#include "kernels/base/dtype.h"

/* C (m, n) = alpha op(A) op(B) + beta C, `batch` times, op(A) (m, k), op(B) (k, n); beta = 0 ignores what C held.
 * With a bias, C starts from it instead of from beta C: element (i, j) from bias[j], or bias[i] if bias_rows. */
typedef struct m2i_gemm {
    m2_dtype dtype;                  /* M2_F32 or M2_F64: of A, B, C and bias */
    int trans_a, trans_b;            /* 1: stored transposed, i.e. A is (k, m) in memory, B is (n, k) */
    int64_t m, n, k;
    double alpha, beta;
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc;           /* elements from one stored row to the next */
    int64_t batch;                   /* 0 counts as 1 */
    int64_t step_a, step_b, step_c;  /* elements from one batch entry to the next */
    const void *bias;                /* NULL: none */
    int bias_rows;
    int64_t step_bias;
} m2i_gemm;

#ifdef __cplusplus
extern "C" {
#endif
/* Cuts along the batch and the larger of m and n: each element of C is summed over k by one thread. */
m2_status m2i_gemm_run(const m2i_gemm *g, int threads) M2_MUST_USE;

/* Loads OpenBLAS if that has not happened; *name (may be NULL) gets "OpenBLAS 0.3.21, SkylakeX". M2_USAGE without it. */
M2_API m2_status m2_blas_open(const char **name) M2_MUST_USE;
#ifdef __cplusplus
}
#endif
#endif
