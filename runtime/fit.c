#include "runtime/fit.h"
#include "kernels/base/log.h"
#include "runtime/eval.h"
#include "runtime/models/model.h"
#include "runtime/optim.h"

#include <stdio.h>
#include <string.h>

m2_status m2_training_check(const m2_config *cfg, const m2_ranks *ranks)
{
    m2_batch batch;
    return m2_batch_cut(cfg->train_batch, cfg->train_micro, m2_ranks_share(ranks), m2_ranks_data(ranks), &batch);
}

m2_status m2_training_build(const m2_config *cfg, const m2_ranks *ranks, const m2_batch *batch, int recompute,
                            m2_program **out)
{
    m2_program_spec spec = {.mode = M2_MODE_TRAIN, .rows = batch->micro, .rows_whole = batch->global};
    m2_recompute policy = {.policy = recompute ? M2_RECOMPUTE_BLOCK : M2_RECOMPUTE_NONE};
    m2_update_spec update = m2_optim_update(cfg);
    M2_TRY(m2_ranks_spec(cfg, ranks, &spec));
    M2_TRY(m2_model_build(cfg, &spec, out));
    m2_program *p = *out;
    m2_tid loss = m2_program_find(p, "loss");
    m2_program_backward(p, loss, &policy);
    if (ranks->comm->size > 1) {
        m2_sharding zero = {.stage = (int)cfg->optim_zero,
                            .ranks = ranks->comm->size,
                            .rank = ranks->comm->rank,
                            .per_node = ranks->per_node,
                            .reduce_scatter = &m2_op_reduce_scatter,
                            .all_gather = &m2_op_all_gather};
        m2_program_shard(p, &zero);
        m2_program_reduce(p, &m2_op_all_reduce, ranks->comm, cfg->comm_bucket << 20, &loss, 1);
    }
    m2_program_update(p, &update);
    m2_plan_options plan = m2_ranks_plan(cfg, ranks);
    return m2_program_plan(p, &plan);
}

/* ---- what fits --------------------------------------------------------------------------------------------------- */
static int64_t memory_for_one(const m2_ranks *ranks)
{
    int cpu = !strcmp(ranks->device->api->kind, "cpu");
    double all = (double)ranks->device->memory;
    return (int64_t)(cpu ? 0.7 * all / ranks->comm->local_size : 0.9 * all / ranks->sharers);
}

static m2_status bytes_needed(const m2_config *cfg, const m2_ranks *ranks, const m2_batch *batch,
                              int recompute, int64_t *bytes)
{
    m2_program *p = NULL;
    int64_t validation = 0;
    m2_status st = m2_training_build(cfg, ranks, batch, recompute, &p);
    if (st == M2_OK) {
        m2_memory_plan m = m2_program_memory(p);
        *bytes = m.params + m.grads + m.optimizer + m.activations + m.workspace + m.io;
        if (*cfg->data_val) st = m2_eval_bytes(cfg, ranks, batch->micro, &validation);
        *bytes += validation;
    }
    m2_program_free(&p);
    return st;
}

/* Tries the whole share first, then smaller microbatches, then recomputation. Leaves the last one tried when nothing fits. */
m2_status m2_training_choose(const m2_config *cfg, const m2_ranks *ranks, m2_batch *batch, int *recompute)
{
    int automatic = !strcmp(cfg->train_recompute, "auto"), fits = 0;
    int64_t room = memory_for_one(ranks), bytes = 0;
    char needed[32], have[32];
    m2_batch whole = *batch;
    *recompute = !strcmp(cfg->train_recompute, "block");
    for (int again = *recompute; again <= (*recompute || automatic) && !fits; again++) {
        *batch = whole;
        *recompute = again;
        do {
            M2_TRY(bytes_needed(cfg, ranks, batch, again, &bytes));
            fits = bytes <= room;
        } while (!fits && !cfg->train_micro && m2_batch_shrink(batch));
    }
    if (fits || cfg->train_micro) return M2_OK;
    return m2_fail(
        M2_USAGE,
        "a microbatch of one sequence needs %s and each rank has %s: use a smaller model or length%s",
        m2_human_bytes(needed, bytes), m2_human_bytes(have, room),
        *recompute ? "" : ", or train.recompute=block");
}

m2_status m2_training_make(const m2_config *cfg, const m2_ranks *ranks, m2_training *out)
{
    m2_comm *host = ranks->comm->host;
    m2_batch *b = &out->batch;
    *out = (m2_training){0};
    M2_TRY(m2_batch_cut(cfg->train_batch, cfg->train_micro, m2_ranks_share(ranks), m2_ranks_data(ranks), b));
    M2_TRY(m2_comm_agree(ranks->comm, m2_training_choose(cfg, ranks, b, &out->recompute)));
    int64_t word[2] = {b->micro, -out->recompute}; /* the choice of the rank with the least memory */
    M2_TRY(host->api->all_reduce(host, word, word, 2, M2_I64, M2_MIN, NULL));
    out->recompute = (int)-word[1];
    M2_TRY(m2_batch_cut(cfg->train_batch, word[0], m2_ranks_share(ranks), m2_ranks_data(ranks), b));
    m2_status st = m2_training_build(cfg, ranks, b, out->recompute, &out->program);
    if (st == M2_OK) st = m2_program_bind(out->program, ranks->device);
    return m2_comm_agree(ranks->comm, st);
}

m2_status m2_fit_eval(const m2_config *cfg, const m2_ranks *ranks, int64_t most, int64_t *micro)
{
    int64_t bytes = 0, room = memory_for_one(ranks);
    m2_status st = M2_OK;
    for (*micro = most > 0 ? most : 1; st == M2_OK; *micro /= 2) {
        st = m2_eval_bytes(cfg, ranks, *micro, &bytes);
        if (bytes <= room || *micro == 1) break;
    }
    st = m2_comm_agree(ranks->comm, st);
    m2_comm *host = ranks->comm->host;
    return st == M2_OK ? host->api->all_reduce(host, micro, micro, 1, M2_I64, M2_MIN, NULL) : st;
}
