/* shard.c - mode shard: an op on slabs of its tensors equals the slabs of the op; what is not cut adds up.
 *
 * Tensors with the axis are cut along it, with `whole` and `origin` set as the mesh would; the others are the same on
 * every slab. An output without the axis that has the same shape on each slab is a sum over slabs (loss, parameter
 * gradients); one whose first dimension shrinks counts rows (stats, lse). */
#include "tests/op/harness.h"

#include <stdlib.h>

static int has_axis(const m2_desc *d, char axis)
{
    for (int i = 0; i < d->rank; i++)
        if (d->axis[i] == axis) return 1;
    return 0;
}

static int rows_axis(const m2_desc *part, const m2_desc *whole)
{
    return part->rank > 0 && part->shape[0] != whole->shape[0];
}

/* Adds or copies slab k's output into the whole one. first_row: where its rows start, for outputs that count rows. */
static void join(m2_slot *whole, const m2_slot *part, char axis, int64_t *first_row)
{
    const m2_desc *d = &part->desc;
    if (!has_axis(d, axis)) {
        int64_t at = 0, width = d->rank > 0 && d->shape[0] ? part->period / d->shape[0] : 1;
        if (rows_axis(d, &whole->desc)) {
            at = *first_row * width;
            *first_row += d->shape[0];
        }
        for (int64_t e = 0; e < part->period; e++) whole->value[at + e] += part->value[e];
        return;
    }
    for (int64_t e = 0; e < part->period; e++) {
        int64_t rest = e, at = 0, stride = 1;
        for (int i = d->rank - 1; i >= 0; i--) {
            at += (rest % d->shape[i] + part->origin[i]) * stride;
            rest /= d->shape[i];
            stride *= whole->desc.shape[i];
        }
        whole->value[at] += part->value[e];
    }
}

static void join_all(m2_probe *sum, const m2_probe *part, char axis, int64_t first_row[M2_MAX_OUT])
{
    for (int j = 0; j < part->op->n_out; j++)
        if (part->out[j].desc.rank >= 0) join(&sum->out[j], &part->out[j], axis, &first_row[j]);
}

/* The part's gradient call gets the same output gradients as the whole one, cut. */
static m2_status cut_gradient(const m2_probe *g, const m2_probe *part, char axis, int k, int n, m2_probe *out)
{
    m2_probe cut;
    M2_TRY(m2_probe_slab(g, axis, k, n, &cut));
    m2_status st = m2_probe_grad(part, ~0u, ~0u, out);
    if (st == M2_OK)
        for (int j = 0; j < part->op->n_out; j++)
            if (part->op->diff_out >> j & 1) {
                int i = m2_probe_grad_in(part->op, j);
                m2_probe_copy(&out->in[i], &cut.in[i]);
            }
    m2_probe_free(&cut);
    return st;
}

static void zero_outputs(m2_probe *p)
{
    for (int j = 0; j < p->op->n_out; j++)
        for (int64_t e = 0; p->out[j].value && e < p->out[j].period; e++) p->out[j].value[e] = 0;
}

static void compare(const m2_probe *sum, const m2_probe *whole, char axis, int n, double tol)
{
    char what[32];
    snprintf(what, sizeof what, "%d slabs along %c", n, axis);
    for (int j = 0; j < whole->op->n_out; j++) {
        const m2_slot *s = &whole->out[j];
        int counts_rows = axis != 'B' && s->desc.rank > 0 && s->role == 0 && !has_axis(&s->desc, axis);
        if (s->desc.rank >= 0 && !counts_rows)
            expect_close(&sum->out[j], s, tol, whole->row, what, whole->op->out_name[j]);
    }
}

static m2_status sharded(const m2_probe *p, const m2_probe *g, char axis, int n, double tol)
{
    m2_probe sum = {0}, g_sum = {0}, part = {0}, g_part = {0};
    int64_t row[M2_MAX_OUT] = {0}, g_row[M2_MAX_OUT] = {0};
    m2_status st = M2_OK;
    M2_TRY_GOTO(st, m2_probe_slab(p, axis, 0, 1, &sum), done);
    zero_outputs(&sum);
    if (g) {
        M2_TRY_GOTO(st, m2_probe_grad(p, ~0u, ~0u, &g_sum), done);
        zero_outputs(&g_sum);
    }
    for (int k = 0; k < n; k++) {
        m2_probe_free(&part);
        m2_probe_free(&g_part);
        M2_TRY_GOTO(st, m2_probe_slab(p, axis, k, n, &part), done);
        M2_TRY_GOTO(st, m2_probe_run(&part, test.device, 0), done);
        join_all(&sum, &part, axis, row);
        if (!g) continue;
        M2_TRY_GOTO(st, cut_gradient(g, &part, axis, k, n, &g_part), done);
        M2_TRY_GOTO(st, m2_probe_run(&g_part, test.device, 0), done);
        join_all(&g_sum, &g_part, axis, g_row);
    }
    compare(&sum, p, axis, n, tol);
    if (g) compare(&g_sum, g, axis, n, tol);
done:
    m2_probe_free(&sum);
    m2_probe_free(&g_sum);
    m2_probe_free(&part);
    m2_probe_free(&g_part);
    return st;
}

static void shard(const m2_case *row)
{
    const m2_probe_precision *prec =
        m2_probe_precision_find(strcmp(test.device->api->kind, "cpu") ? "f32" : "f64");
    double tol = prec->t == M2_F64 ? 1e-12 : 4 * row->tol_f32;
    m2_probe p, g = {0};
    if (!expect_ok(m2_probe_make(row, prec, 1, 0, &p), row, "probe")) return;
    if (!has_axis(&p.in[0].desc, 'B') || !expect_ok(m2_probe_run(&p, test.device, 0), row, "whole"))
        goto done;
    int differentiable = p.op->grad != NULL;
    if (differentiable && (!expect_ok(m2_probe_grad(&p, ~0u, ~0u, &g), row, "gradient") ||
                           !expect_ok(m2_probe_run(&g, test.device, 0), row, "gradient")))
        goto done;
    for (int n = 1; n <= 3; n++) {
        expect_ok(sharded(&p, differentiable ? &g : NULL, 'B', n, tol), row, "slabs");
        if (row->flags & M2_CASE_LOCAL)
            expect_ok(sharded(&p, differentiable ? &g : NULL, 'L', n, tol), row, "slabs");
    }
done:
    m2_probe_free(&g);
    m2_probe_free(&p);
}

void mode_shard(void)
{
    each_row(shard);
}
