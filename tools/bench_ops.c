/* bench_ops.c - m2 bench ops: the rows of kernels/cases.def that are made for measuring. */
#include "kernels/base/threads.h"
#include "kernels/perf.h"
#include "runtime/machine.h"
#include "tools/bench.h"
#include "tools/tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char bench_ops_usage[] =
    "usage: m2 bench ops [--op NAME] [--device SPEC] [--precision NAME] [--threads N]\n"
    "                    [--machine-out FILE]\n"
    "\n"
    "Time of each op and its gradient on shapes of training, and the share of what bounds it: FLOP/s of a\n"
    "large matrix product, or bytes/s of a plain copy, both measured in the same run.\n"
    "\n"
    "  --op NAME         only this op\n"
    "  --device SPEC     cpu, cuda, cuda:1, auto (auto)\n"
    "  --precision NAME  f32, f64, tf32, bf16 (f32 on the CPU, bf16 on a GPU)\n"
    "  --threads N       CPU threads; 0 = all (0)\n"
    "  --machine-out FILE  write the rates into a machine description, which is made or gets them anew:\n"
    "                    m2 inspect plan --machine FILE predicts with them\n";

/* ---- shares of ops, for a machine description -------------------------------------------------------------------- */
typedef struct tally {
    char row[32];
    double allowed, took; /* seconds */
    double elements;      /* where the row is one of a length, else 0 */
} tally;

enum { MAX_TALLIES = 2 * M2_OP_COUNT };

typedef struct rates {
    tally op[MAX_TALLIES];
    int n;
    double copy; /* mean of all copies that raced with an op */
    int copies;
} rates;

static void note(rates *r, const m2_perf *p, const m2_perf_yard *yard)
{
    const char *length = strstr(p->row->tensors, " L");
    char name[32];
    int i = 0;
    m2_machine_row(name, p->op->name, length ? atoll(length + 2) : 0);
    while (i < r->n && strcmp(r->op[i].row, name) != 0) i++;
    if (i == MAX_TALLIES) return;
    if (i == r->n) snprintf(r->op[r->n++].row, sizeof r->op[i].row, "%s", name);
    r->op[i].allowed += p->share * p->seconds;
    r->op[i].took += p->seconds;
    if (strchr(name, '@')) r->op[i].elements += (double)p->elements;
    r->copy += yard->bandwidth;
    r->copies++;
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */
/* Seconds of a call that does next to nothing. */
static m2_status measure_call(m2_perf_yard *yard, double *seconds)
{
    static const m2_case nothing = {"scale", "T B1 L2 C8", "factor=0.5", 0, 0, M2_CASE_PERF};
    m2_perf perf[2];
    int count;
    M2_TRY(m2_perf_measure(&nothing, yard, perf, &count));
    *seconds = perf[0].seconds;
    return M2_OK;
}

static m2_status write_machine(const rates *r, m2_perf_yard *yard, const char *path)
{
    const m2_device *dev = yard->device;
    m2_machine m;
    M2_TRY(m2_machine_read_or_new(path, &m));
    M2_TRY(measure_call(yard, &m.call));
    M2_TRY(m2_perf_peak(yard->device, yard->precision->t, &m.peak));
    m.gemm = yard->flops;
    m.copy = r->copy / r->copies;
    m.memory = (double)dev->memory;
    m.threads = dev->threads;
    m.cores = strcmp(dev->api->kind, "cpu") ? 0 : m2_threads_available();
    if (m.ranks_per_node < 1) m.ranks_per_node = 1;
    snprintf(m.device, sizeof m.device, "%s", dev->api->kind);
    if (!*m.name) snprintf(m.name, sizeof m.name, "%s", dev->name);
    if (!*m.note) snprintf(m.note, sizeof m.note, "measured by m2 bench, %s", yard->precision->name);
    for (int i = 0; i < r->n; i++)
        M2_TRY(m2_machine_set_op(&m, r->op[i].row, r->op[i].allowed / r->op[i].took,
                                 r->op[i].elements / r->op[i].took));
    return m2_machine_write(&m, path);
}

static m2_status measure_all(const char *only, m2_perf_yard *yard, rates *r)
{
    const m2_case *rows;
    m2_perf perf[2];
    int n = m2_cases(&rows), count, shown = 0;
    m2_perf_print_header(stdout, yard);
    for (int i = 0; i < n; i++) {
        if (!(rows[i].flags & M2_CASE_PERF) || (only && strcmp(only, rows[i].op) != 0)) continue;
        M2_TRY(m2_perf_measure(&rows[i], yard, perf, &count));
        for (int k = 0; k < count; k++) {
            m2_perf_print(stdout, &perf[k]);
            note(r, &perf[k], yard);
        }
        fflush(stdout);
        shown += count;
    }
    if (!shown) return m2_fail(M2_USAGE, "--op %s: no row of kernels/cases.def measures such an op", only);
    return M2_OK;
}

m2_status bench_ops(int argc, char **argv)
{
    const char *only = NULL, *spec = "auto", *name = NULL, *machine = NULL;
    int64_t threads = 0;
    const m2_flag flags[] = {{"--op", M2_FLAG_TEXT, &only},
                             {"--device", M2_FLAG_TEXT, &spec},
                             {"--precision", M2_FLAG_TEXT, &name},
                             {"--threads", M2_FLAG_INT, &threads},
                             {"--machine-out", M2_FLAG_TEXT, &machine},
                             {NULL, M2_FLAG_ON, NULL}};
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (argc > 1) return m2_fail(M2_USAGE, "m2 bench ops takes flags only, not '%s'", argv[1]);
    if (name && !m2_probe_precision_find(name))
        return m2_fail(M2_USAGE, "--precision %s: expected f32, f64, tf32 or bf16", name);
    m2_device *dev = NULL;
    m2_perf_yard yard = {0};
    rates r = {0};
    M2_TRY(m2_device_open(spec, (int)threads, &dev));
    if (!name) name = strcmp(dev->api->kind, "cpu") ? "bf16" : "f32";
    dev->tf32 = !strcmp(name, "tf32");
    m2_status st = m2_perf_open(dev, m2_probe_precision_find(name), &yard);
    if (st == M2_OK) st = measure_all(only, &yard, &r);
    if (st == M2_OK && machine) st = write_machine(&r, &yard, machine);
    m2_perf_close(&yard);
    m2_device_close(&dev);
    return st;
}
