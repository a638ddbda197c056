/* setup.c - a run from its configuration to its first step, and its end: what is checked before anything is touched, the newest
 * checkpoint, the program, the data. */
#include "runtime/trainer_parts.h"
#include "kernels/perf.h"
#include "runtime/batch.h"
#include "runtime/models/model.h"
#include "runtime/task.h"
#include "runtime/warm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- checks ------------------------------------------------------------------------------------------------------ */
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

/* ---- the state --------------------------------------------------------------------------------------------------- */
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

/* ---- what a run uses --------------------------------------------------------------------------------------------- */
m2_status m2i_trainer_open_feed(trainer *t)
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
    M2_TRY(m2i_trainer_open_feed(t));
    t->inputs = malloc((size_t)(b->micros * m2_feed_size(t->feed)) * sizeof *t->inputs);
    t->words = malloc((size_t)(M2I_WORDS + t->ranks.comm->size) * sizeof *t->words);
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

/* ---- all of it --------------------------------------------------------------------------------------------------- */
/* Each phase ends with agreement: a failure on one rank ends it on all. */
m2_status m2i_trainer_set_up(trainer *t, int *done)
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

void m2i_trainer_tear_down(trainer *t, m2_status outcome)
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
