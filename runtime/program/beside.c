/* beside.c - exchanges of groups of channels that run beside the convolution of others: planning.
 *
 * They run on a lane of their own, in the order of the list. A call there starts when all before it in the list has been
 * started, so each is moved up to right behind what it reads; a call that needs what one brings waits for it. What a call on
 * the lane reads and writes stays untouched until somebody waited. The results are those of the list one after another. */
#include "runtime/program/internal.h"

static int touches(const m2_tid *a, int n, const m2_tid *b, int m)
{
    for (int i = 0; i < n; i++)
        for (int k = 0; k < m; k++)
            if (a[i] != M2_NONE && a[i] == b[k]) return 1;
    return 0;
}

/* 1 if two calls cannot change places: one writes what the other reads or writes. */
static int conflict(const m2i_call *a, const m2i_call *b)
{
    return touches(a->out, M2_MAX_OUT, b->in, M2_MAX_IN) || touches(a->in, M2_MAX_IN, b->out, M2_MAX_OUT) ||
           touches(a->out, M2_MAX_OUT, b->out, M2_MAX_OUT);
}

static void move_up(m2_program *p, int i)
{
    m2i_call c = p->calls[i];
    int to = i;
    while (to > 0 && !p->calls[to - 1].context && p->calls[to - 1].region == c.region &&
           !conflict(&c, &p->calls[to - 1]))
        to--;
    memmove(&p->calls[to + 1], &p->calls[to], (size_t)(i - to) * sizeof c);
    p->calls[to] = c;
}

/* The lane's calls before i that i must wait for, those up to `done` being done: the last one, or -1. */
static int last_needed(const m2_program *p, int i, int done)
{
    for (int k = i - 1; k > done; k--)
        if (p->calls[k].beside && conflict(&p->calls[k], &p->calls[i])) return k;
    return -1;
}

void m2i_plan_beside(m2_program *p)
{
    if (p->spec.sequence.ranks < 2 || p->spec.sequence.groups < 2 || p->options.naive) return;
    for (int i = 0; i < p->n_calls; i++) {
        p->calls[i].beside = p->calls[i].context == p->spec.sequence.context && !p->calls[i].once;
        if (p->calls[i].beside) move_up(p, i);
    }
    for (int i = 0, done = -1; i < p->n_calls; i++) {
        int k = p->calls[i].beside ? -1 : last_needed(p, i, done);
        p->calls[i].wait = k + 1;
        if (k > done) done = k;
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */
static void hold(m2_program *p, const m2_tid *tids, int n, int until)
{
    for (int i = 0; i < n; i++) {
        if (tids[i] == M2_NONE || m2i_at(p, tids[i])->home != M2I_ACT) continue;
        m2i_tensor *t = m2i_at(p, tids[i]);
        if (t->last < until) t->last = until;
    }
}

void m2i_hold_beside(m2_program *p)
{
    int until = p->n_calls - 1; /* the end of a run waits for all */
    for (int i = p->n_calls - 1; i >= 0; i--) {
        const m2i_call *c = &p->calls[i];
        if (!c->beside) continue;
        int w = i + 1;
        while (w < p->n_calls && p->calls[w].wait <= i) w++;
        hold(p, c->in, M2_MAX_IN, w < p->n_calls ? w : until);
        hold(p, c->out, M2_MAX_OUT, w < p->n_calls ? w : until);
    }
}

/* Calls on the lane have scratch of their own, behind that of the others. */
void m2i_plan_workspace(m2_program *p, int threads, m2_device *dev)
{
    int64_t most[2] = {0, 0};
    for (int i = 0; i < p->n_calls; i++) {
        int64_t bytes = m2_align_up(m2i_call_workspace(p, &p->calls[i], threads, dev), M2_ALIGN);
        int64_t *m = &most[p->calls[i].beside];
        if (bytes > *m) *m = bytes;
    }
    p->memory.workspace = most[0] + most[1];
    p->lane_scratch = most[1];
}
