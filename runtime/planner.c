#include "runtime/planner.h"
#include "runtime/fit.h"
#include "runtime/models/model.h"
#include "runtime/tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    VOCAB = 4096
}; /* of a tokenizer that m2 prepare --train-tokenizer 4096 makes, as the quick start does */

/* ---- the job that is imagined ------------------------------------------------------------------------------------ */
m2_status m2_planned_vocab(m2_config *cfg, int *chosen)
{
    *chosen = 0;
    if (!strcmp(m2_model_task(cfg), "image")) return M2_OK; /* has none */
    *chosen = !cfg->model_vocab && !*cfg->data_train;
    if (*chosen) cfg->model_vocab = VOCAB;
    if (cfg->model_vocab) return M2_OK;
    m2_tokens store;
    m2_status st = m2_tokens_open(cfg, "data.train", cfg->data_train, &store);
    if (st == M2_OK) cfg->model_vocab = m2_tokens_padded(store.info.vocab);
    m2_tokens_free(&store);
    return st;
}

/* A device that can be asked what it is, and nothing else. */
static void imagine_device(const m2_machine *m, m2_planned *p)
{
    m2_config *cfg = &p->cfg;
    p->imagined_api = (m2_device_api){.kind = m->device};
    p->imagined = (m2_device){.api = &p->imagined_api,
                              .threads = m->threads,
                              .memory = m->memory > 0 ? (int64_t)m->memory : INT64_MAX / 2,
                              .peak_flops = m->peak};
    snprintf(p->imagined.name, sizeof p->imagined.name, "%.95s", m->name);
    snprintf(cfg->run_device, sizeof cfg->run_device, "%s", m->device);
    p->ranks.device = &p->imagined;
}

static m2_status open_device(const m2_planner_spec *spec, int local, m2_planned *p)
{
    const m2_config *cfg = &p->cfg;
    m2_device **dev = &p->ranks.device;
    if (spec->machine) {
        imagine_device(spec->machine, p);
        return M2_OK;
    }
    M2_TRY(m2_context(m2_device_open(cfg->run_device, 0, dev), "run.device"));
    (*dev)->threads = cfg->run_threads          ? (int)cfg->run_threads
                      : (*dev)->threads > local ? (*dev)->threads / local
                                                : 1;
    return M2_OK;
}

/* Ranks that fill one node after the other. */
static m2_status imagine_levels(const m2_planner_spec *spec, int local, m2_planned *p)
{
    const char *asked = p->cfg.run_transport, *kind = p->ranks.device->api->kind;
    int automatic = !strcmp(asked, "auto"), nccl = !strcmp(automatic && spec->machine ? spec->machine->transport : asked, "nccl");
    if (automatic && !spec->machine) nccl = strcmp(kind, "cpu") != 0;
    return m2_ranks_per_node(&p->cfg, spec->ranks, spec->ranks % local ? 0 : local, nccl, &p->ranks.per_node);
}

static m2_status imagine_ranks(const m2_planner_spec *spec, m2_planned *p)
{
    int local = spec->local_size < spec->ranks ? spec->local_size : spec->ranks;
    m2_config *cfg = &p->cfg;
    M2_TRY(open_device(spec, local, p));
    m2_device *dev = p->ranks.device;
    M2_TRY(m2_precision_choose(cfg, dev, &p->ranks.precision));
    snprintf(cfg->train_precision, sizeof cfg->train_precision, "%s", m2_precision_name(p->ranks.precision));
    p->place = (m2_comm){.size = spec->ranks, .local_size = local, .device = dev, .host = &p->place};
    p->ranks.comm = &p->place;
    p->ranks.sharers = 1;
    M2_TRY(m2_context(m2_grid_parse(cfg->run_mesh, spec->ranks, &p->ranks.mesh.grid), "run.mesh"));
    p->sequence = p->place;
    p->sequence.size = m2_ranks_sequence(&p->ranks);
    p->ranks.mesh.axis[M2_AXIS_SEQUENCE] = &p->sequence;
    p->ranks.mesh.nodes_per_sequence = (p->sequence.size + local - 1) / local;
    return imagine_levels(spec, local, p);
}

/* ---- what the program says --------------------------------------------------------------------------------------- */
static m2_traffic *traffic_of(m2_planned *p, const char *verb)
{
    int i = 0;
    while (i < p->n_traffic && strcmp(p->traffic[i].verb, verb) != 0) i++;
    if (i == M2_TRAFFIC_KINDS) return NULL;
    if (i == p->n_traffic) p->traffic[p->n_traffic++] = (m2_traffic){.verb = verb};
    return &p->traffic[i];
}

int m2_collectives(const m2_program *p, int micros, m2_collective_row *rows, int room)
{
    int n = 0;
    for (int i = 0; i < m2_program_calls(p); i++) {
        m2_call_info c = m2_program_call_info(p, i);
        const m2_comm *comm = c.context;
        if (!comm) continue;
        if (n < room)
            rows[n] = (m2_collective_row){
                .path = c.path,
                .verb = c.op->name,
                .axis = c.context == m2_program_spec_of(p)->sequence.context ? "sequence" : "all",
                .bytes = m2_collective_bytes(c.op, &c.attrs, c.in, c.out, comm->rank, comm->size),
                .calls = c.once || c.region == M2_UPDATE ? 1 : micros};
        n++;
    }
    return n;
}

static m2_status sum_up(m2_planned *p)
{
    double times = (double)p->batch.micros * p->ranks.comm->size;
    for (int i = 0; i < m2_program_calls(p->program); i++) {
        m2_call_info c = m2_program_call_info(p->program, i);
        if (c.region == M2_FORWARD) p->flops_forward += c.cost.flops * times;
        if (c.again) p->flops_again += c.cost.flops * times;
    }
    m2_collective_row *rows = malloc((size_t)m2_program_calls(p->program) * sizeof *rows);
    if (!rows) return m2_fail(M2_TRANSIENT, "out of memory for a list of collectives");
    int n = m2_collectives(p->program, p->batch.micros, rows, m2_program_calls(p->program)), fits = 1;
    for (int i = 0; i < n && fits; i++) {
        m2_traffic *t = traffic_of(p, rows[i].verb);
        fits = t != NULL;
        if (!fits) continue;
        t->calls += rows[i].calls;
        t->bytes += rows[i].calls * rows[i].bytes;
    }
    free(rows);
    M2_CHECK(fits);
    p->flops_model = m2_program_model_flops(p->program) * times;
    p->parameters = m2_program_param_count(p->program);
    p->memory = m2_program_memory(p->program);
    return M2_OK;
}

int64_t m2_memory_total(const m2_memory_plan *m)
{
    return m->params + m->grads + m->optimizer + m->activations + m->workspace + m->io;
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */
static m2_status make(const m2_planner_spec *spec, m2_planned *p)
{
    const m2_config *cfg = &p->cfg;
    M2_TRY(m2_planned_vocab(&p->cfg, &p->vocab_chosen));
    M2_TRY(imagine_ranks(spec, p));
    M2_TRY(m2_batch_cut(cfg->train_batch, cfg->train_micro, 0, m2_ranks_data(&p->ranks), &p->batch));
    if (m2_training_choose(cfg, &p->ranks, &p->batch, &p->recompute) !=
        M2_OK) /* the last one tried is shown */
        snprintf(p->too_big, sizeof p->too_big, "%s", m2_message());
    M2_TRY(m2_training_build(cfg, &p->ranks, &p->batch, p->recompute, &p->program));
    return sum_up(p);
}

m2_status m2_planned_make(const m2_config *cfg, const m2_planner_spec *spec, m2_planned *out)
{
    *out = (m2_planned){.cfg = *cfg};
    m2_status st = make(spec, out);
    if (st != M2_OK) m2_planned_free(out);
    return st;
}

void m2_planned_free(m2_planned *p)
{
    m2_program_free(&p->program);
    if (p->ranks.device != &p->imagined) m2_device_close(&p->ranks.device);
    *p = (m2_planned){0};
}
