/* sequence_laws.h - a rank of a mesh data x sequence trains as one rank alone does, with either exchange: loss and every gradient
 * of the first step, the losses of 20 and every parameter after them; and it sends to the byte what the list of collectives says,
 * in all and in each of them. One rank alone, called first, is the measure; the model, the batch and the data are functions of
 * `now`. */
#ifndef M2_TESTS_SEQUENCE_LAWS_H
#define M2_TESTS_SEQUENCE_LAWS_H

#include "parallel/levels.h"
#include "runtime/eval.h"
#include "runtime/fit.h"
#include "runtime/models/model.h"
#include "runtime/planner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = 168, BATCH = 12, VOCAB = 16, STEPS = 20, EVERY = 5, MOST_DATA = 4, MOST_ROWS = 400 };

typedef struct way {
    const char *family, *exchange;
    int64_t width, share;
    int sequences[8]; /* ends with 0 */
    m2_precision precision;
    double first, last; /* tolerances: of the first step, after STEPS */
    int micro;
    int groups;       /* of channels */
    const char *plan; /* NULL: optimised */
} way;

/* Both families (one causal, one bidirectional, recomputed and in microbatches), both exchanges, both precisions, every number of
 * ranks. Channels are few enough for the tests' time: 7 ranks need a width of their own, the monarch exchange takes any. */
#define EVERY_WAY(precision, first, last)                                                                             \
    {"gpt", "channel", 24, 4, {1, 2, 3, 4, 8}, precision, first, last, 0, 0, NULL},                                   \
        {"gpt", "channel", 28, 4, {1, 7}, precision, first, last, 0, 0, NULL},                                        \
        {"gpt", "monarch", 10, 2, {1, 2, 3, 4, 7, 8}, precision, first, last, 0, 0, NULL},                            \
        {"bert", "channel", 24, 1, {1, 2, 3, 4, 8}, precision, first, last, 1, 0, NULL},                              \
        {"bert", "channel", 28, 1, {1, 7}, precision, first, last, 1, 0, NULL},                                       \
        {"bert", "monarch", 12, 3, {1, 2, 3, 4, 7, 8}, precision, first, last, 1, 0, NULL}
static const way every_way[] = {EVERY_WAY(M2_PREC_F64, 1e-12, 1e-9), EVERY_WAY(M2_PREC_F32, 1e-5, 1e-3)};
enum { WAYS = sizeof every_way / sizeof *every_way };

/* M2_FULL_MATRIX=1: all of it; otherwise a part of it stands for the rest. */
static inline int full_matrix(void)
{
    const char *asked = getenv("M2_FULL_MATRIX");
    return asked && *asked && strcmp(asked, "0") != 0;
}

static const way *now; /* the case under test, and what one rank found */
static int sparse;     /* filters are a third as long, and lack half of their frequencies */
static int zero;       /* stage of ZeRO */
static int per_node;   /* > 1: reductions go by levels */
static int keeps;      /* 1: what a rank ends with, others must to the bit */
static double *gradients, *parameters, losses[STEPS];
static double *kept[8]; /* of each rank */
static m2_device *on_gpu; /* NULL: the CPU. With NCCL, sums of other stages of ZeRO have other bits */
static _Thread_local int failed; /* 1: a call did, which other ranks may not know of */
static int64_t trained; /* elements of the flat arrays on one rank: on more they end with padding */

static inline m2_config config(const m2_grid *g)
{
    m2_config c;
    m2_config_defaults(&c);
    int bert = !strcmp(now->family, "bert");
    snprintf(c.model_family, sizeof c.model_family, "%s", now->family);
    snprintf(c.model_mlp, sizeof c.model_mlp, "%s", bert ? "blockdiag_glu" : "none");
    snprintf(c.train_plan, sizeof c.train_plan, "%s", now->plan ? now->plan : "optimised");
    c.comm_groups = now->groups;
    snprintf(c.run_exchange, sizeof c.run_exchange, "%s", now->exchange);
    snprintf(c.run_mesh, sizeof c.run_mesh, "%dx%d", g->size[0], g->size[1]);
    snprintf(c.train_recompute, sizeof c.train_recompute, "%s", bert ? "block" : "none");
    c.model_width = now->width, c.model_length = LENGTH, c.model_vocab = VOCAB, c.model_layers = 2,
    c.model_filter_layers = 1;
    c.model_mlp_ratio = 1, c.model_share = now->share, c.model_filter_width = 8, c.model_filter_emb = 5;
    c.mlm_rate = 0.25, c.model_mlp_dropout = bert ? 0.1 : 0, c.model_bidirectional = bert;
    if (sparse) c.model_filter_taps = LENGTH / 3, c.model_filter_band = 0.5;
    c.train_batch = BATCH, c.train_micro = now->micro, c.comm_bucket = 1, c.optim_zero = zero;
    return c;
}

/* ---- data: a function of step, row and position ------------------------------------------------------------------ */
static inline int32_t draw(int64_t step, int64_t row, int64_t t, int64_t salt)
{
    uint64_t x = (uint64_t)(((step * 977 + row) * LENGTH + t) * 4 + salt) * 0x9e3779b97f4a7c15u;
    return (int32_t)((x ^ x >> 29) >> 7 & 0x7fffffff);
}

static inline int hidden(int64_t step, int64_t row, int64_t t)
{
    return draw(step, row, t, 2) % EVERY == 0;
}

static inline m2_status write_scale(m2_program *p, int64_t step)
{
    m2_tid scale = m2_program_find(p, "scale");
    int64_t n = 0;
    for (int64_t i = 0; i < BATCH * LENGTH; i++) n += hidden(step, i / LENGTH, i % LENGTH);
    double wide = 1 / (double)n;
    float narrow = (float)wide;
    return m2_program_write(p, scale, m2_program_desc(p, scale).dtype == M2_F64 ? (void *)&wide : &narrow);
}

static inline m2_status feed(m2_program *p, int64_t step, int64_t row0)
{
    const m2_program_spec *s = m2_program_spec_of(p);
    int64_t n = s->rows * s->length, found = 0;
    m2_runs own = m2_columns_runs(&s->sequence.columns, LENGTH, s->sequence.ranks > 1 ? s->sequence.ranks : 1,
                                  s->sequence.rank);
    m2_tid places = m2_program_find(p, "places"), targets = m2_program_find(p, "targets");
    int64_t room = m2_program_desc(p, targets).shape[0] * (places == M2_NONE ? s->length : 1);
    int32_t *id = malloc((size_t)(n + 2 * room) * sizeof *id), *target = id + n, *place = target + room;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = row0 + i / s->length, t = m2_runs_at(&own, i % s->length);
        id[i] = draw(step, row, t, 0) % VOCAB;
        if (places == M2_NONE) {
            target[i] = draw(step, row, t, 1) % VOCAB;
        } else if (hidden(step, row, t) && found < room) {
            place[found] = (int32_t)i;
            target[found++] = draw(step, row, t, 1) % VOCAB;
        }
    }
    for (; places != M2_NONE && found < room; found++) place[found] = -1, target[found] = M2_TARGET_NONE;
    m2_status st = m2_program_write(p, m2_program_find(p, "tokens"), id);
    if (st == M2_OK) st = m2_program_write(p, targets, target);
    if (st == M2_OK && places != M2_NONE) st = m2_program_write(p, places, place);
    if (st == M2_OK && places != M2_NONE) st = write_scale(p, step);
    free(id);
    return st;
}

/* ---- a rank ------------------------------------------------------------------------------------------------------ */
static inline double *flat(m2_program *p, const char *which)
{
    void *base;
    m2_dtype t;
    int64_t n = m2_program_flat_trained(p);
    double *out = malloc((size_t)n * sizeof *out);
    if (m2_program_flat(p, which, &base, &t) != M2_OK) abort();
    char *host = on_gpu ? malloc((size_t)(n * m2_dtype_size(t))) : base;
    if (on_gpu && (on_gpu->api->copy(on_gpu, host, base, n * m2_dtype_size(t), NULL) != M2_OK ||
                   on_gpu->api->stream_sync(on_gpu, NULL) != M2_OK))
        abort();
    for (int64_t i = 0; i < n; i++) out[i] = t == M2_F64 ? ((double *)(void *)host)[i] : (double)((float *)(void *)host)[i];
    if (on_gpu) free(host);
    return out;
}

/* The largest difference in a parameter (or gradient), relative to the largest value in that parameter; *worst_name is where.
 * Keeps x where one rank alone is the measure. */
static inline double off(const m2_program *p, double **alone, double *x, const char **worst_name)
{
    const m2_param *rows;
    double worst = 0;
    *worst_name = "none";
    if (!*alone) {
        *alone = x;
        return 0;
    }
    for (int i = 0, n = m2_program_params(p, &rows); i < n; i++) {
        m2_desc d = m2_program_desc(p, rows[i].tid);
        int64_t end = rows[i].offset + m2_desc_count(&d);
        double most = 0, scale = 0;
        if (rows[i].flags & M2_PARAM_FROZEN) continue;
        for (int64_t k = rows[i].offset; k < end; k++) {
            double apart = fabs((*alone)[k] - x[k]);
            if (!(apart <= most)) most = apart;
            if (fabs((*alone)[k]) > scale) scale = fabs((*alone)[k]);
        }
        if (most <= worst * scale) continue;
        worst = most / scale;
        *worst_name = rows[i].name;
    }
    free(x);
    return worst;
}

static inline const char *check_bytes(const m2_ranks *r, const m2_training *t, const int64_t before[2])
{
    static _Thread_local char text[200];
    m2_collective_row rows[MOST_ROWS];
    int n = m2_collectives(t->program, t->batch.micros, rows, MOST_ROWS);
    int64_t sum[2] = {before[0], before[1]};
    if (n > MOST_ROWS || (n == 0 && r->comm->size > 1)) return "the list of collectives has a wrong length";
    for (int i = 0; i < n; i++) sum[!strcmp(rows[i].axis, "sequence")] += rows[i].bytes * rows[i].calls;
    int64_t sent[2] = {r->comm->bytes_sent, r->world ? r->mesh.axis[M2_AXIS_SEQUENCE]->bytes_sent : 0};
    if (sent[0] == sum[0] && sent[1] == sum[1]) return NULL;
    snprintf(text, sizeof text, "planned %lld + %lld bytes, sent %lld + %lld", (long long)sum[0],
             (long long)sum[1], (long long)sent[0], (long long)sent[1]);
    return text;
}

/* What each collective sent by itself is what the list says of it, kind by kind and call by call. */
static inline const char *check_each(const m2_training *t)
{
    static _Thread_local char text[300];
    m2_collective_row rows[MOST_ROWS];
    int64_t *sent = calloc((size_t)m2_program_calls(t->program), sizeof *sent);
    const char *broke = sent && m2_program_profile_bytes(t->program, sent) == M2_OK ? NULL : m2_message();
    m2_collectives(t->program, t->batch.micros, rows, MOST_ROWS);
    for (int i = 0, row = 0; i < m2_program_calls(t->program) && !broke; i++) {
        if (!m2_program_call_info(t->program, i).context) continue;
        const m2_collective_row *r = &rows[row++];
        if (sent[i] == r->bytes * r->calls) continue;
        snprintf(text, sizeof text, "%s (%s): planned %lld x %lld bytes, sent %lld", r->path, r->verb,
                 (long long)r->calls, (long long)r->bytes, (long long)sent[i]);
        broke = text;
    }
    free(sent);
    return broke;
}

static inline const char *same_bits(int rank, double *x, int64_t n)
{
    const char *broke = NULL;
    if (keeps) {
        free(kept[rank]);
        kept[rank] = x;
        return NULL;
    }
    for (int64_t i = 0; kept[rank] && i < n; i++)
        if (x[i] != kept[rank][i]) broke = "this plan or ZeRO stage changes the bits of parameters";
    free(x);
    return broke;
}

/* The exchanges of all groups are on their way before any is convolved, forward and backward. */
static inline const char *check_beside(const m2_program *p)
{
    int under_way = 0, beside = 0, good = 0;
    for (int i = 0; i < m2_program_calls(p); i++) {
        m2_call_info c = m2_program_call_info(p, i);
        int convolves = !strncmp(c.op->name, "longconv", 8) || !strncmp(c.op->name, "cyclic", 6);
        beside += c.beside;
        under_way += c.beside && strncmp(c.op->name, "halo", 4) != 0;
        if (!convolves) continue;
        good += under_way >= now->groups;
        under_way = 0;
    }
    return beside && good >= 4 ? NULL : "no exchange runs beside a convolution";
}

/* Losses of all steps; gradients of the first, which no rank has whole with ZeRO. */
static inline const char *check_step(const m2_ranks *r, m2_program *p, int step, double loss)
{
    static _Thread_local char text[200];
    const char *name = "none";
    double g = step > 1 || zero ? 0 : off(p, &gradients, flat(p, "grad"), &name), *alone = &losses[step - 1];
    if (r->comm->size == 1) *alone = loss;
    double l = fabs(loss - *alone) / fabs(*alone), most = step > 1 ? now->last : now->first;
    snprintf(text, sizeof text, "step %d: loss off by %g, gradient of %s by %g", step, l, name, g);
    return l <= most && g <= most ? NULL : text;
}

static inline const char *train(m2_ranks *r, const m2_config *cfg)
{
    static _Thread_local char text[200];
    m2_training t = {0};
    double loss = 0;
    const char *broke = NULL;
    failed = 1;
    if (m2_training_make(cfg, r, &t) != M2_OK || m2_program_init_params(t.program, 7) != M2_OK ||
        m2_program_params_changed(t.program) != M2_OK) /* all ranks together: a master may be in shards */
        return m2_message();
    failed = 0;
    m2_program *p = t.program;
    if (r->comm->size == 1) trained = m2_program_flat_trained(p);
    for (int s = 1; s <= STEPS && (!broke || on_gpu); s++) { /* there, ranks stay together to the end */
        m2_step step = {.seed = 3, .step = s, .lr = 1e-3, .lr_peak = 1e-3, .clip = 1};
        for (int g = 0; g < M2_MAX_GROUPS; g++) step.group[g].lr_scale = 1, step.group[g].weight_decay = 0.1;
        int64_t before[2] = {r->comm->bytes_sent, r->world ? r->mesh.axis[M2_AXIS_SEQUENCE]->bytes_sent : 0};
        m2_status st = m2_program_profile(p, s == 1);
        for (int a = 0; a < t.batch.micros && st == M2_OK; a++) {
            step.row0 = m2_batch_row0(&t.batch, a);
            st = feed(p, s, step.row0);
            if (st == M2_OK) st = m2_program_run(p, &step, a, t.batch.micros);
        }
        if (st == M2_OK) st = m2_read_scalar(p, m2_program_find(p, "loss"), &loss);
        if (st == M2_OK && !broke) broke = check_step(r, p, s, loss);
        if (st == M2_OK) st = m2_program_run_update(p, &step);
        if (st == M2_OK) st = m2_program_sync(p);
        if (st == M2_OK && !broke) broke = check_bytes(r, &t, before);
        if (st == M2_OK && !broke && s == 1) broke = check_each(&t);
        if ((failed = st != M2_OK)) {
            broke = m2_message();
            break;
        }
    }
    const char *name;
    int grouped = now->groups > 1 && r->comm->size > 1;
    if (!broke && r->comm->size > 1 && !on_gpu) broke = same_bits(r->comm->rank, flat(p, "param"), trained);
    if (!broke && grouped && !now->plan) broke = check_beside(p);
    int rough = now->precision == M2_PREC_BF16; /* the optimizer makes as much of a small gradient as of a large one */
    double last = broke || rough ? 0 : off(p, &parameters, flat(p, "param"), &name);
    if (!(last <= now->last))
        snprintf(text, sizeof text, "%s is off by %g after %d steps", name, last, STEPS), broke = text;
    m2_program_free(&t.program);
    return broke;
}

static inline const char *sequence_rank(m2_comm *all, int sequence)
{
    m2_ranks r = {.comm = all, .precision = now->precision, .sharers = 1};
    m2_grid grid = {{all->size / sequence, sequence}};
    m2_config cfg = config(&grid);
    r.device = on_gpu;
    if (!on_gpu && m2_device_open("cpu", 1, &r.device) != M2_OK) return m2_message();
    if (sequence > 1) {
        if (m2_mesh_open(all, &grid, &r.mesh) != M2_OK) return m2_message();
        r.world = all;
        r.comm = r.mesh.all;
    }
    if (per_node > 1 && per_node < all->size && all->size % per_node == 0) {
        r.per_node = per_node;
        if (m2_levels_open(r.comm, per_node) != M2_OK) return m2_message();
    }
    const char *broke = train(&r, &cfg);
    m2_levels_close(r.comm);
    if (sequence > 1) m2_mesh_close(&r.mesh);
    if (!on_gpu) m2_device_close(&r.device);
    return broke;
}

/* The stages of ZeRO beside each other; one rank alone was called. Stage 0 goes on a mesh by `on`, then the others. */
enum { ZERO_STAGES = 3 };
static const way zero_way[] = {{"gpt", "channel", 28, 4, {1, 2, 7}, M2_PREC_F64, 1e-12, 1e-9, 0, 0, NULL},
                               {"bert", "channel", 24, 1, {2, 3, 4}, M2_PREC_F32, 1e-5, 1e-3, 0, 0, NULL},
                               {"gpt", "monarch", 10, 2, {2, 3, 7}, M2_PREC_F32, 1e-5, 1e-3, 0, 0, NULL},
                               {"bert", "monarch", 12, 3, {2, 3, 8}, M2_PREC_F64, 1e-12, 1e-9, 0, 2, NULL}};
enum { ZERO_WAYS = sizeof zero_way / sizeof *zero_way };

static inline void zero_stages(void (*on)(int ranks, int sequence), int ranks, int sequence)
{
    for (zero = 0; zero < ZERO_STAGES; zero++) {
        keeps = zero == 0;
        on(ranks, sequence);
    }
    zero = keeps = 0;
}

static inline void sequence_forget(void)
{
    free(gradients), free(parameters);
    gradients = parameters = NULL;
    for (int r = 0; r < 8; r++) free(kept[r]), kept[r] = NULL;
}
#endif
