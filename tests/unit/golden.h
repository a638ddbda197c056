/* golden.h - what tests against files of tests/golden/ share: numbers in text, tensors as doubles, distances. */
#ifndef M2_TESTS_GOLDEN_H
#define M2_TESTS_GOLDEN_H

#include "runtime/models/model.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline FILE *open_golden(const char *name)
{
    char path[1024];
    const char *root = getenv("M2_SOURCE");
    snprintf(path, sizeof path, "%s/tests/golden/%s", root ? root : ".", name);
    FILE *f = fopen(path, "r");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    return f;
}

/* "N x1 ... xN" at *at, which moves behind it. The caller frees. */
static inline double *numbers(char **at, int64_t *n)
{
    *n = strtoll(*at, at, 10);
    double *x = calloc((size_t)*n, sizeof *x);
    for (int64_t i = 0; i < *n; i++) x[i] = strtod(*at, at);
    return x;
}

static inline m2_status write_ints(m2_program *p, const char *name, const double *x, int64_t n)
{
    int32_t ids[256];
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)x[i];
    return m2_program_write(p, m2_program_find(p, name), ids);
}

static inline m2_status write_doubles(m2_program *p, m2_tid t, const double *x, int64_t n)
{
    if (m2_program_desc(p, t).dtype == M2_F64) return m2_program_write(p, t, x);
    float *y = malloc((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) y[i] = (float)x[i];
    m2_status st = m2_program_write(p, t, y);
    free(y);
    return st;
}

/* Reads n elements as doubles into a buffer that the caller frees. */
static inline double *read_doubles(m2_program *p, m2_tid t, int64_t n)
{
    double *x = malloc((size_t)n * sizeof *x);
    float *raw = (float *)x;
    CU_ASSERT_EQUAL_FATAL(m2_program_read(p, t, x), M2_OK);
    if (m2_program_desc(p, t).dtype == M2_F32)
        for (int64_t i = n - 1; i >= 0; i--) x[i] = (double)raw[i];
    return x;
}

/* Largest difference relative to the largest of the reference. */
static inline double distance(const double *x, const double *reference, int64_t n)
{
    double most = 0, off = 0;
    for (int64_t i = 0; i < n; i++) {
        if (fabs(reference[i]) > most) most = fabs(reference[i]);
        if (!(fabs(x[i] - reference[i]) <= off)) off = fabs(x[i] - reference[i]);
    }
    return off / most;
}

static inline const m2_param *row_of(m2_program *p, const char *name)
{
    const m2_param *rows;
    int n = m2_program_params(p, &rows);
    for (int i = 0; i < n; i++)
        if (!strcmp(rows[i].name, name)) return &rows[i];
    return NULL;
}

static inline void expect_close(const char *whose, const char *what, double off, double tol)
{
    CU_ASSERT(off <= tol);
    if (!(off <= tol)) printf("\n  %s, %s: off by %.3g, allowed are %.1g\n", whose, what, off, tol);
}

#endif
