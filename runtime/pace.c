#include "runtime/pace.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

m2_status m2_pace_open(const m2_config *cfg, m2_comm *comm, m2_program *p, m2_device *dev, m2_pace *out)
{
    size_t n = (size_t)comm->size;
    char mine[M2_PACE_NODE] = "", (*nodes)[M2_PACE_NODE] = NULL;
    *out = (m2_pace){.every = cfg->run_straggler > 0 && n > 1 ? cfg->run_pace_every : 0,
                     .factor = cfg->run_straggler,
                     .ranks = comm->size,
                     .rank = comm->rank,
                     .sampled = strcmp(dev->api->kind, "cpu") != 0};
    if (!out->every) return M2_OK;
    out->words = calloc(n, sizeof *out->words);
    out->of = calloc(n, sizeof *out->of);
    out->seconds = calloc((size_t)m2_program_calls(p) + 1, sizeof *out->seconds);
    nodes = calloc(n, sizeof *nodes);
    m2_status st = M2_OK;
    if (!out->words || !out->of || !out->seconds || !nodes) st = m2_fail(M2_TRANSIENT, "out of memory for %d ranks", comm->size);
    gethostname(mine, sizeof mine - 1);
    st = m2_comm_agree(comm, st);
    if (st == M2_OK) st = comm->host->api->all_gather(comm->host, mine, nodes, M2_PACE_NODE, M2_U8, NULL);
    for (size_t r = 0; st == M2_OK && r < n; r++) memcpy(out->of[r].node, nodes[r], M2_PACE_NODE);
    free(nodes);
    return st;
}

void m2_pace_close(m2_pace *p)
{
    free(p->words);
    free(p->of);
    free(p->seconds);
    *p = (m2_pace){0};
}

int m2_pace_ends(const m2_pace *p, int64_t step)
{
    return p->every > 0 && step > 0 && step % p->every == 0;
}

/* ---- a GPU's step ------------------------------------------------------------------------------------------------ */
m2_status m2_pace_sample(m2_pace *p, m2_program *program, int64_t step)
{
    if (!p->sampled || !m2_pace_ends(p, step)) return M2_OK;
    M2_TRY(m2_program_sync(program));
    return m2_program_profile(program, 1);
}

m2_status m2_pace_sampled(m2_pace *p, m2_program *program, int64_t step)
{
    double sum = 0;
    int n = m2_program_calls(program);
    if (!p->sampled || !m2_pace_ends(p, step)) return M2_OK;
    memset(p->seconds, 0, (size_t)n * sizeof *p->seconds);
    M2_TRY(m2_program_profile_read(program, p->seconds));
    for (int i = 0; i < n; i++)
        if (!m2_program_call_info(program, i).context) sum += p->seconds[i];
    p->work += sum * (double)p->every; /* like all of the window */
    return m2_program_profile(program, 0);
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */
int64_t m2_pace_word(m2_pace *p)
{
    int64_t word = (int64_t)(p->work * 1e9);
    p->work = 0;
    return word;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* 3, 6, 12, ... */
static int worth_saying(int64_t windows)
{
    int64_t at = M2_PACE_WINDOWS;
    while (at < windows) at *= 2;
    return at == windows;
}

m2_straggler m2_pace_judge(m2_pace *p, const int64_t *words)
{
    m2_straggler s = {.rank = -1};
    memcpy(p->words, words, (size_t)p->ranks * sizeof *words);
    qsort(p->words, (size_t)p->ranks, sizeof *p->words, ascending);
    double median = (double)p->words[(p->ranks - 1) / 2]; /* of two, the faster one */
    for (int r = 0; r < p->ranks; r++) {
        struct m2_pace_rank *x = &p->of[r];
        double ratio = median > 0 ? (double)words[r] / median : 1;
        if (ratio < p->factor) {
            x->windows = 0;
            x->ratios = 0;
            continue;
        }
        x->windows++;
        x->ratios += ratio;
        double mean = x->ratios / (double)x->windows;
        if (worth_saying(x->windows) && mean > s.ratio) s = (m2_straggler){r, mean, x->windows * p->every};
    }
    return s;
}
