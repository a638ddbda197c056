/* execute.c - runs what is bound: a loop over finished calls, or graphs captured from that loop.
 *
 * Between collectives the list is cut into segments. A segment runs as plain launches the first time (kernels may set
 * themselves up), is captured the second time where the device can, and replayed from then on. Collectives run on their
 * own stream: they wait for what is before them, and only the end of the run waits for them. */
#include "runtime/program/internal.h"
#include "kernels/base/log.h"

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

/* Reductions have their own stream, and exchanges in groups their lane: the rest of the run goes on beside them. What another
 * exchange brings is used next. */
static m2_status run_collective(m2_program *p, int i, int first)
{
    m2i_bound *b = &p->b;
    const m2_device_api *api = b->device->api;
    if (p->calls[i].beside) {
        b->calls[i].acc = first ? p->calls[i].acc_first : p->calls[i].acc_later;
        return m2i_lane_post(p, i);
    }
    m2_stream *stream = p->calls[i].once ? b->comm_stream : b->stream;
    if (p->calls[i].once) {
        M2_TRY(api->event_record(b->device, b->ready, b->stream));
        M2_TRY(api->event_wait(b->device, b->ready, b->comm_stream));
    }
    return run_one(p, i, stream, first);
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
    const m2_device_api *api = b->device->api;
    int last = micro == micros - 1, variant = (micro == 0) | last << 1;
    M2_TRY(m2i_feed_step(p, step));
    M2_TRY(m2i_fed(p));
    if ((!last && !b->exchanges) || b->n_segments == 1) return run_segment(p, &b->whole, variant);
    for (int s = 0; s < b->n_segments; s++) {
        int i = b->segments[s].collective, wait = b->segments[s].wait;
        if (wait) M2_TRY(m2i_lane_wait(p, wait - 1));
        M2_TRY(run_segment(p, &b->segments[s], variant));
        if (i >= 0 && (last || !p->calls[i].once)) M2_TRY(run_collective(p, i, micro == 0));
    }
    M2_TRY(m2i_lane_drain(p));
    if (!last || !b->reduced) return M2_OK;
    M2_TRY(api->event_record(b->device, b->reduced, b->comm_stream));
    return api->event_wait(b->device, b->reduced, b->stream);
}

m2_status m2_program_run_update(m2_program *p, const m2_step *step)
{
    M2_TRY(check_run(p, "m2_program_run_update"));
    if (!p->has_update)
        return m2_fail(M2_BUG, "m2_program_run_update needs a program with m2_program_update");
    M2_TRY(m2i_feed_step(p, step));
    M2_TRY(m2i_fed(p));
    for (int i = 0; i < p->n_calls; i++)
        if (p->calls[i].region == M2_UPDATE) M2_TRY(run_one(p, i, p->b.stream, 1));
    return M2_OK;
}

m2_status m2_program_sync(m2_program *p)
{
    M2_TRY(check_run(p, "m2_program_sync"));
    return p->b.device->api->stream_sync(p->b.device, p->b.stream);
}
