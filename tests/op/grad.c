/* grad.c - modes grad and adjoint: the declared gradient rules against finite differences and against <Ax, c> = <x, A'c>,
 * in float64 on the CPU. Other devices' gradients are compared with the CPU's in mode value. */
#include "tests/op/harness.h"

#include <math.h>
#include <stdlib.h>

#define STEP      3e-5 /* central differences: error about STEP^2 */
#define TOLERANCE 1e-7
#define ROUNDING  1e-12
enum { SAMPLES = 24 }; /* elements tried per input */

static double dot(const m2_slot *a, const m2_slot *b)
{
    long double sum = 0;
    for (int64_t e = 0; e < a->period; e++) sum += (long double)a->value[e] * (long double)b->value[e];
    return (double)sum;
}

/* d<out, c>/d(in[i][e]) by central differences; p's outputs are then those of the right point. */
static m2_status difference(m2_probe *p, const m2_slot *const c[M2_MAX_OUT], int i, int64_t e, double *slope)
{
    double at = p->in[i].value[e], h = STEP * (1 + fabs(at)), side[2];
    for (int k = 0; k < 2; k++) {
        p->in[i].value[e] = k ? at + h : at - h;
        m2_status st = m2_probe_run(p, test.cpu, 0);
        p->in[i].value[e] = at;
        M2_TRY(st);
        side[k] = 0;
        for (int j = 0; j < p->op->n_out; j++)
            if (c[j]) side[k] += dot(&p->out[j], c[j]);
    }
    *slope = (side[1] - side[0]) / (2 * h);
    return M2_OK;
}

/* Element number k to try: in turn evenly spaced ones and those where the claimed gradient is largest. */
static int64_t sample(const m2_slot *given, int64_t k, int64_t tried, double *below)
{
    int64_t n = m2_desc_count(&given->desc), best = 0;
    if (k % 2 == 0 || n <= SAMPLES) return k * n / tried;
    double top = -1;
    for (int64_t e = 0; e < n; e++) {
        double size = fabs(given->value[e]);
        if (size > top && size < *below) top = size, best = e;
    }
    *below = top;
    return best;
}

/* Compares `given`, the claimed gradient of input i, with differences at some elements. */
static void check_input(m2_probe *p, const m2_slot *const c[M2_MAX_OUT], int i, const m2_slot *given)
{
    int64_t n = m2_desc_count(&p->in[i].desc), tried = n < SAMPLES ? n : SAMPLES;
    double diff = 0, norm = 0, below = 1e300;
    for (int64_t k = 0; k < tried; k++) {
        int64_t e = sample(given, k, tried, &below);
        double slope = 0;
        if (!expect_ok(difference(p, c, i, e, &slope), p->row, "finite difference")) return;
        diff += (slope - given->value[e]) * (slope - given->value[e]);
        norm += slope * slope;
    }
    double error = sqrt(diff / (norm + 1e-12)); /* a gradient may be zero everywhere */
    expect(error <= TOLERANCE, p->row, "gradient of %s is off by %.3g from finite differences",
           p->op->in_name[i], error);
}

static void check_differences(m2_probe *p, const m2_probe *g, unsigned want)
{
    const m2_slot *c[M2_MAX_OUT] = {0};
    for (int j = 0; j < p->op->n_out; j++)
        if (p->op->diff_out >> j & 1) c[j] = &g->in[m2_probe_grad_in(p->op, j)];
    for (int i = 0; i < p->op->n_in; i++)
        if (want >> i & 1) check_input(p, c, i, &g->out[m2_probe_grad_out(p->op, i)]);
}

/* An input that passes the gradient: d<y, c>/dx = c. */
static void check_passes(m2_probe *p)
{
    m2_slot c = p->out[0];
    const m2_slot *all[M2_MAX_OUT] = {&c};
    c.value = malloc((size_t)c.period * sizeof *c.value);
    for (int64_t e = 0; e < c.period; e++) c.value[e] = sin((double)e + 1);
    for (int i = 0; i < p->op->n_in; i++)
        if (p->op->passes >> i & 1) check_input(p, all, i, &c);
    free(c.value);
}

/* ---- the gradient call's own promises ------------------------------------------------------------------ */
static void same(const m2_probe *got, const m2_probe *want, const char *what)
{
    for (int j = 0; j < got->op->n_out; j++)
        if (got->out[j].desc.rank >= 0)
            expect_close(&got->out[j], &want->out[j], ROUNDING, got->row, what, got->op->out_name[j]);
}

static void check_one_output(const m2_probe *p, const m2_probe *g, unsigned want)
{
    m2_probe one;
    if (!expect_ok(m2_probe_grad(p, ~0u, want, &one), p->row, "one gradient")) return;
    if (expect_ok(m2_probe_run(&one, test.cpu, 0), p->row, "one gradient")) same(&one, g, "wanted alone");
    m2_probe_free(&one);
}

/* Without output j's gradient, as with a zero one. */
static void check_absent(const m2_probe *p, int j)
{
    m2_probe without = {0}, zero = {0};
    if (expect_ok(m2_probe_grad(p, ~(1u << j), ~0u, &without), p->row, "absent gradient") &&
        expect_ok(m2_probe_grad(p, ~0u, ~0u, &zero), p->row, "zero gradient")) {
        m2_slot *s = &zero.in[m2_probe_grad_in(p->op, j)];
        for (int64_t e = 0; e < s->period; e++) s->value[e] = 0;
        if (expect_ok(m2_probe_run(&without, test.cpu, 0), p->row, "absent gradient") &&
            expect_ok(m2_probe_run(&zero, test.cpu, 0), p->row, "zero gradient"))
            same(&without, &zero, "absent against zero");
    }
    m2_probe_free(&without);
    m2_probe_free(&zero);
}

static void check_accumulation(const m2_probe *p, m2_probe *g)
{
    m2_probe acc;
    if (!expect_ok(m2_probe_grad(p, ~0u, ~0u, &acc), p->row, "accumulation")) return;
    acc.acc = acc.op->acc;
    for (int j = 0; j < acc.op->n_out; j++)
        for (int64_t e = 0; acc.out[j].value && e < acc.out[j].period; e++)
            acc.out[j].value[e] = sin((double)e);
    if (expect_ok(m2_probe_run(&acc, test.cpu, 0), p->row, "accumulation")) {
        for (int j = 0; j < acc.op->n_out; j++)
            for (int64_t e = 0; acc.acc >> j & 1 && acc.out[j].value && e < acc.out[j].period; e++)
                acc.out[j].value[e] -= sin((double)e);
        same(&acc, g, "accumulated");
    }
    m2_probe_free(&acc);
}

/* ---- mode grad ----------------------------------------------------------------------------------------- */
static void grad(const m2_case *row)
{
    m2_probe p, g = {0};
    if (!expect_ok(m2_probe_make(row, m2_probe_precision_find("f64"), 1, 0, &p), row, "probe")) return;
    if (!expect_ok(m2_probe_run(&p, test.cpu, 0), row, "forward")) goto done;
    if (p.op->passes) check_passes(&p);
    if (!p.op->grad) goto done;
    if (!expect_ok(m2_probe_grad(&p, ~0u, ~0u, &g), row, "gradient")) goto done;
    if (!expect_ok(m2_probe_run(&g, test.cpu, 0), row, "gradient")) goto done;
    unsigned want = 0;
    for (int i = 0; i < p.op->n_in; i++)
        if (p.op->diff_in >> i & 1 && p.in[i].desc.rank >= 0) want |= 1u << i;
    check_differences(&p, &g, want);
    if (!expect_ok(m2_probe_run(&p, test.cpu, 0), row, "forward"))
        goto done; /* differences moved the outputs */
    for (int i = 0; i < p.op->n_in; i++)
        if (want >> i & 1) check_one_output(&p, &g, 1u << i);
    for (int j = 0; j < p.op->n_out; j++)
        if (p.op->diff_out >> j & 1 && p.op->diff_out != 1u << j && p.out[j].desc.rank >= 0)
            check_absent(&p, j);
    check_accumulation(&p, &g);
done:
    m2_probe_free(&g);
    m2_probe_free(&p);
}

void mode_grad(void)
{
    each_row(grad);
}

/* ---- mode adjoint -------------------------------------------------------------------------------------- */
/* Passing inputs' gradient is out[0]'s own, so for them A' c = c. */
static void adjoint(const m2_case *row)
{
    m2_probe p, g = {0};
    if (!expect_ok(m2_probe_make(row, m2_probe_precision_find("f64"), 1, 0, &p), row, "probe")) return;
    if (!p.op->linear || !p.op->grad) goto done;
    if (!expect_ok(m2_probe_run(&p, test.cpu, 0), row, "forward") ||
        !expect_ok(m2_probe_grad(&p, ~0u, p.op->linear, &g), row, "gradient") ||
        !expect_ok(m2_probe_run(&g, test.cpu, 0), row, "gradient"))
        goto done;
    double left = 0, right = 0, size = 0;
    for (int j = 0; j < p.op->n_out; j++) {
        if (!(p.op->diff_out >> j & 1) || p.out[j].desc.rank < 0) continue;
        const m2_slot *c = &g.in[m2_probe_grad_in(p.op, j)];
        left += dot(&p.out[j], c);
        size += sqrt(dot(&p.out[j], &p.out[j]) * dot(c, c));
    }
    for (int i = 0; i < p.op->n_in; i++)
        if (p.op->linear & p.op->diff_in & 1u << i && p.in[i].desc.rank >= 0)
            right += dot(&p.in[i], &g.out[m2_probe_grad_out(p.op, i)]);
    expect(fabs(left - right) <= ROUNDING * size, row, "<A x, c> = %.17g, but <x, A' c> = %.17g", left,
           right);
done:
    m2_probe_free(&g);
    m2_probe_free(&p);
}

void mode_adjoint(void)
{
    each_row(adjoint);
}
