/* normals.c - many draws at once are the single draws; parameters start with the same bits whatever the number of threads. */
#include "kernels/base/normals.h"
#include "tests/run_program.h"

#include <CUnit/Basic.h>

enum { N = 5000 };

static void test_draws(void)
{
    static const int64_t starts[] = {0, 7, (1ll << 32) - 100, 1ll << 40};
    m2_rng_key key = m2_rng_make_key(1, 2, 3);
    double x[N], worst = 0;
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        m2_rng_normals(key, starts[s], N, x);
        for (int64_t i = 0; i < N; i++) {
            double off = fabs(x[i] - m2_rng_normal(key, (uint64_t)(starts[s] + i)));
            if (!(off <= worst)) worst = off;
        }
    }
    CU_ASSERT(worst < 1e-13);
}

static void test_cuts(void)
{
    m2_rng_key key = m2_rng_make_key(4, 5, 6);
    double whole[N], parts[N];
    m2_rng_normals(key, 3, N, whole);
    for (int64_t piece = 1; piece < 40; piece++) {
        for (int64_t at = 0; at < N; at += piece)
            m2_rng_normals(key, 3 + at, piece < N - at ? piece : N - at, parts + at);
        CU_ASSERT(!memcmp(whole, parts, sizeof whole));
    }
}

/* A table with a padding row, uniform numbers, a constant: enough elements for many threads. */
static m2_tid wide(m2_program *p, void *ctx)
{
    (void)ctx;
    m2_param table = {
        .rank = 2, .dims = {1001, 77}, .axis = "..", .init = M2_INIT_NORMAL, .init_a = 0.02, .pad_row = 500};
    m2_param other = {
        .rank = 1, .dims = {30011}, .axis = ".", .init = M2_INIT_UNIFORM, .init_a = 2, .pad_row = -1};
    snprintf(table.name, sizeof table.name, "table");
    snprintf(other.name, sizeof other.name, "other");
    m2_program_param(p, table);
    return m2_program_param(p, other);
}

static void test_threads(void)
{
    static const int threads[] = {1, 2, 3, 7, 16};
    const int64_t n = 1001 * 77;
    float *kept = NULL;
    for (size_t k = 0; k < sizeof threads / sizeof *threads; k++) {
        m2_device *cpu = NULL;
        m2_program_spec spec = {.mode = M2_MODE_EVAL, .rows = 1, .rows_whole = 1, .length = 1};
        m2_plan_options plan = {.threads = threads[k]};
        m2_program *p = m2_program_new(&spec);
        void *at;
        m2_dtype dtype;
        wide(p, NULL);
        CU_ASSERT_EQUAL_FATAL(m2_device_open("cpu", threads[k], &cpu), M2_OK);
        CU_ASSERT_EQUAL_FATAL(m2_program_plan(p, &plan), M2_OK);
        CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, cpu), M2_OK);
        CU_ASSERT_EQUAL_FATAL(m2_program_init_params(p, 9), M2_OK);
        CU_ASSERT_EQUAL_FATAL(m2_program_flat(p, "param", &at, &dtype), M2_OK);
        size_t bytes = (size_t)m2_program_flat_count(p) * sizeof *kept;
        if (!kept) {
            const m2_param *rows;
            kept = malloc(bytes);
            memcpy(kept, at, bytes);
            CU_ASSERT_EQUAL(m2_program_params(p, &rows), 2);
            const float *table = (const float *)at + rows[0].offset;
            double square = 0;
            for (int64_t i = 0; i < n; i++) square += (double)table[i] * table[i];
            CU_ASSERT_DOUBLE_EQUAL(square / (double)n, 0.0004 * 1000 / 1001, 4e-6);
            for (int64_t i = 0; i < 77; i++) CU_ASSERT_EQUAL(table[500 * 77 + i], 0);
        }
        CU_ASSERT(!memcmp(kept, at, bytes));
        m2_program_free(&p);
        m2_device_close(&cpu);
    }
    free(kept);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("normals", NULL, NULL);
    CU_add_test(s, "the single draws", test_draws);
    CU_add_test(s, "wherever they are cut", test_cuts);
    CU_add_test(s, "initial values for any number of threads", test_threads);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
