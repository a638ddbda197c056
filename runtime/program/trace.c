/* trace.c - when each call ran: events around it on the stream that runs it, and the host's clock around its launch.
 *
 * A row of marks per lane: each is written by the one thread that works on that lane, so nothing is locked. */
#include "runtime/program/internal.h"
#include "kernels/base/log.h"
#include "parallel/comm.h"

#include <stdlib.h>
#include <time.h>

typedef struct mark {
    m2_event *from, *to;
    int call;
    double entered, left;
    int64_t bytes;
} mark;

struct m2i_trace {
    m2_event *zero; /* the device's clock starts here */
    double started; /* when the host saw that */
    struct {
        mark *mark; /* beyond n: events that were used before */
        int n, room;
    } lane[M2_LANES];
};

/* ---- recording --------------------------------------------------------------------------------------------------- */
static m2_status next_mark(m2_program *p, m2_lane lane, mark **out)
{
    m2i_trace *t = p->b.trace;
    const m2_device_api *api = p->b.device->api;
    if (t->lane[lane].n == t->lane[lane].room) {
        int room = t->lane[lane].room ? 2 * t->lane[lane].room : p->n_calls + 1;
        mark *m = realloc(t->lane[lane].mark, (size_t)room * sizeof *m);
        if (!m) return m2_fail(M2_TRANSIENT, "out of memory for a trace of %d calls", room);
        memset(m + t->lane[lane].room, 0, (size_t)(room - t->lane[lane].room) * sizeof *m);
        t->lane[lane].mark = m;
        t->lane[lane].room = room;
    }
    mark *m = *out = &t->lane[lane].mark[t->lane[lane].n];
    if (!m->from) M2_TRY(api->event_create(p->b.device, &m->from));
    if (!m->to) M2_TRY(api->event_create(p->b.device, &m->to));
    t->lane[lane].n++;
    return M2_OK;
}

m2_status m2i_trace_call(m2_program *p, int i, m2_stream *stream)
{
    m2i_bound *b = &p->b;
    const m2_device_api *api = b->device->api;
    const m2_comm *comm = p->calls[i].context;
    int64_t before = comm ? comm->bytes_sent : 0;
    mark *m = NULL;
    M2_TRY(next_mark(p, p->calls[i].lane, &m));
    m->call = i;
    m->entered = m2_now();
    M2_TRY(api->event_record(b->device, m->from, stream));
    M2_TRY(b->run[i](&b->calls[i]));
    M2_TRY(api->event_record(b->device, m->to, stream));
    m->left = m2_now();
    m->bytes = comm ? comm->bytes_sent - before : 0;
    return M2_OK;
}

/* ---- on and off -------------------------------------------------------------------------------------------------- */
void m2i_trace_end(m2_program *p)
{
    m2i_trace *t = p->b.trace;
    m2_device *dev = p->b.device;
    if (!t) return;
    for (int l = 0; l < M2_LANES; l++) {
        for (int i = 0; i < t->lane[l].room; i++) {
            if (t->lane[l].mark[i].from) dev->api->event_destroy(dev, t->lane[l].mark[i].from);
            if (t->lane[l].mark[i].to) dev->api->event_destroy(dev, t->lane[l].mark[i].to);
        }
        free(t->lane[l].mark);
    }
    if (t->zero) dev->api->event_destroy(dev, t->zero);
    free(t);
    p->b.trace = NULL;
}

static m2_status begin(m2_program *p)
{
    m2_device *dev = p->b.device;
    m2i_trace *t = p->b.trace = calloc(1, sizeof *t);
    if (!t) return m2_fail(M2_TRANSIENT, "out of memory for a trace");
    M2_TRY(m2_program_sync(p));
    M2_TRY(dev->api->event_create(dev, &t->zero));
    M2_TRY(dev->api->event_record(dev, t->zero, p->b.stream));
    M2_TRY(dev->api->event_sync(dev, t->zero));
    t->started = m2_now();
    return M2_OK;
}

m2_status m2_program_trace(m2_program *p, int on)
{
    if (p->stage != M2I_BOUND) return m2_fail(M2_BUG, "m2_program_trace needs a bound program");
    if (!on || p->b.trace) {
        M2_TRY(m2_program_sync(p));
        m2i_trace_end(p);
    }
    m2_status st = on ? begin(p) : M2_OK;
    if (st != M2_OK) m2i_trace_end(p);
    return st;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */
/* What the day's clock is ahead of m2_now(). */
static double epoch(void)
{
    struct timespec day;
    clock_gettime(CLOCK_REALTIME, &day);
    return (double)day.tv_sec + 1e-9 * (double)day.tv_nsec - m2_now();
}

static m2_status read_mark(m2_program *p, const mark *m, m2_lane lane, m2_traced *out)
{
    const m2i_trace *t = p->b.trace;
    m2_device *dev = p->b.device;
    *out = (m2_traced){.call = m->call,
                       .lane = lane,
                       .entered = m->entered - t->started,
                       .left = m->left - t->started,
                       .bytes = m->bytes};
    M2_TRY(dev->api->event_seconds(dev, t->zero, m->from, &out->from));
    return dev->api->event_seconds(dev, t->zero, m->to, &out->to);
}

m2_status m2_program_trace_read(m2_program *p, m2_traces *out)
{
    m2i_trace *t = p->b.trace;
    size_t all = 1;
    *out = (m2_traces){0};
    if (!t) return m2_fail(M2_BUG, "m2_program_trace_read needs m2_program_trace before the run");
    M2_TRY(m2_program_sync(p));
    for (int l = 0; l < M2_LANES; l++) all += (size_t)t->lane[l].n;
    out->began = epoch() + t->started;
    out->run = calloc(all, sizeof *out->run);
    if (!out->run) return m2_fail(M2_TRANSIENT, "out of memory for a trace of %zu calls", all);
    m2_status st = M2_OK;
    for (int l = 0; l < M2_LANES; l++) {
        for (int i = 0; i < t->lane[l].n && st == M2_OK; i++)
            st = read_mark(p, &t->lane[l].mark[i], (m2_lane)l, &out->run[out->n++]);
        t->lane[l].n = 0;
    }
    if (st != M2_OK) free(out->run), *out = (m2_traces){0};
    return st;
}
