/* bench_comm.c - m2 bench comm: how fast ranks exchange, by verb and size. */
#include "kernels/base/log.h"
#include "runtime/machine.h"
#include "runtime/ranks.h"
#include "tools/bench.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

const char bench_comm_usage[] =
    "usage: mpirun -np RANKS m2 bench comm [--machine-out FILE] [--most BYTES] [--json] [KEY=VALUE ...]\n"
    "\n"
    "all_reduce, all_gather, reduce_scatter and all_to_all for arrays of 1 KiB to 64 MiB, and the latency\n"
    "and bandwidth that describe them best: among all sizes of groups that divide the ranks of a node, and\n"
    "among those that divide the nodes, one rank on each, all groups at once as on a mesh.\n"
    "KEY=VALUE: run.device, run.transport, comm.peers.\n"
    "\n"
    "  --machine-out FILE  write them into a machine description, which is made or gets them anew\n"
    "  --most BYTES        largest array (67108864)\n"
    "  --json              for programs\n"
    "\n"
    "Columns: bytes that each rank sends, microseconds, and the rate at which each rank sends (bus\n"
    "bandwidth).\n";

enum { LEAST = 1024, STEP = 4, BATCHES = 3, MAX_GROUPS = 2 * M2_NETWORK_SIZES };

typedef struct group {
    int between; /* one rank on each node; else on one node */
    m2_links links;
} group;

typedef struct bench {
    m2_ranks ranks;
    char *send, *recv;
    int64_t most, room; /* bytes: the largest array; of send and recv */
    int peers; /* recv is lent (m2_comm_lend) */
    int n;
    group group[MAX_GROUPS];
} bench;

/* ---- one verb ---------------------------------------------------------------------------------------------------- */
/* Arrays of n floats per rank and block: n * size in all. */
static m2_status once(bench *b, m2_comm *c, m2_verb v, int64_t n)
{
    const m2_comm_api *api = c->api;
    switch (v) {
    case M2_VERB_ALL_REDUCE: return api->all_reduce(c, b->send, b->recv, n * c->size, M2_F32, M2_SUM, NULL);
    case M2_VERB_ALL_GATHER: return api->all_gather(c, b->send, b->recv, n, M2_F32, NULL);
    case M2_VERB_REDUCE_SCATTER: return api->reduce_scatter(c, b->send, b->recv, n, M2_F32, M2_SUM, NULL);
    default: return m2_comm_swap(c, b->send, b->recv, n, M2_F32, NULL);
    }
}

/* Of the slowest rank; all groups at once. */
static m2_status repeat(bench *b, m2_comm *c, m2_verb v, int64_t n, int times, double *seconds)
{
    m2_comm *all = b->ranks.comm;
    M2_TRY(all->api->barrier(all));
    double from = m2_now();
    for (int i = 0; i < times; i++) M2_TRY(once(b, c, v, n));
    M2_TRY(b->ranks.device->api->stream_sync(b->ranks.device, NULL));
    double took = (m2_now() - from) / times;
    return all->host->api->all_reduce(all->host, &took, seconds, 1, M2_F64, M2_MAX, NULL);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static m2_status measure(bench *b, m2_comm *c, m2_verb v, int64_t n, double *sent, double *seconds)
{
    double took[BATCHES];
    M2_TRY(repeat(b, c, v, n, 1, &took[0]));
    if (took[0] < 0.1) M2_TRY(repeat(b, c, v, n, 1, &took[0]));
    double wanted = 0.05 / took[0]; /* the same on every rank */
    int times = wanted < 1 ? 1 : wanted > 100 ? 100 : (int)wanted;
    int64_t before = c->bytes_sent;
    for (int i = 0; i < BATCHES; i++) M2_TRY(repeat(b, c, v, n, times, &took[i]));
    qsort(took, BATCHES, sizeof *took, by_value);
    *sent = (double)(c->bytes_sent - before) / (BATCHES * times);
    *seconds = took[BATCHES / 2];
    return M2_OK;
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */
static m2_status measure_verbs(bench *b, m2_comm *c, m2_links *out)
{
    for (m2_verb v = 0; v < M2_VERBS; v++) {
        double bytes[M2_LINE_POINTS], seconds[M2_LINE_POINTS];
        int n = 0;
        for (int64_t size = LEAST; size <= b->most && n < M2_LINE_POINTS; size *= STEP) {
            int64_t count = size / 4 / c->size;
            M2_TRY(measure(b, c, v, count > 0 ? count : 1, &bytes[n], &seconds[n]));
            n += !n || bytes[n] > bytes[n - 1];
        }
        for (int i = n - 2; i >= 0; i--) /* what a larger array does in less, this one can: it was disturbed */
            if (seconds[i] > seconds[i + 1]) seconds[i] = seconds[i + 1];
        out->line[v] = m2_line_fit(bytes, seconds, n);
    }
    return M2_OK;
}

static m2_status measure_group(bench *b, int between, int ranks)
{
    m2_comm *all = b->ranks.comm, *c = NULL;
    int node = all->rank / all->local_size, local = all->rank % all->local_size, lent = 0;
    int colour = between ? node / ranks * all->local_size + local : all->rank / ranks;
    if (b->n == MAX_GROUPS) return M2_OK;
    group *g = &b->group[b->n++];
    *g = (group){.between = between, .links.ranks = ranks};
    M2_TRY(all->api->split(all, colour, all->rank, &c));
    m2_status st = b->peers ? m2_comm_lend(c, b->recv, b->room, 0, &lent) : M2_OK;
    if (st == M2_OK) st = measure_verbs(b, c, &g->links);
    if (st == M2_OK && lent) st = m2_comm_take_back(c, b->recv);
    m2_comm_close(&c);
    return st;
}

/* Ranks fill one node after the other, all nodes alike: else only all of them together are measured. */
static m2_status regular(bench *b, int *yes)
{
    m2_comm *c = b->ranks.comm;
    int64_t odd[3] = {c->rank % c->local_size != c->local_rank, c->local_size, -c->local_size};
    M2_TRY(c->host->api->all_reduce(c->host, odd, odd, 3, M2_I64, M2_MAX, NULL));
    *yes = !odd[0] && odd[1] == -odd[2];
    return M2_OK;
}

static m2_status measure_groups(bench *b)
{
    const m2_comm *c = b->ranks.comm;
    int yes, nodes = c->size / c->local_size;
    M2_TRY(regular(b, &yes));
    if (!yes)
        return m2_fail(M2_USAGE, "expected as many ranks on each node, one node after the other: mpirun "
                                 "--map-by ppr:N:node, or srun --ntasks-per-node=N");
    for (int g = 2; g <= c->local_size; g++)
        if (c->local_size % g == 0) M2_TRY(measure_group(b, 0, g));
    for (int g = 2; g <= nodes; g++)
        if (nodes % g == 0) M2_TRY(measure_group(b, 1, g));
    return M2_OK;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */
static const char *where(const group *g)
{
    return g->between ? "between nodes" : "on a node";
}

static void print_text(const bench *b)
{
    printf("%d ranks, %s, %s\n", b->ranks.comm->size, b->ranks.comm->api->kind, b->ranks.device->name);
    for (int k = 0; k < b->n; k++)
        for (m2_verb v = 0; v < M2_VERBS; v++) {
            const m2_line *l = &b->group[k].links.line[v];
            printf("\n%s among %d %s: latency %.1f us, bandwidth %.3f GB/s\n", m2_verb_name(v),
                   b->group[k].links.ranks, where(&b->group[k]), l->latency * 1e6, l->bandwidth * 1e-9);
            printf("%14s %12s %8s\n", "bytes sent", "us", "GB/s");
            for (int i = 0; i < l->n; i++)
                printf("%14.0f %12.1f %8.3f\n", l->bytes[i], l->seconds[i] * 1e6,
                       l->bytes[i] / l->seconds[i] * 1e-9);
        }
}

static json_t *json_line(const m2_line *l)
{
    json_t *points = json_array();
    for (int i = 0; i < l->n; i++)
        json_array_append_new(points, json_pack("{s:f, s:f}", "sent", l->bytes[i], "seconds", l->seconds[i]));
    return json_pack("{s:f, s:f, s:o}", "latency", l->latency, "bandwidth", l->bandwidth, "points", points);
}

static m2_status print_json(const bench *b)
{
    const m2_comm *c = b->ranks.comm;
    json_t *groups = json_array();
    for (int k = 0; k < b->n; k++) {
        json_t *verbs = json_object();
        for (m2_verb v = 0; v < M2_VERBS; v++)
            json_object_set_new(verbs, m2_verb_name(v), json_line(&b->group[k].links.line[v]));
        json_array_append_new(groups, json_pack("{s:i, s:s, s:o}", "ranks", b->group[k].links.ranks, "where",
                                                where(&b->group[k]), "verbs", verbs));
    }
    json_t *root = json_pack("{s:i, s:i, s:s, s:s, s:o}", "ranks", c->size, "ranks_on_node", c->local_size,
                             "transport", c->api->kind, "device", b->ranks.device->name, "groups", groups);
    int bad = !root || json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    json_decref(root);
    putchar('\n');
    return bad ? m2_fail(M2_IO, "cannot write JSON to standard output") : M2_OK;
}

static m2_status add_to_machine(const bench *b, const char *path)
{
    const m2_comm *c = b->ranks.comm;
    m2_machine m;
    M2_TRY(m2_machine_read_or_new(path, &m));
    for (int k = 0; k < b->n; k++) {
        const group *g = &b->group[k];
        m2_links *links = m2_network_links(g->between ? &m.between : &m.node, g->links.ranks);
        if (!links)
            return m2_fail(M2_USAGE, "%s: room for %d sizes of groups in each network", path,
                           M2_NETWORK_SIZES);
        *links = g->links;
    }
    snprintf(m.transport, sizeof m.transport, "%s", c->api->kind);
    if (!*m.device) snprintf(m.device, sizeof m.device, "%s", b->ranks.device->api->kind);
    m.ranks_per_node = c->local_size;
    return m2_machine_write(&m, path);
}

/* ---- the subject ------------------------------------------------------------------------------------------------- */
static m2_status run(bench *b)
{
    m2_device *dev = b->ranks.device;
    m2_comm *c = b->ranks.comm;
    if (c->size < 2) return m2_fail(M2_USAGE, "one rank exchanges nothing: mpirun -np 2 m2 bench comm");
    b->room = b->most + 16 * c->size;
    M2_TRY(dev->api->alloc(dev, M2_MEM_DEVICE, b->room, (void **)&b->send));
    M2_TRY(dev->api->alloc(dev, M2_MEM_DEVICE, b->room, (void **)&b->recv));
    M2_TRY(dev->api->fill(dev, b->send, 0, b->room, NULL));
    M2_TRY(dev->api->fill(dev, b->recv, 0, b->room, NULL));
    return measure_groups(b);
}

static void close_bench(bench *b)
{
    m2_device *dev = b->ranks.device;
    if (b->recv) dev->api->free(dev, M2_MEM_DEVICE, b->recv);
    if (b->send) dev->api->free(dev, M2_MEM_DEVICE, b->send);
    m2_ranks_close(&b->ranks);
    free(b);
}

static m2_status take_words(int argc, char **argv, bench *b, m2_config *cfg, const char **machine, int *json)
{
    const m2_flag flags[] = {{"--machine-out", M2_FLAG_TEXT, machine},
                             {"--most", M2_FLAG_INT, &b->most},
                             {"--json", M2_FLAG_ON, json},
                             {NULL, M2_FLAG_ON, NULL}};
    m2_config_defaults(cfg);
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (b->most < LEAST || b->most > (int64_t)1 << 40)
        return m2_fail(M2_USAGE, "--most %" PRId64 ": expected %d to 2^40 bytes", b->most, LEAST);
    for (int i = 1; i < argc; i++) M2_TRY(m2_config_set(cfg, argv[i]));
    b->peers = cfg->comm_peers;
    return m2_ranks_open(cfg, &b->ranks);
}

m2_status bench_comm(int argc, char **argv)
{
    const char *machine = NULL;
    int json = 0, rank, size, local_rank, local_size;
    m2_config cfg;
    bench *b = calloc(1, sizeof *b);
    if (!b) return m2_fail(M2_TRANSIENT, "out of memory for measuring");
    b->most = 64 << 20;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    m2_log_setup(M2_LOG_WARN, rank);
    m2_status st = take_words(argc, argv, b, &cfg, &machine, &json);
    if (st != M2_OK) {
        free(b);
        return st;
    }
    st = m2_ranks_alone(b->ranks.comm, run(b));
    int prints = st == M2_OK && b->ranks.comm->rank == 0;
    if (prints && json) st = print_json(b);
    if (prints && !json) print_text(b);
    if (prints && st == M2_OK && machine) st = add_to_machine(b, machine);
    st = m2_ranks_alone(b->ranks.comm, st);
    close_bench(b);
    return st;
}
