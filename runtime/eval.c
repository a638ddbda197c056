#include "runtime/eval.h"
#include "runtime/feed.h"
#include "runtime/models/model.h"
#include "runtime/scores.h"
#include "runtime/task.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCHES_AT_ONCE = 64 }; /* whose sums are kept on the device, in the precision of the loss */

struct m2_eval {
    m2_comm *comm;
    int share, shares; /* of each batch: this rank's, all */
    m2_runs slice;
    m2_program *program;
    m2_feed *feed;
    m2_tid loss, hits;
    int pictures;
    const m2_glue_task *task;                  /* NULL: a language model, the program sums up */
    int32_t *inputs;                           /* of a batch */
    int64_t micro, length, sequences, batches; /* batches: of each rank */
};

/* Batch i of this rank (over and over): its first sequence. */
static int64_t first_row(void *ctx, int64_t i)
{
    const m2_eval *e = ctx;
    return (i % e->batches * e->shares + e->share) * e->micro;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status make_program(const m2_config *cfg, const m2_ranks *ranks, int64_t micro, m2_program **out)
{
    m2_program_spec spec = {.mode = M2_MODE_EVAL, .rows = micro, .rows_whole = micro};
    M2_TRY(m2_ranks_spec(cfg, ranks, &spec));
    M2_TRY(m2_model_build(cfg, &spec, out));
    m2_tid sums[2] = {m2_program_find(*out, "loss"), m2_program_find(*out, "hits")};
    if (ranks->comm->size > 1 && sums[1] != M2_NONE)
        m2_program_reduce(*out, &m2_op_all_reduce, ranks->comm, 0, sums, 2);
    m2_plan_options plan = m2_ranks_plan(cfg, ranks);
    return m2_program_plan(*out, &plan);
}

m2_status m2_eval_bytes(const m2_config *cfg, const m2_ranks *ranks, int64_t micro, int64_t *bytes)
{
    m2_program *p = NULL;
    m2_status st = make_program(cfg, ranks, micro, &p);
    if (st == M2_OK) {
        m2_memory_plan m = m2_program_memory(p);
        *bytes = m.activations + m.workspace + m.io;
    }
    m2_program_free(&p);
    return st;
}

static m2_status bind(m2_eval *e, const m2_ranks *ranks, m2_program *owner)
{
    m2_program *p = e->program;
    e->loss = m2_program_find(p, "loss");
    e->hits = m2_program_find(p, "hits");
    return owner ? m2_program_bind_shared(p, owner) : m2_program_bind(p, ranks->device);
}

static m2_status open_feed(m2_eval *e, const m2_config *cfg, const m2_eval_spec *spec)
{
    m2_feed_spec feed = {
        .path = spec->store, .tokenizer = spec->tokenizer, .rows = e->micro, .at = first_row, .at_ctx = e, .slice = e->slice};
    int64_t at_once = e->micro * e->shares;
    e->batches = 1; /* until it is known: the feed reads ahead */
    M2_TRY(m2_feed_open(cfg, &feed, &e->feed));
    int64_t have = m2_feed_rows(e->feed);
    m2_feed_close(&e->feed);
    if (!e->sequences || e->sequences > have) e->sequences = have;
    e->batches = (e->sequences + at_once - 1) / at_once;
    M2_TRY(m2_feed_open(cfg, &feed, &e->feed));
    e->inputs = malloc((size_t)m2_feed_size(e->feed) * sizeof *e->inputs);
    return e->inputs ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for an evaluation's batch");
}

m2_status m2_eval_open(const m2_config *cfg, const m2_ranks *ranks, const m2_eval_spec *spec, m2_eval **out)
{
    m2_eval *e = calloc(1, sizeof *e);
    *out = e;
    if (!e) return m2_fail(M2_TRANSIENT, "out of memory for an evaluation");
    *e = (m2_eval){
        .comm = ranks->comm, .micro = spec->micro, .length = cfg->model_length, .sequences = spec->sequences};
    e->share = m2_ranks_share(ranks);
    e->shares = m2_ranks_data(ranks);
    e->slice = m2_feed_slice_of(cfg, ranks);
    e->task = m2_task_of(cfg);
    e->pictures = !strcmp(m2_model_task(cfg), "image");
    m2_status st = open_feed(e, cfg, spec);
    if (st == M2_OK) st = make_program(cfg, ranks, e->micro, &e->program);
    if (st == M2_OK) st = bind(e, ranks, spec->owner);
    if (st != M2_OK) m2_eval_close(out);
    return st;
}

m2_program *m2_eval_program(m2_eval *e)
{
    return e->program;
}

void m2_eval_close(m2_eval **e)
{
    if (!*e) return;
    m2_feed_close(&(*e)->feed);
    m2_program_free(&(*e)->program);
    free((*e)->inputs);
    free(*e);
    *e = NULL;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */
m2_status m2_read_scalar(m2_program *p, m2_tid t, double *out)
{
    union {
        float f;
        double d;
    } x;
    m2_desc desc = m2_program_desc(p, t);
    if (desc.rank < 0 || m2_desc_count(&desc) != 1 || (desc.dtype != M2_F32 && desc.dtype != M2_F64))
        return m2_fail(M2_BUG, "tensor %d of the program is not a float scalar", (int)t);
    M2_TRY(m2_program_read(p, t, &x));
    *out = desc.dtype == M2_F32 ? (double)x.f : x.d;
    return M2_OK;
}

/* Reads the next batch; sequences beyond the last one lose their targets. */
static m2_status fetch(m2_eval *e, int64_t batch, int64_t *predicted)
{
    int64_t n;
    M2_TRY(m2_feed_next(e->feed, e->sequences - first_row(e, batch), e->inputs, &n));
    *predicted += n;
    return m2_feed_write(e->feed, e->inputs, e->micro * e->length, e->program);
}

/* `n` batches from `batch` on. The sums over them and over the ranks come with the last one; before it, agreement. */
static m2_status run_batches(m2_eval *e, int64_t batch, int n, double *loss, double *hits, int64_t *predicted)
{
    m2_step step;
    memset(&step, 0, sizeof step);
    m2_status mine = M2_OK;
    for (int i = 0; i < n; i++) {
        if (mine == M2_OK) mine = fetch(e, batch + i, predicted);
        if (i == n - 1) M2_TRY(m2_comm_agree(e->comm, mine));
        if (mine == M2_OK) mine = m2_program_run(e->program, &step, i, n);
    }
    if (mine == M2_OK) mine = m2_read_scalar(e->program, e->loss, loss);
    if (mine == M2_OK) mine = m2_read_scalar(e->program, e->hits, hits);
    return m2_ranks_alone(e->comm, mine);
}

/* ---- tasks: what the rows' logits say ---------------------------------------------------------------------------- */
static m2_status read_logits(m2_eval *e, m2_tid t, double *out)
{
    m2_desc desc = m2_program_desc(e->program, t);
    int64_t n = m2_desc_count(&desc);
    void *raw = malloc((size_t)m2_desc_bytes(&desc) + 1);
    m2_status st =
        raw ? m2_program_read(e->program, t, raw) : m2_fail(M2_TRANSIENT, "out of memory for logits");
    for (int64_t i = 0; i < n && st == M2_OK; i++)
        out[i] = desc.dtype == M2_F64    ? ((double *)raw)[i]
                 : desc.dtype == M2_BF16 ? (double)m2_bf16_to_f32(((uint16_t *)raw)[i])
                                         : (double)((float *)raw)[i];
    free(raw);
    return st;
}

/* logits (sequences, width) get this rank's rows. */
static m2_status run_rows(m2_eval *e, int64_t width, double *logits)
{
    m2_step step;
    m2_tid t = m2_program_find(e->program, "logits");
    memset(&step, 0, sizeof step);
    double *part = malloc((size_t)(e->micro * width) * sizeof *part);
    m2_status st = part ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for the logits of a batch");
    for (int64_t b = 0; b < e->batches && st == M2_OK; b++) {
        int64_t predicted = 0, first = first_row(e, b), n = e->sequences - first;
        st = fetch(e, b, &predicted);
        if (st == M2_OK) st = m2_program_run(e->program, &step, 0, 1);
        if (st == M2_OK) st = read_logits(e, t, part);
        if (n > e->micro) n = e->micro;
        for (int64_t i = 0; st == M2_OK && i < n * width; i++) logits[first * width + i] = part[i];
    }
    free(part);
    return st;
}

/* The loss of a row and its prediction. */
static double judge(const double *y, int64_t classes, double label, double *prediction)
{
    double sum = 0;
    int64_t best = 0;
    if (!classes) {
        *prediction = *y;
        return (*y - label) * (*y - label);
    }
    for (int64_t k = 1; k < classes; k++)
        if (y[k] > y[best]) best = k;
    for (int64_t k = 0; k < classes; k++) sum += exp(y[k] - y[best]);
    *prediction = (double)best;
    return y[best] + log(sum) - y[(int64_t)label];
}

static void score(const m2_eval *e, int64_t classes, double *logits, m2_eval_result *out)
{
    const double *label = m2_feed_glue(e->feed)->label;
    int64_t n = e->sequences, width = classes ? classes : 1;
    *out = (m2_eval_result){.sequences = n, .tokens = n};
    for (int64_t i = 0; i < n; i++) { /* predictions take the place of logits that have been read */
        double prediction;
        out->loss += judge(logits + i * width, classes, label[i], &prediction) / (double)n;
        logits[i] = prediction;
    }
    out->top1 = m2_score_find("accuracy", 8)->of(logits, label, n);
    for (const char *name = e->task->scores; *name && out->n_scores < M2_EVAL_SCORES;) {
        int length = (int)strcspn(name, " ");
        const m2_score *s = m2_score_find(name, length);
        out->scores[out->n_scores].name = s->name;
        out->scores[out->n_scores++].value = s->of(logits, label, n);
        name += length + (name[length] == ' ');
    }
}

static m2_status run_task(m2_eval *e, m2_eval_result *out)
{
    int64_t classes = m2_glue_classes(e->task), width = classes ? classes : 1, n = e->sequences * width;
    m2_comm *host = e->comm->host;
    double *logits = calloc((size_t)n + 1, sizeof *logits);
    m2_status st =
        logits ? run_rows(e, width, logits) : m2_fail(M2_TRANSIENT, "out of memory for an evaluation");
    st = m2_comm_agree(e->comm, st);
    if (st == M2_OK) st = host->api->all_reduce(host, logits, logits, n, M2_F64, M2_SUM, NULL);
    if (st == M2_OK) score(e, classes, logits, out);
    free(logits);
    return st;
}

/* ---- language models --------------------------------------------------------------------------------------------- */
m2_status m2_eval_run(m2_eval *e, m2_eval_result *out)
{
    if (e->task) return run_task(e, out);
    double sum = 0, right = 0;
    int64_t predicted = 0;
    m2_comm *host = e->comm->host;
    for (int64_t b = 0; b < e->batches; b += BATCHES_AT_ONCE) {
        double loss, hits;
        int n = (int)(e->batches - b < BATCHES_AT_ONCE ? e->batches - b : BATCHES_AT_ONCE);
        M2_TRY(run_batches(e, b, n, &loss, &hits, &predicted));
        sum += loss * (double)(e->micro * e->length);
        right += hits;
    }
    M2_TRY(host->api->all_reduce(host, &predicted, &predicted, 1, M2_I64, M2_SUM, NULL));
    *out = (m2_eval_result){.sequences = e->sequences, .tokens = predicted};
    out->loss = sum / (double)(predicted ? predicted : 1);
    out->top1 = right / (double)(predicted ? predicted : 1);
    if (e->pictures) {
        out->scores[0].name = "top1";
        out->scores[out->n_scores++].value = out->top1;
    }
    return M2_OK;
}
