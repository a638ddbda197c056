/* doctor.c - m2 doctor: is this machine, or are these, fit to train? */
#include "tools/doctor.h"
#include "kernels/base/log.h"
#include "tools/tool.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char tool_doctor_usage[] =
    "usage: m2 doctor [--gpus N] [--dir FOLDER] [--free MIB] [--least-gbs G] [--least-link G] [--alone]\n"
    "                 [--json]\n"
    "       srun --mpi=pmix m2 doctor ...                  or mpirun, or launch/local.sh\n"
    "\n"
    "Looks at what a training run will need: versions, processor, memory, GPUs, shared memory, a write with\n"
    "fsync and an HDF5 file in the temporary folder; with several ranks also their clocks, the links between nodes, and the\n"
    "sum and speed of an all-reduce. What all nodes have in common is printed once. Nodes that are unfit\n"
    "are named, and the exit code is 71.\n"
    "\n"
    "  --gpus N       GPUs that every node must show (default: what Slurm promised)\n"
    "  --dir FOLDER   another folder that must be writable, such as that of the run\n"
    "  --free MIB     space that must be left in the folders (64)\n"
    "  --least-gbs G  GB/s that each rank must send in a large all-reduce (any)\n"
    "  --least-link G a node is unfit whose link is slower than G GB/s (0.05) and than a quarter of the usual\n"
    "  --alone        without MPI: every process reports on its own\n"
    "  --json         for programs: a line on what each node has, and with several ranks one on what is between them\n";

/* Slurm's list of this process's GPUs, or their number; -1: nobody said. */
static int64_t promised_gpus(void)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES"), *number = getenv("SLURM_GPUS_ON_NODE");
    if (visible && *visible && strcmp(visible, "NoDevFiles")) {
        int64_t n = 1;
        while ((visible = strchr(visible, ',')) != NULL) n++, visible++;
        return n;
    }
    return number && *number ? strtoll(number, NULL, 10) : -1;
}

void doctor_find(findings *f, verdict v, const char *what, double value, const char *unit, const char *fmt, ...)
{
    if (f->n == DOCTOR_ROWS) return;
    finding *row = &f->row[f->n++];
    *row = (finding){.verdict = v, .value = value};
    snprintf(row->what, sizeof row->what, "%s", what);
    snprintf(row->unit, sizeof row->unit, "%s", unit);
    va_list list;
    va_start(list, fmt);
    vsnprintf(row->text, sizeof row->text, fmt, list);
    va_end(list);
}

/* Nodes must run what rank 0 runs. */
static void compare_programs(findings *all, int n)
{
    for (int i = 1; i < n; i++)
        for (int k = 0; k < all[i].n && all[0].n; k++) {
            finding *row = &all[i].row[k], *first = all[0].row;
            while (first < all[0].row + all[0].n && strcmp(first->what, row->what)) first++;
            if (strcmp(row->what, "program") || first == all[0].row + all[0].n) continue;
            if (strcmp(row->text, first->text)) row->verdict = UNFIT;
        }
}

static int report(const findings *all, int n, const char *json, char *why, size_t room)
{
    return json ? doctor_report_json(json, all, n, why, room) : doctor_report(all, n, why, room);
}

/* All ranks' findings reach rank 0, which prints them, as text or as JSON of that name; every rank learns what is wrong. */
static m2_status tell(m2_comm *c, const findings *mine, const char *json)
{
    char why[800] = "";
    int64_t unfit = 0;
    findings *all = NULL;
    m2_status st = M2_OK;
    if (c->size == 1) {
        unfit = report(mine, 1, json, why, sizeof why);
    } else {
        m2_comm *host = c->host;
        all = calloc((size_t)c->size, sizeof *all);
        if (!all) return m2_fail(M2_TRANSIENT, "out of memory for the findings of %d ranks", c->size);
        st = host->api->all_gather(host, mine, all, (int64_t)sizeof *mine, M2_U8, NULL);
        if (st == M2_OK) compare_programs(all, c->size);
        if (st == M2_OK && c->rank == 0) unfit = report(all, c->size, json, why, sizeof why);
        if (st == M2_OK) st = host->api->broadcast(host, &unfit, 1, M2_I64, 0, NULL);
        free(all);
    }
    fflush(stdout);
    if (st != M2_OK || !unfit) return st;
    return m2_fail(M2_TRANSIENT, "unfit to train: %s", why);
}

/* First what each node has, so that one which lacks something is named before it can hold up the others. */
static m2_status examine(const doctor_wishes *w, int alone, int json)
{
    findings f = {0};
    int rank, size, local_rank, local_size;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    gethostname(f.node, sizeof f.node - 1);
    char spec[32];
    int gpus = m2_device_gpus();
    snprintf(spec, sizeof spec, gpus ? "cuda:%d" : "cpu", gpus ? local_rank % gpus : 0);
    m2_device *dev = NULL;
    m2_comm *c = NULL;
    m2_status st = m2_device_open(spec, 0, &dev);
    if (st != M2_OK) doctor_find(&f, UNFIT, "device", NAN, "", "%s", m2_message());
    doctor_node(w, dev, alone || local_rank == 0, &f);
    m2_device *mine = dev && gpus ? dev : NULL;
    st = alone ? m2_comm_open_self(mine, &c) : m2_comm_open("auto", mine, &c); /* "self" refuses where others were started too */
    if (st == M2_OK) st = tell(c, &f, json ? "nodes" : NULL);
    f.n = 0;
    if (st == M2_OK && c->size > 1) {
        st = doctor_network(w, c, &f);
        if (st == M2_OK) st = tell(c, &f, json ? "network" : NULL);
    }
    m2_comm_close(&c);
    m2_device_close(&dev);
    return st;
}

m2_status tool_doctor(int argc, char **argv)
{
    int alone = 0, json = 0, rank, size, local_rank, local_size;
    const char *temporary = getenv("TMPDIR");
    doctor_wishes w = {.gpus = promised_gpus(), .free_mib = 64, .least_link = 0.05};
    w.folder[0] = temporary && *temporary ? temporary : "/tmp";
    const m2_flag flags[] = {{"--gpus", M2_FLAG_INT, &w.gpus},
                             {"--dir", M2_FLAG_TEXT, &w.folder[1]},
                             {"--free", M2_FLAG_INT, &w.free_mib},
                             {"--least-gbs", M2_FLAG_REAL, &w.least_gbs},
                             {"--least-link", M2_FLAG_REAL, &w.least_link},
                             {"--alone", M2_FLAG_ON, &alone},
                             {"--json", M2_FLAG_ON, &json},
                             {NULL, M2_FLAG_ON, NULL}};
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (argc > 1) return m2_fail(M2_USAGE, "m2 doctor: what is '%s'? m2 help doctor says what it takes", argv[1]);
    m2_log_setup(M2_LOG_WARN, alone ? 0 : rank);
    return examine(&w, alone, json);
}
