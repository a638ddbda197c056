#include "runtime/saving.h"
#include "kernels/base/log.h"

#include <inttypes.h>
#include <string.h>

m2_status m2_saving_claim(m2_saving *s, const m2_rundir *dir, m2_comm *comm)
{
    m2_comm *host = comm->host;
    m2_fence *fence = &s->spec.fence;
    m2_status st = comm->rank == 0 ? m2_fence_take(dir->path, dir->checkpoints, fence) : M2_OK;
    st = m2_comm_agree(comm, st);
    return st == M2_OK ? host->api->broadcast(host, &fence->token, 1, M2_I64, 0, NULL) : st;
}

m2_status m2_saving_open(m2_saving *s, const m2_config *cfg, const m2_rundir *dir, const char *config,
                         const char *tokenizer, const m2_state *state, m2_progress *progress)
{
    s->spec.folder = dir->checkpoints;
    s->spec.config = config;
    s->spec.tokenizer = tokenizer;
    s->spec.keep = cfg->checkpoint_keep;
    s->spec.keep_every = cfg->checkpoint_keep_every;
    s->bandwidth = cfg->checkpoint_bandwidth * 1e6;
    s->background = cfg->checkpoint_background;
    s->go_on = !strcmp(cfg->checkpoint_on_failure, "continue");
    s->progress = progress;
    return m2_comm_agree(s->comm, m2_saver_open(state, s->comm, &s->saver));
}

m2_status m2_saving_look(m2_saving *s)
{
    if (s->comm->rank || m2_now() - s->looked < 1) return M2_OK;
    s->looked = m2_now();
    return m2_fence_check(&s->spec.fence);
}

int m2_saving_busy(const m2_saving *s)
{
    return m2_saver_busy(s->saver);
}

/* What became of a save. */
static m2_status settle(m2_saving *s, m2_status st, int64_t committed, int last)
{
    if (st == M2_OK && committed >= 0) {
        s->saved = committed;
        m2_saver_stats stats = m2_saver_statistics(s->saver);
        s->n++;
        s->took = stats.copied + stats.wrote + stats.published;
        s->waited += stats.stalled;
    }
    if (st != M2_IO || last || !s->go_on) return st;
    m2_progress_note(s->progress, "%s; training goes on (checkpoint.on_failure)", m2_message());
    return M2_OK;
}

m2_status m2_saving_poll(m2_saving *s, int busy)
{
    int64_t committed;
    if (busy || !m2_saver_pending(s->saver)) return M2_OK;
    m2_status st = m2_saver_advance(s->saver, &committed);
    return settle(s, st, committed, 0);
}

m2_status m2_saving_wait(m2_saving *s)
{
    int64_t committed;
    m2_status st = m2_saver_wait(s->saver, &committed);
    return settle(s, st, committed, 0);
}

m2_status m2_saving_begin(m2_saving *s, int64_t step, int64_t rows, int last)
{
    int64_t committed = -1;
    M2_TRY(m2_saving_wait(s));
    s->spec.step = step;
    s->spec.rows = rows;
    s->spec.bandwidth = last ? 0 : s->bandwidth;
    m2_status st = m2_saver_start(s->saver, &s->spec);
    if (st == M2_OK && (last || !s->background)) st = m2_saver_wait(s->saver, &committed);
    return settle(s, st, committed, last);
}

static m2_status load(const m2_saving *s, const m2_state *state, int64_t step, m2_manifest *mf)
{
    char folder[M2_PATH];
    M2_TRY(m2_checkpoint_at(s->spec.folder, step, folder));
    M2_TRY(m2_manifest_read(folder, mf));
    return m2_checkpoint_load(mf, state);
}

m2_status m2_saving_back(m2_saving *s, const m2_state *state, int64_t every, m2_manifest *mf)
{
    m2_comm *host = s->comm->host;
    int64_t step = -1;
    M2_TRY(m2_saving_wait(s));
    M2_TRY(m2_comm_agree(s->comm, s->comm->rank ? M2_OK : m2_checkpoint_back(s->spec.folder, every, &step)));
    M2_TRY(host->api->broadcast(host, &step, 1, M2_I64, 0, NULL));
    if (step < 0) return M2_OK;
    M2_TRY(m2_comm_agree(s->comm, load(s, state, step, mf)));
    s->saved = step;
    return m2_comm_agree(s->comm, s->comm->rank ? M2_OK : m2_checkpoint_forget(s->spec.folder, step));
}

void m2_saving_close(m2_saving *s)
{
    char bytes[32];
    if (s->n)
        m2_log(M2_LOG_INFO,
               "checkpoints: %" PRId64 " written, %s each on this rank; training waited %.3f s for %s", s->n,
               m2_human_bytes(bytes, m2_saver_statistics(s->saver).bytes), s->waited,
               s->n == 1 ? "it" : "all of them");
    m2_saver_close(&s->saver);
}
