/* bench_step.c - m2 bench step CONFIG: tokens per second of a real training step, and each op's share of it. */
#include "kernels/base/log.h"
#include "parallel/comm.h"
#include "runtime/bench.h"
#include "runtime/machine.h"
#include "tools/bench.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

const char bench_step_usage[] =
    "usage: m2 bench step CONFIG.yaml [KEY=VALUE ...] [--steps N] [--machine-out FILE] [--trace FILE] [--json]\n"
    "\n"
    "Runs the training step of a configuration on random tokens, alone or under mpirun; no token store is\n"
    "needed. Times are of whole steps (the median); more steps, with a clock around every call, say where\n"
    "they go (the fastest of three). MFU: the model's FLOPs per second, recomputation left out, as a share "
    "of the peak.\n"
    "\n"
    "  --steps N    steps to time, after three that do not count (10)\n"
    "  --machine-out FILE  put what each op reaches here into a machine description (m2 bench ops makes "
    "one):\n"
    "               m2 inspect plan then predicts with the shapes of this model\n"
    "  --trace FILE  when each call of three more steps ran, lane by lane on every rank: a timeline to open in\n"
    "               ui.perfetto.dev (plain launches instead of graphs)\n"
    "  --json       for programs\n"
    "\n"
    "Columns: calls of a step, milliseconds, share of the step, FLOP and bytes per second, and the time "
    "that\n"
    "the larger of GEMM and copy speed would allow, as a share of the time taken. Small tensors stay in the\n"
    "CPU's caches: they can be faster than a copy through memory.\n";

/* The time that the device's peaks allow, over the time taken. */
static double of_peak(const m2_bench *b, const m2_bench_op *op, const char **bound)
{
    double by_flops = op->cost.flops / b->gemm, by_bytes = op->cost.bytes / b->copy;
    *bound = by_flops > by_bytes ? "GEMM" : "copy";
    return op->seconds > 0 ? (by_flops > by_bytes ? by_flops : by_bytes) / op->seconds : 0;
}

static double sum_of_ops(const m2_bench *b)
{
    double sum = 0;
    for (int i = 0; i < b->n_ops; i++) sum += b->op[i].seconds;
    return sum;
}

static double tokens_per_second(const m2_bench *b)
{
    return (double)(b->training.batch.global * b->cfg.model_length) / b->step_seconds;
}

static double mfu(const m2_bench *b)
{
    return b->flops / b->step_seconds / (b->peak * b->ranks.comm->size);
}

/* ---- text -------------------------------------------------------------------------------------------------------- */
static void print_head(const m2_bench *b)
{
    const m2_batch *batch = &b->training.batch;
    char params[32], rate[32];
    printf("%s, %s parameters, %s%s; %d rank%s on %s\n", b->cfg.model_family,
           m2_human_count(params, (double)m2_program_param_count(b->training.program)),
           m2_precision_name(b->ranks.precision), b->vocab_chosen ? ", vocabulary 4096 assumed" : "",
           batch->ranks, batch->ranks == 1 ? "" : "s", b->ranks.device->name);
    printf("step: %" PRId64 " x %" PRId64 " tokens, %d microbatch%s of %" PRId64 " on each rank%s\n",
           batch->global, b->cfg.model_length, batch->micros, batch->micros == 1 ? "" : "es", batch->micro,
           b->training.recompute ? ", blocks recomputed" : "");
    printf("measured peaks of a rank: matrix product %.1f GFLOP/s, copy %.1f GB/s\n\n", b->gemm * 1e-9,
           b->copy * 1e-9);
    printf("%s tokens/s   %.3f ms per step (best %.3f)   %.1f GFLOP/s   MFU %.1f%%\n\n",
           m2_human_count(rate, tokens_per_second(b)), b->step_seconds * 1e3, b->fastest * 1e3,
           b->flops / b->step_seconds * 1e-9, 100 * mfu(b));
}

static void print_ops(const m2_bench *b)
{
    double sum = sum_of_ops(b), total = b->profiled_seconds;
    printf("%-15s %7s %10s %7s %10s %8s  %s\n", "op", "calls", "ms", "share", "GFLOP/s", "GB/s", "of peak");
    for (int i = 0; i < b->n_ops; i++) {
        const m2_bench_op *op = &b->op[i];
        const char *bound;
        double share = of_peak(b, op, &bound), s = op->seconds > 0 ? op->seconds : 1e-9;
        printf("%-15s %7" PRId64 " %10.3f %6.1f%% %10.1f %8.1f %5.0f%% %s\n", op->name, op->calls,
               op->seconds * 1e3, 100 * op->seconds / total, op->cost.flops / s * 1e-9,
               op->cost.bytes / s * 1e-9, 100 * share, bound);
    }
    const m2_bench_op *f = &b->filters;
    printf("%-15s %7" PRId64
           " %10.3f %6.1f%%   of these: networks of the long filters, and their gradients\n",
           "filters", f->calls, f->seconds * 1e3, 100 * f->seconds / total);
    printf("%-15s %7s %10.3f %6.1f%%\n", "between calls", "", (total - sum) * 1e3,
           100 * (total - sum) / total);
    printf("%-15s %7s %10.3f\n", "profiled step", "", total * 1e3);
}

/* X of Y: while the compute stream of the rank computed. Mean over the ranks, of a step. */
static void print_overlap(const m2_bench *b)
{
    double n = (double)b->ranks.comm->size * M2_BENCH_TRACED * 1e-3, beside = 0, all = 0;
    for (int i = 0; i <= b->n_overlaps && b->n_overlaps; i++) {
        int sum = i == b->n_overlaps;
        const m2_overlap *o = &b->overlap[i];
        double x = sum ? beside : o->beside / n, y = sum ? all : o->seconds / n;
        printf("%soverlap: %.3f of %.3f ms of %s%s%s ran beside compute (%.0f%%)\n", i ? "" : "\n", x, y,
               sum ? "all communication" : o->axis, sum ? "" : " ", sum ? "" : o->op, y > 0 ? 100 * x / y : 0);
        beside += x, all += y;
    }
}

static void print_sent(const m2_bench *b)
{
    char sent[32], planned[32];
    if (b->ranks.comm->size == 1) return;
    printf("sent: %s in a step by all ranks", m2_human_bytes(sent, b->sent));
    if (b->off_plan)
        printf(", planned %s: %" PRId64 " collectives differ\n", m2_human_bytes(planned, b->planned), b->off_plan);
    else
        printf(", every collective as planned\n");
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */
static json_t *json_memory(const m2_memory_plan *m)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "params", (json_int_t)m->params, "grads",
                     (json_int_t)m->grads, "optimizer", (json_int_t)m->optimizer, "activations",
                     (json_int_t)m->activations, "workspace", (json_int_t)m->workspace, "io",
                     (json_int_t)m->io);
}

static json_t *json_overlaps(const m2_bench *b)
{
    double n = (double)b->ranks.comm->size * M2_BENCH_TRACED;
    json_t *list = json_array();
    for (int i = 0; i < b->n_overlaps; i++) {
        const m2_overlap *o = &b->overlap[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:f, s:f}", "axis", o->axis, "op", o->op, "calls",
                                              (json_int_t)(o->calls / M2_BENCH_TRACED), "seconds", o->seconds / n,
                                              "beside_seconds", o->beside / n));
    }
    return list;
}

static m2_status print_json(const m2_bench *b)
{
    m2_memory_plan used = m2_program_memory_used(b->training.program);
    json_t *ops = json_array();
    for (int i = 0; i < b->n_ops; i++) {
        const m2_bench_op *op = &b->op[i];
        const char *bound;
        double share = of_peak(b, op, &bound);
        json_array_append_new(ops, json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:s}", "op", op->name, "calls",
                                             (json_int_t)op->calls, "seconds", op->seconds, "flops",
                                             op->cost.flops, "bytes", op->cost.bytes, "of_peak", share,
                                             "bound", bound));
    }
    json_t *root =
        json_pack("{s:s, s:s, s:i, s:i, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:o, s:o, s:o}",
                  "device", b->ranks.device->name, "precision", m2_precision_name(b->ranks.precision),
                  "ranks", b->ranks.comm->size, "threads", b->ranks.device->threads, "parameters",
                  (json_int_t)m2_program_param_count(b->training.program), "step_seconds", b->step_seconds,
                  "fastest_step_seconds", b->fastest, "profiled_step_seconds", b->profiled_seconds,
                  "tokens_per_s", tokens_per_second(b), "flops_per_step", b->flops, "mfu", mfu(b),
                  "gemm_flops_per_s", b->gemm, "copy_bytes_per_s", b->copy, "loss", b->loss, "filter_seconds",
                  b->filters.seconds, "bytes_sent", (json_int_t)b->sent, "bytes_planned", (json_int_t)b->planned,
                  "collectives_off_plan", (json_int_t)b->off_plan, "memory_used", json_memory(&used), "ops", ops,
                  "overlap", json_overlaps(b));
    int bad = !root || json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    json_decref(root);
    putchar('\n');
    return bad ? m2_fail(M2_IO, "cannot write JSON to standard output") : M2_OK;
}

/* ---- machine description ----------------------------------------------------------------------------------------- */
static m2_status add_to_machine(const m2_bench *b, const char *path)
{
    m2_machine m;
    M2_TRY(m2_machine_read(path, &m));
    M2_TRY(m2_machine_check(&m, 0));
    for (int i = 0; i < b->n_ops; i++) {
        const m2_bench_op *op = &b->op[i];
        double took = op->seconds - (double)op->calls * m.call, allowed = m2_machine_bound(&m, &op->cost);
        char row[32];
        if (op->collective || took < 1e-3 * b->profiled_seconds || allowed <= 0)
            continue; /* too short to tell */
        m2_machine_row(row, op->name, b->cfg.model_length);
        M2_TRY(m2_machine_set_op(&m, row, allowed / took, strchr(row, '@') ? op->elements / took : 0));
    }
    return m2_machine_write(&m, path);
}

m2_status bench_step(int argc, char **argv)
{
    int json = 0, rank, size, local_rank, local_size;
    int64_t steps = 10;
    const char *machine = NULL, *trace = NULL;
    const m2_flag flags[] = {{"--steps", M2_FLAG_INT, &steps},
                             {"--machine-out", M2_FLAG_TEXT, &machine},
                             {"--trace", M2_FLAG_TEXT, &trace},
                             {"--json", M2_FLAG_ON, &json},
                             {NULL, M2_FLAG_ON, NULL}};
    m2_config cfg;
    m2_bench b;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    m2_log_setup(M2_LOG_WARN, rank);
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (steps < 1 || steps > 1000000)
        return m2_fail(M2_USAGE, "--steps %" PRId64 ": expected 1 to 1000000", steps);
    M2_TRY(m2_config_take(argc, argv, &cfg));
    M2_TRY(m2_bench_step(&cfg, steps, trace, &b));
    m2_status st = M2_OK;
    if (b.ranks.comm->rank == 0 && json) st = print_json(&b);
    if (b.ranks.comm->rank == 0 && !json) {
        print_head(&b);
        print_ops(&b);
        print_overlap(&b);
        print_sent(&b);
    }
    if (b.ranks.comm->rank == 0 && machine && st == M2_OK) st = add_to_machine(&b, machine);
    m2_bench_close(&b);
    return st;
}
