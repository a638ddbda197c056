/* value.c - modes value, bounds, repeat and perf: running rows on the device under test. */
#include "tests/op/harness.h"

#include <stdlib.h>

static void compare(const m2_probe *got, const m2_probe *want, double tol, const char *what)
{
    for (int j = 0; j < got->op->n_out; j++) {
        double one = got->out[j].desc.dtype == M2_BF16 ? got->row->tol_bf16 : 0; /* adam's rounded copy */
        expect_close(&got->out[j], &want->out[j], one > tol ? one : tol, got->row, what,
                     got->op->out_name[j]);
    }
}

/* ---- value --------------------------------------------------------------------------------------------- */
/* The reference starts from what the device under test holds: inputs rounded to its dtypes. */
static void value(const m2_case *row, const m2_probe_precision *prec)
{
    m2_probe p = {0}, ref = {0}, g = {0}, g_ref = {0};
    double tol = tolerance(row, prec);
    if (!expect_ok(m2_probe_make(row, prec, 1, 0, &p), row, "probe") ||
        !expect_ok(m2_probe_make(row, m2_probe_precision_find("f64"), 1, 0, &ref), row, "reference"))
        goto done;
    for (int i = 0; i < M2_MAX_IN; i++) m2_probe_copy(&ref.in[i], &p.in[i]);
    if (!expect_ok(m2_probe_run(&p, test.device, 0), row, prec->name) ||
        !expect_ok(m2_probe_run(&ref, test.cpu, 0), row, "reference"))
        goto done;
    compare(&p, &ref, tol, prec->name);
    if (!p.op->grad) goto done;
    for (int j = 0; j < M2_MAX_OUT; j++) m2_probe_copy(&p.out[j], &ref.out[j]);
    if (!expect_ok(m2_probe_grad(&p, ~0u, ~0u, &g), row, "gradient") ||
        !expect_ok(m2_probe_grad(&ref, ~0u, ~0u, &g_ref), row, "reference"))
        goto done;
    for (int i = 0; i < M2_MAX_IN; i++) m2_probe_copy(&g_ref.in[i], &g.in[i]);
    if (expect_ok(m2_probe_run(&g, test.device, 0), row, prec->name) &&
        expect_ok(m2_probe_run(&g_ref, test.cpu, 0), row, "reference"))
        compare(&g, &g_ref, tol, prec->name);
done:
    m2_probe_free(&p);
    m2_probe_free(&ref);
    m2_probe_free(&g);
    m2_probe_free(&g_ref);
}

void mode_value(void)
{
    each_precision(value);
}

/* ---- bounds -------------------------------------------------------------------------------------------- */
/* m2_probe_run checks memory; here it meets every combination of optional outputs and of accumulation. */
static void bounds(const m2_case *row, const m2_probe_precision *prec)
{
    m2_probe p, g = {0};
    if (!expect_ok(m2_probe_make(row, prec, 1, 0, &p), row, "probe")) return;
    if (!expect_ok(m2_probe_run(&p, test.device, 0), row, prec->name) || !p.op->grad) goto done;
    for (int i = -1; i < p.op->n_in; i++) {
        unsigned want = i < 0 ? ~0u : 1u << i;
        if (!(p.op->diff_in & want)) continue;
        for (int acc = 0; acc < 2; acc++) {
            if (!expect_ok(m2_probe_grad(&p, ~0u, want, &g), row, "gradient")) goto done;
            if (acc) g.acc = g.op->acc;
            expect_ok(m2_probe_run(&g, test.device, 0), row, acc ? "accumulating gradient" : "gradient");
            m2_probe_free(&g);
        }
    }
done:
    m2_probe_free(&p);
}

void mode_bounds(void)
{
    each_precision(bounds);
}

/* ---- repeat -------------------------------------------------------------------------------------------- */
/* Runs p again with `flags` on `dev` and compares with the outputs it has. */
static void again(m2_probe *p, m2_device *dev, unsigned flags, double tol, const char *what)
{
    double *first[M2_MAX_OUT] = {0};
    for (int j = 0; j < p->op->n_out; j++) { /* the probe's values move to `first`, it gets new room */
        m2_slot *s = &p->out[j];
        if (s->desc.rank < 0) continue;
        first[j] = s->value;
        s->value = calloc((size_t)(s->period > 0 ? s->period : 1), sizeof *s->value);
    }
    int ok = expect_ok(m2_probe_run(p, dev, flags), p->row, what);
    for (int j = 0; j < p->op->n_out; j++) {
        if (!first[j]) continue;
        m2_slot want = p->out[j];
        want.value = first[j];
        if (ok) expect_close(&p->out[j], &want, tol, p->row, what, p->op->out_name[j]);
        free(first[j]);
    }
}

static void repeat_call(m2_probe *p, const char *what)
{
    if (!expect_ok(m2_probe_run(p, test.device, 0), p->row, what)) return;
    again(p, test.device, 0, 0, "second run");
    again(p, test.device, M2_PROBE_IN_PLACE, 0, "in place");
    double tol = p->row->flags & M2_CASE_CUTS ? 1e-6 : 0;
    for (int threads = 1; threads <= 3; threads++) {
        m2_device *dev;
        if (!expect_ok(m2_device_open(test.spec, threads, &dev), p->row, "device")) return;
        again(p, dev, 0, tol, threads == 1 ? "1 thread" : threads == 2 ? "2 threads" : "3 threads");
        m2_device_close(&dev);
    }
}

static void repeat(const m2_case *row, const m2_probe_precision *prec)
{
    m2_probe p, g = {0};
    if (!expect_ok(m2_probe_make(row, prec, 1, 0, &p), row, "probe")) return;
    repeat_call(&p, "forward");
    if (p.op->grad && expect_ok(m2_probe_grad(&p, ~0u, ~0u, &g), row, "gradient"))
        repeat_call(&g, "backward");
    m2_probe_free(&g);
    m2_probe_free(&p);
}

void mode_repeat(void)
{
    each_precision(repeat);
}

/* ---- perf ---------------------------------------------------------------------------------------------- */
void mode_perf(void)
{
    int cpu = !strcmp(test.device->api->kind, "cpu");
    const m2_probe_precision *prec = m2_probe_precision_find(test.precision ? test.precision
                                                             : cpu          ? "f32"
                                                                            : "bf16");
    const m2_case *rows;
    m2_perf_yard yard;
    if (!expect_ok(m2_perf_open(test.device, prec, &yard), NULL, "limits")) return;
    printf("\n");
    m2_perf_print_header(stdout, &yard);
    int count = m2_cases(&rows);
    for (int i = 0; i < count; i++) {
        if (!(rows[i].flags & M2_CASE_PERF) || (test.only && strcmp(test.only, rows[i].op))) continue;
        m2_perf perf[2];
        int n = 0;
        expect_ok(m2_perf_measure(&rows[i], &yard, perf, &n), &rows[i], "perf");
        for (int k = 0; k < n; k++) m2_perf_print(stdout, &perf[k]);
        fflush(stdout);
    }
    m2_perf_close(&yard);
}
