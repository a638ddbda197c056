/* Matrix products against three loops: every transposition, batches, biases, thread counts, and callers at once. */
#include "kernels/base/blas.h"
#include "kernels/base/rng.h"
#include "kernels/base/threads.h"

#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdlib.h>

enum { ROOM = 1 << 15, PAD = 3 };

typedef struct arrays {
    double a[ROOM], b[ROOM], c[ROOM], want[ROOM], bias[512];
    float fa[ROOM], fb[ROOM], fc[ROOM], fbias[512];
} arrays;

static void fill(arrays *x)
{
    m2_rng_key key = m2_rng_make_key(3, 1, 4);
    for (int i = 0; i < ROOM; i++) {
        x->fa[i] = (float)(x->a[i] = (double)(float)m2_rng_uniform(key, (uint64_t)i) - 0.5);
        x->fb[i] = (float)(x->b[i] = (double)(float)m2_rng_uniform(key, (uint64_t)(i + ROOM)) - 0.5);
        x->fc[i] = (float)(x->c[i] = x->want[i] =
                               (double)(float)m2_rng_uniform(key, (uint64_t)(i + 2 * ROOM)) - 0.5);
    }
    for (int i = 0; i < 512; i++) x->fbias[i] = (float)(x->bias[i] = i / 16.0);
}

static void loops(const m2i_gemm *g, arrays *x)
{
    for (int64_t e = 0; e < (g->batch ? g->batch : 1); e++)
        for (int64_t i = 0; i < g->m; i++)
            for (int64_t j = 0; j < g->n; j++) {
                double sum = 0, *c = &x->want[e * g->step_c + i * g->ldc + j];
                for (int64_t k = 0; k < g->k; k++)
                    sum += x->a[e * g->step_a + (g->trans_a ? k * g->lda + i : i * g->lda + k)] *
                           x->b[e * g->step_b + (g->trans_b ? j * g->ldb + k : k * g->ldb + j)];
                double start = g->bias   ? x->bias[e * g->step_bias + (g->bias_rows ? i : j)]
                               : g->beta ? g->beta * *c
                                         : 0;
                *c = g->alpha * sum + start;
            }
}

static m2i_gemm product(int64_t m, int64_t n, int64_t k, int64_t batch, int flags)
{
    m2i_gemm g = {.dtype = M2_F64, .m = m, .n = n, .k = k, .batch = batch, .alpha = 1.25};
    g.trans_a = flags & 1;
    g.trans_b = flags >> 1 & 1;
    g.lda = (g.trans_a ? m : k) + PAD;
    g.ldb = (g.trans_b ? k : n) + PAD;
    g.ldc = n + PAD;
    g.step_a = g.lda * (g.trans_a ? k : m);
    g.step_b = g.ldb * (g.trans_b ? n : k);
    g.step_c = g.ldc * m;
    g.beta = flags >> 2 & 1 ? 0.5 : 0;
    g.bias_rows = flags >> 4 & 1;
    g.step_bias = 1;
    return g;
}

/* flags: 1 A transposed, 2 B transposed, 4 beta, 8 bias, 16 bias per row. Also checks what lies between the rows of C. */
static int agrees(arrays *x, int64_t m, int64_t n, int64_t k, int64_t batch, int flags, m2_dtype dtype,
                  int threads)
{
    fill(x);
    m2i_gemm g = product(m, n, k, batch, flags);
    g.bias = flags & 8 ? x->bias : NULL;
    loops(&g, x);
    g.dtype = dtype;
    int single = dtype == M2_F32;
    g.a = single ? (void *)x->fa : x->a;
    g.b = single ? (void *)x->fb : x->b;
    g.c = single ? (void *)x->fc : x->c;
    if (g.bias) g.bias = single ? (void *)x->fbias : x->bias;
    if (m2i_gemm_run(&g, threads) != M2_OK) return 0;
    double tol = (single ? 1e-5 : 1e-13) * (double)(k + 10);
    for (int i = 0; i < ROOM; i++)
        if (!(fabs((single ? (double)x->fc[i] : x->c[i]) - x->want[i]) <= tol)) return 0;
    return 1;
}

static void test_products(void)
{
    static const int64_t shapes[][4] = {
        {1, 1, 1, 1}, {5, 3, 7, 2}, {33, 65, 17, 1}, {70, 40, 9, 3}, {4, 5, 0, 1}};
    arrays *x = malloc(sizeof *x);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int flags = 0; flags < 32; flags++)
            for (int threads = 1; threads <= 3; threads++) {
                const int64_t *d = shapes[s];
                CU_ASSERT(agrees(x, d[0], d[1], d[2], d[3], flags, M2_F64, threads));
                CU_ASSERT(agrees(x, d[0], d[1], d[2], d[3], flags, M2_F32, threads));
            }
    free(x);
}

static void *caller(void *result)
{
    arrays *x = malloc(sizeof *x);
    int ok = 1;
    for (int i = 0; i < 20; i++) ok &= agrees(x, 33 + i, 40, 9, 2, i & 15, i & 1 ? M2_F32 : M2_F64, 2);
    free(x);
    *(int *)result = ok;
    return NULL;
}

static void test_callers_at_once(void)
{
    enum { CALLERS = 4 };
    pthread_t threads[CALLERS];
    int ok[CALLERS];
    for (int i = 0; i < CALLERS; i++) pthread_create(&threads[i], NULL, caller, &ok[i]);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
        CU_ASSERT_TRUE(ok[i]);
    }
}

static void test_name(void)
{
    const char *name = NULL;
    CU_ASSERT_EQUAL(m2_blas_open(&name), M2_OK);
    CU_ASSERT_EQUAL(strncmp(name, "OpenBLAS ", 9), 0);
    m2i_gemm g = {.dtype = M2_F32, .m = 1, .n = 1, .k = (int64_t)1 << 40};
    CU_ASSERT_EQUAL(m2i_gemm_run(&g, 1), M2_USAGE); /* sides beyond OpenBLAS's int */
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("blas", NULL, NULL);
    CU_add_test(suite, "products against loops", test_products);
    CU_add_test(suite, "several callers at once", test_callers_at_once);
    CU_add_test(suite, "name and limits", test_name);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
