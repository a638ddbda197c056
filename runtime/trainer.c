#include "runtime/trainer.h"
#include "kernels/base/fault.h"
#include "kernels/base/log.h"
#include "kernels/perf.h"
#include "parallel/watch.h"
#include "runtime/batch.h"
#include "runtime/copies.h"
#include "runtime/deadline.h"
#include "runtime/eval.h"
#include "runtime/feed.h"
#include "runtime/fit.h"
#include "runtime/guard.h"
#include "runtime/metrics.h"
#include "runtime/models/model.h"
#include "runtime/optim.h"
#include "runtime/pace.h"
#include "runtime/progress.h"
#include "runtime/ranks.h"
#include "runtime/rundir.h"
#include "runtime/saving.h"
#include "runtime/task.h"
#include "runtime/tokens.h"
#include "runtime/warm.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct trainer {
    m2_config cfg; /* resolved: no "auto" that changes what is computed */
    m2_ranks ranks;
    m2_rundir dir;
    m2_tokens data;
    m2_schedule schedule;
    m2_training training; /* program and batch */
    m2_eval *eval;        /* NULL: nothing to validate on */
    m2_feed *feed;
    m2_state state;
    m2_saving saving;
    m2_metrics *metrics; /* rank 0 */
    m2_watch *watch;
    m2_progress progress;
    m2_deadline deadline;
    m2_tid loss, norm2;
    int32_t *inputs;   /* the microbatches of this rank's share of a step */
    int64_t predicted; /* targets of a step, all ranks */
    char *config_text; /* of cfg */
    int64_t step;      /* done */
    int64_t rows;      /* of the stream, read by these steps or passed over: the next step's first one */
    m2_guard guard;
    m2_pace pace;
    m2_straggler slow; /* found since the last record */
    int64_t *words;    /* [WORDS + ranks] what the ranks tell each other before a step: see fetch */
    m2_copies *copies; /* NULL: run.check_every is 0 */
    double flops; /* of a step, all ranks */
    double peak;  /* FLOP/s this rank's device can do */
    double waited;
    struct {
        m2_step step;
        m2_record record;
        double begin; /* time */
    } pending[2];     /* steps given to the device whose numbers are not here yet, the older one first */
    int n_pending;
    double settled;      /* time when the numbers of the newest settled step were here */
    int64_t drains;      /* times a step made the host wait for all that the device had to do */
    int64_t allocations; /* by steps */
} trainer;

/* ---- signals ----------------------------------------------------------------------------------------------------- */
static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    caught = number;
}

static void watch_signals(void)
{
    static const int numbers[] = {SIGTERM, SIGUSR1, SIGINT};
    for (int i = 0; i < 3; i++) {
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        if (numbers[i] == SIGINT) action.sa_flags |= (int)SA_RESETHAND;
        sigemptyset(&action.sa_mask);
        sigaction(numbers[i], &action, NULL);
    }
}

/* What ends the run after the current step: a signal's number, TIME_IS_UP, or 0. */
enum { TIME_IS_UP = 1000 };

static int64_t stop_word(trainer *t)
{
    if (caught) return caught;
    return m2_deadline_near(&t->deadline, m2_deadline_clock(), t->saving.took) ? TIME_IS_UP : 0;
}

static const char *stop_name(const trainer *t, int64_t stop)
{
    if (stop == TIME_IS_UP) return t->deadline.why;
    return stop == SIGTERM ? "SIGTERM" : stop == SIGINT ? "SIGINT" : "SIGUSR1";
}

enum { WORDS = 3 };

/* ---- one step ---------------------------------------------------------------------------------------------------- */
/* Rank 0 says who is slow. */
static void name_straggler(trainer *t)
{
    m2_straggler s = m2_pace_judge(&t->pace, t->words + WORDS);
    if (s.rank < 0) return;
    t->slow = s;
    m2_progress_note(&t->progress,
                     "rank %d (%s) is %.1fx slower than the median of %d ranks over the last %" PRId64
                     " steps: the others wait for it",
                     s.rank, t->pace.of[s.rank].node, s.ratio, t->pace.ranks, s.steps);
}

/* Reads this rank's rows, then all ranks learn whether one of them failed, was told to stop or still writes a checkpoint; at the
 * end of a window, also how much work each of them had. */
static m2_status fetch(trainer *t, int64_t *stop, int *saving)
{
    const m2_batch *b = &t->training.batch;
    int64_t size = m2_feed_size(t->feed), n = 0, *word = t->words;
    int paced = m2_pace_ends(&t->pace, t->step);
    m2_comm *host = t->ranks.comm->host;
    m2_status mine = m2_saving_look(&t->saving);
    double begin = m2_now();
    t->predicted = 0;
    for (int a = 0; a < b->micros && mine == M2_OK; a++, t->predicted += n)
        mine = m2_feed_next(t->feed, b->micro, t->inputs + a * size, &n);
    t->pace.work += m2_now() - begin;
    word[0] = mine != M2_OK;
    word[1] = stop_word(t);
    word[2] = m2_saving_busy(&t->saving);
    if (paced) {
        memset(word + WORDS, 0, (size_t)host->size * sizeof *word);
        word[WORDS + host->rank] = m2_pace_word(&t->pace);
    }
    m2_status st = host->api->all_reduce(host, word, word, WORDS + (paced ? host->size : 0), M2_I64, M2_MAX, NULL);
    if (st != M2_OK) return mine == M2_OK ? m2_ranks_alone(host, st) : mine;
    *stop = word[1];
    *saving = (int)word[2];
    if (word[0]) return m2_comm_agree(t->ranks.comm, mine);
    if (paced) name_straggler(t);
    return m2_feed_counts(t->feed)
               ? host->api->all_reduce(host, &t->predicted, &t->predicted, 1, M2_I64, M2_SUM, NULL)
               : M2_OK;
}

/* Gives the device a step to do; its loss and norm come back by themselves. */
static m2_status compute(trainer *t, m2_step *step)
{
    const m2_batch *b = &t->training.batch;
    m2_program *p = t->training.program;
    double begin = m2_now(), waited = m2_watch_waited();
    M2_FAULT_AT("compute", t->step + 1, p);
    for (int a = 0; a < b->micros; a++) {
        step->row0 = m2_batch_row0(b, a);
        M2_TRY(m2_feed_write(t->feed, t->inputs + a * m2_feed_size(t->feed), t->predicted, p));
        M2_TRY(m2_program_run(p, step, a, b->micros));
    }
    M2_FAULT_AT("gradients", t->rows, p);
    M2_TRY(m2_program_run_update(p, step));
    M2_FAULT_AT("parameters", t->step + 1, p);
    t->pace.work += m2_now() - begin - (m2_watch_waited() - waited);
    return m2_program_post(p, (m2_tid[]){t->loss, t->norm2}, 2);
}

/* The row of the stream behind those of the record's step. */
static int64_t rows_behind(const trainer *t, const m2_record *r)
{
    return r->tokens / t->cfg.model_length;
}

/* Every rank has the same loss and norm, so all decide alike: 1 to go back. */
static m2_status judge(trainer *t, const m2_step *step, const m2_record *r, int *back)
{
    m2_guard *g = &t->guard;
    char why[900];
    if (!m2_guard_count(g, r->step, r->loss, r->grad_norm, step->outlier)) return M2_OK;
    m2_progress_note(&t->progress, "step %" PRId64 ": update skipped, loss %g, gradient norm %g", r->step, r->loss,
                     r->grad_norm);
    if (!m2_guard_tripped(g)) return M2_OK;
    M2_TRY(m2_saving_wait(&t->saving));
    *back = g->rollbacks < g->max_rollbacks && t->saving.saved >= 0;
    if (*back) return M2_OK;
    char saved[64] = "there is no checkpoint";
    if (t->saving.saved >= 0)
        snprintf(saved, sizeof saved, "the newest checkpoint is of step %" PRId64, t->saving.saved);
    m2_guard_describe(g, why, sizeof why);
    return m2_fail(M2_DATA,
                   "stopped at step %" PRId64 ": %" PRId64 " updates in a row were skipped because the gradient norm was "
                   "not finite or an outlier, after %" PRId64 " of at most %" PRId64 " rollbacks (%s; rows %" PRId64
                   " to %" PRId64 " of %s); %s: lower optim.lr or look at the data",
                   r->step, g->in_row, g->rollbacks, g->max_rollbacks, why, rows_behind(t, r) - g->in_row * t->cfg.train_batch,
                   rows_behind(t, r) - 1, t->cfg.data_train, saved);
}

static void measure(trainer *t, m2_record *r, double seconds)
{
    double waited = m2_feed_waited(t->feed);
    r->seconds = seconds;
    r->waited = waited - t->waited;
    r->tokens_per_s = (double)(t->cfg.train_batch * t->cfg.model_length) / seconds;
    r->flops_per_s = t->flops / seconds;
    r->mfu = t->peak > 0 ? r->flops_per_s / (t->peak * t->ranks.comm->size) : M2_ABSENT;
    t->waited = waited;
    if (t->slow.rank < 0) return;
    r->slow_rank = t->slow.rank;
    r->slow_ratio = t->slow.ratio;
    t->slow.rank = -1;
}

static int due(int64_t step, int64_t every, int64_t last)
{
    return step == last || (every > 0 && step % every == 0);
}

static m2_status validate(trainer *t, m2_record *r)
{
    m2_eval_result result;
    m2_watch_mark mark = m2_watch_begin(t->watch, "validation", "");
    M2_TRY(m2_eval_run(t->eval, &result));
    m2_watch_end(t->watch, mark);
    r->val_loss = result.loss;
    r->val_top1 = result.top1;
    if (result.n_scores) r->val_score = result.scores[0].value;
    for (int i = 0; i < result.n_scores; i++)
        m2_progress_note(&t->progress, "step %" PRId64 ": %s %.4f on %s", r->step, result.scores[i].name,
                         result.scores[i].value, t->cfg.data_val);
    return M2_OK;
}

/* Do all ranks hold the same? A checkpoint being written is of a state that they did. */
static m2_status compare(trainer *t)
{
    int differ;
    if (!t->copies) return M2_OK;
    m2_watch_mark mark = m2_watch_begin(t->watch, "comparison of ranks", "");
    M2_TRY(m2_ranks_alone(t->ranks.comm, m2_program_sync(t->training.program)));
    M2_TRY(m2_copies_compare(t->copies, &differ));
    m2_watch_end(t->watch, mark);
    if (!differ) return M2_OK;
    M2_TRY(m2_saving_wait(&t->saving));
    return m2_copies_report(t->copies, t->step, t->saving.saved);
}

/* Only what was compared is saved. */
static m2_status save(trainer *t, int last)
{
    M2_TRY(m2_ranks_alone(t->ranks.comm, m2_program_sync(t->training.program)));
    M2_TRY(compare(t));
    m2_guard_text(&t->guard, t->saving.spec.guard);
    return m2_saving_begin(&t->saving, t->step, t->rows, last);
}

static m2_status open_feed(trainer *t);

/* After the step of `r`: the state of a checkpoint again, and the data behind that step. What the device has been given
 * since is waited for and forgotten. */
static m2_status go_back(trainer *t, const m2_record *r)
{
    m2_comm *comm = t->ranks.comm;
    m2_manifest mf = {0};
    double numbers[2];
    char event[512], why[900];
    for (; t->n_pending; t->n_pending--) M2_TRY(m2_ranks_alone(comm, m2_program_take(t->training.program, numbers)));
    M2_TRY(m2_ranks_alone(comm, m2_program_sync(t->training.program)));
    m2_status st = m2_saving_back(&t->saving, &t->state, t->cfg.checkpoint_every, &mf);
    if (st == M2_OK) st = m2_comm_agree(comm, m2_program_params_changed(t->training.program));
    if (st == M2_OK) {
        m2_guard_describe(&t->guard, why, sizeof why);
        t->step = mf.step;
        t->rows = rows_behind(t, r);
        m2_guard_back(&t->guard, mf.step, mf.rows, t->rows, event, sizeof event);
        m2_progress_note(&t->progress,
                         "rollback %" PRId64 " of at most %" PRId64 ", from step %" PRId64 " to the checkpoint of step %" PRId64
                         " and past rows %" PRId64 " to %" PRId64 " (%s)",
                         t->guard.rollbacks, t->guard.max_rollbacks, r->step, mf.step, mf.rows, t->rows - 1, why);
        if (t->metrics) st = m2_metrics_back(t->metrics, mf.step, event);
        if (st == M2_OK) st = open_feed(t);
        st = m2_comm_agree(comm, st);
        m2_progress_start(&t->progress, t->cfg.train_steps, t->cfg.train_log_every, t->step,
                          t->rows * t->cfg.model_length, comm->rank == 0);
    }
    m2_manifest_free(&mf);
    return st;
}

/* The numbers of the oldest pending step are taken, judged and written down. */
static m2_status settle(trainer *t)
{
    double numbers[2], now;
    int back = 0;
    m2_record r = t->pending[0].record;
    m2_step step = t->pending[0].step;
    m2_watch_mark mark = m2_watch_begin(t->watch, "the device", "");
    M2_TRY(m2_ranks_alone(t->ranks.comm, m2_program_take(t->training.program, numbers)));
    m2_watch_end(t->watch, mark);
    now = m2_now();
    r.loss = numbers[0];
    r.grad_norm = sqrt(numbers[1]);
    m2_status judged = judge(t, &step, &r, &back);
    r.skips = t->guard.skips;
    r.rollbacks = t->guard.rollbacks;
    measure(t, &r, now - (t->pending[0].begin > t->settled ? t->pending[0].begin : t->settled));
    t->settled = now;
    t->pending[0] = t->pending[--t->n_pending];
    if (judged == M2_OK && back) return go_back(t, &r);
    if (judged == M2_OK && t->eval && due(r.step, t->cfg.train_val_every, t->cfg.train_steps))
        M2_TRY(validate(t, &r));
    if (t->metrics) M2_TRY(m2_ranks_alone(t->ranks.comm, m2_metrics_write(t->metrics, &r)));
    m2_progress_step(&t->progress, &r);
    return judged;
}

/* A GPU is given the next step before the numbers of this one are looked at, unless something needs them now: every rank
 * decides alike. */
static int can_wait(const trainer *t)
{
    const m2_config *cfg = &t->cfg;
    return strcmp(t->ranks.device->api->kind, "cpu") &&
           !due(t->step, cfg->checkpoint_every, cfg->train_steps) &&
           !due(t->step, cfg->run_check_every, cfg->train_steps) &&
           !(t->eval && due(t->step, cfg->train_val_every, cfg->train_steps));
}

static m2_status run_step(trainer *t, int64_t *stop)
{
    double begin = m2_now();
    m2_device *dev = t->ranks.device;
    int saving = 0;
    m2_watch_step(t->watch, t->step + 1);
    m2_watch_mark mark = m2_watch_begin(t->watch, "fetch", "");
    M2_TRY(fetch(t, stop, &saving));
    m2_watch_end(t->watch, mark);
    M2_TRY(m2_saving_poll(&t->saving, saving));
    if (*stop) return t->n_pending ? settle(t) : M2_OK;
    m2_step step = m2_optim_step(&t->cfg, &t->schedule, t->step + 1);
    step.outlier = m2_guard_limit(&t->guard);
    m2_record r = {.step = t->step + 1,
                   .tokens = (t->rows + t->cfg.train_batch) * t->cfg.model_length,
                   .lr = step.lr,
                   .val_loss = M2_ABSENT,
                   .val_score = M2_ABSENT,
                   .val_top1 = M2_ABSENT,
                   .slow_rank = M2_ABSENT,
                   .slow_ratio = M2_ABSENT};
    M2_TRY(m2_ranks_alone(t->ranks.comm, m2_pace_sample(&t->pace, t->training.program, t->step + 1)));
    int64_t drains = dev->drains, allocations = dev->allocations;
    M2_TRY(m2_ranks_alone(t->ranks.comm, compute(t, &step)));
    t->drains += dev->drains - drains;
    t->allocations += dev->allocations - allocations;
    M2_TRY(m2_ranks_alone(t->ranks.comm, m2_pace_sampled(&t->pace, t->training.program, t->step + 1)));
    t->step++;
    t->rows += t->cfg.train_batch;
    int64_t rollbacks = t->guard.rollbacks;
    t->pending[t->n_pending].step = step;
    t->pending[t->n_pending].record = r;
    t->pending[t->n_pending++].begin = begin;
    while (t->n_pending > can_wait(t)) M2_TRY(settle(t));
    if (t->guard.rollbacks != rollbacks) return M2_OK;
    int last = t->step == t->cfg.train_steps;
    if (due(t->step, t->cfg.checkpoint_every, t->cfg.train_steps)) return save(t, last);
    return due(t->step, t->cfg.run_check_every, t->cfg.train_steps) ? compare(t) : M2_OK;
}

static m2_status run_steps(trainer *t)
{
    int64_t stop = 0;
    while (t->step < t->cfg.train_steps && !stop) M2_TRY(run_step(t, &stop));
    if (!stop) return M2_OK;
    M2_TRY(m2_saving_wait(&t->saving));
    if (t->saving.saved != t->step) M2_TRY(save(t, 1));
    const char *name = stop_name(t, stop);
    m2_progress_note(&t->progress,
                     "stopped by %s at step %" PRId64 ", checkpoint written: the same command goes on", name,
                     t->step);
    return m2_fail(M2_REQUEUE, "interrupted by %s at step %" PRId64, name, t->step);
}

/* ---- setting up -------------------------------------------------------------------------------------------------- */
static m2_status check_model(const trainer *t)
{
    m2_program *p = NULL;
    m2_program_spec spec = {.mode = M2_MODE_TRAIN, .rows = 1, .rows_whole = 1};
    M2_TRY(m2_ranks_spec(&t->cfg, &t->ranks, &spec));
    m2_status st = m2_model_build(&t->cfg, &spec, &p);
    m2_program_free(&p);
    return st;
}

static m2_status check_stores(trainer *t)
{
    m2_config *cfg = &t->cfg;
    M2_TRY(m2_tokens_open(cfg, "data.train", cfg->data_train, &t->data));
    M2_TRY(m2_tokens_expect_option(cfg, &t->data, cfg->data_train));
    if (!cfg->model_vocab) cfg->model_vocab = m2_tokens_padded(t->data.info.vocab);
    if (*cfg->data_val) {
        m2_tokens val;
        m2_status st = m2_tokens_open(cfg, "data.val", cfg->data_val, &val);
        if (st == M2_OK) st = m2_tokens_expect(&val, cfg->data_val, t->data.tokenizer, cfg->data_train);
        m2_tokens_free(&val);
        M2_TRY(st);
    }
    return m2_feed_check(cfg, cfg->data_train);
}

/* What can be known to be wrong before anything is touched. */
static m2_status check(trainer *t)
{
    m2_config *cfg = &t->cfg;
    M2_TRY(m2_task_of(cfg) ? m2_task_resolve(cfg, &t->data) : check_stores(t));
    snprintf(cfg->train_precision, sizeof cfg->train_precision, "%s", m2_precision_name(t->ranks.precision));
    if (cfg->train_epochs > 0) {
        double steps = cfg->train_epochs * (double)t->data.sequences / (double)cfg->train_batch;
        cfg->train_steps = steps < 1.5 ? 1 : (int64_t)(steps + 0.5);
    }
    M2_TRY(check_model(t));
    M2_TRY(m2_schedule_make(cfg, &t->schedule));
    M2_TRY(m2_guard_open(cfg, "", &t->guard));
    M2_TRY(m2_deadline_start(cfg, &t->deadline));
    return m2_config_text(cfg, &t->config_text);
}

/* The newest checkpoint must be of this run. */
static m2_status check_manifest(trainer *t, const m2_manifest *mf)
{
    m2_config saved;
    char origin[M2_PATH + 16];
    snprintf(origin, sizeof origin, "%s/manifest.h5", mf->folder);
    m2_config_defaults(&saved);
    M2_TRY(m2_config_parse_text(&saved, mf->config, origin));
    m2_status st = m2_config_check_resume(&saved, &t->cfg);
    if (st != M2_OK) return m2_context(st, "%s cannot be resumed", t->dir.path);
    return m2_tokens_expect(&t->data, t->cfg.data_train, mf->tokenizer, mf->folder);
}

/* mf->n_tensors stays 0 when the run starts from scratch. */
static m2_status find_checkpoint(trainer *t, m2_manifest *mf)
{
    char folder[M2_PATH];
    int none;
    m2_status st = m2_checkpoint_find(t->dir.checkpoints, folder, &none);
    if (none) return M2_OK;
    M2_TRY(st);
    M2_TRY(m2_manifest_read(folder, mf));
    M2_TRY(check_manifest(t, mf));
    t->step = t->saving.saved = mf->step;
    t->rows = mf->rows;
    return m2_guard_open(&t->cfg, mf->guard, &t->guard);
}

static m2_status prepare_state(trainer *t, const m2_manifest *mf)
{
    m2_program *p = t->training.program;
    M2_TRY(m2_state_of(p, t->ranks.device, 1, &t->state));
    if (mf->n_tensors) {
        M2_TRY(m2_checkpoint_load(mf, &t->state));
    } else {
        M2_TRY(m2_program_init_params(p, (uint64_t)t->cfg.train_seed));
        if (*t->cfg.train_init && !t->cfg.task_scratch) M2_TRY(m2_warm_start(t->cfg.train_init, &t->state));
    }
    return M2_OK;
}

/* What comes next in the stream; another time after going back. */
static m2_status open_feed(trainer *t)
{
    m2_batch *b = &t->training.batch;
    m2_feed_close(&t->feed);
    t->waited = 0;
    b->start = t->rows;
    m2_feed_spec feed = {.path = t->cfg.data_train,
                         .tokenizer = t->data.tokenizer,
                         .training = 1,
                         .rows = b->micro,
                         .at = m2_batch_at,
                         .at_ctx = b,
                         .slice = m2_feed_slice_of(&t->cfg, &t->ranks)};
    return m2_feed_open(&t->cfg, &feed, &t->feed);
}

static m2_status open_data(trainer *t)
{
    const m2_batch *b = &t->training.batch;
    const m2_config *cfg = &t->cfg;
    m2_program *p = t->training.program;
    t->loss = m2_program_find(p, "loss");
    t->norm2 = m2_program_find(p, "norm2");
    M2_TRY(open_feed(t));
    t->inputs = malloc((size_t)(b->micros * m2_feed_size(t->feed)) * sizeof *t->inputs);
    t->words = malloc((size_t)(WORDS + t->ranks.comm->size) * sizeof *t->words);
    if (!t->inputs || !t->words) return m2_fail(M2_TRANSIENT, "out of memory for the inputs of a step");
    if (!*cfg->data_val) return M2_OK;
    m2_eval_spec eval = {.store = cfg->data_val,
                         .tokenizer = t->data.tokenizer,
                         .micro = b->micro,
                         .sequences = m2_task_of(cfg) ? 0 : cfg->train_val_batches * cfg->train_batch,
                         .owner = p};
    return m2_eval_open(cfg, &t->ranks, &eval, &t->eval);
}

/* All ranks at once, as they will compute: cores that they share are counted once. */
static m2_status measure_peak(trainer *t)
{
    return m2_perf_peak(t->ranks.device, t->ranks.precision == M2_PREC_F64 ? M2_F64 : M2_F32, &t->peak);
}

static m2_status open_folder(trainer *t)
{
    return t->ranks.comm->rank == 0 ? m2_rundir_open(&t->dir) : M2_OK;
}

/* From here on the run is this job's; what an older job committed just before is found now. Collective. */
static m2_status claim(trainer *t, m2_manifest *mf)
{
    m2_comm *comm = t->ranks.comm;
    char folder[M2_PATH];
    int none;
    M2_TRY(m2_saving_claim(&t->saving, &t->dir, comm));
    m2_status st = m2_checkpoint_find(t->dir.checkpoints, folder, &none);
    if (none || (st == M2_OK && !strcmp(folder, mf->folder))) return m2_comm_agree(comm, M2_OK);
    m2_manifest_free(mf);
    return m2_comm_agree(comm, find_checkpoint(t, mf));
}

/* A rank that dies or hangs from here on is named. */
static m2_status open_watch(trainer *t)
{
    m2_ranks *r = &t->ranks;
    m2_watch_spec spec = {.folder = t->dir.flight,
                          .start = t->saving.spec.fence.token,
                          .comm = r->comm,
                          .hang = t->cfg.run_hang_timeout,
                          .lost = t->cfg.run_lost_timeout,
                          .leave = 8};
    M2_TRY(m2_comm_agree(r->comm, m2_watch_open(&spec, &t->watch)));
    m2_watch_comm(t->watch, r->comm);
    m2_watch_comm(t->watch, r->world);
    for (int a = 0; r->world && a < M2_AXES; a++) m2_watch_comm(t->watch, r->mesh.axis[a]);
    return M2_OK;
}

static m2_status write_folder(trainer *t)
{
    if (t->ranks.comm->rank) return M2_OK;
    M2_TRY(m2_rundir_write_config(&t->dir, &t->cfg));
    return m2_metrics_open(t->dir.metrics, t->step, &t->metrics);
}

static void describe(trainer *t)
{
    const m2_batch *b = &t->training.batch;
    m2_device *dev = t->ranks.device;
    m2_memory_plan m = m2_program_memory(t->training.program);
    char params[32], tokens[32], bytes[32], where[128], over[64] = "";
    int ranks = t->ranks.comm->size, parts = m2_ranks_sequence(&t->ranks);
    if (parts > 1) snprintf(over, sizeof over, ", each sequence over %d ranks", parts);
    if (strcmp(dev->api->kind, "cpu"))
        snprintf(where, sizeof where, "%s", dev->name);
    else
        snprintf(where, sizeof where, "CPU, %d thread%s each", dev->threads, dev->threads == 1 ? "" : "s");
    m2_log(M2_LOG_INFO, "%s, %s parameters, %s, on %d rank%s (%s; %s)", t->cfg.model_family,
           m2_human_count(params, (double)m2_program_param_count(t->training.program)),
           t->cfg.train_precision, ranks, ranks == 1 ? "" : "s", t->ranks.comm->api->kind, where);
    m2_log(M2_LOG_INFO,
           "step: %" PRId64 " x %" PRId64 " tokens = %d rank%s x %d microbatch%s x %" PRId64
           "%s; %s per rank%s",
           b->global, t->cfg.model_length, b->ranks, b->ranks == 1 ? "" : "s", b->micros,
           b->micros == 1 ? "" : "es", b->micro, over,
           m2_human_bytes(bytes, m.params + m.grads + m.optimizer + m.activations + m.workspace + m.io),
           t->training.recompute ? ", blocks recomputed" : "");
    m2_exchange_choice exchange;
    if (parts > 1 && m2_ranks_exchange(&t->cfg, &t->ranks, &exchange) == M2_OK)
        m2_log(M2_LOG_INFO, "exchange: %s", exchange.why);
    m2_log(M2_LOG_INFO, "data: %s, %s %s; %" PRId64 " steps are %.2f epochs", t->cfg.data_train,
           m2_human_count(tokens, (double)(t->data.info.tokens ? t->data.info.tokens : t->data.sequences)),
           t->data.info.tokens ? "tokens" : "rows", t->cfg.train_steps,
           (double)(t->cfg.train_steps * b->global) / (double)t->data.sequences);
    if (t->step)
        m2_log(M2_LOG_INFO, "run: %s, resuming after step %" PRId64, t->dir.path, t->step);
    else
        m2_log(M2_LOG_INFO, "run: %s, from the beginning", t->dir.path);
}

/* Each phase ends with agreement: a failure on one rank ends it on all. *done: there is nothing left to do. */
static m2_status set_up(trainer *t, int *done)
{
    m2_comm *comm = t->ranks.comm;
    m2_manifest mf = {0};
    m2_status st = m2_comm_agree(comm, check(t));
    if (st == M2_OK) st = m2_training_check(&t->cfg, &t->ranks);
    if (st == M2_OK) st = m2_rundir_paths(t->cfg.run_dir, &t->dir);
    if (st == M2_OK) st = m2_comm_agree(comm, open_folder(t));
    if (st == M2_OK) st = m2_comm_agree(comm, find_checkpoint(t, &mf));
    if (st == M2_OK && t->step < t->cfg.train_steps) st = claim(t, &mf);
    *done = st == M2_OK && t->step >= t->cfg.train_steps;
    if (st == M2_OK && !*done) {
        st = open_watch(t);
        if (st == M2_OK) st = m2_training_make(&t->cfg, &t->ranks, &t->training);
        if (st == M2_OK) m2_program_watch(t->training.program, t->watch);
        if (st == M2_OK) st = m2_comm_agree(comm, measure_peak(t));
        if (st == M2_OK) st = m2_comm_agree(comm, prepare_state(t, &mf));
        if (st == M2_OK) st = m2_comm_agree(comm, m2_program_params_changed(t->training.program));
        if (st == M2_OK) st = m2_comm_agree(comm, open_data(t));
        if (st == M2_OK)
            st = m2_saving_open(&t->saving, &t->cfg, &t->dir, t->config_text, t->data.tokenizer, &t->state,
                                &t->progress);
        if (st == M2_OK && t->cfg.run_check_every > 0)
            st = m2_comm_agree(comm, m2_copies_open(t->training.program, &t->state, comm, &t->copies));
        if (st == M2_OK) st = m2_pace_open(&t->cfg, comm, t->training.program, t->ranks.device, &t->pace);
        if (st == M2_OK) st = m2_comm_agree(comm, write_folder(t));
    }
    m2_manifest_free(&mf);
    return st;
}

static void tear_down(trainer *t, m2_status outcome)
{
    m2_saving_close(&t->saving);
    m2_feed_close(&t->feed);
    m2_eval_close(&t->eval);
    m2_copies_close(&t->copies);
    m2_pace_close(&t->pace);
    m2_program_free(&t->training.program);
    m2_metrics_close(&t->metrics);
    m2_rundir_close(&t->dir);
    m2_tokens_free(&t->data);
    free(t->config_text);
    free(t->inputs);
    free(t->words);
    m2_watch_close(&t->watch, outcome);
    m2_ranks_close(&t->ranks);
}

m2_status m2_train(const m2_config *cfg)
{
    trainer t = {.cfg = *cfg, .dir.lock = -1, .saving.saved = -1, .slow.rank = -1};
    int done = 0;
    watch_signals();
    M2_TRY(m2_ranks_open(cfg, &t.ranks));
    t.saving.comm = t.ranks.comm;
    m2_status st = set_up(&t, &done);
    if (st == M2_OK && done)
        m2_log(M2_LOG_INFO, "%s is complete: %" PRId64 " of %" PRId64 " steps are done", t.dir.path, t.step,
               cfg->train_steps);
    if (st == M2_OK && !done) {
        const m2_batch *b = &t.training.batch;
        t.flops = m2_program_model_flops(t.training.program) * b->micros * t.ranks.comm->size;
        describe(&t);
        m2_progress_start(&t.progress, t.cfg.train_steps, cfg->train_log_every, t.step,
                          t.rows * cfg->model_length, t.ranks.comm->rank == 0);
        st = run_steps(&t);
        m2_progress_end(&t.progress);
        if (st == M2_OK && strcmp(t.ranks.device->api->kind, "cpu"))
            m2_log(M2_LOG_DEBUG,
                   "the steps allocated %" PRId64 " times and drained the device %" PRId64 " times",
                   t.allocations, t.drains);
    }
    tear_down(&t, st);
    return st;
}
