/* flight.c - reading the rings of all ranks and saying who holds up whom. */
#include "parallel/flight.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int64_t m2_flight_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void m2_flight_file(char *out, size_t n, const char *folder, int rank)
{
    snprintf(out, n, "%s/rank-%05d.ring", folder, rank);
}

void m2_flight_report(char *out, size_t n, const char *folder, int64_t start)
{
    snprintf(out, n, "%s/report-%08lld.txt", folder, (long long)start);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */
/* Only a process of this node, counted in this namespace, can be looked at. */
static m2_life life_of(const m2_flight *f)
{
    char path[64], host[64] = "", text[512];
    struct stat space;
    if (f->ended) return M2_LIFE_ENDED;
    gethostname(host, sizeof host - 1);
    if (strcmp(host, f->node) || stat("/proc/self/ns/pid", &space) || (uint64_t)space.st_ino != f->processes)
        return M2_LIFE_FAR;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)f->process);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return errno == ENOENT ? M2_LIFE_DEAD : M2_LIFE_RUNNING;
    ssize_t n = read(fd, text, sizeof text - 1);
    int gone = n < 0 && errno == ESRCH;
    close(fd);
    if (n <= 0) return gone ? M2_LIFE_DEAD : M2_LIFE_RUNNING;
    text[n] = 0;
    const char *state = strrchr(text, ')'); /* after the command's name, which may be anything */
    if (!state || strlen(state) < 3) return M2_LIFE_RUNNING;
    if (strchr("ZXx", state[2])) return M2_LIFE_DEAD;
    return strchr("Tt", state[2]) ? M2_LIFE_STOPPED : M2_LIFE_RUNNING;
}

m2_status m2_flight_read(const char *folder, int rank, m2_flight *out, m2_life *life)
{
    char file[1100];
    m2_flight_file(file, sizeof file, folder, rank);
    *life = M2_LIFE_MISSING;
    int fd = open(file, O_RDONLY); /* anew every time: so a network file system asks its server */
    if (fd < 0) return m2_fail(M2_DATA, "reading %s failed: %s", file, strerror(errno));
    ssize_t n = read(fd, out, sizeof *out);
    close(fd);
    if (n != (ssize_t)sizeof *out || memcmp(out->magic, "m2-ring", 8) || out->version != 1)
        return m2_fail(M2_DATA, "%s is no flight recorder of this version of m2", file);
    out->node[sizeof out->node - 1] = 0;
    for (int i = 0; i < M2_FLIGHT_ENTRIES; i++) { /* one may be half written */
        out->ring[i].what[M2_FLIGHT_WHAT - 1] = 0;
        out->ring[i].path[M2_FLIGHT_PATH - 1] = 0;
    }
    *life = life_of(out);
    return M2_OK;
}

/* The start and the number of ranks of the newest ring. */
static m2_status find_newest(const char *folder, m2_flights *f, m2_flight *one)
{
    DIR *dir = opendir(folder);
    if (!dir) return m2_fail(M2_DATA, "reading %s failed: %s; a run's flight recorders are there", folder, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) {
        int rank, end = 0;
        m2_life life;
        if (sscanf(e->d_name, "rank-%d.ring%n", &rank, &end) != 1 || !end || e->d_name[end]) continue;
        if (m2_flight_read(folder, rank, one, &life) != M2_OK || one->size < 1 || one->start < f->start) continue;
        f->start = one->start;
        f->size = one->size;
    }
    closedir(dir);
    return f->size ? M2_OK : m2_fail(M2_DATA, "%s holds no flight recorders: the run has not begun to train", folder);
}

m2_status m2_flights_read(const char *folder, m2_flights *out)
{
    *out = (m2_flights){0};
    m2_flight *one = malloc(sizeof *one);
    m2_status st = one ? find_newest(folder, out, one) : m2_fail(M2_TRANSIENT, "out of memory for flight recorders");
    if (st == M2_OK) {
        out->rank = calloc((size_t)out->size, sizeof *out->rank);
        out->life = calloc((size_t)out->size, sizeof *out->life);
        if (!out->rank || !out->life) st = m2_fail(M2_TRANSIENT, "out of memory for %d flight recorders", out->size);
    }
    for (int r = 0; st == M2_OK && r < out->size; r++) {
        m2_life life;
        if (m2_flight_read(folder, r, one, &life) != M2_OK || one->start != out->start) continue;
        out->rank[r] = malloc(sizeof *one);
        if (!out->rank[r]) st = m2_fail(M2_TRANSIENT, "out of memory for %d flight recorders", out->size);
        if (out->rank[r]) memcpy(out->rank[r], one, sizeof *one);
        out->life[r] = life;
    }
    out->now = m2_flight_clock();
    free(one);
    return st;
}

void m2_flights_free(m2_flights *f)
{
    for (int r = 0; f->rank && r < f->size; r++) free(f->rank[r]);
    free(f->rank);
    free(f->life);
    *f = (m2_flights){0};
}

/* ---- looking up -------------------------------------------------------------------------------------------------- */
/* Entry `back` before the newest, NULL: not (any more) there. */
static const m2_flight_entry *entry(const m2_flight *f, uint64_t back)
{
    uint64_t n = f->entries;
    return back < n && back < M2_FLIGHT_ENTRIES ? &f->ring[(n - 1 - back) % M2_FLIGHT_ENTRIES] : NULL;
}

const m2_flight_entry *m2_flight_newest(const m2_flight *f)
{
    return entry(f, 0);
}

const m2_flight_entry *m2_flight_open(const m2_flight *f)
{
    const m2_flight_entry *e;
    for (uint64_t i = 0; (e = entry(f, i)); i++)
        if (!e->end) return e;
    return NULL;
}

const m2_flight_entry *m2_flight_collective(const m2_flight *f, uint64_t number)
{
    const m2_flight_entry *e;
    for (uint64_t i = 0; (e = entry(f, i)); i++)
        if (e->collective == number) return e;
    return NULL;
}

/* ---- judging ----------------------------------------------------------------------------------------------------- */
static uint64_t most_collectives(const m2_flights *f, int *rank)
{
    uint64_t most = 0;
    *rank = -1;
    for (int r = 0; r < f->size; r++) {
        if (!f->rank[r] || (*rank >= 0 && f->rank[r]->collectives <= most)) continue;
        most = f->rank[r]->collectives;
        *rank = r;
    }
    return most;
}

/* The rank that others wait for: the worst life, and of those the fewest collectives begun. */
static int culprit(const m2_flights *f)
{
    int first, worst = -1;
    uint64_t most = most_collectives(f, &first);
    for (int r = 0; r < f->size; r++) {
        const m2_flight *x = f->rank[r];
        if (!x || (f->life[r] < M2_LIFE_STOPPED && x->collectives >= most)) continue;
        if (worst >= 0) {
            int mine = f->life[r] >= M2_LIFE_STOPPED ? f->life[r] : 0;
            int its = f->life[worst] >= M2_LIFE_STOPPED ? f->life[worst] : 0;
            if (mine < its || (mine == its && x->collectives >= f->rank[worst]->collectives)) continue;
        }
        worst = r;
    }
    return worst;
}

static double seconds(int64_t from, int64_t to)
{
    return (double)(to - from) * 1e-9;
}

static void name_entry(char *text, size_t n, const m2_flight_entry *e)
{
    snprintf(text, n, "%s%s%s", e->what, *e->path ? " of " : "", e->path);
}

/* Where a rank is, or was when it died. */
static void describe_place(const m2_flight *x, int64_t now, char *text, size_t n)
{
    char name[112];
    const m2_flight_entry *open = m2_flight_open(x), *e = open ? open : m2_flight_newest(x);
    if (!e) {
        snprintf(text, n, "before the first call");
        return;
    }
    name_entry(name, sizeof name, e);
    if (open && e->collective)
        snprintf(text, n, "step %lld, in %s (collective %llu), for %.1f s", (long long)e->step, name,
                 (unsigned long long)e->collective, seconds(e->begin, now));
    else
        snprintf(text, n, "step %lld, %s %s, for %.1f s", (long long)e->step, open ? "in" : "behind", name,
                 seconds(open ? e->begin : e->end, now));
}

static void describe_life(const m2_flights *f, int r, char *text, size_t n)
{
    const m2_flight *x = f->rank[r];
    double silent = seconds(x->beat, f->now);
    switch (f->life[r]) {
    case M2_LIFE_DEAD: snprintf(text, n, "has died"); break;
    case M2_LIFE_STOPPED: snprintf(text, n, "is stopped (SIGSTOP, or a debugger)"); break;
    case M2_LIFE_LOST: snprintf(text, n, "gives no sign of life for %.0f s", silent); break;
    case M2_LIFE_FAR: snprintf(text, n, "last gave a sign of life %.0f s ago", silent); break;
    case M2_LIFE_ENDED: snprintf(text, n, "has ended with exit code %d", (int)x->ended - 1); break;
    default: snprintf(text, n, "is running"); break;
    }
}

/* What the rank that is furthest waits in, among those that are not `but`. */
static const m2_flight_entry *awaited(const m2_flights *f, int but)
{
    const m2_flight_entry *best = NULL;
    for (int r = 0; r < f->size; r++) {
        const m2_flight_entry *e = f->rank[r] && r != but ? m2_flight_open(f->rank[r]) : NULL;
        if (e && e->collective && (!best || e->collective > best->collective)) best = e;
    }
    return best;
}

int m2_flights_judge(const m2_flights *f, char *text, size_t n)
{
    char life[96], place[240], name[112], others[240] = "";
    int r = culprit(f);
    const m2_flight_entry *e = awaited(f, r);
    if (e) name_entry(name, sizeof name, e);
    if (r < 0) {
        if (e)
            snprintf(text, n,
                     "all %d ranks have begun the same collectives and wait in step %lld in %s (collective %llu): a link, "
                     "or a GPU, does not answer",
                     f->size, (long long)e->step, name, (unsigned long long)e->collective);
        else
            snprintf(text, n, "no rank of %d waits for another one", f->size);
        return -1;
    }
    const m2_flight *x = f->rank[r];
    describe_life(f, r, life, sizeof life);
    describe_place(x, f->now, place, sizeof place);
    if (e)
        snprintf(others, sizeof others, "; the others wait for it in step %lld in %s (collective %llu)",
                 (long long)e->step, name, (unsigned long long)e->collective);
    snprintf(text, n, "rank %d of %d (process %d on %s) %s: %s%s", r, f->size, (int)x->process, x->node, life, place,
             others);
    return r;
}

double m2_flights_late(const m2_flights *f, int rank)
{
    double sum = 0;
    int n = 0;
    if (!f->rank[rank]) return -1;
    for (int i = 0; i < M2_FLIGHT_ENTRIES; i++) {
        const m2_flight_entry *mine = entry(f->rank[rank], (uint64_t)i);
        if (!mine) break;
        int64_t first = mine->begin;
        int all = mine->collective != 0;
        for (int r = 0; all && r < f->size; r++) {
            const m2_flight_entry *e = f->rank[r] ? m2_flight_collective(f->rank[r], mine->collective) : NULL;
            all = e != NULL;
            if (e && e->begin < first) first = e->begin;
        }
        if (!all) continue;
        sum += seconds(first, mine->begin);
        n++;
    }
    return n ? sum / n : -1;
}

/* ---- printing ---------------------------------------------------------------------------------------------------- */
void m2_flights_print(const m2_flights *f, FILE *out)
{
    char text[640], place[240], life[96];
    int r = m2_flights_judge(f, text, sizeof text);
    fprintf(out, "%s\n", text);
    if (r < 0) r = 0;
    for (int i = 0; i < f->size; i++) {
        const m2_flight *x = f->rank[i];
        if (!x) {
            fprintf(out, "rank %d: left no flight recorder\n", i);
            continue;
        }
        describe_life(f, i, life, sizeof life);
        describe_place(x, f->life[i] == M2_LIFE_ENDED ? x->beat : f->now, place, sizeof place);
        fprintf(out, "rank %d (process %d on %s) %s: %s; %llu collectives", i, (int)x->process, x->node, life, place,
                (unsigned long long)x->collectives);
        double late = m2_flights_late(f, i);
        if (late >= 0) fprintf(out, ", late by %.6f s on average", late);
        fputc('\n', out);
    }
}
