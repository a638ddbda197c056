/* autodiff.c - the backward region: one loop over the calls in reverse, by the declarative rule of kernels/op.h.
 *
 * Each forward tensor x has at most one gradient tensor, tensors[x].grad. The first contribution creates it (or, where
 * an op passes its output's gradient on, shares it), later ones add to it. `holders` counts the forward tensors a
 * gradient tensor belongs to at the moment; it may be added to only while that is one. The gradients of a call's
 * outputs are let go after the call's own gradient is appended, since nothing else reads them. */
#include "runtime/program/internal.h"

#include <stdlib.h>

typedef struct diff {
    m2_program *p;
    int n_calls, n_tensors; /* of the forward region */
    char *wanted;           /* tensor depends on a trained parameter */
    char *useful;           /* the loss depends on the tensor */
    char *escapes;          /* tensor is read outside the block that makes it */
    char *saved;            /* a gradient needs the tensor */
    char *written;          /* parameter's gradient has a first writer */
    int *block;             /* of the call that makes the tensor; -1: none */
    int last_block;         /* kept whole: its backward comes first, recomputing it would save nothing */
    int entered;            /* block whose forward was last cloned */
    int recompute;
} diff;

/* ---- which calls have a gradient --------------------------------------------------------------------------------- */
static unsigned inputs_with_gradient(const m2_op *op)
{
    return (op->grad ? op->diff_in : 0) | op->passes;
}

static unsigned outputs_with_gradient(const m2_op *op)
{
    return (op->grad ? op->diff_out : 0) | (op->passes ? 1u : 0);
}

static int any(const m2_tid *tids, unsigned mask, const char *flag)
{
    for (int i = 0; mask >> i; i++)
        if ((mask >> i & 1) && tids[i] != M2_NONE && flag[tids[i]]) return 1;
    return 0;
}

static void set(const m2_tid *tids, unsigned mask, char *flag)
{
    for (int i = 0; mask >> i; i++)
        if ((mask >> i & 1) && tids[i] != M2_NONE) flag[tids[i]] = 1;
}

static int has_gradient(const diff *d, const m2i_call *c)
{
    return any(c->in, inputs_with_gradient(c->op), d->wanted) &&
           any(c->out, outputs_with_gradient(c->op), d->useful);
}

/* The outputs of c that its gradient reads: spare ones only where they are saved anyway. */
static unsigned saved_outputs(const diff *d, const m2i_call *c)
{
    unsigned mask = c->op->grad_out;
    for (int j = 0; j < c->op->n_out; j++)
        if ((c->op->spare >> j & 1) && (c->out[j] == M2_NONE || !d->saved[c->out[j]])) mask &= ~(1u << j);
    return mask;
}

static void analyse(diff *d, m2_tid loss)
{
    m2_program *p = d->p;
    for (int i = 0; i < p->n_params; i++)
        d->wanted[p->params[i].tid] = !(p->params[i].flags & M2_PARAM_FROZEN);
    for (int i = 0; i < d->n_tensors; i++) d->block[i] = -1;
    d->last_block = p->blocks;
    for (int i = 0; i < d->n_calls; i++) {
        m2i_call *c = &p->calls[i];
        if (any(c->in, inputs_with_gradient(c->op), d->wanted))
            set(c->out, outputs_with_gradient(c->op), d->wanted);
        for (int j = 0; j < c->op->n_out; j++)
            if (c->out[j] != M2_NONE) d->block[c->out[j]] = c->block;
        for (int k = 0; k < c->op->n_in; k++)
            if (c->in[k] != M2_NONE && d->block[c->in[k]] != c->block) d->escapes[c->in[k]] = 1;
    }
    for (int i = 0; i < d->n_tensors; i++) d->escapes[i] |= (char)m2i_at(p, i)->kept;
    d->useful[loss] = 1;
    for (int i = d->n_calls - 1; i >= 0; i--) {
        m2i_call *c = &p->calls[i];
        if (any(c->out, outputs_with_gradient(c->op), d->useful))
            set(c->in, inputs_with_gradient(c->op), d->useful);
        if (has_gradient(d, c) && c->op->grad)
            set(c->in, c->op->grad_in, d->saved), set(c->out, c->op->grad_out & ~c->op->spare, d->saved);
    }
}

/* ---- gradients of one tensor ------------------------------------------------------------------------------------- */
static int appears(const m2_tid *list, int n, m2_tid t)
{
    for (int i = 0; i < n; i++)
        if (list[i] == t) return 1;
    return 0;
}

static m2_tid new_like(m2_program *p, m2_tid x)
{
    return m2i_tensor_new(p, m2i_at(p, x)->desc, M2I_ACT);
}

static void hold(m2_program *p, m2_tid x, m2_tid g)
{
    m2_tid old = m2i_at(p, x)->grad;
    if (old != M2_NONE) m2i_at(p, old)->holders--;
    m2i_at(p, x)->grad = g;
    if (g != M2_NONE) m2i_at(p, g)->holders++;
}

static m2_param *trained_param(const m2_program *p, m2_tid x)
{
    int row = m2i_at(p, x)->param;
    return row < 0 ? NULL : &p->params[row];
}

static m2_tid param_gradient(m2_program *p, m2_param *row)
{
    if (row->grad != M2_NONE) return row->grad;
    m2_desc desc = m2i_at(p, row->tid)->desc;
    desc.dtype = m2_program_precise_dtype(p);
    m2_tid g = m2i_tensor_new(p, desc, M2I_GRAD);
    if (g == M2_NONE) return g;
    m2i_at(p, g)->param = m2i_at(p, row->tid)->param;
    m2i_at(p, g)->at = row->offset * m2_dtype_size(desc.dtype);
    return row->grad = g;
}

/* An output of a gradient call: what it writes, whether it adds, and what it must be added to after the call. */
typedef struct target {
    m2_tid to, spill; /* spill: `to` is a temporary and this the sum; else M2_NONE */
    int first, later; /* adds to `to`, or `to` is added to spill: in the first microbatch, in later ones */
} target;

/* Where a call leaves its contribution to d loss / d x. can_add: its op may add to what is there; busy: gradients that
 * other outputs of the same call write. */
static target open_target(diff *d, const char *path, m2_tid x, int can_add, const m2_tid *busy, int n_busy)
{
    m2_program *p = d->p;
    m2_param *row = trained_param(p, x);
    target t = {.spill = M2_NONE, .later = 1};
    m2_tid g = row ? param_gradient(p, row) : m2i_at(p, x)->grad;
    if (row) {
        t.first = d->written[m2i_at(p, x)->param];
        d->written[m2i_at(p, x)->param] = 1;
    } else if (g == M2_NONE) {
        t.later = 0;
        g = new_like(p, x);
    } else {
        t.first = 1;
        if (m2i_at(p, g)->holders > 1) { /* others still read it as it is */
            m2_tid copy = new_like(p, x);
            m2i_call_accumulate(p, path, M2_BACKWARD, g, copy, 0, 0);
            g = copy;
        }
    }
    t.to = g;
    if (p->error.code != M2_OK) return t;
    if (!row) hold(p, x, g);
    if (t.later && (!can_add || appears(busy, n_busy, g))) {
        t.spill = g;
        t.to = m2i_tensor_new(p, m2i_at(p, g)->desc, M2I_ACT);
    }
    return t;
}

/* ---- gradient of one call ---------------------------------------------------------------------------------------- */
/* A forward tensor as the backward region sees it: recomputed or kept. */
static m2_tid seen(const m2_program *p, m2_tid t)
{
    return t != M2_NONE && m2i_at(p, t)->clone != M2_NONE ? m2i_at(p, t)->clone : t;
}

static m2_tid constant(m2_program *p, const char *path, m2_desc desc, double value)
{
    m2_tid t = m2i_tensor_new(p, desc, M2I_ACT);
    m2_attrs a = {.f[M2_FILL_VALUE] = value};
    m2i_call_new(p, path, &m2_op_fill, &a, M2_BACKWARD, NULL, &t);
    return t;
}

/* Fills the gradient call's inputs; 0 if no output of f has a gradient. */
static int gradient_inputs(diff *d, const m2i_call *f, m2_tid *in)
{
    m2_program *p = d->p;
    const m2_op *op = f->op;
    int n = 0, present = 0;
    unsigned saved = saved_outputs(d, f);
    for (int i = 0; i < op->n_in; i++)
        if (op->grad_in >> i & 1) in[n++] = seen(p, f->in[i]);
    for (int j = 0; j < op->n_out; j++)
        if (op->grad_out >> j & 1) in[n++] = saved >> j & 1 ? seen(p, f->out[j]) : M2_NONE;
    for (int j = 0; j < op->n_out; j++)
        if (op->diff_out >> j & 1) present |= f->out[j] != M2_NONE && m2i_at(p, f->out[j])->grad != M2_NONE;
    if (!present) return 0;
    for (int j = 0; j < op->n_out; j++) {
        if (!(op->diff_out >> j & 1)) continue;
        m2_tid g = f->out[j] == M2_NONE ? M2_NONE : m2i_at(p, f->out[j])->grad;
        if (g == M2_NONE && f->out[j] != M2_NONE && !(op->grad->optional >> n & 1))
            g = constant(p, f->path, m2i_at(p, f->out[j])->desc, 0);
        in[n++] = g;
    }
    while (n < M2_MAX_IN) in[n++] = M2_NONE;
    return 1;
}

static void append_gradient(diff *d, m2i_call f)
{
    m2_program *p = d->p;
    const m2_op *op = f.op;
    m2_tid in[M2_MAX_IN], out[M2_MAX_OUT];
    target to[M2_MAX_OUT];
    unsigned first = 0, later = 0;
    int n = 0;
    if (!gradient_inputs(d, &f, in)) return;
    for (int i = 0; i < op->n_in; i++) {
        if (!(op->diff_in >> i & 1)) continue;
        m2_tid x = f.in[i];
        to[n] = (target){.to = M2_NONE, .spill = M2_NONE};
        if (x != M2_NONE && d->wanted[x]) to[n] = open_target(d, f.path, x, op->grad->acc >> n & 1, out, n);
        if (to[n].spill == M2_NONE) {
            first |= (unsigned)to[n].first << n;
            later |= (unsigned)to[n].later << n;
        }
        out[n] = to[n].to;
        n++;
    }
    for (int k = n; k < M2_MAX_OUT; k++) out[k] = M2_NONE;
    m2i_call *c = m2i_call_new(p, f.path, op->grad, &f.attrs, M2_BACKWARD, in, out);
    if (!c) return;
    c->rng = f.rng;
    c->context = f.context;
    c->acc_first = first;
    c->acc_later = later;
    for (int k = 0; k < n; k++)
        if (to[k].spill != M2_NONE)
            m2i_call_accumulate(p, f.path, M2_BACKWARD, to[k].to, to[k].spill, to[k].first, to[k].later);
}

/* Input i of f has the gradient of f's first output. */
static void pass_gradient(diff *d, const m2i_call *f, int i)
{
    m2_program *p = d->p;
    m2_tid x = f->in[i], dy = m2i_at(p, f->out[0])->grad;
    if (!trained_param(p, x) && m2i_at(p, x)->grad == M2_NONE &&
        m2i_at(p, dy)->desc.dtype == m2i_at(p, x)->desc.dtype) {
        hold(p, x, dy);
    } else {
        target t = open_target(d, f->path, x, 1, NULL, 0);
        m2i_call_accumulate(p, f->path, M2_BACKWARD, dy, t.to, t.first, t.later);
    }
}

static void differentiate(diff *d, int i)
{
    m2_program *p = d->p;
    m2i_call f = p->calls[i]; /* by value: the list grows */
    if (f.op->passes && f.out[0] != M2_NONE && m2i_at(p, f.out[0])->grad != M2_NONE)
        for (int k = 0; k < f.op->n_in; k++)
            if ((f.op->passes >> k & 1) && f.in[k] != M2_NONE && d->wanted[f.in[k]]) pass_gradient(d, &f, k);
    if (f.op->grad && any(f.in, f.op->diff_in, d->wanted)) append_gradient(d, f);
    for (int j = 0; j < f.op->n_out; j++)
        if (f.out[j] != M2_NONE) hold(p, f.out[j], M2_NONE);
}

/* ---- recomputation ----------------------------------------------------------------------------------------------- */
static void clone_call(diff *d, m2i_call f)
{
    m2_program *p = d->p;
    m2_tid in[M2_MAX_IN], out[M2_MAX_OUT];
    for (int i = 0; i < M2_MAX_IN; i++) in[i] = seen(p, f.in[i]);
    for (int j = 0; j < M2_MAX_OUT; j++) {
        out[j] = f.out[j] == M2_NONE ? M2_NONE : new_like(p, f.out[j]);
        if (out[j] != M2_NONE && !d->escapes[f.out[j]]) m2i_at(p, f.out[j])->clone = out[j];
    }
    m2i_call *c = m2i_call_new(p, f.path, f.op, &f.attrs, M2_BACKWARD, in, out);
    if (!c) return;
    c->rng = f.rng;
    c->context = f.context;
    c->block = f.block;
    c->again = 1;
}

/* On entering a block's backward: its forward again, as far as its gradients read it. What is read outside the block
 * is alive anyway and ends the search, as does what comes from outside. */
static void recompute_block(diff *d, int last)
{
    m2_program *p = d->p;
    int block = p->calls[last].block, begin = last;
    while (begin > 0 && p->calls[begin - 1].block == block) begin--;
    char *need = calloc((size_t)d->n_tensors, 1), *again = calloc((size_t)(last - begin + 1), 1);
    if (!need || !again) {
        m2_program_reject(p, m2_fail(M2_TRANSIENT, "out of memory while planning recomputation"));
    } else {
        for (int i = last; i >= begin; i--) {
            const m2i_call *c = &p->calls[i];
            if (has_gradient(d, c) && c->op->grad)
                set(c->in, c->op->grad_in, need), set(c->out, saved_outputs(d, c), need);
            for (int j = 0; j < c->op->n_out; j++)
                if (c->out[j] != M2_NONE && need[c->out[j]] && !d->escapes[c->out[j]]) again[i - begin] = 1;
            if (again[i - begin]) set(c->in, (1u << c->op->n_in) - 1, need);
        }
        for (int i = begin; i <= last; i++)
            if (again[i - begin]) clone_call(d, p->calls[i]);
    }
    free(need);
    free(again);
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */
static void append_backward(diff *d, m2_tid loss)
{
    m2_program *p = d->p;
    analyse(d, loss);
    for (int i = 0; i < p->n_params; i++) {
        m2_param *row = &p->params[i];
        if ((row->flags & M2_PARAM_FROZEN) || d->useful[row->tid]) continue;
        m2_program_reject(
            p, m2_fail(M2_BUG,
                       "parameter '%s' gets no gradient: the loss does not depend on it; use it or "
                       "declare it frozen",
                       row->name));
        return;
    }
    if (!d->wanted[loss]) {
        m2_program_reject(p, m2_fail(M2_BUG, "the loss does not depend on any trained parameter"));
        return;
    }
    m2_tid one = constant(p, "backward", m2i_at(p, loss)->desc, 1);
    if (one == M2_NONE) return;
    hold(p, loss, one);
    for (int i = d->n_calls - 1; i >= 0 && p->error.code == M2_OK; i--) {
        const m2i_call *c = &p->calls[i];
        if (!has_gradient(d, c)) continue;
        if (d->recompute && c->block && c->block != d->last_block && c->block != d->entered) {
            d->entered = c->block;
            int last = i;
            while (last + 1 < d->n_calls && p->calls[last + 1].block == d->entered) last++;
            recompute_block(d, last);
        }
        differentiate(d, i);
    }
}

static m2_tid loss_of(const m2_program *p, m2_tid t)
{
    for (int i = 0; i < p->n_tensors; i++)
        if (p->tensors[i].total == t) return i; /* the name led to the sum over microbatches */
    return t;
}

static m2_status check_backward(const m2_program *p, m2_tid loss)
{
    if (p->spec.mode != M2_MODE_TRAIN) return m2_fail(M2_BUG, "m2_program_backward needs a TRAIN program");
    if (p->stage != M2I_BUILDING)
        return m2_fail(M2_BUG, "m2_program_backward was called twice or after m2_program_plan");
    if (p->depth) return m2_fail(M2_BUG, "m2_program_backward inside the open scope %s", p->scope);
    if (loss < 0 || loss >= p->n_tensors)
        return m2_fail(M2_USAGE, "the loss is tensor %d, which does not exist", loss);
    char text[96];
    if (p->tensors[loss].desc.rank != 0)
        return m2_fail(M2_USAGE, "the loss must be a scalar, it is %s",
                       m2_desc_print(text, &p->tensors[loss].desc));
    return M2_OK;
}

void m2_program_backward(m2_program *p, m2_tid loss, const m2_recompute *recompute)
{
    if (p->error.code != M2_OK) return;
    m2_status st = check_backward(p, loss);
    if (st != M2_OK) {
        m2_program_reject(p, st);
        return;
    }
    m2i_layout_params(p);
    diff d = {.p = p, .n_calls = p->n_calls, .n_tensors = p->n_tensors};
    d.recompute = recompute && recompute->policy == M2_RECOMPUTE_BLOCK;
    size_t n = (size_t)d.n_tensors;
    d.wanted = calloc(5 * n, 1);
    d.block = calloc(n, sizeof *d.block);
    if (d.wanted && d.block) {
        d.useful = d.wanted + n;
        d.escapes = d.useful + n;
        d.saved = d.escapes + n;
        d.written = d.saved + n; /* there are fewer parameters than tensors */
        append_backward(&d, loss_of(p, loss));
    } else {
        m2_program_reject(p, m2_fail(M2_TRANSIENT, "out of memory for the backward pass"));
    }
    free(d.wanted);
    free(d.block);
    p->stage = M2I_BACKWARD_DONE;
    p->has_backward = 1;
}
