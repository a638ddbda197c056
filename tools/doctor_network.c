/* doctor_network.c - what nodes are to each other: clocks, links, sums. */
#include "kernels/base/log.h"
#include "tools/doctor.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- clocks: rank 0 asks every node what time it is, and believes the quickest answer ------------------------------ */
static double wall(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum { QUESTIONS = 8 };

static m2_status ask(m2_comm *c, int other, double *skew)
{
    double best = INFINITY, theirs = 0;
    for (int i = 0; i < QUESTIONS; i++) {
        double begin = wall();
        M2_TRY(c->api->send(c, &begin, 1, M2_F64, other, NULL));
        M2_TRY(c->api->recv(c, &theirs, 1, M2_F64, other, NULL));
        double end = wall();
        if (end - begin >= best) continue;
        best = end - begin;
        *skew = theirs - (begin + end) / 2;
    }
    return c->api->send(c, skew, 1, M2_F64, other, NULL);
}

static m2_status answer(m2_comm *c, double *skew)
{
    for (int i = 0; i < QUESTIONS; i++) {
        M2_TRY(c->api->recv(c, skew, 1, M2_F64, 0, NULL));
        double now = wall();
        M2_TRY(c->api->send(c, &now, 1, M2_F64, 0, NULL));
    }
    return c->api->recv(c, skew, 1, M2_F64, 0, NULL);
}

static m2_status compare_clocks(m2_comm *nodes, findings *f)
{
    double skew = 0;
    if (nodes->rank) M2_TRY(answer(nodes, &skew));
    for (int i = 1; !nodes->rank && i < nodes->size; i++) M2_TRY(ask(nodes, i, &skew));
    if (!nodes->rank) skew = 0;
    doctor_find(f, fabs(skew) > 1 ? DOUBTFUL : FIT, "clock", skew * 1e3, "ms", "ahead of rank 0's%s",
                fabs(skew) > 1 ? ", by more than a second" : "");
    return M2_OK;
}

/* ---- links between neighbours; a node is as fast as the better of its two ------------------------------------------ */
enum { LINK_BYTES = 4 << 20, LINK_TIMES = 5 };
enum { DOUBT = 4 }; /* so many times slower than usual */

static m2_status time_pair(m2_comm *c, int other, char *buffer, double *best)
{
    for (int i = 0; i < LINK_TIMES; i++) {
        double begin = m2_now();
        for (int turn = 0; turn < 2; turn++)
            if ((turn == 0) == (c->rank < other))
                M2_TRY(c->api->send(c, buffer, LINK_BYTES, M2_U8, other, NULL));
            else
                M2_TRY(c->api->recv(c, buffer, LINK_BYTES, M2_U8, other, NULL));
        double rate = 2.0 * LINK_BYTES / (m2_now() - begin);
        if (rate > *best) *best = rate;
    }
    return M2_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Every node's best link, in *all[size], and what is usual: the median. */
static m2_status gather(m2_comm *nodes, double mine, double *all, double *usual)
{
    double *sorted = malloc((size_t)nodes->size * sizeof *sorted);
    if (!sorted) return m2_fail(M2_TRANSIENT, "out of memory for the links of %d nodes", nodes->size);
    m2_status st = nodes->api->all_gather(nodes, &mine, all, 1, M2_F64, NULL);
    if (st == M2_OK) {
        memcpy(sorted, all, (size_t)nodes->size * sizeof *all);
        qsort(sorted, (size_t)nodes->size, sizeof *sorted, by_value);
        *usual = sorted[nodes->size / 2];
    }
    free(sorted);
    return st;
}

/* All pairs at once, first the even ones, then the odd ones. */
static m2_status time_links(m2_comm *nodes, char *buffer, double *best)
{
    for (int odd = 0; odd < 2; odd++) {
        int other = nodes->rank % 2 == odd ? nodes->rank + 1 : nodes->rank - 1;
        M2_TRY(nodes->api->barrier(nodes));
        if (other >= 0 && other < nodes->size) M2_TRY(time_pair(nodes, other, buffer, best));
    }
    return nodes->api->barrier(nodes);
}

/* Those that seem slow once more, one after the other, while nobody else sends: others may have been in their way. */
static m2_status time_suspects(m2_comm *nodes, const double *all, double usual, char *buffer, double *best)
{
    for (int i = 0; i < nodes->size; i++) {
        if (all[i] >= usual / DOUBT) continue;
        for (int other = i - 1; other <= i + 1; other += 2) {
            if (other < 0 || other >= nodes->size) continue;
            if (nodes->rank == i) M2_TRY(time_pair(nodes, other, buffer, best));
            if (nodes->rank == other) M2_TRY(time_pair(nodes, i, buffer, best));
        }
        M2_TRY(nodes->api->barrier(nodes));
    }
    return M2_OK;
}

static m2_status compare_links(const doctor_wishes *w, m2_comm *nodes, findings *f)
{
    double best = 0, usual = 0;
    char *buffer = calloc(1, LINK_BYTES);
    double *all = calloc((size_t)nodes->size, sizeof *all);
    m2_status st = buffer && all ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for %d bytes to send", (int)LINK_BYTES);
    if (st == M2_OK) st = time_links(nodes, buffer, &best);
    if (st == M2_OK) st = gather(nodes, best, all, &usual);
    if (st == M2_OK) st = time_suspects(nodes, all, usual, buffer, &best);
    if (st == M2_OK) st = gather(nodes, best, all, &usual);
    if (st == M2_OK) {
        verdict v = best > usual / DOUBT ? FIT : best < w->least_link * 1e9 ? UNFIT : DOUBTFUL;
        doctor_find(f, v, "link", best / 1e9, "GB/s", v == FIT ? "to other nodes" : "to other nodes, where %.2g are usual",
                    usual / 1e9);
    }
    free(buffer);
    free(all);
    return st;
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */
enum { SUM_COUNT = 4 << 20, SUM_TIMES = 4 };

/* Small whole numbers, whose sum f32 holds exactly. */
static void fill(float *x, int64_t n, double factor)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(factor * (double)(i % 7 + 1));
}

static m2_status run_sums(m2_comm *c, float *buffer, m2_device *dev, void *device, double *seconds)
{
    int64_t bytes = SUM_COUNT * (int64_t)sizeof *buffer;
    *seconds = INFINITY;
    for (int i = 0; i < SUM_TIMES; i++) {
        fill(buffer, SUM_COUNT, c->rank + 1);
        if (device) M2_TRY(dev->api->copy(dev, device, buffer, bytes, NULL));
        if (device) M2_TRY(dev->api->stream_sync(dev, NULL));
        M2_TRY(c->api->barrier(c));
        double begin = m2_now();
        void *x = device ? device : buffer;
        M2_TRY(c->api->all_reduce(c, x, x, SUM_COUNT, M2_F32, M2_SUM, NULL));
        if (device) M2_TRY(dev->api->stream_sync(dev, NULL));
        if (m2_now() - begin < *seconds) *seconds = m2_now() - begin;
        if (device) M2_TRY(dev->api->copy(dev, buffer, device, bytes, NULL));
        if (device) M2_TRY(dev->api->stream_sync(dev, NULL));
    }
    return M2_OK;
}

static void judge_sums(const doctor_wishes *w, m2_comm *c, const float *x, double seconds, findings *f)
{
    int64_t wrong = 0;
    double factor = c->size * (c->size + 1.0) / 2, sent = 2.0 * (c->size - 1) / c->size * SUM_COUNT * sizeof *x;
    for (int64_t i = 0; i < SUM_COUNT; i++) wrong += x[i] != (float)(factor * (double)(i % 7 + 1));
    double rate = sent / seconds / 1e9;
    if (wrong)
        doctor_find(f, UNFIT, "all-reduce", NAN, "", "%lld of %d sums are wrong", (long long)wrong, (int)SUM_COUNT);
    else
        doctor_find(f, rate < w->least_gbs ? UNFIT : FIT, "all-reduce", rate, "GB/s:", "%d ranks, %s, right sums%s", c->size,
                    c->api->kind, rate < w->least_gbs ? ", slower than expected" : "");
}

static m2_status check_sums(const doctor_wishes *w, m2_comm *c, findings *f)
{
    double seconds;
    void *device = NULL;
    m2_device *dev = c->device && strcmp(c->device->api->kind, "cpu") ? c->device : NULL;
    float *buffer = malloc(SUM_COUNT * sizeof *buffer);
    if (!buffer) return m2_fail(M2_TRANSIENT, "out of memory for an all-reduce");
    m2_status st = dev ? dev->api->alloc(dev, M2_MEM_DEVICE, SUM_COUNT * (int64_t)sizeof *buffer, &device) : M2_OK;
    if (st == M2_OK) st = run_sums(c, buffer, dev, device, &seconds);
    if (st == M2_OK) judge_sums(w, c, buffer, seconds, f);
    if (device) dev->api->free(dev, M2_MEM_DEVICE, device);
    free(buffer);
    return st;
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */
m2_status doctor_network(const doctor_wishes *w, m2_comm *train, findings *f)
{
    m2_comm *host = train->host, *nodes = NULL;
    int leader = train->local_rank == 0;
    M2_TRY(host->api->split(host, leader, host->rank, &nodes));
    m2_status st = M2_OK;
    if (leader && nodes->size > 1) st = compare_clocks(nodes, f);
    if (leader && nodes->size > 1 && st == M2_OK) st = compare_links(w, nodes, f);
    m2_comm_close(&nodes);
    return st == M2_OK ? check_sums(w, train, f) : st;
}
