/* cases.c - rows of cases.def into probes: parsing, shapes, random values, gradient calls, slabs. */
#include "kernels/base/rng.h"
#include "kernels/probe.h"

#include <ctype.h>
#include <stdlib.h>

static const m2_case cases[] = {
#define M2_CASE(op, tensors, attrs, tol_f32, tol_bf16, flags) {#op, tensors, attrs, tol_f32, tol_bf16, flags},
#include "kernels/cases.def"
#undef M2_CASE
};

int m2_cases(const m2_case **rows)
{
    *rows = cases;
    return (int)(sizeof cases / sizeof *cases);
}

const m2_probe_precision *m2_probe_precision_find(const char *name)
{
    static const m2_probe_precision table[] = {
        {"f64", M2_F64, M2_F64},
        {"f32", M2_F32, M2_F32},
        {"tf32", M2_F32, M2_F32}, /* on a device with tf32 set */
        {"bf16", M2_BF16, M2_F32},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(name, table[i].name)) return &table[i];
    return NULL;
}

/* ---- values -------------------------------------------------------------------------------------------- */
static double rounded(double x, m2_dtype t)
{
    if (t == M2_F32) return (double)(float)x;
    if (t == M2_BF16) return (double)m2_bf16_to_f32(m2_bf16_from_f32((float)x));
    return x;
}

static m2_status slot_alloc(m2_slot *s, int64_t limit)
{
    int64_t n = m2_desc_count(&s->desc);
    s->period = limit && n > limit ? limit : n;
    if (s->desc.rank < 0) return M2_OK;
    s->value = calloc((size_t)(s->period > 0 ? s->period : 1), sizeof *s->value);
    return s->value ? M2_OK
                    : m2_fail(M2_TRANSIENT, "out of memory for a probe of %lld elements", (long long)n);
}

static void slot_place(m2_slot *s)
{
    for (int d = 0; d < s->desc.rank; d++) {
        s->whole[d] = s->desc.shape[d];
        s->origin[d] = 0;
    }
}

/* Integers in [lo, hi] if lo <= hi, else normal numbers, or positive ones. */
static m2_status slot_random(m2_slot *s, uint64_t stream, int64_t limit, int64_t lo, int64_t hi, int positive)
{
    M2_TRY(slot_alloc(s, limit));
    m2_rng_key key = m2_rng_make_key(2310, 12109, stream);
    for (int64_t e = 0; s->value && e < s->period; e++) {
        if (lo <= hi) {
            s->value[e] = (double)(lo + (int64_t)(m2_rng_u32(key, (uint64_t)e) % (uint64_t)(hi - lo + 1)));
            continue;
        }
        double x = m2_rng_normal(key, (uint64_t)e);
        s->value[e] = rounded(positive ? fabs(x) + 0.01 : x, s->desc.dtype);
    }
    return M2_OK;
}

void m2_probe_copy(m2_slot *dst, const m2_slot *src)
{
    for (int64_t e = 0; dst->value && src->value && e < dst->period; e++)
        dst->value[e] = rounded(src->value[e % src->period], dst->desc.dtype);
}

/* ---- parsing ------------------------------------------------------------------------------------------- */
static m2_dtype role_dtype(char role, const m2_probe_precision *prec)
{
    switch (role) {
    case 'P': return prec->p;
    case 'D': return M2_F64;
    case 'I': return M2_I32;
    case 'U': return M2_U8;
    default: return prec->t;
    }
}

static m2_status parse_tensor(const char **text, const m2_probe *p, int64_t scale, m2_slot *s,
                              int64_t range[2], int *positive)
{
    const char *at = *text;
    range[0] = 0, range[1] = -1, *positive = 0;
    s->desc = m2_desc_none();
    if (*at == '-') return *text = at + 1, M2_OK;
    s->role = *at++;
    if (!strchr("TWPDIU", s->role))
        return m2_fail(M2_BUG, "cases.def, %s: unknown role in '%s'", p->op->name, *text);
    s->desc.dtype = role_dtype(s->role, &p->precision);
    s->desc.rank = 0;
    if (*at == '+') *positive = 1, at++;
    char *end;
    if (s->role == 'I' || s->role == 'U') {
        range[0] = strtoll(at, &end, 10);
        range[1] = strtoll(end + 1, &end, 10);
        at = end;
    }
    for (;;) {
        while (*at == ' ') at++;
        if (!*at || strchr(";>", *at)) break;
        if (s->desc.rank == M2_MAX_RANK)
            return m2_fail(M2_BUG, "cases.def, %s: rank of '%s'", p->op->name, *text);
        char axis = *at++;
        s->desc.axis[s->desc.rank] = axis;
        s->desc.shape[s->desc.rank++] = strtoll(at, &end, 10) * (axis == 'B' ? scale : 1);
        at = end;
    }
    slot_place(s);
    *text = at;
    return M2_OK;
}

/* Where an attribute of this name lives: 0 .. in i, M2_MAX_ATTR_I .. in f, -1 if the op has none. */
static int attr_index(const m2_op *op, const char *name, size_t length)
{
    for (int k = 0; k < M2_MAX_ATTR_I && op->attr_i[k]; k++)
        if (strlen(op->attr_i[k]) == length && !strncmp(op->attr_i[k], name, length)) return k;
    for (int k = 0; k < M2_MAX_ATTR_F && op->attr_f[k]; k++)
        if (strlen(op->attr_f[k]) == length && !strncmp(op->attr_f[k], name, length))
            return M2_MAX_ATTR_I + k;
    return -1;
}

static m2_status parse_attrs(const char *text, m2_probe *p)
{
    while (*text) {
        const char *eq = strchr(text, '=');
        int k = eq ? attr_index(p->op, text, (size_t)(eq - text)) : -1;
        if (k < 0) return m2_fail(M2_BUG, "cases.def, %s: unknown attribute in '%s'", p->op->name, text);
        char *end = (char *)(uintptr_t)(eq + 2);
        if (eq[1] == 'T')
            p->attrs.i[k] = p->precision.t;
        else if (eq[1] == 'P')
            p->attrs.i[k] = p->precision.p;
        else if (k < M2_MAX_ATTR_I)
            p->attrs.i[k] = strtoll(eq + 1, &end, 10);
        else
            p->attrs.f[k - M2_MAX_ATTR_I] = strtod(eq + 1, &end);
        for (text = end; *text == ' ';) text++;
    }
    return M2_OK;
}

static m2_status parse_tensors(const char *text, int64_t scale, int64_t limit, m2_probe *p)
{
    int n = 0, inputs = 1, positive;
    int64_t range[2];
    for (; *text; n++) {
        while (*text && strchr(" ;", *text)) text++;
        if (*text == '>') {
            for (text++; *text == ' ';) text++;
            inputs = 0, n = 0;
        }
        if (n >= (inputs ? p->op->n_in : p->op->n_out))
            return m2_fail(M2_BUG, "cases.def, %s: too many tensors", p->op->name);
        m2_slot *s = inputs ? &p->in[n] : &p->out[n];
        M2_TRY(parse_tensor(&text, p, scale, s, range, &positive));
        if (inputs) M2_TRY(slot_random(s, (uint64_t)n + 1, limit, range[0], range[1], positive));
        while (*text == ' ') text++;
    }
    return M2_OK;
}

/* ---- probes -------------------------------------------------------------------------------------------- */
static m2_step test_step(void)
{
    m2_step s = {.seed = 42, .step = 3, .lr = 2e-3, .lr_peak = 5e-3, .clip = 0.5, .outlier = 1e9};
    for (int g = 0; g < M2_MAX_GROUPS; g++) {
        s.group[g].lr_scale = 1.0 / (1 + g);
        s.group[g].weight_decay = 0.1 * g;
    }
    return s;
}

static void clear(m2_probe *p)
{
    for (int i = 0; i < M2_MAX_IN; i++) p->in[i] = (m2_slot){.desc.rank = -1};
    for (int j = 0; j < M2_MAX_OUT; j++) p->out[j] = (m2_slot){.desc.rank = -1};
}

static void descs_in(const m2_probe *p, m2_desc in[M2_MAX_IN])
{
    for (int i = 0; i < M2_MAX_IN; i++) in[i] = p->in[i].desc;
}

/* Shapes and space of the outputs. */
static m2_status open_outputs(m2_probe *p, int64_t limit)
{
    m2_desc in[M2_MAX_IN], out[M2_MAX_OUT];
    descs_in(p, in);
    for (int j = 0; j < M2_MAX_OUT; j++) out[j] = p->out[j].desc;
    if (p->op->shape) M2_TRY(p->op->shape(&p->attrs, in, out));
    for (int j = 0; j < p->op->n_out; j++) {
        p->out[j].desc = out[j];
        slot_place(&p->out[j]);
        M2_TRY(slot_alloc(&p->out[j], limit));
    }
    return M2_OK;
}

static m2_status make(int64_t scale, int64_t limit, m2_probe *p)
{
    M2_TRY(parse_attrs(p->row->attrs, p));
    M2_TRY(parse_tensors(p->row->tensors, scale, limit, p));
    return open_outputs(p, limit);
}

m2_status m2_probe_make(const m2_case *row, const m2_probe_precision *prec, int64_t scale, int64_t limit,
                        m2_probe *p)
{
    *p = (m2_probe){.row = row, .precision = *prec, .op = m2_op_find(row->op), .step = test_step()};
    clear(p);
    if (!p->op) return m2_fail(M2_BUG, "cases.def: there is no op '%s'", row->op);
    m2_status st = make(scale, limit, p);
    if (st != M2_OK) m2_probe_free(p);
    return st;
}

void m2_probe_free(m2_probe *p)
{
    for (int i = 0; i < M2_MAX_IN; i++) free(p->in[i].value);
    for (int j = 0; j < M2_MAX_OUT; j++) free(p->out[j].value);
    *p = (m2_probe){0};
}

/* ---- gradient calls ------------------------------------------------------------------------------------ */
static int bits_below(unsigned mask, int i)
{
    return __builtin_popcount(mask & ((1u << i) - 1));
}

int m2_probe_grad_out(const m2_op *op, int i)
{
    return bits_below(op->diff_in, i);
}

int m2_probe_grad_in(const m2_op *op, int j)
{
    return __builtin_popcount(op->grad_in) + __builtin_popcount(op->grad_out) + bits_below(op->diff_out, j);
}

static m2_status slot_clone(m2_slot *dst, const m2_slot *src)
{
    *dst = *src;
    M2_TRY(slot_alloc(dst, src->period));
    if (src->value) memcpy(dst->value, src->value, (size_t)src->period * sizeof *src->value);
    return M2_OK;
}

static m2_status make_grad(const m2_probe *p, unsigned given, unsigned want, m2_probe *g)
{
    const m2_op *op = p->op;
    int n = 0;
    for (int i = 0; i < op->n_in; i++)
        if (op->grad_in >> i & 1) M2_TRY(slot_clone(&g->in[n++], &p->in[i]));
    for (int j = 0; j < op->n_out; j++)
        if (op->grad_out >> j & 1) M2_TRY(slot_clone(&g->in[n++], &p->out[j]));
    for (int j = 0; j < op->n_out; j++) {
        if (!(op->diff_out >> j & 1)) continue;
        m2_slot *s = &g->in[n++];
        if (p->out[j].desc.rank < 0 || !(given >> j & 1)) continue;
        *s = p->out[j];
        s->role = 'T';
        M2_TRY(slot_random(s, 100 + (uint64_t)j, p->out[j].period, 0, -1, 0));
    }
    for (int i = 0; i < op->n_in; i++) {
        if (!(op->diff_in >> i & 1)) continue;
        m2_slot *s = &g->out[m2_probe_grad_out(op, i)];
        if (p->in[i].desc.rank < 0 || !(want >> i & 1)) continue;
        *s = p->in[i];
        if (s->role == 'W') s->desc.dtype = p->precision.p;
        M2_TRY(slot_alloc(s, p->in[i].period));
    }
    return M2_OK;
}

m2_status m2_probe_grad(const m2_probe *p, unsigned given, unsigned want, m2_probe *grad)
{
    *grad = *p;
    clear(grad);
    grad->op = p->op->grad;
    grad->acc = 0;
    M2_CHECK(grad->op != NULL);
    m2_status st = make_grad(p, given, want, grad);
    if (st != M2_OK) m2_probe_free(grad);
    return st;
}

/* ---- slabs --------------------------------------------------------------------------------------------- */
static m2_status slot_cut(const m2_slot *src, char axis, int k, int n, m2_slot *dst)
{
    *dst = *src;
    for (int d = 0; d < src->desc.rank; d++) {
        if (src->desc.axis[d] != axis) continue;
        int64_t from = src->desc.shape[d] * k / n;
        dst->origin[d] = from;
        dst->desc.shape[d] = src->desc.shape[d] * (k + 1) / n - from;
    }
    M2_TRY(slot_alloc(dst, 0));
    for (int64_t e = 0; dst->value && e < dst->period; e++) {
        int64_t rest = e, at = 0, stride = 1;
        for (int d = src->desc.rank - 1; d >= 0; d--) {
            int64_t i = rest % dst->desc.shape[d];
            rest /= dst->desc.shape[d];
            at += (i + (dst->origin[d] - src->origin[d])) * stride;
            stride *= src->desc.shape[d];
        }
        dst->value[e] = src->value[at];
    }
    return M2_OK;
}

m2_status m2_probe_slab(const m2_probe *p, char axis, int k, int n, m2_probe *slab)
{
    *slab = *p;
    clear(slab);
    m2_status st = M2_OK;
    for (int i = 0; i < p->op->n_in && st == M2_OK; i++)
        if (p->in[i].desc.rank >= 0) st = slot_cut(&p->in[i], axis, k, n, &slab->in[i]);
    if (st == M2_OK && p->op->shape) {
        st = open_outputs(slab, 0);
        for (int j = 0; j < p->op->n_out; j++)
            for (int d = 0; d < slab->out[j].desc.rank; d++)
                if (slab->out[j].desc.axis[d] == axis) {
                    slab->out[j].whole[d] = p->out[j].desc.shape[d];
                    slab->out[j].origin[d] = p->out[j].desc.shape[d] * k / n;
                }
    }
    for (int j = 0; j < p->op->n_out && st == M2_OK && !p->op->shape; j++)
        if (p->out[j].desc.rank >= 0) st = slot_cut(&p->out[j], axis, k, n, &slab->out[j]);
    if (st != M2_OK) m2_probe_free(slab);
    return st;
}
