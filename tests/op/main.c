/* m2-test-op [--device cpu|cuda] [--mode MODE] [--op NAME] [--precision f64|f32|tf32|bf16] [--threads N]
 *
 * Runs kernels/cases.def in one mode, or in all but perf:
 *   complete  every op of ops.def has a row, or is the gradient of one that has
 *   value     outputs and gradients against the CPU in float64 from the same inputs
 *   grad      the gradient rule against finite differences in float64; optional outputs, missing gradients, accumulation
 *   adjoint   <A x, c> = <x, A' c> where an op is linear
 *   bounds    nothing written outside tensors and workspace, every output element written, inputs unchanged
 *   repeat    bitwise the same twice, in place, and with other thread counts where the row does not allow rounding
 *   shard     slabs along the batch (and positions) give the whole result; parameter gradients add up
 *   perf      a table of speeds (the rows marked PERF) */
#include "tests/op/harness.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

harness test;

/* ---- assertions ---------------------------------------------------------------------------------------- */
void expect(int ok, const m2_case *row, const char *fmt, ...)
{
    char text[1024], where[256] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (row) snprintf(where, sizeof where, "%s [%s] %s", row->op, row->tensors, row->attrs);
    CU_assertImplementation(ok ? CU_TRUE : CU_FALSE, 0, text, where, "", CU_FALSE);
}

int expect_ok(m2_status st, const m2_case *row, const char *what)
{
    expect(st == M2_OK, row, "%s: %s%s%s", what, m2_message(), *m2_trace() ? " at " : "", m2_trace());
    return st == M2_OK;
}

double distance(const m2_slot *a, const m2_slot *b)
{
    double diff = 0, norm = 0;
    for (int64_t e = 0; e < b->period; e++) {
        double d = a->value[e] - b->value[e];
        diff += d * d;
        norm += b->value[e] * b->value[e];
    }
    return norm > 0 ? sqrt(diff / norm) : sqrt(diff);
}

void expect_close(const m2_slot *got, const m2_slot *want, double tol, const m2_case *row, const char *what,
                  const char *name)
{
    if (want->desc.rank < 0 || got->desc.rank < 0) {
        expect(want->desc.rank == got->desc.rank, row, "%s: %s is absent on one side only", what, name);
        return;
    }
    double error = distance(got, want);
    expect(error <= tol, row, "%s: %s is off by %.3g, allowed are %.1e", what, name, error,
           tol); /* NaN fails */
}

/* ---- rows ---------------------------------------------------------------------------------------------- */
void each_row(void (*body)(const m2_case *row))
{
    const m2_case *rows;
    int n = m2_cases(&rows);
    for (int i = 0; i < n; i++)
        if (!(rows[i].flags & M2_CASE_PERF) && (!test.only || !strcmp(test.only, rows[i].op))) body(&rows[i]);
}

static void (*per_precision)(const m2_case *row, const m2_probe_precision *prec);

static void all_precisions(const m2_case *row)
{
    int cpu = !strcmp(test.device->api->kind, "cpu");
    const char *names[] = {cpu ? "f64" : "bf16", "f32"};
    if (test.precision) {
        per_precision(row, m2_probe_precision_find(test.precision));
        return;
    }
    for (int i = 0; i < 2; i++) per_precision(row, m2_probe_precision_find(names[i]));
}

void each_precision(void (*body)(const m2_case *row, const m2_probe_precision *prec))
{
    per_precision = body;
    each_row(all_precisions);
}

double tolerance(const m2_case *row, const m2_probe_precision *prec)
{
    if (!strcmp(prec->name, "tf32")) return row->flags & M2_CASE_CUTS ? 1e-3 : row->tol_f32; /* P products too */
    return prec->t == M2_F64 ? 1e-12 : prec->t == M2_BF16 ? row->tol_bf16 : row->tol_f32;
}

void mode_complete(void)
{
    const m2_case *rows;
    int n = m2_cases(&rows);
    for (int id = 0; id < M2_OP_COUNT; id++) {
        const m2_op *op = m2_op_table(id);
        int found = 0;
        expect(op->id == id, NULL, "op %s has id %d, ops.def says %d", op->name, op->id, id);
        expect(op->cost != NULL && op->run != NULL, NULL, "op %s lacks a cost or a CPU kernel", op->name);
        for (int i = 0; i < n && !found; i++) {
            const m2_op *tested = m2_op_find(rows[i].op);
            found = !(rows[i].flags & M2_CASE_PERF) && (tested == op || tested->grad == op);
        }
        expect(found, NULL, "op %s has no row in kernels/cases.def", op->name);
        expect(test.device->api->lookup(test.device, op) != NULL, NULL, "%s has no kernel for op %s",
               test.device->name, op->name);
    }
}

/* ---- program ------------------------------------------------------------------------------------------- */
static const struct {
    const char *name;
    void (*run)(void);
} modes[] = {
    {"complete", mode_complete}, {"value", mode_value},   {"grad", mode_grad},   {"adjoint", mode_adjoint},
    {"bounds", mode_bounds},     {"repeat", mode_repeat}, {"shard", mode_shard}, {"perf", mode_perf},
};
enum { MODES = sizeof modes / sizeof *modes };

static int usage(void)
{
    fprintf(stderr,
            "usage: m2-test-op [--device cpu|cuda] [--mode MODE] [--op NAME] [--precision f64|f32|tf32|bf16] "
            "[--threads N]\nmodes:");
    for (int i = 0; i < MODES; i++) fprintf(stderr, " %s", modes[i].name);
    fprintf(stderr, "\n");
    return M2_USAGE;
}

int main(int argc, char **argv)
{
    const char *mode = NULL;
    int threads = 0;
    test.spec = "cpu";
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) return usage();
        if (!strcmp(argv[i], "--device"))
            test.spec = argv[i + 1];
        else if (!strcmp(argv[i], "--mode"))
            mode = argv[i + 1];
        else if (!strcmp(argv[i], "--op"))
            test.only = argv[i + 1];
        else if (!strcmp(argv[i], "--precision"))
            test.precision = argv[i + 1];
        else if (!strcmp(argv[i], "--threads"))
            threads = atoi(argv[i + 1]);
        else
            return usage();
    }
    if (test.precision && !m2_probe_precision_find(test.precision)) return usage();
    m2_status st = m2_device_open(test.spec, threads, &test.device);
    if (st == M2_OK) st = m2_device_open("cpu", 1, &test.cpu);
    if (st != M2_OK) return fprintf(stderr, "%s\n", m2_message()), st;
    test.device->tf32 = test.precision && !strcmp(test.precision, "tf32");
    if (CU_initialize_registry() != CUE_SUCCESS) return M2_TRANSIENT;
    CU_pSuite suite = CU_add_suite(test.device->name, NULL, NULL);
    int chosen = 0;
    for (int i = 0; i < MODES; i++)
        if (mode ? !strcmp(mode, modes[i].name) : strcmp("perf", modes[i].name) != 0)
            chosen += CU_add_test(suite, modes[i].name, modes[i].run) != NULL;
    if (!chosen) return usage();
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    m2_device_close(&test.device);
    m2_device_close(&test.cpu);
    return failures != 0;
}
