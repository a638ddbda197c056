#include "runtime/search.h"
#include "kernels/base/log.h"
#include "runtime/config_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what there is to try ---------------------------------------------------------------------------------------- */
/* Options beside the mesh, of those that this program has. `cut`: matters only where sequences are cut. */
static const struct {
    const char *key;
    int cut;
} dimensions[] = {{"run.exchange", 1}, {"optim.zero", 0}};
enum { DIMENSIONS = sizeof dimensions / sizeof *dimensions, MAX_VALUES = 8 };

/* The values of an option as text; how many there are. */
static int values_of(const char *key, char value[MAX_VALUES][32])
{
    const m2i_option *o = m2i_option_find(key);
    int n = 0;
    if (!o) return 0;
    if (o->kind == M2I_INT)
        for (int64_t i = o->lo; i <= o->hi && n < MAX_VALUES; i++) snprintf(value[n++], 32, "%d", (int)i);
    for (const char *c = o->kind == M2I_STR ? o->choices : NULL; c && *c && n < MAX_VALUES;) {
        size_t length = strcspn(c, "|");
        if (strncmp(c, "auto", length) != 0) snprintf(value[n++], 32, "%.*s", (int)length, c);
        c += length + (c[length] == '|');
    }
    return n;
}

m2_status m2_candidate_take(const m2_candidate *c, m2_config *cfg)
{
    char words[sizeof c->rest], *word, *rest = words;
    snprintf(cfg->run_mesh, sizeof cfg->run_mesh, "%s", c->mesh);
    snprintf(words, sizeof words, "%s", c->rest);
    while ((word = strtok_r(rest, " ", &rest))) M2_TRY(m2_config_set(cfg, word));
    return M2_OK;
}

/* ---- one candidate ----------------------------------------------------------------------------------------------- */
static m2_status evaluate(const m2_config *cfg, const m2_planner_spec *spec, m2_candidate *c)
{
    m2_config own = *cfg;
    m2_planned p;
    m2_prediction t;
    M2_TRY(m2_candidate_take(c, &own));
    M2_TRY(m2_planned_make(&own, spec, &p));
    m2_status st = m2_predict(&p, spec->machine, &t);
    if (st == M2_OK) {
        c->fits = !*p.too_big;
        c->bytes = m2_memory_total(&p.memory);
        c->recompute = p.recompute;
        c->micros = p.batch.micros;
        c->step = t.step;
        c->exposed = t.exchange + t.reduce + t.agreement;
    }
    m2_planned_free(&p);
    return st;
}

/* Tries every value of dimension d and those behind it. */
static m2_status try_all(const m2_config *cfg, const m2_planner_spec *spec, int d, int cut, m2_candidate base,
                         m2_search *s)
{
    char value[MAX_VALUES][32];
    if (d < DIMENSIONS) {
        int n = dimensions[d].cut && !cut ? 0 : values_of(dimensions[d].key, value);
        if (!n) return try_all(cfg, spec, d + 1, cut, base, s);
        size_t at = strlen(base.rest);
        for (int i = 0; i < n; i++) {
            snprintf(base.rest + at, sizeof base.rest - at, "%s%s=%s", at ? " " : "", dimensions[d].key,
                     value[i]);
            M2_TRY(try_all(cfg, spec, d + 1, cut, base, s));
        }
        return M2_OK;
    }
    m2_candidate *rows = realloc(s->row, (size_t)(s->n + 1) * sizeof *rows);
    if (!rows) return m2_fail(M2_TRANSIENT, "out of memory for %d meshes", s->n + 1);
    s->row = rows;
    m2_candidate *c = &rows[s->n++];
    *c = base;
    m2_status st = evaluate(cfg, spec, c);
    if (st != M2_OK && st != M2_USAGE) return st;
    if (st != M2_OK) snprintf(c->why_not, sizeof c->why_not, "%s", m2_message());
    return M2_OK;
}

/* ---- the best ---------------------------------------------------------------------------------------------------- */
static int rank_of(const m2_candidate *c)
{
    return *c->why_not ? 2 : !c->fits;
}

static int best_first(const void *a, const void *b)
{
    const m2_candidate *x = a, *y = b;
    if (rank_of(x) != rank_of(y)) return rank_of(x) - rank_of(y);
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* as fast: the smaller */
}

static void explain(const m2_planner_spec *spec, m2_search *s)
{
    const m2_candidate *best = &s->row[0], *next = NULL;
    char bytes[32], than[128] = "";
    int small = 0, impossible = 0;
    for (int i = 0; i < s->n; i++) {
        if (!next && strcmp(s->row[i].mesh, best->mesh) != 0 && rank_of(&s->row[i]) == 0) next = &s->row[i];
        small += rank_of(&s->row[i]) == 1;
        impossible += rank_of(&s->row[i]) == 2;
    }
    if (next) snprintf(than, sizeof than, "; the next mesh, %s, takes %.3f ms", next->mesh, next->step * 1e3);
    snprintf(s->why, sizeof s->why,
             "%s%s%s: %.3f ms per step, %.3f of them waiting for others, %s on each of %d ranks%s (%d ways "
             "tried, %d do not "
             "fit in memory, %d are impossible)",
             best->mesh, *best->rest ? " " : "", best->rest, best->step * 1e3, best->exposed * 1e3,
             m2_human_bytes(bytes, best->bytes), spec->ranks, than, s->n, small, impossible);
}

m2_status m2_search_make(const m2_config *cfg, const m2_planner_spec *spec, int meshes_only, m2_search *out)
{
    *out = (m2_search){0};
    M2_CHECK(spec->machine);
    M2_TRY(m2_machine_check(spec->machine, spec->ranks > 1));
    for (int cut = 1; cut <= spec->ranks; cut++) {
        m2_candidate base = {0};
        if (spec->ranks % cut) continue;
        snprintf(base.mesh, sizeof base.mesh, "data=%d,seq=%d", spec->ranks / cut, cut);
        M2_TRY(try_all(cfg, spec, meshes_only || spec->ranks == 1 ? DIMENSIONS : 0, cut > 1, base, out));
    }
    qsort(out->row, (size_t)out->n, sizeof *out->row, best_first);
    if (rank_of(&out->row[0]) == 2)
        return m2_fail(M2_USAGE, "no mesh of %d ranks can train this: %s", spec->ranks, out->row[0].why_not);
    if (rank_of(&out->row[0]) == 1) {
        char bytes[32];
        return m2_fail(
            M2_USAGE,
            "no mesh of %d ranks has room for this: %s, the fastest, needs %s on each rank; use more "
            "ranks, a smaller model or length, or train.recompute=auto",
            spec->ranks, out->row[0].mesh, m2_human_bytes(bytes, out->row[0].bytes));
    }
    explain(spec, out);
    return M2_OK;
}

void m2_search_free(m2_search *s)
{
    free(s->row);
    *s = (m2_search){0};
}

/* ---- run.mesh=auto ----------------------------------------------------------------------------------------------- */
static m2_status choose_mesh(const m2_config *cfg, const m2_comm *all, char *mesh, size_t size)
{
    m2_machine m;
    m2_search s;
    if (!*cfg->run_machine)
        return m2_fail(
            M2_USAGE,
            "run.mesh=auto predicts with a description of this machine: set run.machine=FILE (m2 bench ops "
            "and m2 bench comm --machine-out FILE write one), or a mesh");
    M2_TRY(m2_context(m2_machine_read(cfg->run_machine, &m), "run.machine"));
    if (all->device && strcmp(all->device->api->kind, m.device) != 0)
        return m2_fail(M2_USAGE, "run.machine=%s describes ranks on %s, these run on %s", cfg->run_machine,
                       m.device, all->device->api->kind);
    m2_planner_spec spec = {.ranks = all->size, .local_size = all->local_size, .machine = &m};
    m2_status st = m2_search_make(cfg, &spec, 1, &s);
    if (st == M2_OK) {
        snprintf(mesh, size, "%s", s.row[0].mesh);
        m2_log(M2_LOG_INFO, "run.mesh=auto: %s", s.why);
    }
    m2_search_free(&s);
    return st;
}

m2_status m2_search_grid(const m2_config *cfg, m2_comm *all, m2_grid *out)
{
    char mesh[32] = "";
    if (strcmp(cfg->run_mesh, "auto") != 0)
        return m2_context(m2_grid_parse(cfg->run_mesh, all->size, out), "run.mesh");
    *out = (m2_grid){{1, 1}};
    if (all->size == 1) return M2_OK;
    M2_TRY(m2_comm_agree(all, all->rank ? M2_OK : choose_mesh(cfg, all, mesh, sizeof mesh)));
    M2_TRY(all->host->api->broadcast(all->host, mesh, sizeof mesh, M2_U8, 0, NULL));
    return m2_grid_parse(mesh, all->size, out);
}
