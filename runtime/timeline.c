#include "runtime/timeline.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A sequence's collectives are those of its axis; the others go over all ranks: what data parallelism needs. */
static const char *axis_of(const m2_timeline *t, const m2_call_info *c)
{
    return c->context == m2_program_spec_of(t->program)->sequence.context ? "sequence" : "data";
}

/* ---- overlap ----------------------------------------------------------------------------------------------------- */
/* What the compute lane did that is no collective, in order; `before`: seconds of all that came earlier. */
typedef struct work {
    double from, to, before;
} work;

static m2_status find_work(const m2_timeline *t, work **out, int *n)
{
    work *w = calloc((size_t)t->trace->n + 1, sizeof *w);
    double before = 0;
    int found = 0;
    if (!w) return m2_fail(M2_TRANSIENT, "out of memory for a timeline of %d calls", t->trace->n);
    for (int i = 0; i < t->trace->n; i++) {
        const m2_traced *r = &t->trace->run[i];
        if (r->lane != M2_LANE_COMPUTE || m2_program_call_info(t->program, r->call).context) continue;
        w[found++] = (work){r->from, r->to, before};
        before += r->to - r->from;
    }
    *out = w, *n = found;
    return M2_OK;
}

/* Seconds of it up to `time`. */
static double done_by(const work *w, int n, double time)
{
    int low = 0, high = n; /* w[low - 1] began before `time`, w[high] did not */
    while (low < high) {
        int mid = (low + high) / 2;
        if (w[mid].from < time) low = mid + 1;
        else high = mid;
    }
    if (!low) return 0;
    const work *last = &w[low - 1];
    return last->before + ((time < last->to ? time : last->to) - last->from);
}

static m2_status find_row(const m2_timeline *t, const m2_call_info *c, m2_overlap *rows, int *n,
                          m2_overlap **out)
{
    int i = 0;
    const char *axis = axis_of(t, c);
    while (i < *n && (strcmp(rows[i].axis, axis) || strcmp(rows[i].op, c->op->name))) i++;
    M2_CHECK(i < M2_OVERLAPS);
    if (i == *n) rows[(*n)++] = (m2_overlap){.axis = axis, .op = c->op->name};
    *out = &rows[i];
    return M2_OK;
}

/* Of this rank. */
static m2_status add_overlaps(const m2_timeline *t, const work *w, int n_work, m2_overlap *rows, int *n)
{
    m2_overlap *row;
    for (int i = 0; i < m2_program_calls(t->program); i++) { /* the same rows on all ranks */
        m2_call_info c = m2_program_call_info(t->program, i);
        if (c.context) M2_TRY(find_row(t, &c, rows, n, &row));
    }
    for (int i = 0; i < t->trace->n; i++) {
        const m2_traced *r = &t->trace->run[i];
        m2_call_info c = m2_program_call_info(t->program, r->call);
        if (!c.context) continue;
        M2_TRY(find_row(t, &c, rows, n, &row));
        row->calls++;
        row->seconds += r->to - r->from;
        if (r->lane != M2_LANE_COMPUTE) row->beside += done_by(w, n_work, r->to) - done_by(w, n_work, r->from);
    }
    return M2_OK;
}

m2_status m2_timeline_overlap(const m2_timeline *t, m2_overlap *rows, int *n)
{
    work *w = NULL;
    int n_work = 0;
    double sums[2 * M2_OVERLAPS];
    *n = 0;
    M2_TRY(find_work(t, &w, &n_work));
    m2_status st = add_overlaps(t, w, n_work, rows, n);
    free(w);
    M2_TRY(st);
    for (int i = 0; i < *n; i++) sums[2 * i] = rows[i].seconds, sums[2 * i + 1] = rows[i].beside;
    m2_comm *host = t->comm->host;
    M2_TRY(host->api->all_reduce(host, sums, sums, 2 * *n, M2_F64, M2_SUM, NULL));
    for (int i = 0; i < *n; i++) rows[i].seconds = sums[2 * i], rows[i].beside = sums[2 * i + 1];
    return M2_OK;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */
enum { HOST_ROWS = 10 }; /* number of the first */

/* Takes `event` over. */
static m2_status put(FILE *f, json_t *event)
{
    int bad = !event || json_dumpf(event, f, JSON_COMPACT | JSON_REAL_PRECISION(12));
    json_decref(event);
    return bad || fputs(",\n", f) < 0 ? m2_fail(M2_TRANSIENT, "out of memory for a timeline") : M2_OK;
}

static m2_status put_name(FILE *f, const char *what, int rank, int row, const char *name)
{
    return put(f, json_pack("{s:s, s:s, s:i, s:i, s:{s:s}}", "ph", "M", "name", what, "pid", rank, "tid", row,
                            "args", "name", name));
}

static m2_status put_names(FILE *f, int rank, const m2_device *dev)
{
    static const char *const lanes[] = {[M2_LANE_COMPUTE] = "compute",
                                        [M2_LANE_EXCHANGE] = "exchanges",
                                        [M2_LANE_REDUCE] = "gradients and parameters"};
    char name[160];
    snprintf(name, sizeof name, "rank %d, %s", rank, dev ? dev->name : "CPU");
    M2_TRY(put_name(f, "process_name", rank, 0, name));
    for (int l = 0; l < M2_LANES; l++) {
        M2_TRY(put_name(f, "thread_name", rank, l, lanes[l]));
        snprintf(name, sizeof name, "host: %s", lanes[l]);
        if (dev) M2_TRY(put_name(f, "thread_name", rank, HOST_ROWS + l, name));
    }
    return M2_OK;
}

static const char *region_name(const m2_call_info *c)
{
    return c->again                   ? "recomputation"
           : c->region == M2_FORWARD  ? "forward"
           : c->region == M2_BACKWARD ? "backward"
                                      : "update";
}

/* The `times`-th run of the call; `zero`: where the clock of all ranks is as this one's trace begins. */
static m2_status put_run(FILE *f, const m2_timeline *t, const m2_traced *r, int times, double zero, int gpu)
{
    m2_call_info c = m2_program_call_info(t->program, r->call);
    int micros = c.once || c.region == M2_UPDATE ? 1 : t->micros, rank = t->comm->rank;
    json_t *args = json_pack("{s:i, s:s, s:s, s:i, s:i}", "call", r->call, "op", c.op->name, "region",
                             region_name(&c), "step", times / micros, "micro",
                             micros > 1 ? times % micros
                             : c.once   ? t->micros - 1
                                        : 0);
    if (args && c.wait) json_object_set_new(args, "after", json_integer(c.wait - 1));
    if (args && c.wait_sum) json_object_set_new(args, "after_sum", json_integer(c.wait_sum - 1));
    if (args && c.wait_params) json_object_set_new(args, "after_gather", json_integer(c.wait_params - 1));
    if (args && c.context) {
        json_object_set_new(args, "axis", json_string(axis_of(t, &c)));
        json_object_set_new(args, "bytes", json_integer(r->bytes));
    }
    M2_TRY(put(f, json_pack("{s:s, s:s, s:s, s:i, s:i, s:f, s:f, s:o}", "ph", "X", "name", c.path, "cat",
                            c.context ? "communication" : region_name(&c), "pid", rank, "tid", (int)r->lane,
                            "ts", (zero + r->from) * 1e6, "dur", (r->to - r->from) * 1e6, "args", args)));
    if (!gpu) return M2_OK; /* on the CPU the call is done by the thread that launches it */
    return put(f, json_pack("{s:s, s:s, s:s, s:i, s:i, s:f, s:f}", "ph", "X", "name", c.path, "cat", "launch",
                            "pid", rank, "tid", HOST_ROWS + (int)r->lane, "ts", (zero + r->entered) * 1e6,
                            "dur", (r->left - r->entered) * 1e6));
}

static m2_status put_events(FILE *f, const m2_timeline *t, double zero)
{
    const m2_device *dev = t->comm->device;
    if (dev && !strcmp(dev->api->kind, "cpu")) dev = NULL;
    int *times = calloc((size_t)m2_program_calls(t->program) + 1, sizeof *times);
    m2_status st =
        times ? put_names(f, t->comm->rank, dev) : m2_fail(M2_TRANSIENT, "out of memory for a timeline");
    for (int i = 0; i < t->trace->n && st == M2_OK; i++) {
        const m2_traced *r = &t->trace->run[i];
        st = put_run(f, t, r, times[r->call]++, zero, dev != NULL);
    }
    free(times);
    return st;
}

static m2_status make_text(const m2_timeline *t, double zero, char **text, size_t *bytes)
{
    FILE *f = open_memstream(text, bytes);
    if (!f) return m2_fail(M2_TRANSIENT, "out of memory for a timeline");
    m2_status st = put_events(f, t, zero);
    if (fclose(f) && st == M2_OK) st = m2_fail(M2_TRANSIENT, "out of memory for a timeline");
    return st;
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */
static m2_status write_failed(const char *path)
{
    return m2_fail(M2_IO, "writing the timeline %s failed: %s", path, strerror(errno));
}

/* Rank 0 takes the others' texts, in the order of ranks, and goes on taking when it cannot write. */
static m2_status write_texts(const m2_timeline *t, const char *temporary, const char *text,
                             const int64_t *bytes, char *room)
{
    m2_comm *host = t->comm->host;
    FILE *f = fopen(temporary, "w");
    int bad = !f || fputs("{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n", f) < 0;
    for (int r = 0; r < host->size; r++) {
        const char *from = r ? room : text;
        if (r) M2_TRY(host->api->recv(host, room, bytes[r], M2_U8, r, NULL));
        bad = bad || fwrite(from, 1, (size_t)bytes[r], f) != (size_t)bytes[r];
    }
    bad = bad || fprintf(f, "{\"ph\": \"M\", \"name\": \"process_sort_index\", \"pid\": 0, \"args\": "
                            "{\"sort_index\": 0}}\n]}\n") < 0;
    if (f && fclose(f)) bad = 1;
    return bad ? write_failed(temporary) : M2_OK;
}

static m2_status collect(const m2_timeline *t, const char *temporary, const char *text, int64_t mine)
{
    m2_comm *host = t->comm->host;
    int64_t most = 0, *bytes = calloc((size_t)host->size, sizeof *bytes);
    M2_CHECK(bytes);
    m2_status st = host->api->all_gather(host, &mine, bytes, 1, M2_I64, NULL);
    for (int r = 0; r < host->size; r++)
        if (bytes[r] > most) most = bytes[r];
    char *room = host->rank ? NULL : malloc((size_t)most + 1);
    if (st == M2_OK && host->rank) st = host->api->send(host, text, mine, M2_U8, 0, NULL);
    if (st == M2_OK && host->rank == 0)
        st = room ? write_texts(t, temporary, text, bytes, room)
                  : m2_fail(M2_TRANSIENT, "out of memory for a timeline");
    free(room);
    free(bytes);
    return st;
}

m2_status m2_timeline_write(const m2_timeline *t, const char *path)
{
    m2_comm *host = t->comm->host;
    char temporary[4096], *text = NULL;
    size_t bytes = 0;
    double zero = t->trace->began;
    if (snprintf(temporary, sizeof temporary, "%s.tmp", path) >= (int)sizeof temporary)
        return m2_fail(M2_USAGE, "the path %s is too long", path);
    M2_TRY(host->api->broadcast(host, &zero, 1, M2_F64, 0, NULL));
    m2_status st = m2_comm_agree(t->comm, make_text(t, t->trace->began - zero, &text, &bytes));
    if (st == M2_OK) st = collect(t, temporary, text, (int64_t)bytes);
    if (st == M2_OK && host->rank == 0 && rename(temporary, path)) st = write_failed(path);
    if (st != M2_OK && host->rank == 0) unlink(temporary);
    free(text);
    return m2_comm_agree(t->comm, st);
}
