/* watch.c - recording, the collectives of a communicator with records around them, and the thread that watches. */
#include "parallel/watch.h"
#include "kernels/base/log.h"
#include "parallel/levels.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_COMMS = 16 };

typedef struct watched {
    m2_comm *comm;
    const m2_comm_api *inner; /* the transport's */
    m2_comm_api api;          /* the same with records */
} watched;

struct m2_watch {
    m2_watch_spec spec;
    char folder[1000], file[1100];
    m2_flight *flight;
    int64_t step;
    watched comms[MOST_COMMS];
    int n_comms;
    m2_comm ender; /* a copy whose abort works from any thread */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int running, ending;
};

/* Of the call or phase going on: a program's exchanges may run on a thread of their own, beside the rest. */
static _Thread_local const char *around;
static _Thread_local int64_t entered, waited_ns; /* this thread's collectives: since when, how long in all */

/* ---- records ----------------------------------------------------------------------------------------------------- */
static uint64_t begin(m2_watch *w, const char *what, const char *path, uint64_t collective)
{
    m2_flight *f = w->flight;
    uint64_t n = atomic_fetch_add_explicit(&f->entries, 1, memory_order_relaxed);
    m2_flight_entry *e = &f->ring[n % M2_FLIGHT_ENTRIES];
    e->end = 0;
    e->begin = m2_flight_clock();
    e->step = w->step;
    e->collective = collective;
    strncpy(e->what, what, sizeof e->what - 1);
    strncpy(e->path, path ? path : "", sizeof e->path - 1);
    atomic_fetch_add_explicit(&f->progress, 1, memory_order_release);
    return n;
}

static void end(m2_watch *w, uint64_t n)
{
    m2_flight *f = w->flight;
    if (atomic_load_explicit(&f->entries, memory_order_relaxed) - n <= M2_FLIGHT_ENTRIES)
        f->ring[n % M2_FLIGHT_ENTRIES].end = m2_flight_clock();
    atomic_fetch_add_explicit(&f->progress, 1, memory_order_relaxed);
}

void m2_watch_step(m2_watch *w, int64_t step)
{
    if (w) w->step = step;
}

m2_watch_mark m2_watch_begin(m2_watch *w, const char *what, const char *path)
{
    if (!w) return (m2_watch_mark){0, NULL};
    m2_watch_mark mark = {begin(w, what, path, 0), around};
    around = path && *path ? path : what;
    return mark;
}

void m2_watch_end(m2_watch *w, m2_watch_mark mark)
{
    if (!w) return;
    end(w, mark.entry);
    around = mark.path;
}

/* ---- collectives ------------------------------------------------------------------------------------------------- */
static const m2_comm_api *enter(m2_comm *c, const char *what, uint64_t *n)
{
    m2_watch *w = c->watch;
    uint64_t number = atomic_fetch_add_explicit(&w->flight->collectives, 1, memory_order_relaxed) + 1;
    atomic_store_explicit(&w->flight->waiting, number, memory_order_relaxed);
    *n = begin(w, what, around, number);
    entered = m2_flight_clock();
    for (int i = 0; i < w->n_comms; i++)
        if (w->comms[i].comm == c) return w->comms[i].inner;
    return NULL;
}

static m2_status leave(m2_comm *c, uint64_t n, m2_status st)
{
    end(c->watch, n);
    waited_ns += m2_flight_clock() - entered;
    atomic_store_explicit(&c->watch->flight->waiting, 0, memory_order_relaxed);
    return st;
}

double m2_watch_waited(void)
{
    return (double)waited_ns * 1e-9;
}

void m2_watch_wait(double seconds)
{
    waited_ns += (int64_t)(seconds * 1e9);
}

#define RECORDED(verb, arguments, ...)                                                                       \
    static m2_status watched_##verb arguments                                                                \
    {                                                                                                        \
        uint64_t n;                                                                                          \
        const m2_comm_api *inner = enter(c, #verb, &n);                                                      \
        return leave(c, n, inner->verb(__VA_ARGS__));                                                        \
    }
RECORDED(all_reduce, (m2_comm * c, const void *a, void *b, int64_t count, m2_dtype t, m2_reduce op, m2_stream *s), c, a, b,
         count, t, op, s)
RECORDED(all_gather, (m2_comm * c, const void *a, void *b, int64_t count, m2_dtype t, m2_stream *s), c, a, b, count, t, s)
RECORDED(reduce_scatter, (m2_comm * c, const void *a, void *b, int64_t count, m2_dtype t, m2_reduce op, m2_stream *s), c, a,
         b, count, t, op, s)
RECORDED(all_to_all,
         (m2_comm * c, const void *a, const int64_t *an, const int64_t *at, void *b, const int64_t *bn, const int64_t *bt,
          m2_dtype t, m2_stream *s),
         c, a, an, at, b, bn, bt, t, s)
RECORDED(broadcast, (m2_comm * c, void *a, int64_t count, m2_dtype t, int root, m2_stream *s), c, a, count, t, root, s)
RECORDED(barrier, (m2_comm * c), c)
#undef RECORDED

static void watch_one(m2_watch *w, m2_comm *c)
{
    if (!c || c->watch || w->n_comms == MOST_COMMS) return;
    watched *x = &w->comms[w->n_comms++];
    *x = (watched){.comm = c, .inner = c->api, .api = *c->api};
    x->api.all_reduce = watched_all_reduce;
    x->api.all_gather = watched_all_gather;
    x->api.reduce_scatter = watched_reduce_scatter;
    x->api.all_to_all = watched_all_to_all;
    x->api.broadcast = watched_broadcast;
    x->api.barrier = watched_barrier;
    c->watch = w;
    c->api = &x->api;
}

void m2_watch_comm(m2_watch *w, m2_comm *c)
{
    if (!w || !c) return;
    watch_one(w, c);
    watch_one(w, c->host);
    if (!c->levels) return;
    m2_watch_comm(w, c->levels->node);
    m2_watch_comm(w, c->levels->across);
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */
typedef struct sight {
    uint64_t progress;
    double since, ticked; /* m2_now(): of the newest progress, of the newest tick */
    uint64_t *beats;      /* [size] of the others, as last seen */
    double *changed;      /* [size] when that was; 0 = not looked at in this wait */
} sight;

/* Writing and closing also makes a network file system send what the mapping holds. */
static void beat(m2_watch *w)
{
    m2_flight *f = w->flight;
    uint64_t beats = f->beats + 1;
    int64_t now = m2_flight_clock();
    f->beats = beats;
    f->beat = now;
    int fd = open(w->file, O_WRONLY);
    if (fd < 0) return;
    if (pwrite(fd, &now, sizeof now, (off_t)offsetof(m2_flight, beat)) < 0)
        m2_log_once(M2_LOG_WARN, "writing %s failed: %s", w->file, strerror(errno));
    close(fd);
}

/* Of copies just read: is there a rank that will not come any more? Marks those without a sign of life for `silence` seconds
 * as lost. */
static int someone_gone(double silence, sight *s, m2_flights *f)
{
    int gone = 0;
    double now = m2_now();
    for (int r = 0; r < f->size; r++) {
        if (!f->rank[r]) continue;
        if (f->life[r] == M2_LIFE_DEAD) gone = 1;
        if (f->life[r] != M2_LIFE_FAR) continue;
        if (!s->changed[r] || s->beats[r] != f->rank[r]->beats) {
            s->beats[r] = f->rank[r]->beats;
            s->changed[r] = now;
        }
        if (now - s->changed[r] < silence) continue;
        f->life[r] = M2_LIFE_LOST;
        gone = 1;
    }
    return gone;
}

/* The first rank to come here writes RUN/flight/report-START.txt and ends the job. */
static void end_job(m2_watch *w, const m2_flights *f, double waited)
{
    char report[1100], text[640];
    m2_flight_report(report, sizeof report, w->folder, w->spec.start);
    int fd = open(report, O_WRONLY | O_CREAT | O_EXCL, 0666);
    FILE *out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (out) {
        m2_flights_print(f, out);
        fclose(out);
    }
    if (fd >= 0 || errno != EEXIST) {
        (void)m2_flights_judge(f, text, sizeof text);
        m2_status st = m2_fail(M2_TRANSIENT, "no progress for %.1f s: %s. %s has all ranks", waited, text, report);
        w->ender.api->abort(&w->ender, st);
    }
    if (w->spec.leave <= 0) return;
    nanosleep(&(struct timespec){.tv_sec = (time_t)w->spec.leave}, NULL);
    _exit(M2_TRANSIENT);
}

static double patience(const m2_watch *w) /* seconds between two looks at the others */
{
    double ranks = w->spec.comm->size;
    return ranks < 32 ? 1 : ranks / 32;
}

/* Returns 1 when the job has been ended. */
static int look(m2_watch *w, sight *s, double *looked)
{
    double now = m2_now();
    uint64_t progress = atomic_load(&w->flight->progress);
    int slept = now - s->ticked > 5; /* stopped itself, or suspended with the machine: that was nobody's fault */
    s->ticked = now;
    if (progress != s->progress || slept) {
        s->progress = progress;
        s->since = now;
        memset(s->changed, 0, (size_t)w->spec.comm->size * sizeof *s->changed);
        return 0;
    }
    double waited = now - s->since;
    int waits = atomic_load(&w->flight->waiting) != 0, hangs = w->spec.hang > 0 && waited >= w->spec.hang;
    if (!hangs && (!waits || waited < 0.4 || now - *looked < patience(w))) return 0;
    *looked = now;
    m2_flights f;
    int over = 0;
    double silence = w->spec.lost > 0 ? w->spec.lost : INFINITY;
    if (hangs) silence = fmin(silence, fmax(2.5, waited / 2)); /* the job ends anyway: who is silent is to be named */
    if (m2_flights_read(w->folder, &f) == M2_OK && f.start == w->spec.start) over = someone_gone(silence, s, &f) || hangs;
    if (over && atomic_load(&w->flight->progress) == progress) end_job(w, &f, waited);
    else over = 0;
    m2_flights_free(&f);
    return over;
}

static void *watch(void *context)
{
    m2_watch *w = context;
    size_t n = (size_t)w->spec.comm->size;
    sight s = {.since = m2_now(), .ticked = m2_now()};
    s.beats = calloc(n, sizeof *s.beats);
    s.changed = calloc(n, sizeof *s.changed);
    double looked = 0, beaten = 0;
    pthread_mutex_lock(&w->lock);
    while (!w->ending && s.beats && s.changed) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 250000000;
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
        pthread_cond_timedwait(&w->wake, &w->lock, &until);
        if (w->ending) break;
        pthread_mutex_unlock(&w->lock);
        if (m2_now() - beaten >= 1) beat(w), beaten = m2_now();
        int over = look(w, &s, &looked);
        pthread_mutex_lock(&w->lock);
        if (over) break;
    }
    pthread_mutex_unlock(&w->lock);
    free(s.beats);
    free(s.changed);
    return NULL;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
/* A file of its own: what an older start maps is not this one. */
static m2_status map(m2_watch *w)
{
    if (mkdir(w->folder, 0777) && errno != EEXIST)
        return m2_fail(M2_IO, "making folder %s failed: %s", w->folder, strerror(errno));
    unlink(w->file);
    int fd = open(w->file, O_RDWR | O_CREAT | O_EXCL, 0666), bad = fd < 0;
    void *at = MAP_FAILED;
    if (!bad) bad = errno = posix_fallocate(fd, 0, sizeof(m2_flight)); /* a full disk is found here, not as SIGBUS later */
    if (!bad) at = mmap(NULL, sizeof(m2_flight), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (at == MAP_FAILED) return m2_fail(M2_IO, "making the flight recorder %s failed: %s", w->file, strerror(errno));
    w->flight = at;
    return M2_OK;
}

static void fill_in(m2_watch *w)
{
    m2_flight *f = w->flight;
    struct stat space;
    f->version = 1;
    f->rank = w->spec.comm->rank;
    f->size = w->spec.comm->size;
    f->process = (int32_t)getpid();
    f->processes = stat("/proc/self/ns/pid", &space) ? 0 : (uint64_t)space.st_ino;
    f->start = w->spec.start;
    f->began = f->beat = m2_flight_clock();
    gethostname(f->node, sizeof f->node - 1);
    memcpy(f->magic, "m2-ring", 8);
}

m2_status m2_watch_open(const m2_watch_spec *spec, m2_watch **out)
{
    m2_watch *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w) return m2_fail(M2_TRANSIENT, "out of memory for the watchdog");
    w->spec = *spec;
    w->ender = *spec->comm;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    snprintf(w->folder, sizeof w->folder, "%s", spec->folder);
    m2_flight_file(w->file, sizeof w->file, w->folder, spec->comm->rank);
    m2_status st = map(w);
    if (st == M2_OK) fill_in(w);
    if (st == M2_OK && pthread_create(&w->thread, NULL, watch, w))
        st = m2_fail(M2_TRANSIENT, "the watchdog's thread cannot be started");
    w->running = st == M2_OK;
    *out = w;
    if (st != M2_OK) m2_watch_close(out, st);
    return st;
}

void m2_watch_close(m2_watch **watch_at, m2_status outcome)
{
    m2_watch *w = *watch_at;
    *watch_at = NULL;
    if (!w) return;
    if (w->running) {
        pthread_mutex_lock(&w->lock);
        w->ending = 1;
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->lock);
        pthread_join(w->thread, NULL);
    }
    for (int i = 0; i < w->n_comms; i++) {
        w->comms[i].comm->api = w->comms[i].inner;
        w->comms[i].comm->watch = NULL;
    }
    if (w->flight) {
        w->flight->beat = m2_flight_clock();
        w->flight->ended = 1 + (int32_t)outcome;
        munmap(w->flight, sizeof *w->flight);
    }
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
