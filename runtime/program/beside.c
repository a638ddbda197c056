/* beside.c - collectives that run beside the rest: planning.
 *
 *   exchanges of groups of channels beside the convolution of others; who needs what one brings waits for it
 *   reductions of gradients         beside the backward pass; the end of the run waits, or who adds them to a shard
 *   gathers of parameters           beside the next forward pass; who reads a bucket waits for it
 *
 * Exchanges of the backward pass would often have nothing to run beside until the first has come: a gradient of weights that is
 * computed with what they send is computed behind them.
 *
 * Exchanges have a lane, reductions and gathers another; calls of a lane run in the order of the list. An exchange starts when
 * all before it in the list has been started, so each is moved up to right behind what it reads. What a call on a lane
 * reads and writes stays untouched until somebody waited. The results are those of the list one after another. */
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

static void reverse(m2i_call *c, int n)
{
    for (int i = 0; i < n / 2; i++) {
        m2i_call t = c[i];
        c[i] = c[n - 1 - i];
        c[n - 1 - i] = t;
    }
}

/* [c, c + m) and [c + m, c + n) change places. */
static void rotate(m2i_call *c, int m, int n)
{
    reverse(c, m);
    reverse(c + m, n - m);
    reverse(c, n);
}

/* The call among those just before exchange `first` whose gradients of weights may be computed apart, or -1. */
static int weights_before(const m2_program *p, int first)
{
    enum { NEAR = 6 }; /* calls: what it reads is kept until then */
    for (int i = first - 1; i >= 0 && first - i <= NEAR; i--) {
        const m2i_call *c = &p->calls[i];
        if (c->beside || c->region != M2_BACKWARD || c->again) return -1;
        if (c->op->apart && c->out[0] != M2_NONE && (c->out[1] != M2_NONE || c->out[2] != M2_NONE)) return i;
    }
    return -1;
}

/* Of the call before exchanges [first, last], the gradients of weights behind them, and with those the reductions that wait for
 * them. */
static void move_weights(m2_program *p, int first, int last)
{
    int i = weights_before(p, first), sums = 0;
    if (i < 0 || !m2i_grow(p, &p->calls, p->n_calls, &p->room_calls, sizeof *p->calls)) return;
    m2i_call *c = p->calls, weights = c[i];
    weights.out[0] = M2_NONE;
    weights.acc_first &= ~1u, weights.acc_later &= ~1u;
    while (c[i + 1 + sums].lane == M2_LANE_REDUCE) sums++;
    for (int k = i + 1 + sums; k <= last; k++)
        if ((c[k].context && !c[k].beside) || conflict(&weights, &c[k])) return;
    for (int j = 1; j < M2_MAX_OUT; j++) c[i].out[j] = M2_NONE;
    c[i].acc_first &= 1, c[i].acc_later &= 1;
    memmove(c + i + 2, c + i + 1, (size_t)(p->n_calls++ - i - 1) * sizeof *c);
    c[i + 1] = weights;
    rotate(c + i + 1, 1 + sums, last - i + 1);
}

/* The lane's calls before i that i must wait for, those up to `done` being done: the last one, or -1. */
static int last_needed(const m2_program *p, int i, int done)
{
    for (int k = i - 1; k > done; k--)
        if (p->calls[k].beside && conflict(&p->calls[k], &p->calls[i])) return k;
    return -1;
}

static void plan_exchanges(m2_program *p)
{
    if (p->spec.sequence.ranks < 2 || p->spec.sequence.groups < 2) return;
    for (int i = 0; i < p->n_calls; i++) {
        p->calls[i].beside = p->calls[i].context == p->spec.sequence.context && !p->calls[i].once;
        if (!p->calls[i].beside) continue;
        p->calls[i].lane = M2_LANE_EXCHANGE;
        move_up(p, i);
    }
    for (int last, i = 0; i < p->n_calls; i = last + 1) {
        last = i;
        while (p->calls[i].beside && last + 1 < p->n_calls && p->calls[last + 1].beside) last++;
        if (p->calls[i].beside && p->calls[i].region == M2_BACKWARD && p->sharding.stage < 2) move_weights(p, i, last);
    }
    for (int i = 0, done = -1; i < p->n_calls; i++) {
        int k = p->calls[i].beside ? -1 : last_needed(p, i, done);
        p->calls[i].wait = k + 1;
        if (k > done) done = k;
    }
}

/* ---- parameters that are gathered --------------------------------------------------------------------------------- */
static int shares_bytes(const m2_program *p, m2_tid a, m2_tid b)
{
    const m2i_tensor *x, *y;
    if (a == M2_NONE || b == M2_NONE) return 0;
    x = m2i_at(p, a), y = m2i_at(p, b);
    return x->home == y->home && x->at < y->at + m2_desc_bytes(&y->desc) && y->at < x->at + m2_desc_bytes(&x->desc);
}

/* The last gather, beyond `done`, of what call i reads, or -1. */
static int last_gather(const m2_program *p, int i, int done)
{
    for (int g = p->n_calls - 1; g > done && p->calls[g].lane == M2_LANE_REDUCE && p->calls[g].region == M2_UPDATE; g--)
        for (int k = 0; k < M2_MAX_IN; k++)
            if (shares_bytes(p, p->calls[i].in[k], p->calls[g].out[0])) return g;
    return -1;
}

/* The forward pass of the next step begins while they are under way, and waits for each bucket where it is first read. */
static void plan_gathers(m2_program *p)
{
    for (int i = 0; i < p->n_calls; i++)
        if (p->calls[i].region == M2_UPDATE && p->calls[i].op == p->sharding.all_gather && m2i_sharded(p))
            p->calls[i].lane = M2_LANE_REDUCE;
    for (int i = 0, done = -1; i < p->n_calls && p->calls[i].region != M2_UPDATE; i++) {
        int g = last_gather(p, i, done);
        p->calls[i].wait_params = g + 1;
        if (g > done) done = g;
    }
}

/* ZeRO 2: sums that this rank adds to its shard. */
static void plan_sums(m2_program *p)
{
    for (int i = 0, sent = -1; i < p->n_calls && m2i_sharded(p) && p->sharding.stage == 2; i++) {
        m2i_call *c = &p->calls[i];
        if (c->region == M2_BACKWARD && c->op == p->sharding.reduce_scatter) {
            c->lane = M2_LANE_REDUCE;
            sent = i;
        } else if (sent >= 0 && conflict(&p->calls[sent], c)) {
            c->wait_sum = sent + 1;
            sent = -1;
        }
    }
}

void m2i_plan_lanes(m2_program *p)
{
    for (int i = 0; i < p->n_calls; i++) /* only the end of a run waits for these */
        if (p->calls[i].once && p->calls[i].region != M2_UPDATE) p->calls[i].lane = M2_LANE_REDUCE;
    if (p->options.naive) return;
    plan_exchanges(p);
    plan_sums(p);
    plan_gathers(p);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */
static void hold(m2_program *p, const m2_tid *tids, int n, int until)
{
    for (int i = 0; i < n; i++) {
        if (tids[i] == M2_NONE || m2i_at(p, tids[i])->home != M2I_ACT) continue;
        m2i_tensor *t = m2i_at(p, m2i_at(p, tids[i])->of == M2_NONE ? tids[i] : m2i_at(p, tids[i])->of);
        if (t->last < until) t->last = until;
    }
}

void m2i_hold_beside(m2_program *p)
{
    int until = p->n_calls - 1; /* the end of a run waits for all */
    for (int i = p->n_calls - 1; i >= 0; i--) {
        const m2i_call *c = &p->calls[i];
        int reduce = c->lane == M2_LANE_REDUCE && c->region == M2_BACKWARD, w = i + 1;
        if (!c->beside && !reduce) continue;
        while (w < p->n_calls && (reduce ? p->calls[w].wait_sum : p->calls[w].wait) <= i) w++;
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
