/* checkpoint_diff.c - m2 inspect checkpoint diff A B: what changed between two checkpoints, and how much of it. */
#include "tools/checkpoint_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct change {
    double most;     /* largest |b - a| */
    double relative; /* |b - a| / |a|, Euclidean */
    int64_t differ;  /* elements with other bits */
} change;

typedef struct comparison {
    const m2_manifest *a, *b;
    int json, all, printed;
    int64_t equal, changed, unlike; /* tensors: same bits, other bits, not comparable */
} comparison;

static double element(const void *data, m2_dtype dtype, int64_t i)
{
    return dtype == M2_F64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

static int64_t elements(const m2_array_info *info)
{
    int64_t n = 1;
    for (int d = 0; d < info->rank; d++) n *= info->shape[d];
    return n;
}

static change compare(const m2_array_info *ia, const void *a, const m2_array_info *ib, const void *b)
{
    change c = {0};
    double squares = 0, whole = 0;
    for (int64_t i = 0, n = elements(ia); i < n; i++) {
        double x = element(a, ia->dtype, i), y = element(b, ib->dtype, i), d = fabs(y - x);
        c.differ += memcmp(&x, &y, sizeof x) != 0;
        if (d > c.most || isnan(d)) c.most = d;
        squares += d * d;
        whole += x * x;
    }
    c.relative = squares == 0 ? 0 : sqrt(squares / whole);
    return c;
}

static m2_status read_both(const comparison *c, int ta, int tb, change *out)
{
    const m2_array_info *ia = &c->a->tensors[ta].info, *ib = &c->b->tensors[tb].info;
    void *a = malloc((size_t)(elements(ia) * m2_dtype_size(ia->dtype)) + 1);
    void *b = malloc((size_t)(elements(ib) * m2_dtype_size(ib->dtype)) + 1);
    m2_status st =
        a && b ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for tensor %s", c->a->tensors[ta].name);
    if (st == M2_OK) st = m2_manifest_read_raw(c->a, ta, a);
    if (st == M2_OK) st = m2_manifest_read_raw(c->b, tb, b);
    if (st == M2_OK) *out = compare(ia, a, ib, b);
    free(a);
    free(b);
    return st;
}

static void print_unlike(comparison *c, const char *name, const char *why)
{
    c->unlike++;
    if (c->json)
        printf("%s\n  {\"name\": \"%s\", \"unlike\": \"%s\"}", c->printed++ ? "," : "", name, why);
    else
        printf("%-44s %s\n", name, why);
}

static void print_change(comparison *c, const char *name, const m2_array_info *info, const change *x)
{
    if (x->differ)
        c->changed++;
    else
        c->equal++;
    if (c->json)
        printf("%s\n  {\"name\": \"%s\", \"max_abs\": %.9g, \"relative\": %.9g, \"differ\": %" PRId64
               ", \"of\": %" PRId64 "}",
               c->printed++ ? "," : "", name, x->most, x->relative, x->differ, elements(info));
    else if (x->differ && (c->all || !strncmp(name, "param/", 6)))
        printf("%-44s %11.3g %11.3g %12" PRId64 " of %" PRId64 "\n", name, x->most, x->relative, x->differ,
               elements(info));
}

static m2_status compare_tensor(comparison *c, int ta)
{
    const m2_saved_tensor *a = &c->a->tensors[ta];
    int tb = m2_manifest_tensor(c->b, a->name);
    if (tb < 0) {
        print_unlike(c, a->name, "only in A");
        return M2_OK;
    }
    const m2_array_info *ia = &a->info, *ib = &c->b->tensors[tb].info;
    if (ia->rank != ib->rank || memcmp(ia->shape, ib->shape, (size_t)ia->rank * sizeof *ia->shape)) {
        char sa[96], sb[96], why[256];
        snprintf(why, sizeof why, "%s in A, %s in B", m2i_shape_text(ia, sa, sizeof sa),
                 m2i_shape_text(ib, sb, sizeof sb));
        print_unlike(c, a->name, why);
        return M2_OK;
    }
    change x;
    M2_TRY(read_both(c, ta, tb, &x));
    print_change(c, a->name, ia, &x);
    return M2_OK;
}

static m2_status compare_all(comparison *c)
{
    if (c->json)
        printf("{\"a\": \"%s\", \"b\": \"%s\", \"step_a\": %" PRId64 ", \"step_b\": %" PRId64
               ", \"tensors\": [",
               c->a->folder, c->b->folder, c->a->step, c->b->step);
    else
        printf("A  %s (step %" PRId64 ")\nB  %s (step %" PRId64 ")\n\n%-44s %11s %11s %12s\n", c->a->folder,
               c->a->step, c->b->folder, c->b->step, "tensor", "max |B-A|", "|B-A|/|A|", "differ");
    for (int i = 0; i < c->a->n_tensors; i++) M2_TRY(compare_tensor(c, i));
    for (int i = 0; i < c->b->n_tensors; i++)
        if (m2_manifest_tensor(c->a, c->b->tensors[i].name) < 0)
            print_unlike(c, c->b->tensors[i].name, "only in B");
    if (c->json)
        printf("], \"equal\": %" PRId64 ", \"changed\": %" PRId64 ", \"unlike\": %" PRId64 "}\n", c->equal,
               c->changed, c->unlike);
    else
        printf("\n%" PRId64 " tensors are equal bit for bit, %" PRId64 " changed%s, %" PRId64
               " cannot be compared\n",
               c->equal, c->changed, c->all || !c->changed ? "" : " (--all shows those of the optimizer too)",
               c->unlike);
    return M2_OK;
}

m2_status m2i_inspect_diff(const char *a, const char *b, int all, int json)
{
    char folder[M2_PATH];
    m2_manifest ma = {0}, mb = {0};
    m2_status st = m2_checkpoint_find(a, folder, NULL);
    if (st == M2_OK) st = m2_manifest_read(folder, &ma);
    if (st == M2_OK) st = m2_checkpoint_find(b, folder, NULL);
    if (st == M2_OK) st = m2_manifest_read(folder, &mb);
    comparison c = {.a = &ma, .b = &mb, .json = json, .all = all};
    if (st == M2_OK) st = compare_all(&c);
    m2_manifest_free(&ma);
    m2_manifest_free(&mb);
    return st;
}
