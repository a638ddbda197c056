#include "runtime/trainer_parts.h"
#include "kernels/base/fault.h"
#include "kernels/base/log.h"
#include "runtime/batch.h"
#include "runtime/optim.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

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

/* ---- one step ---------------------------------------------------------------------------------------------------- */
/* Rank 0 says who is slow. */
static void name_straggler(trainer *t)
{
    m2_straggler s = m2_pace_judge(&t->pace, t->words + M2I_WORDS);
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
        memset(word + M2I_WORDS, 0, (size_t)host->size * sizeof *word);
        word[M2I_WORDS + host->rank] = m2_pace_word(&t->pace);
    }
    m2_status st = host->api->all_reduce(host, word, word, M2I_WORDS + (paced ? host->size : 0), M2_I64, M2_MAX, NULL);
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
        if (st == M2_OK) st = m2i_trainer_open_feed(t);
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

/* ---- the run ----------------------------------------------------------------------------------------------------- */
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

m2_status m2_train(const m2_config *cfg)
{
    trainer t = {.cfg = *cfg, .dir.lock = -1, .saving.saved = -1, .slow.rank = -1};
    int done = 0;
    watch_signals();
    M2_TRY(m2_ranks_open(cfg, &t.ranks));
    t.saving.comm = t.ranks.comm;
    m2_status st = m2i_trainer_set_up(&t, &done);
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
    m2i_trainer_tear_down(&t, st);
    return st;
}
