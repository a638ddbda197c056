/* bench_ops.c - m2 bench ops: the rows of kernels/cases.def that are made for measuring. */
#include "kernels/perf.h"
#include "tools/bench.h"
#include "tools/tool.h"

const char bench_ops_usage[] =
    "usage: m2 bench ops [--op NAME] [--device SPEC] [--precision NAME] [--threads N]\n"
    "\n"
    "Time of each op and its gradient on shapes of training, and the share of what bounds it: FLOP/s of a\n"
    "large matrix product, or bytes/s of a plain copy, both measured in the same run.\n"
    "\n"
    "  --op NAME         only this op\n"
    "  --device SPEC     cpu, cuda, cuda:1, auto (auto)\n"
    "  --precision NAME  f32, f64, tf32, bf16 (f32 on the CPU, bf16 on a GPU)\n"
    "  --threads N       CPU threads; 0 = all (0)\n";

static m2_status measure_all(const char *only, m2_perf_yard *yard)
{
    const m2_case *rows;
    m2_perf perf[2];
    int n = m2_cases(&rows), count, shown = 0;
    m2_perf_print_header(stdout, yard);
    for (int i = 0; i < n; i++) {
        if (!(rows[i].flags & M2_CASE_PERF) || (only && strcmp(only, rows[i].op) != 0)) continue;
        M2_TRY(m2_perf_measure(&rows[i], yard, perf, &count));
        for (int k = 0; k < count; k++) m2_perf_print(stdout, &perf[k]);
        fflush(stdout);
        shown += count;
    }
    if (!shown) return m2_fail(M2_USAGE, "--op %s: no row of kernels/cases.def measures such an op", only);
    return M2_OK;
}

m2_status bench_ops(int argc, char **argv)
{
    const char *only = NULL, *spec = "auto", *name = NULL;
    int64_t threads = 0;
    const m2_flag flags[] = {{"--op", M2_FLAG_TEXT, &only},
                             {"--device", M2_FLAG_TEXT, &spec},
                             {"--precision", M2_FLAG_TEXT, &name},
                             {"--threads", M2_FLAG_INT, &threads},
                             {NULL, M2_FLAG_ON, NULL}};
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (argc > 1) return m2_fail(M2_USAGE, "m2 bench ops takes flags only, not '%s'", argv[1]);
    if (name && !m2_probe_precision_find(name))
        return m2_fail(M2_USAGE, "--precision %s: expected f32, f64, tf32 or bf16", name);
    m2_device *dev = NULL;
    m2_perf_yard yard = {0};
    M2_TRY(m2_device_open(spec, (int)threads, &dev));
    if (!name) name = strcmp(dev->api->kind, "cpu") ? "bf16" : "f32";
    dev->tf32 = !strcmp(name, "tf32");
    m2_status st = m2_perf_open(dev, m2_probe_precision_find(name), &yard);
    if (st == M2_OK) st = measure_all(only, &yard);
    m2_perf_close(&yard);
    m2_device_close(&dev);
    return st;
}
