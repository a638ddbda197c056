#include "runtime/embed.h"
#include "runtime/feed.h"
#include "runtime/models/model.h"
#include "runtime/warm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct m2_embedder {
    m2_config cfg;
    m2_program *program;
    m2_feed *feed;
    m2_tid embedding;
    int64_t rows, done, documents;
    int32_t *inputs;
    void *raw; /* the means in the model's dtype */
};

static int64_t first_row(void *ctx, int64_t batch)
{
    const m2_embedder *e = ctx;
    return batch * e->rows;
}

static m2_status make_program(m2_embedder *e, const m2_restored *m, const m2_ranks *ranks)
{
    m2_program_spec spec = {.mode = M2_MODE_EVAL,
                            .precision = ranks->precision,
                            .rows = e->rows,
                            .rows_whole = e->rows,
                            .length = e->cfg.model_length};
    m2_plan_options plan = m2_ranks_plan(&e->cfg, ranks);
    m2_state state;
    M2_TRY(m2_model_build(&e->cfg, &spec, &e->program));
    M2_TRY(m2_program_plan(e->program, &plan));
    M2_TRY(m2_program_bind(e->program, ranks->device));
    M2_TRY(m2_program_init_params(e->program, 0)); /* positional features of a longer model */
    M2_TRY(m2_state_of(e->program, ranks->device, 0, &state));
    M2_TRY(m2_warm_start(m->manifest.folder, &state));
    e->embedding = m2_program_find(e->program, "embedding");
    return m2_program_params_changed(e->program);
}

static m2_status open_data(m2_embedder *e, const char *store)
{
    m2_feed_spec feed = {.path = store, .rows = e->rows, .at = first_row, .at_ctx = e};
    M2_TRY(m2_feed_open(&e->cfg, &feed, &e->feed));
    m2_desc desc = m2_program_desc(e->program, e->embedding);
    e->documents = m2_feed_rows(e->feed);
    e->inputs = malloc((size_t)m2_feed_size(e->feed) * sizeof *e->inputs);
    e->raw = malloc((size_t)m2_desc_bytes(&desc) + 1);
    return e->inputs && e->raw ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for a batch of documents");
}

m2_status m2_embedder_open(const m2_restored *m, const m2_ranks *ranks, const char *store, int64_t rows,
                           m2_embedder **out)
{
    m2_embedder *e = *out = calloc(1, sizeof *e);
    if (!e) return m2_fail(M2_TRANSIENT, "out of memory for embeddings");
    e->cfg = m->cfg;
    e->rows = rows;
    snprintf(e->cfg.task_name, sizeof e->cfg.task_name, "embed");
    m2_status st = make_program(e, m, ranks);
    if (st == M2_OK) st = open_data(e, store);
    if (st != M2_OK) m2_embedder_close(out);
    return st;
}

int64_t m2_embedder_documents(const m2_embedder *e)
{
    return e->documents;
}

int64_t m2_embedder_width(const m2_embedder *e)
{
    return e->cfg.model_width;
}

m2_status m2_embedder_next(m2_embedder *e, float *x, int64_t *n)
{
    m2_step step;
    memset(&step, 0, sizeof step);
    *n = e->documents - e->done < e->rows ? e->documents - e->done : e->rows;
    if (*n <= 0) return M2_OK;
    int64_t predicted;
    M2_TRY(m2_feed_next(e->feed, *n, e->inputs, &predicted));
    M2_TRY(m2_feed_write(e->feed, e->inputs, 0, e->program));
    M2_TRY(m2_program_run(e->program, &step, 0, 1));
    M2_TRY(m2_program_read(e->program, e->embedding, e->raw));
    m2_dtype dtype = m2_program_desc(e->program, e->embedding).dtype;
    for (int64_t i = 0; i < *n * e->cfg.model_width; i++)
        x[i] = dtype == M2_F64    ? (float)((double *)e->raw)[i]
               : dtype == M2_BF16 ? m2_bf16_to_f32(((uint16_t *)e->raw)[i])
                                  : ((float *)e->raw)[i];
    e->done += *n;
    return M2_OK;
}

void m2_embedder_close(m2_embedder **ep)
{
    m2_embedder *e = *ep;
    *ep = NULL;
    if (!e) return;
    m2_feed_close(&e->feed);
    m2_program_free(&e->program);
    free(e->inputs);
    free(e->raw);
    free(e);
}
