/* memory.c - the memory plan: lifetimes over the whole list, buffers taken over in place, offsets.
 *
 * A tensor's buffer is alive from its first writer to its last reader. Two buffers may overlap in memory when they are
 * never alive at the same call. Offsets are chosen greedily, for several orders of the buffers, each at the tightest
 * gap that fits; the smallest result wins. All of it depends on the program alone: the plan is the same everywhere.
 * The naive plan gives each tensor its own memory; running it is the oracle for everything here. */
#include "runtime/program/internal.h"

#include <stdlib.h>

/* ---- lifetimes --------------------------------------------------------------------------------------------------- */
static m2_status touch(m2_program *p, m2_tid t, int i, int writes)
{
    m2i_tensor *x = m2i_at(p, t);
    if (x->home != M2I_ACT) return M2_OK;
    if (x->of != M2_NONE) return touch(p, x->of, i, writes);
    if (x->first < 0 && !writes)
        return m2_fail(M2_BUG, "%s (%s) reads tensor %d before anything writes it", p->calls[i].path,
                       p->calls[i].op->name, t);
    if (x->first < 0) x->first = i;
    x->last = i;
    return M2_OK;
}

static m2_status find_lifetimes(m2_program *p)
{
    for (int i = 0; i < p->n_calls; i++) {
        const m2i_call *c = &p->calls[i];
        for (int k = 0; k < c->op->n_in; k++)
            if (c->in[k] != M2_NONE) M2_TRY(touch(p, c->in[k], i, 0));
        for (int j = 0; j < c->op->n_out; j++)
            if (c->out[j] != M2_NONE) M2_TRY(touch(p, c->out[j], i, 1));
    }
    for (int i = 0; i < p->n_tensors; i++) {
        m2i_tensor *x = &p->tensors[i];
        x->root = i;
        if (x->first < 0) continue;
        if (x->lasting) x->first = 0;
        if (x->lasting || x->kept) x->last = p->n_calls;
        x->used = x->last;
    }
    return M2_OK;
}

/* ---- in place ---------------------------------------------------------------------------------------------------- */
/* 1 if output j of call i may take over the buffer of input k, which then dies here. A lane's calls run in order, and whatever
 * is before them in the list has run: for those it does not matter that the buffer is kept for longer. */
static int may_reuse(const m2_program *p, int i, int j, int k)
{
    const m2i_call *c = &p->calls[i];
    const m2i_tensor *from = m2i_at(p, c->in[k]), *to = m2i_at(p, c->out[j]);
    if (from->home != M2I_ACT || to->home != M2I_ACT || to->first != i || to->lasting) return 0;
    if (from->desc.dtype != to->desc.dtype || m2_desc_bytes(&from->desc) != m2_desc_bytes(&to->desc))
        return 0;
    m2_tid root = from->root;
    const m2i_tensor *buffer = m2i_at(p, root);
    if ((c->beside ? buffer->used : buffer->last) != i || buffer->lasting) return 0;
    for (int l = 0; l < c->op->n_in; l++)
        if (l != k && c->in[l] != M2_NONE && m2i_at(p, c->in[l])->root == root) return 0;
    for (int l = 0; l < c->op->n_out; l++)
        if (l != j && c->out[l] != M2_NONE && m2i_at(p, c->out[l])->root == root) return 0;
    return 1;
}

static void reuse_buffers(m2_program *p)
{
    for (int i = 0; i < p->n_calls; i++) {
        m2i_call *c = &p->calls[i];
        for (int j = 0; j < c->op->n_out; j++) {
            int k = c->op->inplace[j] - 1;
            if (k < 0 || c->out[j] == M2_NONE || c->in[k] == M2_NONE || !may_reuse(p, i, j, k)) continue;
            m2i_tensor *to = m2i_at(p, c->out[j]);
            to->root = m2i_at(p, c->in[k])->root;
            m2i_tensor *buffer = m2i_at(p, to->root);
            if (to->last > buffer->last) buffer->last = to->last;
            if (to->used > buffer->used) buffer->used = to->used;
            c->reused |= 1u << j;
        }
    }
}

/* ---- offsets ----------------------------------------------------------------------------------------------------- */
typedef struct buffer {
    m2_tid tid;
    int first, last;
    int64_t size, at;
} buffer;

static int64_t size_of(const m2_desc *d)
{
    int64_t bytes = m2_align_up(m2_desc_bytes(d), M2_ALIGN);
    return bytes ? bytes : M2_ALIGN; /* absent is NULL, empty is not */
}

static int by_size(const void *a, const void *b)
{
    const buffer *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return x->first != y->first ? (x->first > y->first) - (x->first < y->first)
                                : (x->tid > y->tid) - (x->tid < y->tid);
}

static int by_area(const void *a, const void *b)
{
    const buffer *x = a, *y = b;
    double ax = (double)x->size * (x->last - x->first + 1), ay = (double)y->size * (y->last - y->first + 1);
    return ax != ay ? (ax < ay) - (ax > ay) : by_size(a, b);
}

static int by_start(const void *a, const void *b)
{
    const buffer *x = a, *y = b;
    return x->first != y->first ? (x->first > y->first) - (x->first < y->first) : by_size(a, b);
}

/* Gives each buffer, in order, the tightest gap between those placed before that are alive with it; low is a scratch
 * list of the placed ones by offset. Returns the bytes in all. */
static int64_t place(buffer *list, int n, buffer **low)
{
    int64_t total = 0;
    for (int i = 0; i < n; i++) {
        buffer *b = &list[i];
        int64_t end = 0, best = -1, tightest = INT64_MAX;
        for (int k = 0; k < i; k++) {
            if (low[k]->last < b->first || b->last < low[k]->first) continue;
            int64_t gap = low[k]->at - end;
            if (gap >= b->size && gap < tightest) tightest = gap, best = end;
            if (low[k]->at + low[k]->size > end) end = low[k]->at + low[k]->size;
        }
        b->at = best >= 0 ? best : end;
        if (b->at + b->size > total) total = b->at + b->size;
        int k = i;
        for (; k > 0 && low[k - 1]->at > b->at; k--) low[k] = low[k - 1];
        low[k] = b;
    }
    return total;
}

static int64_t most_alive(const m2_program *p, const buffer *list, int n)
{
    int64_t *delta = calloc((size_t)p->n_calls + 2, sizeof *delta), most = 0, alive = 0;
    if (!delta) return 0;
    for (int i = 0; i < n; i++) delta[list[i].first] += list[i].size, delta[list[i].last + 1] -= list[i].size;
    for (int i = 0; i <= p->n_calls; i++) {
        alive += delta[i];
        if (alive > most) most = alive;
    }
    free(delta);
    return most;
}

/* Room for the roots' buffers, the scratch list and a sorted copy, from one allocation. */
static m2_status place_activations(m2_program *p)
{
    static int (*const orders[])(const void *, const void *) = {by_size, by_area, by_start};
    buffer *list = malloc(((size_t)p->n_tensors + 1) * (sizeof *list + sizeof(buffer *)));
    if (!list) return m2_fail(M2_TRANSIENT, "out of memory for the memory plan");
    buffer **low = (buffer **)(list + p->n_tensors + 1);
    int n = 0;
    for (int i = 0; i < p->n_tensors; i++) {
        m2i_tensor *x = &p->tensors[i];
        if (x->home == M2I_ACT && x->first >= 0 && x->root == i)
            list[n++] = (buffer){.tid = i, .first = x->first, .last = x->last, .size = size_of(&x->desc)};
    }
    p->live_bound = most_alive(p, list, n);
    p->memory.activations = INT64_MAX;
    for (size_t o = 0; o < sizeof orders / sizeof *orders && p->memory.activations > p->live_bound; o++) {
        qsort(list, (size_t)n, sizeof *list, orders[o]);
        int64_t total = place(list, n, low);
        if (total >= p->memory.activations) continue;
        p->memory.activations = total;
        for (int i = 0; i < n; i++) m2i_at(p, list[i].tid)->at = list[i].at;
    }
    if (!n) p->memory.activations = 0;
    free(list);
    for (int i = 0; i < p->n_tensors; i++)
        if (p->tensors[i].home == M2I_ACT) p->tensors[i].at = m2i_at(p, p->tensors[i].root)->at;
    return M2_OK;
}

static void place_apart(m2_program *p)
{
    int64_t at = 0;
    for (int i = 0; i < p->n_tensors; i++) {
        m2i_tensor *x = &p->tensors[i];
        if (x->home != M2I_ACT || x->first < 0) continue;
        x->at = at;
        at += size_of(&x->desc);
    }
    p->memory.activations = p->live_bound = at;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */
static void plan_inputs(m2_program *p)
{
    int64_t at = m2_align_up((int64_t)sizeof(m2_step), M2_ALIGN);
    for (int i = 0; i < p->n_tensors; i++) {
        if (p->tensors[i].home != M2I_IO) continue;
        p->tensors[i].at = at;
        at += size_of(&p->tensors[i].desc);
    }
    p->memory.io = at;
}

static void place_stretches(m2_program *p)
{
    for (int i = 0; i < p->n_tensors; i++) {
        m2i_tensor *x = &p->tensors[i];
        if (x->of != M2_NONE) x->at = m2i_at(p, x->of)->at + x->inside;
    }
}

static void plan_flat(m2_program *p)
{
    m2_memory_plan *m = &p->memory;
    int64_t *const sums[] = {[M2I_MASTER] = &m->params, [M2I_COPY] = &m->params,  [M2I_OWN] = &m->params,
                             [M2I_GRAD] = &m->grads,    [M2I_M] = &m->optimizer,  [M2I_V] = &m->optimizer,
                             [M2I_GROUPS] = &m->optimizer};
    for (m2i_home h = 0; h <= M2I_GROUPS; h++)
        *sums[h] += m2_align_up(m2i_home_count(p, h) * m2_dtype_size(m2i_home_dtype(p, h)), M2_ALIGN);
}

static m2_status plan(m2_program *p)
{
    M2_TRY(m2_program_error(p));
    if (p->stage >= M2I_PLANNED) return m2_fail(M2_BUG, "m2_program_plan was called twice");
    if (p->depth) return m2_fail(M2_BUG, "m2_program_plan inside the open scope %s", p->scope);
    m2i_layout_params(p);
    m2i_plan_lanes(p);
    M2_TRY(find_lifetimes(p));
    m2i_hold_beside(p);
    if (p->options.naive) {
        place_apart(p);
    } else {
        reuse_buffers(p);
        M2_TRY(place_activations(p));
    }
    place_stretches(p);
    plan_inputs(p);
    plan_flat(p);
    m2i_plan_workspace(p, p->options.threads, p->options.device);
    p->stage = M2I_PLANNED;
    return M2_OK;
}

m2_status m2_program_plan(m2_program *p, const m2_plan_options *opt)
{
    p->options = *opt;
    if (p->options.threads < 1) p->options.threads = 1;
    m2_status st = plan(p);
    if (st != M2_OK) m2_program_reject(p, st);
    return m2_program_error(p);
}

m2_memory_plan m2_program_memory(const m2_program *p)
{
    return p->memory;
}
