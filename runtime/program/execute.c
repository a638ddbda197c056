/* execute.c - runs what is bound: a loop over finished calls, or graphs captured from that loop.
 *
 * Between collectives the list is cut into segments. A segment runs as plain launches the first time (kernels may set
 * themselves up), is captured the second time where the device can, and replayed from then on. Collectives that
 * have a lane (beside.c) are handed to it: they wait for what is before them, and others wait for them when they must. */
#include "runtime/program/internal.h"
#include "parallel/comm.h"

/* ---- calls ------------------------------------------------------------------------------------------------------- */
static m2_status failed(const m2_program *p, int i, m2_status st)
{
    return m2_context(st, "%s (%s)", p->calls[i].path, p->calls[i].op->name);
}

static m2_status run_one(m2_program *p, int i, m2_stream *stream, int first)
{
    m2i_bound *b = &p->b;
    void (*range)(m2_device *, const char *) = b->device->api->range;
    b->calls[i].acc = first ? p->calls[i].acc_first : p->calls[i].acc_later;
    if (range) range(b->device, p->calls[i].path);
    m2_status st = m2i_run_call(p, i, stream);
    if (range) range(b->device, NULL);
    return st == M2_OK ? M2_OK : failed(p, i, st);
}

static m2_status launch(m2_program *p, int begin, int end, int first)
{
    for (int i = begin; i < end; i++)
        if (!p->calls[i].context) M2_TRY(run_one(p, i, p->b.stream, first));
    return M2_OK;
}

static m2_status capture(m2_program *p, m2i_segment *s, int variant)
{
    m2i_bound *b = &p->b;
    const m2_device_api *api = b->device->api;
    M2_TRY(api->capture_begin(b->device, b->stream));
    M2_TRY(launch(p, s->begin, s->end, variant & 1));
    return api->capture_end(b->device, b->stream, &s->graph[variant]);
}

static m2_status run_segment(m2_program *p, m2i_segment *s, int variant)
{
    const m2_device_api *api = p->b.device->api;
    if (s->begin == s->end) return M2_OK;
    if (!api->capture_begin || p->options.no_graph || p->options.naive || p->b.profile || p->b.trace || !s->runs[variant]++)
        return launch(p, s->begin, s->end, variant & 1);
    if (!s->graph[variant]) M2_TRY(capture(p, s, variant));
    if (api->range) api->range(p->b.device, "replay"); /* ops by name: with run.graphs=off */
    m2_status st = api->graph_launch(p->b.device, s->graph[variant], p->b.stream);
    if (api->range) api->range(p->b.device, NULL);
    return st;
}

/* On a lane the rest of the run goes on beside it; else what it brings is used next. One thread uses a communicator at a
 * time. */
static m2_status run_collective(m2_program *p, int i, int first)
{
    if (p->calls[i].lane == M2_LANE_COMPUTE) {
        if (p->calls[i].context == p->comm) M2_TRY(m2i_lane_drain(p, M2_LANE_REDUCE));
        return run_one(p, i, p->b.stream, first);
    }
    p->b.calls[i].acc = first ? p->calls[i].acc_first : p->calls[i].acc_later;
    return m2i_lane_post(p, i);
}

/* ---- a microbatch, an update ------------------------------------------------------------------------------------- */
static m2_status check_run(const m2_program *p, const char *what)
{
    if (p->stage == M2I_BOUND) return M2_OK;
    return m2_fail(M2_BUG, "%s needs a bound program", what);
}

m2_status m2_program_run(m2_program *p, const m2_step *step, int micro, int micros)
{
    M2_TRY(check_run(p, "m2_program_run"));
    if (micro < 0 || micro >= micros)
        return m2_fail(M2_BUG, "microbatch %d of %d does not exist", micro, micros);
    m2i_bound *b = &p->b;
    int last = micro == micros - 1, variant = (micro == 0) | last << 1;
    if (b->owner) M2_TRY(m2i_lane_drain(b->owner, M2_LANE_REDUCE));
    M2_TRY(m2i_feed_step(p, step));
    M2_TRY(m2i_fed(p));
    if ((!last && !b->exchanges && (micro || !b->gathers)) || b->n_segments == 1)
        return run_segment(p, &b->whole, variant);
    for (int s = 0; s < b->n_segments; s++) {
        const m2i_segment *g = &b->segments[s];
        if (g->wait) M2_TRY(m2i_lane_wait(p, g->wait - 1));
        if (g->wait_sum) M2_TRY(m2i_lane_wait(p, g->wait_sum - 1));
        if (g->wait_params && micro == 0) M2_TRY(m2i_lane_wait(p, g->wait_params - 1));
        M2_TRY(run_segment(p, &b->segments[s], variant));
        if (g->collective >= 0 && (last || !p->calls[g->collective].once))
            M2_TRY(run_collective(p, g->collective, micro == 0));
    }
    M2_TRY(m2i_lane_drain(p, M2_LANE_EXCHANGE));
    return m2i_lane_drain(p, M2_LANE_REDUCE);
}

/* While parameters are gathered beside the next forward pass, others may talk over the host's communicator; where that is the
 * same one, nothing may go on. */
static int gathers_alone(const m2_program *p)
{
    const m2_comm *c = p->comm;
    return p->b.gathers && c->host == c;
}

m2_status m2_program_run_update(m2_program *p, const m2_step *step)
{
    M2_TRY(check_run(p, "m2_program_run_update"));
    if (!p->has_update)
        return m2_fail(M2_BUG, "m2_program_run_update needs a program with m2_program_update");
    M2_TRY(m2i_feed_step(p, step));
    M2_TRY(m2i_fed(p));
    for (int i = 0; i < p->n_calls; i++)
        if (p->calls[i].region == M2_UPDATE) M2_TRY(run_collective(p, i, 1));
    return gathers_alone(p) ? m2i_lane_drain(p, M2_LANE_REDUCE) : M2_OK;
}

m2_status m2_program_sync(m2_program *p)
{
    M2_TRY(check_run(p, "m2_program_sync"));
    for (m2_lane l = 0; l < M2_LANES; l++) M2_TRY(m2i_lane_drain(p, l));
    return p->b.device->api->stream_sync(p->b.device, p->b.stream);
}
