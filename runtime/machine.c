#include "runtime/machine.h"
#include "runtime/config.h"
#include "runtime/yaml_map.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- rows of the file -------------------------------------------------------------------------------------------- */
typedef enum row_kind { TEXT, WHOLE, NUMBER } row_kind;

typedef struct row {
    const char *key;
    row_kind kind;
    size_t offset, size; /* size: of a text */
    double unit;         /* of a number in the file */
} row;

#define AT(f)   offsetof(m2_machine, f)
#define SIZE(f) sizeof((m2_machine *)0)->f
static const row rows[] = {
    {"name", TEXT, AT(name), SIZE(name), 0},
    {"note", TEXT, AT(note), SIZE(note), 0},
    {"device", TEXT, AT(device), SIZE(device), 0},
    {"transport", TEXT, AT(transport), SIZE(transport), 0},
    {"memory_gib", NUMBER, AT(memory), 0, 1024.0 * 1024 * 1024},
    {"threads", WHOLE, AT(threads), 0, 0},
    {"cores", WHOLE, AT(cores), 0, 0},
    {"ranks_per_node", WHOLE, AT(ranks_per_node), 0, 0},
    {"peak_gflops", NUMBER, AT(peak), 0, 1e9},
    {"gemm_gflops", NUMBER, AT(gemm), 0, 1e9},
    {"copy_gbs", NUMBER, AT(copy), 0, 1e9},
    {"call_us", NUMBER, AT(call), 0, 1e-6},
};
enum { ROWS = sizeof rows / sizeof *rows };

static const char *const verbs[M2_VERBS] = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all"};

const char *m2_verb_name(m2_verb v)
{
    return verbs[v];
}

int m2_verb_find(const char *name)
{
    for (int v = 0; v < M2_VERBS; v++)
        if (!strcmp(verbs[v], name)) return v;
    return -1;
}

m2_status m2_machine_set_op(m2_machine *m, const char *op, double share, double rate)
{
    int i = 0;
    while (i < m->n_ops && strcmp(m->op[i].name, op) != 0) i++;
    if (i == M2_MACHINE_OPS || strlen(op) >= sizeof m->op[0].name)
        return m2_fail(M2_USAGE, "ops.%s: a machine has room for %d ops with short names", op,
                       M2_MACHINE_OPS);
    if (i == m->n_ops) m->n_ops++;
    snprintf(m->op[i].name, sizeof m->op[i].name, "%s", op);
    m->op[i].share = share;
    m->op[i].rate = rate;
    return M2_OK;
}

char *m2_machine_row(char name[32], const char *op, int64_t length)
{
    if (strncmp(op, "longconv", 8) != 0)
        snprintf(name, 32, "%s", op);
    else
        snprintf(name, 32, "%s@%lld", op, (long long)length);
    return name;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */
static m2_status number(const char *where, const char *key, const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end || !isfinite(*out) || *out < 0)
        return m2_fail(M2_USAGE, "%s: %s: '%s': expected a number, at least 0", where, key, text);
    return M2_OK;
}

/* node.8.all_reduce.latency_us, .gbs, .us.65536; what else is *known = 0. */
static m2_status set_line(m2_machine *m, const char *where, const char *key, const char *text, int *known)
{
    m2_network *net = !strncmp(key, "node.", 5)      ? &m->node
                      : !strncmp(key, "between.", 8) ? &m->between
                                                     : NULL;
    char verb[24], field[24], rest[24] = "";
    int ranks = 0;
    double x, bytes;
    *known = net && sscanf(strchr(key, '.'), ".%d.%23[a-z_].%23[a-z_].%23s", &ranks, verb, field, rest) >= 3;
    int v = *known ? m2_verb_find(verb) : -1, point = *known && !strcmp(field, "us");
    *known =
        v >= 0 && ranks > 1 && (point || (!*rest && (!strcmp(field, "latency_us") || !strcmp(field, "gbs"))));
    if (!*known) return M2_OK;
    M2_TRY(number(where, key, text, &x));
    m2_links *links = m2_network_links(net, ranks);
    if (!links) return m2_fail(M2_USAGE, "%s: %s: room for %d sizes of groups", where, key, M2_NETWORK_SIZES);
    m2_line *l = &links->line[v];
    if (!point) {
        *(*field == 'g' ? &l->bandwidth : &l->latency) = *field == 'g' ? x * 1e9 : x * 1e-6;
        return M2_OK;
    }
    M2_TRY(number(where, key, rest, &bytes));
    if (l->n == M2_LINE_POINTS || (l->n && bytes <= l->bytes[l->n - 1]))
        return m2_fail(M2_USAGE, "%s: %s: expected at most %d points with growing bytes", where, key,
                       M2_LINE_POINTS);
    l->bytes[l->n] = bytes;
    l->seconds[l->n++] = x * 1e-6;
    return M2_OK;
}

static m2_status unknown(const char *where, const char *key)
{
    const char *names[ROWS];
    for (int i = 0; i < ROWS; i++) names[i] = rows[i].key;
    const char *near = m2_nearest_name(key, names, ROWS);
    return m2_fail(M2_USAGE, "%s: a machine has no '%s'%s%s%s", where, key, near ? "; did you mean " : "",
                   near ? near : "", near ? "?" : "");
}

static m2_status set(void *ctx, const char *where, const char *key, const char *text)
{
    m2_machine *m = ctx;
    double x;
    int i = 0, known;
    if (!strncmp(key, "ops.", 4)) {
        M2_TRY(number(where, key, text, &x));
        return m2_context(m2_machine_set_op(m, key + 4, x, 0), "%s", where);
    }
    if (!strncmp(key, "rates.", 6)) {
        M2_TRY(number(where, key, text, &x));
        return m2_context(m2_machine_set_op(m, key + 6, 1, x * 1e9), "%s", where);
    }
    M2_TRY(set_line(m, where, key, text, &known));
    if (known) return M2_OK;
    while (i < ROWS && strcmp(rows[i].key, key) != 0) i++;
    if (i == ROWS) return unknown(where, key);
    char *field = (char *)m + rows[i].offset;
    if (rows[i].kind == TEXT) {
        if ((size_t)snprintf(field, rows[i].size, "%s", text) >= rows[i].size)
            return m2_fail(M2_USAGE, "%s: %s: '%s' is too long", where, key, text);
        return M2_OK;
    }
    M2_TRY(number(where, key, text, &x));
    if (rows[i].kind == NUMBER)
        *(double *)(void *)field = x * rows[i].unit;
    else
        *(int *)(void *)field = (int)(x < 1e9 ? x : 1e9);
    return M2_OK;
}

m2_status m2_machine_read(const char *path, m2_machine *out)
{
    *out = (m2_machine){0};
    M2_TRY(m2_context(m2i_yaml_each(path, set, out), "machine description"));
    if (strcmp(out->device, "cpu") && strcmp(out->device, "cuda"))
        return m2_fail(M2_USAGE, "machine description %s: device: '%s': expected cpu or cuda", path,
                       out->device);
    if (strcmp(out->transport, "mpi") && strcmp(out->transport, "nccl"))
        snprintf(out->transport, sizeof out->transport, "%s", strcmp(out->device, "cpu") ? "nccl" : "mpi");
    if (out->ranks_per_node < 1) out->ranks_per_node = 1;
    if (out->threads < 1) out->threads = 1;
    return M2_OK;
}

m2_status m2_machine_read_or_new(const char *path, m2_machine *out)
{
    *out = (m2_machine){0};
    return access(path, F_OK) ? M2_OK : m2_machine_read(path, out);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */
static void write_text(FILE *f, const char *key, const char *text)
{
    fprintf(f, "%s: \"", key);
    for (; *text; text++) fprintf(f, "%s%c", *text == '"' || *text == '\\' ? "\\" : "", *text);
    fprintf(f, "\"\n");
}

static void write_line(FILE *f, const char *verb, const m2_line *l)
{
    fprintf(f, "    %s: {latency_us: %.4g, gbs: %.4g", verb, l->latency * 1e6, l->bandwidth * 1e-9);
    for (int i = 0; i < l->n; i++)
        fprintf(f, "%s%.0f: %.4g%s", i ? ", " : ",\n      us: {", l->bytes[i], l->seconds[i] * 1e6,
                i + 1 < l->n ? "" : "}");
    fprintf(f, "}\n");
}

static void write_network(FILE *f, const char *name, const m2_network *net)
{
    if (net->n) fprintf(f, "%s:\n", name);
    for (int i = 0; i < net->n; i++) {
        fprintf(f, "  %d:\n", net->size[i].ranks);
        for (int v = 0; v < M2_VERBS; v++)
            if (net->size[i].line[v].bandwidth > 0) write_line(f, verbs[v], &net->size[i].line[v]);
    }
}

static void write_ops(const m2_machine *m, FILE *f, int rates, const char *head)
{
    int n = 0;
    for (int i = 0; i < m->n_ops; i++) {
        if ((m->op[i].rate > 0) != rates) continue;
        if (!n++) fprintf(f, "%s\n", head);
        fprintf(f, "  %s: %.3g\n", m->op[i].name, rates ? m->op[i].rate * 1e-9 : m->op[i].share);
    }
}

static void write_all(const m2_machine *m, FILE *f)
{
    for (int i = 0; i < ROWS; i++) {
        const char *field = (const char *)m + rows[i].offset;
        double x = rows[i].kind == NUMBER ? *(const double *)(const void *)field / rows[i].unit : 0;
        if (rows[i].kind == TEXT && *field) write_text(f, rows[i].key, field);
        if (rows[i].kind == WHOLE) fprintf(f, "%s: %d\n", rows[i].key, *(const int *)(const void *)field);
        if (rows[i].kind == NUMBER) fprintf(f, "%s: %.5g\n", rows[i].key, x);
    }
    write_ops(m, f, 0, "ops: # share of the larger of what gemm_gflops and copy_gbs allow");
    write_ops(m, f, 1, "rates: # 10^9 elements per second");
    write_network(f, "node", &m->node);
    write_network(f, "between", &m->between);
}

m2_status m2_machine_write(const m2_machine *m, const char *path)
{
    char temporary[4096];
    if (snprintf(temporary, sizeof temporary, "%s.tmp", path) >= (int)sizeof temporary)
        return m2_fail(M2_USAGE, "the path %s is too long", path);
    FILE *f = fopen(temporary, "w");
    if (!f) return m2_fail(M2_IO, "cannot write %s: %s", temporary, strerror(errno));
    write_all(m, f);
    int bad = ferror(f);
    bad |= fclose(f) != 0;
    if (!bad && !rename(temporary, path)) return M2_OK;
    m2_status st = m2_fail(M2_IO, "writing %s failed: %s", path, strerror(errno));
    unlink(temporary);
    return st;
}

/* ---- what it says ------------------------------------------------------------------------------------------------ */
m2_status m2_machine_check(const m2_machine *m, int communicates)
{
    if (m->gemm <= 0 || m->copy <= 0)
        return m2_fail(M2_USAGE, "the machine description has no gemm_gflops and copy_gbs: m2 bench ops "
                                 "--machine-out FILE measures them");
    if (communicates && !m->node.n && !m->between.n)
        return m2_fail(M2_USAGE,
                       "the machine description has no network, neither node nor between: mpirun -np 2 m2 "
                       "bench comm --machine-out FILE measures one");
    return M2_OK;
}

double m2_machine_bound(const m2_machine *m, const m2_cost *cost)
{
    double by_flops = cost->flops / m->gemm, by_bytes = cost->bytes / m->copy;
    return by_flops > by_bytes ? by_flops : by_bytes;
}

/* How far the row is from describing such a call: 0 it is it, negative not at all. */
static double misfit(const char *name, const char *op, int64_t length)
{
    size_t n = strlen(op);
    if (!strcmp(name, "other")) return 1e3;
    if (strncmp(name, op, n) != 0 || (name[n] && name[n] != '@')) return -1;
    double at = name[n] ? strtod(name + n + 1, NULL) : 0;
    return at < 1 ? 1e2 : fabs(log2(at) - log2((double)(length > 0 ? length : 1)));
}

/* The row that describes the call best, or -1. */
static int row_of(const m2_machine *m, const m2_work *w)
{
    int best = -1;
    double least = 1e9;
    for (int i = 0; i < m->n_ops; i++) {
        double misses = misfit(m->op[i].name, w->op, w->length);
        if (misses < 0 || misses >= least) continue;
        best = i;
        least = misses;
    }
    return best;
}

double m2_machine_call_seconds(const m2_machine *m, const m2_work *w, int load)
{
    int i = row_of(m, w);
    double crowd = m->cores > 0 ? (double)load * m->threads / m->cores : 1,
           share = i < 0 || m->op[i].share <= 0 ? 1 : m->op[i].share,
           rate = i < 0 ? 0 : m->op[i].rate,
           alone = rate > 0 ? (double)w->elements / rate : m2_machine_bound(m, &w->cost) / share;
    return m->call + alone * (crowd > 1 ? crowd : 1);
}

m2_links *m2_network_links(m2_network *net, int ranks)
{
    int i = 0;
    while (i < net->n && net->size[i].ranks != ranks) i++;
    if (i == M2_NETWORK_SIZES) return NULL;
    if (i == net->n) net->size[net->n++].ranks = ranks;
    return &net->size[i];
}

double m2_line_seconds(const m2_line *l, double bytes)
{
    int i = 0;
    if (!l->n) return l->latency + (l->bandwidth > 0 ? bytes / l->bandwidth : 0);
    if (bytes <= l->bytes[0]) return l->seconds[0];
    if (bytes > l->bytes[l->n - 1]) /* on at the rate of the largest */
        return l->seconds[l->n - 1] * bytes / l->bytes[l->n - 1];
    while (bytes > l->bytes[i + 1]) i++;
    return l->seconds[i] +
           (l->seconds[i + 1] - l->seconds[i]) * (bytes - l->bytes[i]) / (l->bytes[i + 1] - l->bytes[i]);
}

/* The row measured among about as many ranks. Latency grows with the messages that a rank posts (mpi), or with the depth
 * of a tree (nccl). */
static double line_seconds(const m2_machine *m, const m2_network *net, m2_verb v, int ranks, double bytes)
{
    const m2_links *best = &net->size[0];
    for (int i = 1; i < net->n; i++)
        if (fabs(log2((double)net->size[i].ranks / ranks)) < fabs(log2((double)best->ranks / ranks)))
            best = &net->size[i];
    const m2_line *l = best->line[v].bandwidth > 0 ? &best->line[v] : &best->line[M2_VERB_ALL_REDUCE];
    double grown = !strcmp(m->transport, "nccl") ? log2((double)ranks) / log2((double)best->ranks)
                                                 : (double)(ranks - 1) / (best->ranks - 1);
    return ranks < 2 ? 0 : m2_line_seconds(l, bytes) + l->latency * (grown - 1);
}

/* Of what a rank sends, the part that leaves its node. NCCL reduces and gathers inside nodes first, so that only
 * 1/on_node of the array crosses between them; in an all_to_all, and over mpi, everyone sends to everyone. */
double m2_machine_verb_seconds(const m2_machine *m, m2_verb v, const m2_group *g, double bytes)
{
    const m2_network *node = m->node.n ? &m->node : &m->between,
                     *between = m->between.n ? &m->between : &m->node;
    int p = g->ranks, local = g->on_node;
    if (p < 2) return 0;
    if (g->nodes < 2) return line_seconds(m, node, v, p, bytes);
    if (local < 2) return line_seconds(m, between, v, p, bytes);
    double array = bytes * p / (p - 1), inside = array * (local - 1) / p, outside = array * (p - local) / p;
    if (!strcmp(m->transport, "nccl") && v != M2_VERB_ALL_TO_ALL) {
        inside = array * (local - 1) / local;
        outside = array / local * (g->nodes - 1) / g->nodes;
    }
    double a = line_seconds(m, node, v, local, inside), b = line_seconds(m, between, v, g->nodes, outside);
    if (strcmp(m->transport, "nccl")) return a + line_seconds(m, between, v, p, outside);
    return a > b ? a : b; /* its pieces move inside and between nodes at once */
}

m2_line m2_line_fit(const double *bytes, const double *seconds, int n)
{
    m2_line l = {.n = n < M2_LINE_POINTS ? n : M2_LINE_POINTS};
    double w = 0, wx = 0, wxx = 0, wt = 0, wxt = 0; /* weights 1 / t^2: relative errors */
    for (int i = 0; i < n; i++) {
        double k = 1 / (seconds[i] * seconds[i]), x = bytes[i], t = seconds[i];
        w += k, wx += k * x, wxx += k * x * x, wt += k * t, wxt += k * x * t;
    }
    double det = w * wxx - wx * wx, slope = det > 0 ? (w * wxt - wx * wt) / det : 0,
           at0 = (wt - slope * wx) / w;
    if (at0 < 0) at0 = 0, slope = wxx > 0 ? wxt / wxx : 0;
    l.latency = at0 > 0 ? at0 : 0;
    l.bandwidth = slope > 0 ? 1 / slope : 0;
    memcpy(l.bytes, bytes, (size_t)l.n * sizeof *bytes);
    memcpy(l.seconds, seconds, (size_t)l.n * sizeof *seconds);
    return l;
}
