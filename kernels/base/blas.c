#include "kernels/base/blas.h"
#include "kernels/base/log.h"
#include "kernels/base/threads.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define LIBRARY "libopenblas.so.0"

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 }; /* CBLAS's numbers */

typedef void (*sgemm_fn)(int, int, int, int, int, int, float, const float *, int, const float *, int, float,
                         float *, int);
typedef void (*dgemm_fn)(int, int, int, int, int, int, double, const double *, int, const double *, int,
                         double, double *, int);

static struct {
    pthread_once_t once;
    m2_error error;
    char name[96];
    sgemm_fn sgemm;
    dgemm_fn dgemm;
} blas = {.once = PTHREAD_ONCE_INIT};

typedef union symbol {
    void *object;
    sgemm_fn sgemm;
    dgemm_fn dgemm;
    void (*set_threads)(int);
    char *(*text)(void);
} symbol;

static const char *core_type(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return "SkylakeX";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
    return NULL;
}

/* The two variables are read by the library's constructor, so they are set only around it. */
static void *load(void)
{
    const char *set = getenv("OPENBLAS_CORETYPE"), *core = core_type();
    if (set && core && strcmp(set, core))
        m2_log_once(M2_LOG_INFO, "OPENBLAS_CORETYPE=%s is set: on this CPU matrix products would use %s", set,
                    core);
    if (set) core = NULL;
    const char *old = getenv("OPENBLAS_NUM_THREADS");
    char threads[32];
    snprintf(threads, sizeof threads, "%s", old ? old : "");
    if (core) setenv("OPENBLAS_CORETYPE", core, 1);
    setenv("OPENBLAS_NUM_THREADS", "1", 1); /* no idle pool of threads */
    void *lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (core) unsetenv("OPENBLAS_CORETYPE");
    if (old)
        setenv("OPENBLAS_NUM_THREADS", threads, 1);
    else
        unsetenv("OPENBLAS_NUM_THREADS");
    return lib;
}

static m2_status open_library(void)
{
    void *lib = load();
    if (!lib)
        return m2_fail(M2_USAGE,
                       "matrix products on the CPU need OpenBLAS, but %s cannot be loaded (%s): install it, "
                       "on Debian with 'apt-get install libopenblas0-pthread'",
                       LIBRARY, dlerror());
    symbol sgemm = {dlsym(lib, "cblas_sgemm")}, dgemm = {dlsym(lib, "cblas_dgemm")};
    symbol set = {dlsym(lib, "openblas_set_num_threads")};
    symbol core = {dlsym(lib, "openblas_get_corename")}, config = {dlsym(lib, "openblas_get_config")};
    if (!sgemm.object || !dgemm.object || !set.object || !core.object || !config.object)
        return m2_fail(M2_USAGE,
                       "%s is not OpenBLAS (no cblas_sgemm or openblas_set_num_threads in it): install "
                       "libopenblas0-pthread",
                       LIBRARY);
    set.set_threads(1);
    blas.sgemm = sgemm.sgemm;
    blas.dgemm = dgemm.dgemm;
    char version[32] = "";
    sscanf(config.text(), "OpenBLAS %31s", version);
    snprintf(blas.name, sizeof blas.name, "OpenBLAS %s, %s", version, core.text());
    return M2_OK;
}

static void open_once(void)
{
    m2_status st = open_library();
    if (st != M2_OK) m2_error_take(&blas.error, st);
}

m2_status m2_blas_open(const char **name)
{
    pthread_once(&blas.once, open_once);
    if (blas.error.code != M2_OK) return m2_error_put(&blas.error);
    if (name) *name = blas.name;
    return M2_OK;
}

/* ---- one product over several threads ------------------------------------------------------------------ */
enum { CUT = 32 }; /* a multiple of every kernel's tile, so that cutting costs no ragged tiles */

typedef struct job {
    const m2i_gemm *g;
    int64_t size, cut; /* bytes of an element; 0: along m, 1: along n */
    int64_t pieces;    /* of CUT rows or columns, in one batch entry */
} job;

#define AT(base, elements) ((char *)(uintptr_t)(base) + (elements)*j->size)

static void spread_bias(const job *j, char *c, const char *bias, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i++) {
        char *row = c + i * j->g->ldc * j->size;
        if (!j->g->bias_rows)
            memcpy(row, bias, (size_t)(n * j->size));
        else if (j->g->dtype == M2_F32)
            for (int64_t k = 0; k < n; k++) ((float *)row)[k] = ((const float *)bias)[i];
        else
            for (int64_t k = 0; k < n; k++) ((double *)row)[k] = ((const double *)bias)[i];
    }
}

/* Rows or columns [from, to) of batch entry e. */
static void part(const job *j, int64_t e, int64_t from, int64_t to)
{
    const m2i_gemm *g = j->g;
    int64_t row = j->cut ? 0 : from, col = j->cut ? from : 0;
    int m = (int)(j->cut ? g->m : to - from), n = (int)(j->cut ? to - from : g->n), k = (int)g->k;
    const char *a = AT(g->a, e * g->step_a + row * (g->trans_a ? 1 : g->lda));
    const char *b = AT(g->b, e * g->step_b + col * (g->trans_b ? g->ldb : 1));
    char *c = AT(g->c, e * g->step_c + row * g->ldc + col);
    double beta = g->beta;
    if (g->bias) {
        spread_bias(j, c, AT(g->bias, e * g->step_bias + (g->bias_rows ? row : col)), m, n);
        beta = 1;
    }
    int ta = g->trans_a ? TRANS : NO_TRANS, tb = g->trans_b ? TRANS : NO_TRANS;
    int lda = (int)g->lda, ldb = (int)g->ldb, ldc = (int)g->ldc;
    if (g->dtype == M2_F32)
        blas.sgemm(ROW_MAJOR, ta, tb, m, n, k, (float)g->alpha, (const float *)a, lda, (const float *)b, ldb,
                   (float)beta, (float *)c, ldc);
    else
        blas.dgemm(ROW_MAJOR, ta, tb, m, n, k, g->alpha, (const double *)a, lda, (const double *)b, ldb, beta,
                   (double *)c, ldc);
}

static void body(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = ctx;
    int64_t length = j->cut ? j->g->n : j->g->m;
    while (begin < end) {
        int64_t e = begin / j->pieces, first = begin % j->pieces;
        int64_t count = end - begin < j->pieces - first ? end - begin : j->pieces - first;
        int64_t to = (first + count) * CUT < length ? (first + count) * CUT : length;
        part(j, e, first * CUT, to);
        begin += count;
    }
}

m2_status m2i_gemm_run(const m2i_gemm *g, int threads)
{
    M2_TRY(m2_blas_open(NULL));
    M2_CHECK(g->dtype == M2_F32 || g->dtype == M2_F64);
    if (g->m <= 0 || g->n <= 0) return M2_OK;
    int64_t sizes[] = {g->m, g->n, g->k, g->lda, g->ldb, g->ldc};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i] > INT_MAX)
            return m2_fail(M2_USAGE,
                           "a matrix product has a side of %lld elements, but OpenBLAS counts to %d: use a "
                           "smaller microbatch",
                           (long long)sizes[i], INT_MAX);
    job j = {.g = g, .size = m2_dtype_size(g->dtype), .cut = g->n > g->m};
    j.pieces = ((j.cut ? g->n : g->m) + CUT - 1) / CUT;
    double flops =
        2.0 * CUT * (double)(j.cut ? g->m : g->n) * (double)(g->k > 0 ? g->k : 1); /* of one piece */
    int64_t grain = flops >= 2e5 ? 1 : (int64_t)(2e5 / flops) + 1; /* a few microseconds of work per thread */
    m2_threads_for(threads, (g->batch > 0 ? g->batch : 1) * j.pieces, grain, body, &j);
    return M2_OK;
}
