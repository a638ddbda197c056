/* profile.c - the time of each call, and what it sent: events around it while the program is profiled, nothing at all while it
 * is not. */
#include "runtime/program/internal.h"
#include "parallel/comm.h"
#include "parallel/watch.h"

#include <stdlib.h>

static m2_status run_call(m2_program *p, int i, m2_stream *stream)
{
    m2i_bound *b = &p->b;
    m2i_profile *f = b->profile;
    const m2_device_api *api = b->device->api;
    if (b->trace) return m2i_trace_call(p, i, stream);
    if (!f) return b->run[i](&b->calls[i]);
    const m2_comm *comm = p->calls[i].context;
    int64_t before = comm ? comm->bytes_sent : 0;
    M2_TRY(api->event_record(b->device, f->from[i], stream));
    m2_status st = b->run[i](&b->calls[i]);
    if (st != M2_OK) return st;
    if (comm) f->bytes[i] += comm->bytes_sent - before;
    f->ran[i] = 1;
    return api->event_record(b->device, f->to[i], stream);
}

m2_status m2i_run_call(m2_program *p, int i, m2_stream *stream)
{
    m2_watch *w = p->b.watch;
    m2_watch_mark mark = m2_watch_begin(w, p->calls[i].op->name, p->calls[i].path);
    m2_status st = run_call(p, i, stream);
    m2_watch_end(w, mark);
    return st;
}

void m2_program_watch(m2_program *p, m2_watch *w)
{
    p->b.watch = w;
}

static m2_status begin(m2_program *p)
{
    size_t n = (size_t)p->n_calls;
    m2_device *dev = p->b.device;
    m2i_profile *f = p->b.profile = calloc(1, sizeof *f + (n + 1) * (2 * sizeof(m2_event *) + sizeof(int64_t) + 1));
    if (!f) return m2_fail(M2_TRANSIENT, "out of memory for profiling %d calls", p->n_calls);
    f->from = (m2_event **)(f + 1);
    f->to = f->from + n + 1;
    f->bytes = (int64_t *)(f->to + n + 1);
    f->ran = (unsigned char *)(f->bytes + n + 1);
    for (size_t i = 0; i < n; i++) {
        M2_TRY(dev->api->event_create(dev, &f->from[i]));
        M2_TRY(dev->api->event_create(dev, &f->to[i]));
    }
    return M2_OK;
}

void m2i_profile_end(m2_program *p)
{
    m2i_profile *f = p->b.profile;
    m2_device *dev = p->b.device;
    if (!f) return;
    for (int i = 0; i < p->n_calls; i++) {
        if (f->from[i]) dev->api->event_destroy(dev, f->from[i]);
        if (f->to[i]) dev->api->event_destroy(dev, f->to[i]);
    }
    free(f);
    p->b.profile = NULL;
}

m2_status m2_program_profile(m2_program *p, int on)
{
    if (p->stage != M2I_BOUND) return m2_fail(M2_BUG, "m2_program_profile needs a bound program");
    M2_TRY(m2_program_sync(p));
    if (!on) m2i_profile_end(p);
    if (!on || p->b.profile) return M2_OK;
    m2_status st = begin(p);
    if (st != M2_OK) m2i_profile_end(p);
    return st;
}

m2_status m2_program_profile_read(m2_program *p, double *seconds)
{
    m2i_profile *f = p->b.profile;
    m2_device *dev = p->b.device;
    if (!f) return m2_fail(M2_BUG, "m2_program_profile_read needs m2_program_profile before the run");
    M2_TRY(m2_program_sync(p));
    for (int i = 0; i < p->n_calls; i++) {
        double one;
        if (!f->ran[i]) continue;
        M2_TRY(dev->api->event_seconds(dev, f->from[i], f->to[i], &one));
        seconds[i] += one;
        f->ran[i] = 0;
    }
    return M2_OK;
}

m2_status m2_program_profile_bytes(m2_program *p, int64_t *bytes)
{
    m2i_profile *f = p->b.profile;
    if (!f) return m2_fail(M2_BUG, "m2_program_profile_bytes needs m2_program_profile before the run");
    for (int i = 0; i < p->n_calls; i++) bytes[i] += f->bytes[i], f->bytes[i] = 0;
    return M2_OK;
}
