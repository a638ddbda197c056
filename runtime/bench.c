#include "runtime/bench.h"
#include "kernels/base/log.h"
#include "kernels/perf.h"
#include "runtime/eval.h"
#include "runtime/feed.h"
#include "runtime/optim.h"
#include "runtime/planner.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 3 /* plain launches, capture, first replay */, PROFILED = 3 };

/* ---- steps ------------------------------------------------------------------------------------------------------- */
/* What every microbatch of every step computes on. */
typedef struct inputs {
    m2_feed *feed;
    int32_t *batch;
    int64_t predicted; /* in all microbatches of all ranks */
} inputs;

static m2_status invent(const m2_bench *b, inputs *in)
{
    const m2_batch *batch = &b->training.batch;
    m2_feed_spec spec = {.training = 1, .rows = batch->micro, .slice = m2_feed_slice_of(&b->cfg, &b->ranks)};
    M2_TRY(m2_feed_open(&b->cfg, &spec, &in->feed));
    in->batch = malloc((size_t)m2_feed_size(in->feed) * sizeof *in->batch);
    if (!in->batch) return m2_fail(M2_TRANSIENT, "out of memory for the inputs of a step");
    M2_TRY(m2_feed_next(in->feed, batch->micro, in->batch, &in->predicted));
    in->predicted *= (int64_t)batch->micros * b->ranks.comm->size;
    return M2_OK;
}

/* With times: adds those of the calls, which needs the program to be profiled. */
static m2_status run_step(m2_bench *b, m2_step *step, const inputs *in, double *times)
{
    const m2_batch *batch = &b->training.batch;
    m2_program *p = b->training.program;
    for (int a = 0; a < batch->micros; a++) {
        step->row0 = m2_batch_row0(batch, a);
        M2_TRY(m2_feed_write(in->feed, in->batch, in->predicted, p));
        M2_TRY(m2_program_run(p, step, a, batch->micros));
        if (times) M2_TRY(m2_program_profile_read(p, times));
    }
    M2_TRY(m2_program_run_update(p, step));
    if (times) M2_TRY(m2_program_profile_read(p, times));
    return m2_read_scalar(p, m2_program_find(p, "loss"), &b->loss);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static m2_status time_steps(m2_bench *b, m2_step *step, const inputs *in, double *took)
{
    m2_log(M2_LOG_DEBUG, "bench: %d steps, then %" PRId64 " that count", WARM_UP, b->steps);
    M2_TRY(m2_program_init_params(b->training.program, (uint64_t)b->cfg.train_seed));
    M2_TRY(m2_program_params_changed(b->training.program)); /* all ranks together: a master may be in shards */
    for (int64_t i = 0; i < WARM_UP + b->steps; i++) {
        double from = m2_now();
        M2_TRY(run_step(b, step, in, NULL));
        if (i >= WARM_UP) took[i - WARM_UP] = m2_now() - from;
    }
    qsort(took, (size_t)b->steps, sizeof *took, by_value);
    b->fastest = took[0];
    b->step_seconds = (took[(b->steps - 1) / 2] + took[b->steps / 2]) / 2;
    return M2_OK;
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */
static m2_bench_op *op_row(m2_bench *b, const char *name)
{
    int i = 0;
    while (i < b->n_ops && strcmp(b->op[i].name, name) != 0) i++;
    if (i == M2_BENCH_OPS) return NULL;
    if (i == b->n_ops) b->op[b->n_ops++] = (m2_bench_op){.name = name};
    return &b->op[i];
}

static int slowest_first(const void *a, const void *b)
{
    return by_value(&((const m2_bench_op *)b)->seconds, &((const m2_bench_op *)a)->seconds);
}

static void add_call(m2_bench_op *row, const m2_call_info *c, int times_run, double seconds)
{
    row->collective = c->context != NULL;
    row->calls += times_run;
    row->seconds += seconds;
    row->cost.flops += c->cost.flops * times_run;
    row->cost.bytes += c->cost.bytes * times_run;
    if (c->in[0].rank >= 0) row->elements += (double)m2_desc_count(&c->in[0]) * times_run;
}

/* Collectives and the update run once in a step, the rest in every microbatch. */
static m2_status sum_ops(m2_bench *b, const double *times)
{
    const m2_program *p = b->training.program;
    for (int i = 0; i < m2_program_calls(p); i++) {
        m2_call_info c = m2_program_call_info(p, i);
        int times_run = c.region == M2_UPDATE || c.once ? 1 : b->training.batch.micros;
        m2_bench_op *row = op_row(b, c.op->name);
        M2_CHECK(row);
        add_call(row, &c, times_run, times[i]);
        if (strstr(c.path, ".filter.")) add_call(&b->filters, &c, times_run, times[i]);
    }
    qsort(b->op, (size_t)b->n_ops, sizeof *b->op, slowest_first);
    return M2_OK;
}

/* The fastest of a few steps: what else the machine does should not look like the doing of an op. */
static m2_status profile_steps(m2_bench *b, m2_step *step, const inputs *in, double *times, double *best)
{
    size_t n = (size_t)m2_program_calls(b->training.program) * sizeof *times;
    for (int k = 0; k < PROFILED; k++) {
        memset(times, 0, n);
        double from = m2_now();
        M2_TRY(run_step(b, step, in, times));
        double took = m2_now() - from;
        if (k && took >= b->profiled_seconds) continue;
        b->profiled_seconds = took;
        memcpy(best, times, n);
    }
    return M2_OK;
}

/* What the profiled steps sent, beside what the list of collectives says of them. */
static m2_status compare_bytes(m2_bench *b, const int64_t *sent, const m2_collective_row *row)
{
    const m2_program *p = b->training.program;
    int64_t sums[3] = {0};
    for (int i = 0, n = 0; i < m2_program_calls(p); i++) {
        if (!m2_program_call_info(p, i).context) continue;
        int64_t planned = row[n].bytes * row[n].calls;
        n++;
        sums[0] += sent[i] / PROFILED, sums[1] += planned, sums[2] += sent[i] != planned * PROFILED;
    }
    m2_comm *host = b->ranks.comm->host;
    M2_TRY(host->api->all_reduce(host, sums, sums, 3, M2_I64, M2_SUM, NULL));
    b->sent = sums[0], b->planned = sums[1], b->off_plan = sums[2];
    return M2_OK;
}

static m2_status count_bytes(m2_bench *b)
{
    m2_program *p = b->training.program;
    int calls = m2_program_calls(p);
    int64_t *sent = calloc((size_t)calls + 1, sizeof *sent);
    m2_collective_row *row = calloc((size_t)calls + 1, sizeof *row);
    m2_status st = sent && row ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for the bytes of %d calls", calls);
    if (st == M2_OK) st = m2_program_profile_bytes(p, sent);
    if (st == M2_OK) {
        m2_collectives(p, b->training.batch.micros, row, calls);
        st = compare_bytes(b, sent, row);
    }
    free(row);
    free(sent);
    return st;
}

static m2_status time_calls(m2_bench *b, m2_step *step, const inputs *in)
{
    m2_program *p = b->training.program;
    size_t n = (size_t)m2_program_calls(p);
    double *times = calloc(2 * n + 1, sizeof *times);
    if (!times) return m2_fail(M2_TRANSIENT, "out of memory for the times of %d calls", (int)n);
    m2_log(M2_LOG_DEBUG, "bench: %d steps call by call", PROFILED);
    m2_status st = m2_program_profile(p, 1);
    if (st == M2_OK) st = profile_steps(b, step, in, times, times + n);
    if (st == M2_OK) st = sum_ops(b, times + n);
    if (st == M2_OK) st = count_bytes(b);
    if (st == M2_OK) st = m2_program_profile(p, 0);
    free(times);
    return st;
}

/* ---- when -------------------------------------------------------------------------------------------------------- */
static m2_status use_trace(m2_bench *b, const m2_traces *trace, const char *path)
{
    m2_timeline t = {b->training.program, trace, b->training.batch.micros, b->ranks.comm};
    if (b->ranks.comm->size > 1) M2_TRY(m2_timeline_overlap(&t, b->overlap, &b->n_overlaps));
    return path ? m2_timeline_write(&t, path) : M2_OK;
}

/* Lanes run beside each other as ever; a first step, not kept, makes the events. */
static m2_status trace_steps(m2_bench *b, m2_step *step, const inputs *in, const char *path)
{
    m2_program *p = b->training.program;
    m2_traces trace = {0};
    m2_log(M2_LOG_DEBUG, "bench: %d steps with their timeline", M2_BENCH_TRACED);
    m2_status st = m2_program_trace(p, 1);
    if (st == M2_OK) st = run_step(b, step, in, NULL);
    if (st == M2_OK) st = m2_program_trace_read(p, &trace);
    free(trace.run);
    trace.run = NULL;
    for (int k = 0; k < M2_BENCH_TRACED && st == M2_OK; k++) st = run_step(b, step, in, NULL);
    if (st == M2_OK) st = m2_program_trace_read(p, &trace);
    if (st == M2_OK) st = m2_program_trace(p, 0);
    if (st == M2_OK) st = use_trace(b, &trace, path);
    free(trace.run);
    return st;
}

/* ---- what the device could do ------------------------------------------------------------------------------------ */
static m2_status measure_peaks(m2_bench *b)
{
    m2_device *dev = b->ranks.device;
    m2_perf_yard yard;
    m2_log(M2_LOG_DEBUG, "bench: what the device can do");
    M2_TRY(m2_perf_peak(dev, b->ranks.precision == M2_PREC_F64 ? M2_F64 : M2_F32, &b->peak));
    M2_TRY(m2_perf_open(dev, m2_probe_precision_find(m2_precision_name(b->ranks.precision)), &yard));
    int known = dev->peak_flops > 0; /* a datasheet's figure, which no product reaches */
    b->gemm = !known && b->peak > yard.flops ? b->peak : yard.flops;
    b->copy = yard.bandwidth;
    if (!known) b->peak = b->gemm;
    m2_perf_close(&yard);
    return M2_OK;
}

static m2_status measure(m2_bench *b, const char *trace)
{
    m2_schedule schedule;
    M2_TRY(m2_schedule_make(&b->cfg, &schedule));
    m2_step step = m2_optim_step(&b->cfg, &schedule, 1);
    inputs in = {0};
    double *took = calloc((size_t)b->steps, sizeof *took);
    m2_status st = took ? invent(b, &in) : m2_fail(M2_TRANSIENT, "out of memory for the times of a step");
    if (st == M2_OK) st = measure_peaks(b);
    if (st == M2_OK) st = time_steps(b, &step, &in, took);
    if (st == M2_OK) st = time_calls(b, &step, &in);
    if (st == M2_OK && (trace || b->ranks.comm->size > 1)) st = trace_steps(b, &step, &in, trace);
    free(took);
    free(in.batch);
    m2_feed_close(&in.feed);
    return st;
}

m2_status m2_bench_step(const m2_config *cfg, int64_t steps, const char *trace, m2_bench *out)
{
    *out = (m2_bench){.cfg = *cfg, .steps = steps};
    m2_bench *b = out;
    M2_TRY(m2_planned_vocab(&b->cfg, &b->vocab_chosen));
    M2_TRY(m2_ranks_open(&b->cfg, &b->ranks));
    m2_status st = m2_training_check(&b->cfg, &b->ranks);
    if (st == M2_OK) st = m2_training_make(&b->cfg, &b->ranks, &b->training);
    if (st == M2_OK) {
        const m2_batch *batch = &b->training.batch;
        b->flops = m2_program_model_flops(b->training.program) * batch->micros * b->ranks.comm->size;
        st = m2_ranks_alone(b->ranks.comm, measure(b, trace));
    }
    if (st != M2_OK) m2_bench_close(b);
    return st;
}

void m2_bench_close(m2_bench *b)
{
    m2_program_free(&b->training.program);
    m2_ranks_close(&b->ranks);
    *b = (m2_bench){0};
}
