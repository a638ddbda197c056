/* inspect_plan.c - m2 inspect plan CONFIG: what a training step needs, before anything is allocated. */
#include "kernels/base/log.h"
#include "runtime/search.h"
#include "tools/inspect.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

const char inspect_plan_usage[] =
    "usage: m2 inspect plan CONFIG.yaml [KEY=VALUE ...] [--ranks N] [--local N] [--calls] [--json]\n"
    "                       [--machine FILE]\n"
    "\n"
    "What a training step of a configuration needs: parameters, FLOPs, memory per rank, bytes that ranks\n"
    "exchange. Nothing is allocated: a laptop can plan for 512 ranks.\n"
    "\n"
    "  --ranks N    as if on N ranks, each on a machine like this one (1)\n"
    "  --local N    as if N of them shared such a machine, its memory and its cores (1)\n"
    "  --machine FILE  plan for the machine that FILE describes (m2 bench ops|comm --machine-out FILE), and\n"
    "               predict how long a step takes and where the time goes\n"
    "               with run.mesh=auto (--mesh auto) the fastest mesh that fits is found by trying all of\n"
    "               them, each with every exchange and ZeRO stage\n"
    "  --mesh MESH  the same as run.mesh=MESH\n"
    "  --scaling    tables: the best mesh for 1, 8, 64, 512 ranks and lengths up to 1M tokens\n"
    "  --calls      every call of forward, backward and update: shapes, bytes, FLOPs, place in memory\n"
    "  --json       for programs\n";

/* ---- rows that text and JSON share ------------------------------------------------------------------------------- */
typedef struct memory_row {
    const char *name;
    int64_t bytes;
} memory_row;

enum { MEMORY_ROWS = 6 };

static void memory_rows(const m2_memory_plan *m, memory_row *rows)
{
    const memory_row all[MEMORY_ROWS] = {{"params", m->params},       {"grads", m->grads},
                                         {"optimizer", m->optimizer}, {"activations", m->activations},
                                         {"workspace", m->workspace}, {"io", m->io}};
    for (int i = 0; i < MEMORY_ROWS; i++) rows[i] = all[i];
}

static double tokens_per_step(const m2_planned *p)
{
    return (double)p->batch.global * (double)p->cfg.model_length;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */
static void print_model(const m2_planned *p)
{
    const m2_config *c = &p->cfg;
    char count[32];
    printf("%-12s %s, %" PRId64 " blocks of width %" PRId64 ", length %" PRId64 ", vocabulary %" PRId64
           "%s\n",
           "model", c->model_family, c->model_layers, c->model_width, c->model_length, c->model_vocab,
           p->vocab_chosen ? " (assumed: model.vocab and data.train are not set)" : "");
    printf("%-12s %s (%" PRId64 ")\n", "parameters", m2_human_count(count, (double)p->parameters),
           p->parameters);
}

static void print_step(const m2_planned *p)
{
    const m2_batch *b = &p->batch;
    double tokens = tokens_per_step(p);
    char over[64] = "";
    int parts = m2_ranks_sequence(&p->ranks);
    if (parts > 1) snprintf(over, sizeof over, ", each sequence over %d ranks", parts);
    printf("%-12s %" PRId64 " x %" PRId64 " tokens = %d rank%s x %d microbatch%s x %" PRId64 "%s, %s%s\n",
           "step", b->global, p->cfg.model_length, b->ranks, b->ranks == 1 ? "" : "s", b->micros,
           b->micros == 1 ? "" : "es", b->micro, over, p->cfg.train_precision,
           p->recompute ? ", blocks recomputed" : "");
    printf("%-12s %.4g MFLOP per token (forward %.4g), %.4g TFLOP per step", "work",
           p->flops_model / tokens * 1e-6, p->flops_forward / tokens * 1e-6, p->flops_model * 1e-12);
    if (p->flops_again > 0) printf(", and %.3g%% for recomputation", 100 * p->flops_again / p->flops_model);
    putchar('\n');
}

static void print_memory(const m2_planned *p)
{
    memory_row rows[MEMORY_ROWS];
    char bytes[32];
    memory_rows(&p->memory, rows);
    printf("%-12s %s per rank\n", "memory", m2_human_bytes(bytes, m2_memory_total(&p->memory)));
    for (int i = 0; i < MEMORY_ROWS; i++)
        printf("  %-12s %10s %16" PRId64 " bytes\n", rows[i].name, m2_human_bytes(bytes, rows[i].bytes),
               rows[i].bytes);
}

static void print_exchange(const m2_planned *p)
{
    m2_exchange_choice exchange;
    if (m2_ranks_sequence(&p->ranks) > 1 && m2_ranks_exchange(&p->cfg, &p->ranks, &exchange) == M2_OK)
        printf("%-12s %s\n", "exchange", exchange.why);
    if (p->ranks.per_node)
        printf("%-12s among the %d ranks of a node first, then between %d nodes\n", "reductions", p->ranks.per_node,
               p->place.size / p->ranks.per_node);
}

static void print_fit(const m2_planned *p)
{
    if (*p->too_big) printf("%-12s does not fit: %s\n", "", p->too_big);
}

static void print_traffic(const m2_planned *p)
{
    char bytes[32];
    int64_t sum = 0;
    for (int i = 0; i < p->n_traffic; i++) sum += p->traffic[i].bytes;
    if (!p->n_traffic) return;
    printf("%-12s %s sent by each rank in a step\n", "network", m2_human_bytes(bytes, sum));
    for (int i = 0; i < p->n_traffic; i++)
        printf("  %-12s %10s %16" PRId64 " bytes in %" PRId64 " call%s\n", p->traffic[i].verb,
               m2_human_bytes(bytes, p->traffic[i].bytes), p->traffic[i].bytes, p->traffic[i].calls,
               p->traffic[i].calls == 1 ? "" : "s");
}

static double tokens_per_second(const m2_planned *p, const m2_prediction *t)
{
    return tokens_per_step(p) / t->step;
}

static double mfu(const m2_planned *p, const m2_machine *m, const m2_prediction *t)
{
    return m->peak > 0 ? p->flops_model / t->step / (m->peak * p->ranks.comm->size) : 0;
}

/* all: how long it takes where part of that is hidden; 0: no such thing */
static void print_part(const m2_prediction *t, const char *name, double seconds, double all)
{
    char hidden[64] = "";
    if (seconds <= 0 && all <= 0) return;
    if (all > seconds * 1.0001)
        snprintf(hidden, sizeof hidden, "of %.3f ms, the rest beside computing", all * 1e3);
    printf("  %-15s %12.3f ms %5.1f%%  %s\n", name, seconds * 1e3, 100 * seconds / t->step, hidden);
}

static void print_prediction(const m2_planned *p, const m2_machine *m, const m2_prediction *t)
{
    char rate[32], sent[32];
    printf("%-12s %.3f ms per step on %s: %s tokens/s", "predicted", t->step * 1e3, m->name,
           m2_human_count(rate, tokens_per_second(p, t)));
    if (m->peak > 0) printf(", MFU %.1f%%", 100 * mfu(p, m, t));
    putchar('\n');
    print_part(t, "compute", t->compute, 0);
    print_part(t, "exchange", t->exchange, t->exchange_all);
    print_part(t, "reduce", t->reduce, t->reduce_all);
    print_part(t, "agreement", t->agreement, 0);
    printf("  %-15s %12s    %6s %8s %12s\n", "op", "time", "share", "calls", "sent");
    for (int i = 0; i < t->n_ops; i++) {
        const m2_predicted_op *op = &t->op[i];
        printf("  %-15s %12.3f ms %5.1f%% %8" PRId64 " %12s\n", op->name, op->seconds * 1e3,
               100 * op->seconds / t->step, op->calls,
               op->collective ? m2_human_bytes(sent, (int64_t)op->bytes) : "");
    }
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */
static json_t *json_traffic(const m2_planned *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->n_traffic; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "verb", p->traffic[i].verb, "calls",
                                              (json_int_t)p->traffic[i].calls, "bytes",
                                              (json_int_t)p->traffic[i].bytes));
    return list;
}

static json_t *json_prediction(const m2_planned *p, const m2_machine *m, const m2_prediction *t)
{
    json_t *ops = json_array();
    if (!m) return json_null();
    for (int i = 0; i < t->n_ops; i++)
        json_array_append_new(ops, json_pack("{s:s, s:I, s:f, s:f}", "op", t->op[i].name, "calls",
                                             (json_int_t)t->op[i].calls, "seconds", t->op[i].seconds,
                                             "bytes_sent", t->op[i].bytes));
    return json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "machine", m->name,
                     "step_seconds", t->step, "compute_seconds", t->compute, "exchange_seconds", t->exchange,
                     "reduce_seconds", t->reduce, "agreement_seconds", t->agreement, "exchange_all_seconds",
                     t->exchange_all, "reduce_all_seconds", t->reduce_all, "tokens_per_s",
                     tokens_per_second(p, t), "mfu", mfu(p, m, t), "ops", ops);
}

/* m: NULL without a machine description. */
static m2_status print_json(const m2_planned *p, const m2_machine *m, const m2_prediction *t)
{
    memory_row rows[MEMORY_ROWS];
    double tokens = tokens_per_step(p);
    json_t *memory = json_object();
    memory_rows(&p->memory, rows);
    for (int i = 0; i < MEMORY_ROWS; i++)
        json_object_set_new(memory, rows[i].name, json_integer((json_int_t)rows[i].bytes));
    json_object_set_new(memory, "total", json_integer((json_int_t)m2_memory_total(&p->memory)));
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:I, s:s, s:i, s:I, s:i, s:b, s:b, s:f, s:f, s:f, s:o, s:o, s:o}", "family",
        p->cfg.model_family, "parameters", (json_int_t)p->parameters, "vocab", (json_int_t)p->cfg.model_vocab,
        "length", (json_int_t)p->cfg.model_length, "precision", p->cfg.train_precision, "ranks",
        p->batch.ranks, "micro", (json_int_t)p->batch.micro, "micros", p->batch.micros, "recompute",
        p->recompute, "fits", !*p->too_big, "flops_per_token", p->flops_model / tokens, "flops_per_step",
        p->flops_model, "flops_recomputed_per_step", p->flops_again, "memory_per_rank", memory,
        "traffic_per_rank", json_traffic(p), "predicted", json_prediction(p, m, t));
    int bad = !root || json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    json_decref(root);
    putchar('\n');
    return bad ? m2_fail(M2_IO, "cannot write JSON to standard output") : M2_OK;
}

/* ---- the subject ------------------------------------------------------------------------------------------------- */
typedef struct wish {
    int calls, json;
    int64_t ranks, local; /* local 0: not said */
    const char *machine, *mesh;
    int scaling;
} wish;

static m2_status check_wish(wish *w)
{
    if (w->ranks < 1 || w->ranks > 1 << 20)
        return m2_fail(M2_USAGE, "--ranks %" PRId64 ": expected 1 to %d", w->ranks, 1 << 20);
    if (w->local < 0 || w->local > w->ranks)
        return m2_fail(M2_USAGE, "--local %" PRId64 ": expected 1 to --ranks, %" PRId64, w->local, w->ranks);
    return M2_OK;
}

static m2_status show(const wish *w, const m2_planned *p, const m2_machine *m)
{
    m2_prediction t;
    if (m) M2_TRY(m2_predict(p, m, &t));
    if (w->json) return print_json(p, m, &t);
    print_model(p);
    print_step(p);
    print_memory(p);
    print_fit(p);
    print_exchange(p);
    print_traffic(p);
    if (m) print_prediction(p, m, &t);
    if (w->calls) m2_program_print(p->program, stdout);
    return M2_OK;
}

static m2_status plan(const wish *w, const m2_config *cfg, const m2_planner_spec *spec)
{
    m2_planned p;
    M2_TRY(m2_planned_make(cfg, spec, &p));
    m2_status st = show(w, &p, spec->machine);
    m2_planned_free(&p);
    return st;
}

/* run.mesh=auto: all that was tried, then the plan of the best. */
static m2_status search(const wish *w, m2_config *cfg, const m2_planner_spec *spec)
{
    m2_search s;
    char bytes[32];
    m2_status st = m2_search_make(cfg, spec, 0, &s);
    for (int i = 0; i < s.n && !w->json; i++) {
        const m2_candidate *c = &s.row[i];
        printf("%-16s %-34s ", c->mesh, c->rest);
        if (*c->why_not)
            printf("impossible: %.60s\n", c->why_not);
        else
            printf("%10.3f ms %10.3f waiting %10s%s%s\n", c->step * 1e3, c->exposed * 1e3,
                   m2_human_bytes(bytes, c->bytes), c->recompute ? " recomputed" : "",
                   c->fits ? "" : ", does not fit");
    }
    if (st == M2_OK && !w->json) printf("chosen       %s\n", s.why);
    if (st == M2_OK) st = m2_candidate_take(&s.row[0], cfg);
    m2_search_free(&s);
    return st == M2_OK ? plan(w, cfg, spec) : st;
}

m2_status inspect_plan(int argc, char **argv)
{
    wish w = {.ranks = 1};
    const m2_flag flags[] = {{"--ranks", M2_FLAG_INT, &w.ranks},      {"--local", M2_FLAG_INT, &w.local},
                             {"--machine", M2_FLAG_TEXT, &w.machine}, {"--calls", M2_FLAG_ON, &w.calls},
                             {"--json", M2_FLAG_ON, &w.json},         {"--mesh", M2_FLAG_TEXT, &w.mesh},
                             {"--scaling", M2_FLAG_ON, &w.scaling},   {NULL, M2_FLAG_ON, NULL}};
    m2_config cfg;
    m2_machine m;
    M2_TRY(m2_flags_take(&argc, argv, flags));
    M2_TRY(check_wish(&w));
    m2_log_setup(M2_LOG_WARN, 0);
    M2_TRY(m2_config_take(argc, argv, &cfg));
    if (w.mesh) snprintf(cfg.run_mesh, sizeof cfg.run_mesh, "%s", w.mesh);
    int searches = w.scaling || !strcmp(cfg.run_mesh, "auto");
    if (searches && !w.machine)
        return m2_fail(M2_USAGE, "%s needs --machine FILE, which m2 bench ops and m2 bench comm write",
                       w.scaling ? "--scaling" : "run.mesh=auto");
    if (w.machine) M2_TRY(m2_machine_read(w.machine, &m));
    if (w.scaling) return inspect_scaling(&cfg, &m);
    if (!w.local)
        w.local = w.machine && m.ranks_per_node < w.ranks ? m.ranks_per_node : w.machine ? w.ranks : 1;
    m2_planner_spec spec = {
        .ranks = (int)w.ranks, .local_size = (int)w.local, .machine = w.machine ? &m : NULL};
    return searches ? search(&w, &cfg, &spec) : plan(&w, &cfg, &spec);
}
