#include "runtime/generate.h"
#include "kernels/base/rng.h"
#include "runtime/models/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- drawing ----------------------------------------------------------------------------------------------------- */
static int by_value(const void *a,
                    const void *b) /* pairs (value, index): larger values first, then lower indices */
{
    const double *x = a, *y = b;
    if (x[0] != y[0]) return x[0] > y[0] ? -1 : 1;
    return x[1] < y[1] ? -1 : x[1] > y[1];
}

int64_t m2_pick_token(const double *logits, int64_t n, const m2_sampling *s, double u, double *scratch)
{
    for (int64_t i = 0; i < n; i++) {
        scratch[2 * i] = isnan(logits[i]) ? -HUGE_VAL : logits[i];
        scratch[2 * i + 1] = (double)i;
    }
    qsort(scratch, (size_t)n, 2 * sizeof *scratch, by_value);
    int64_t kept = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    if (!(s->temperature > 0)) return (int64_t)scratch[1];
    double most = scratch[0], sum = 0, whole = 0;
    for (int64_t i = 0; i < kept; i++) {
        scratch[2 * i] = exp((scratch[2 * i] - most) / s->temperature);
        whole += scratch[2 * i];
    }
    for (int64_t i = 0; i < kept; i++) { /* the shortest prefix of probability top_p */
        sum += scratch[2 * i];
        if (sum >= s->top_p * whole) kept = i + 1;
    }
    double at = u * sum;
    for (int64_t i = 0; i < kept; i++)
        if ((at -= scratch[2 * i]) < 0) return (int64_t)scratch[2 * i + 1];
    return (int64_t)scratch[1];
}

/* ---- the model --------------------------------------------------------------------------------------------------- */
struct m2_generator {
    m2_device *device;
    m2_program *program;
    m2_tid tokens, targets, logits;
    int64_t length, vocab, width; /* width: logits of a position, vocab padded */
    int64_t count, drawn;         /* tokens in the window; drawn so far */
    int32_t *window;              /* [2 * length]: the tokens, then targets that count for nothing */
    void *raw;                    /* one row of logits in the program's dtype */
    double *row, *scratch;
};

m2_status m2_generator_open(const m2_restored *m, const m2_ranks *ranks, int64_t vocab, m2_generator **out)
{
    m2_generator *g = NULL;
    *out = NULL;
    if (strcmp(m2_model_task(&m->cfg), "causal") != 0)
        return m2_fail(M2_USAGE, "model.family=%s does not go on with a text: m2 sample is for causal models",
                       m->cfg.model_family);
    *out = g = calloc(1, sizeof *g);
    if (!g) return m2_fail(M2_TRANSIENT, "out of memory for a generator");
    g->device = ranks->device;
    g->length = m->cfg.model_length;
    g->vocab = vocab;
    m2_program_spec spec = {
        .mode = M2_MODE_EVAL, .precision = ranks->precision, .rows = 1, .rows_whole = 1, .length = g->length};
    m2_plan_options plan = m2_ranks_plan(&m->cfg, ranks);
    m2_status st = m2_model_build(&m->cfg, &spec, &g->program);
    if (st == M2_OK) st = m2_program_plan(g->program, &plan);
    if (st == M2_OK) st = m2_program_bind(g->program, ranks->device);
    if (st == M2_OK) st = m2_restore_params(m, ranks, g->program);
    if (st == M2_OK) {
        g->tokens = m2_program_find(g->program, "tokens");
        g->targets = m2_program_find(g->program, "targets");
        g->logits = m2_program_find(g->program, "logits");
        m2_desc desc = m2_program_desc(g->program, g->logits);
        g->width = desc.rank > 0 ? desc.shape[desc.rank - 1] : 0;
        if (g->vocab > g->width) g->vocab = g->width;
        g->window = calloc(2 * (size_t)g->length, sizeof *g->window);
        g->raw = malloc((size_t)g->width * sizeof(double) + 1);
        g->row = malloc((size_t)g->width * 3 * sizeof *g->row + 1);
        if (!g->width)
            st = m2_fail(M2_BUG, "model %s gives no logits", m->cfg.model_family);
        else if (!g->window || !g->raw || !g->row)
            st = m2_fail(M2_TRANSIENT, "out of memory for a generator");
        else
            g->scratch = g->row + g->width;
    }
    for (int64_t i = 0; st == M2_OK && i < g->length; i++) g->window[g->length + i] = M2_TARGET_NONE;
    if (st != M2_OK) m2_generator_close(out);
    return st;
}

m2_status m2_generator_feed(m2_generator *g, const uint32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] >= g->vocab)
            return m2_fail(M2_DATA, "token %" PRIu32 " is not in the model's vocabulary of %" PRId64, ids[i],
                           g->vocab);
        if (g->count == g->length) memmove(g->window, g->window + 1, (size_t)--g->count * sizeof *g->window);
        g->window[g->count++] = (int32_t)ids[i];
    }
    return M2_OK;
}

/* The logits after the last token of the window, as doubles. */
static m2_status read_logits(m2_generator *g)
{
    m2_tensor t = m2_program_tensor(g->program, g->logits);
    int64_t size = m2_dtype_size(t.dtype), bytes = g->width * size;
    const char *from = (const char *)t.data + (g->count - 1) * bytes;
    M2_TRY(m2_program_sync(g->program));
    M2_TRY(g->device->api->copy(g->device, g->raw, from, bytes, NULL));
    M2_TRY(g->device->api->stream_sync(g->device, NULL));
    for (int64_t i = 0; i < g->width; i++)
        g->row[i] = t.dtype == M2_F64    ? ((double *)g->raw)[i]
                    : t.dtype == M2_BF16 ? (double)m2_bf16_to_f32(((uint16_t *)g->raw)[i])
                                         : (double)((float *)g->raw)[i];
    return M2_OK;
}

m2_status m2_generator_next(m2_generator *g, const m2_sampling *s, uint32_t *id)
{
    m2_step step;
    memset(&step, 0, sizeof step);
    if (!g->count) return m2_fail(M2_USAGE, "nothing to go on from: the prompt is empty");
    M2_TRY(m2_program_write(g->program, g->tokens, g->window));
    M2_TRY(m2_program_write(g->program, g->targets, g->window + g->length));
    M2_TRY(m2_program_run(g->program, &step, 0, 1));
    M2_TRY(read_logits(g));
    double u = m2_rng_uniform(m2_rng_make_key(s->seed, 0, 0), (uint64_t)g->drawn++);
    *id = (uint32_t)m2_pick_token(g->row, g->vocab, s, u, g->scratch);
    return m2_generator_feed(g, id, 1);
}

void m2_generator_close(m2_generator **g)
{
    if (!*g) return;
    m2_program_free(&(*g)->program);
    free((*g)->window);
    free((*g)->raw);
    free((*g)->row);
    free(*g);
    *g = NULL;
}
