/* print.c - a program as text: one line per call, then totals. Every number is exact or fixed-width: it diffs well. */
#include "runtime/program/internal.h"

#include <stdarg.h>

enum { WIDTH = 160, PATH = 28 };

/* A line that never grows beyond WIDTH. */
typedef struct line {
    char text[WIDTH + 1];
    size_t n;
} line;

static void put(line *l, const char *fmt, ...) M2_PRINTF(2, 3);
static void put(line *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(l->text + l->n, sizeof l->text - l->n, fmt, ap);
    va_end(ap);
    if (n > 0) l->n = l->n + (size_t)n < sizeof l->text ? l->n + (size_t)n : sizeof l->text - 1;
}

static void put_shape(line *l, const m2_program *p, const m2_desc *d)
{
    if (d->dtype != m2_program_compute_dtype(p)) put(l, "%s", m2_dtype_name(d->dtype));
    put(l, "[");
    for (int i = 0; i < d->rank; i++) put(l, "%s%lld", i ? "," : "", (long long)d->shape[i]);
    put(l, "]");
}

/* An operand: t12 for an activation, the name of an input, the slot's name for a parameter or a flat array. */
static void put_operand(line *l, const m2_program *p, m2_tid t, const char *slot)
{
    const m2i_tensor *x = m2i_at(p, t);
    if (x->home == M2I_ACT)
        put(l, "t%d", (int)t);
    else
        put(l, "%s", x->home == M2I_IO ? x->name : slot);
}

/* Outputs: name, shape where it is not the one before, and where it lies. See the legend for the marks. */
static void put_outputs(line *l, const m2_program *p, const m2i_call *c)
{
    const m2_desc *before = NULL;
    int n = 0;
    for (int j = 0; j < c->op->n_out; j++) {
        if (c->out[j] == M2_NONE) continue;
        const m2i_tensor *x = m2i_at(p, c->out[j]);
        put(l, "%s", n++ ? " " : "");
        put_operand(l, p, c->out[j], c->op->out_name[j]);
        put(l, "%s", c->acc_first >> j & 1 ? "+" : c->acc_later >> j & 1 ? "(+)" : "");
        if (x->home != M2I_ACT) continue;
        if (!before || !m2_desc_same_shape(before, &x->desc) || before->dtype != x->desc.dtype)
            put_shape(l, p, &x->desc);
        before = &x->desc;
        if (c->reused >> j & 1)
            put(l, "~");
        else if (p->stage >= M2I_PLANNED)
            put(l, "@%lld", (long long)x->at / M2_ALIGN);
    }
    put(l, " =");
    for (int i = 0; i < c->op->n_in; i++) {
        if (c->in[i] == M2_NONE) continue;
        put(l, " ");
        put_operand(l, p, c->in[i], c->op->in_name[i]);
    }
}

/* The end of a long path says more than its beginning. */
static const char *tail(const char *path, size_t width)
{
    size_t n = strlen(path);
    return n > width ? path + n - width : path;
}

static void print_call(const m2_program *p, int i, FILE *out)
{
    const m2i_call *c = &p->calls[i];
    m2_cost cost = m2i_call_cost(p, c);
    line l = {.n = 0};
    char mark = c->again ? '*' : c->beside ? '|' : c->context ? '!' : ' ';
    put(&l, "%4d%c%-*s %-14s %8.2f %8.1f ", i, mark, PATH, tail(c->path, PATH), c->op->name, cost.bytes / 1e6,
        cost.flops / 1e6);
    put_outputs(&l, p, c);
    fprintf(out, "%s\n", l.text);
}

static void print_region(const m2_program *p, m2_region region, const char *name, FILE *out)
{
    int n = 0, again = 0;
    for (int i = 0; i < p->n_calls; i++)
        if (p->calls[i].region == region) n++, again += p->calls[i].again;
    if (!n) return;
    m2_cost cost = m2_program_cost(p, region);
    fprintf(out, "== %s: %d calls", name, n);
    if (again) fprintf(out, " (%d recomputed)", again);
    fprintf(out, ", %.3f MB moved, %.3f MFLOP\n", cost.bytes / 1e6, cost.flops / 1e6);
    for (int i = 0; i < p->n_calls; i++)
        if (p->calls[i].region == region) print_call(p, i, out);
}

static void print_memory(const m2_program *p, FILE *out)
{
    const m2_memory_plan *m = &p->memory;
    const struct {
        const char *name;
        int64_t bytes;
    } rows[] = {{"params", m->params},           {"grads", m->grads},         {"optimizer", m->optimizer},
                {"activations", m->activations}, {"workspace", m->workspace}, {"io", m->io}};
    int64_t sum = 0;
    fprintf(out, "== memory: at least %lld bytes of activations are alive at once\n",
            (long long)p->live_bound);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fprintf(out, "%16s %16lld bytes\n", rows[i].name, (long long)rows[i].bytes);
        sum += rows[i].bytes;
    }
    fprintf(out, "%16s %16lld bytes\n", "total", (long long)sum);
}

void m2_program_print(const m2_program *p, FILE *out)
{
    const m2_program_spec *s = &p->spec;
    fprintf(out, "program: %s, %s, %lld rows of %lld, length %lld, %lld trained parameters, %s plan\n",
            s->mode == M2_MODE_TRAIN ? "train" : "eval", m2_dtype_name(m2_program_compute_dtype(p)),
            (long long)s->rows, (long long)s->rows_whole, (long long)s->length,
            (long long)m2_program_param_count(p),
            p->stage < M2I_PLANNED ? "no"
            : p->options.naive     ? "naive"
                                   : "optimised");
    fprintf(out, "call %-*s %-14s %8s %8s outputs = inputs\n", PATH, "path", "op", "MB", "MFLOP");
    fprintf(out,
            "     [shape] @offset in blocks of %d bytes, ~ in the memory of an input; + adds, (+) adds from "
            "the second "
            "microbatch on;\n     * recomputed, ! a collective, | one beside the calls that do not need it\n",
            M2_ALIGN);
    print_region(p, M2_FORWARD, "forward", out);
    print_region(p, M2_BACKWARD, "backward", out);
    print_region(p, M2_UPDATE, "update", out);
    if (p->stage >= M2I_PLANNED) print_memory(p, out);
}
