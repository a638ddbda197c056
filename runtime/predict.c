#include "runtime/predict.h"
#include "parallel/exchange.h"
#include "parallel/levels.h"

#include <stdlib.h>
#include <string.h>

/* ---- who talks to whom ------------------------------------------------------------------------------------------- */
m2_group m2_group_place(int ranks, int stride, int ranks_per_node)
{
    int on_node = ranks_per_node / stride;
    if (on_node < 1) on_node = 1;
    if (on_node > ranks) on_node = ranks;
    while (ranks % on_node) on_node--; /* a group that does not fill its nodes evenly: as its fullest part */
    return (m2_group){.ranks = ranks, .on_node = on_node, .nodes = ranks / on_node};
}

static m2_verb verb_of(const m2_op *op)
{
    int v = m2_verb_find(op->name);
    return v < 0 ? M2_VERB_ALL_TO_ALL : (m2_verb)v; /* exchanges, halos and reshards are blocks to others */
}

static m2_group group_of(const m2_planned *p, const m2_machine *m, const m2_comm *comm)
{
    int sequence = m2_ranks_sequence(&p->ranks);
    int stride = comm->size < p->place.size && comm != &p->sequence ? sequence : 1;
    return m2_group_place(comm->size, stride, m->ranks_per_node);
}

/* ---- a call ------------------------------------------------------------------------------------------------------ */
static int64_t length_seen(const m2_call_info *c)
{
    const m2_desc *u = &c->in[0];
    return u->rank < 1 ? 1 : u->shape[u->rank - 1] * (u->rank == 4 ? u->shape[0] : 1);
}

/* Some ranks at the ends of a sequence send less than the others, who are waited for. */
static int64_t most_bytes(const m2_call_info *c)
{
    int size = ((const m2_comm *)c->context)->size;
    int64_t first = m2_collective_bytes(c->op, &c->attrs, c->in, c->out, 0, size),
            last = m2_collective_bytes(c->op, &c->attrs, c->in, c->out, size - 1, size);
    return first > last ? first : last;
}

/* One level after the other. */
static double levels_seconds(const m2_machine *m, const m2_call_info *c, const m2_level_step *step, int steps)
{
    int per_node = (int)c->attrs.i[M2_COLLECTIVE_PER_NODE];
    double seconds = 0;
    for (int i = 0; i < steps; i++) {
        m2_group g = m2_group_place(step[i].ranks, step[i].across ? per_node : 1, m->ranks_per_node);
        seconds += m2_machine_verb_seconds(m, verb_of(step[i].op), &g, (double)m2_level_step_bytes(&step[i], c->in[0].dtype));
    }
    return seconds;
}

static double call_seconds(const m2_planned *p, const m2_machine *m, const m2_call_info *c)
{
    const m2_comm *comm = c->context;
    int load = p->ranks.comm->local_size;
    m2_work work = {.op = c->op->name,
                    .length = length_seen(c),
                    .elements = c->in[0].rank < 0 ? 0 : m2_desc_count(&c->in[0]),
                    .cost = c->cost};
    if (!comm) return m2_machine_call_seconds(m, &work, load);
    m2_level_step step[M2_LEVEL_STEPS];
    int64_t count = m2_desc_count(c->op == &m2_op_reduce_scatter ? &c->out[0] : &c->in[0]);
    int steps = m2_levels_steps(c->op, &c->attrs, count, 0, comm->size, step);
    if (steps) return levels_seconds(m, c, step, steps);
    m2_group g = group_of(p, m, comm);
    return m2_machine_verb_seconds(m, verb_of(c->op), &g, (double)most_bytes(c));
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */
typedef struct clocks {
    const m2_planned *p;
    const m2_machine *m;
    m2_prediction *out;
    double now, reductions, lane; /* when calls, reductions and the exchanges beside them are done */
    double *done;                 /* of each exchange beside */
} clocks;

static m2_status tally(m2_prediction *out, const m2_call_info *c, double seconds)
{
    int i = 0;
    while (i < out->n_ops && strcmp(out->op[i].name, c->op->name) != 0) i++;
    M2_CHECK(i < M2_PREDICTED_OPS);
    if (i == out->n_ops) out->op[out->n_ops++] = (m2_predicted_op){.name = c->op->name};
    m2_predicted_op *row = &out->op[i];
    row->collective = c->context != NULL;
    row->calls++;
    row->seconds += seconds;
    if (!c->context) return M2_OK;
    row->bytes +=
        (double)m2_collective_bytes(c->op, &c->attrs, c->in, c->out, 0, ((const m2_comm *)c->context)->size);
    return M2_OK;
}

/* Calls behind this go on at `until` at the earliest. */
static void wait_for(clocks *k, double until, double *waited)
{
    if (until <= k->now) return;
    *waited += until - k->now;
    k->now = until;
}

static double later(double a, double b)
{
    return a > b ? a : b;
}

static m2_status pass(clocks *k, int i)
{
    m2_call_info c = m2_program_call_info(k->p->program, i);
    m2_prediction *out = k->out;
    double seconds = call_seconds(k->p, k->m, &c);
    M2_TRY(tally(out, &c, seconds));
    if (c.wait) wait_for(k, k->done[c.wait - 1], &out->exchange);
    if (!c.context) {
        out->compute += seconds;
        k->now += seconds;
    } else if (c.once && c.region != M2_UPDATE) {
        out->reduce_all += seconds;
        k->reductions = later(k->reductions, k->now) + seconds;
    } else {
        double from = c.beside ? later(k->lane, k->now) : k->now;
        out->exchange_all += seconds;
        if (c.beside)
            k->lane = k->done[i] = from + seconds;
        else
            wait_for(k, from + seconds, &out->exchange);
    }
    return M2_OK;
}

static m2_status run_step(clocks *k)
{
    int n = m2_program_calls(k->p->program), micros = k->p->batch.micros;
    for (int a = 0; a < micros; a++) {
        for (int i = 0; i < n; i++) {
            m2_call_info c = m2_program_call_info(k->p->program, i);
            if (c.region == M2_UPDATE || (c.once && a < micros - 1)) continue;
            M2_TRY(pass(k, i));
        }
        wait_for(k, k->lane, &k->out->exchange);
    }
    wait_for(k, k->reductions, &k->out->reduce);
    for (int i = 0; i < n; i++)
        if (m2_program_call_info(k->p->program, i).region == M2_UPDATE) M2_TRY(pass(k, i));
    return M2_OK;
}

static int slowest_first(const void *a, const void *b)
{
    double x = ((const m2_predicted_op *)a)->seconds, y = ((const m2_predicted_op *)b)->seconds;
    return (x < y) - (x > y);
}

m2_status m2_predict(const m2_planned *p, const m2_machine *m, m2_prediction *out)
{
    enum { WORDS = 24 }; /* bytes that the trainer gives to all before a step */
    int ranks = p->place.size;
    *out = (m2_prediction){0};
    M2_TRY(m2_machine_check(m, ranks > 1));
    clocks k = {.p = p, .m = m, .out = out};
    k.done = calloc((size_t)m2_program_calls(p->program) + 1, sizeof *k.done);
    m2_status st = k.done ? run_step(&k) : m2_fail(M2_TRANSIENT, "out of memory for the times of a step");
    free(k.done);
    if (st != M2_OK) return st;
    if (ranks > 1 && strcmp(m->transport, "nccl") != 0) { /* on a GPU the host asks while the device works */
        m2_group g = m2_group_place(ranks, 1, m->ranks_per_node);
        out->agreement = m2_machine_verb_seconds(m, M2_VERB_ALL_REDUCE, &g, WORDS);
    }
    out->step = k.now + out->agreement;
    qsort(out->op, (size_t)out->n_ops, sizeof *out->op, slowest_first);
    return M2_OK;
}
