#include "runtime/feed_kinds.h"
#include "kernels/base/rng.h"
#include "runtime/models/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const m2i_feed_kind *const kinds[] = {&m2i_feed_causal, &m2i_feed_mlm, &m2i_feed_embed,
                                             &m2i_feed_classify, &m2i_feed_image};

void m2i_feed_part(m2_feed *f, const char *input, int64_t count)
{
    f->parts[f->n_parts].input = input;
    f->parts[f->n_parts].at = f->size;
    f->parts[f->n_parts++].count = count;
    f->size += count;
}

void m2i_feed_random(const m2_feed *f, uint64_t stream, int64_t n, int32_t *out)
{
    m2_rng_key key = m2_rng_make_key(0, 0, stream);
    for (int64_t i = 0; i < n; i++) out[i] = (int32_t)(m2_rng_uniform(key, (uint64_t)i) * (double)f->vocab);
}

m2_runs m2_feed_slice_of(const m2_config *cfg, const m2_ranks *ranks)
{
    int parts = m2_ranks_sequence(ranks);
    m2_exchange_choice exchange;
    if (parts == 1 || m2_ranks_exchange(cfg, ranks, &exchange) != M2_OK) return (m2_runs){0}; /* no program is without it */
    return m2_columns_runs(&exchange.columns, cfg->model_length, parts,
                           m2_grid_at(&ranks->mesh.grid, ranks->mesh.rank, M2_AXIS_SEQUENCE));
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status make(const m2_config *cfg, const m2_feed_spec *spec, m2_feed **out)
{
    m2_feed *f = *out = calloc(1, sizeof *f);
    if (!f) return m2_fail(M2_TRANSIENT, "out of memory for reading data");
    f->spec = *spec;
    f->length = cfg->model_length;
    if (!f->spec.slice.count) f->spec.slice = (m2_runs){0, f->length, f->length, 0};
    f->batch = spec->first_batch;
    f->rate = spec->training ? cfg->mlm_rate : cfg->mlm_val_rate;
    f->vocab = cfg->model_vocab;
    f->seed = (uint64_t)cfg->train_seed;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i]->task, m2_model_task(cfg))) f->kind = kinds[i];
    if (!f->kind) return m2_fail(M2_BUG, "nothing reads data for task %s", m2_model_task(cfg));
    f->counts = f->kind->counts || m2_model_skips_targets(cfg);
    f->patch = cfg->model_patch;
    f->classes = m2_model_soft_targets(cfg, spec->training) ? cfg->model_classes : 0;
    f->kind->parts(f);
    return M2_OK;
}

m2_status m2_feed_open(const m2_config *cfg, const m2_feed_spec *spec, m2_feed **out)
{
    m2_status st = make(cfg, spec, out);
    if (st == M2_OK && spec->path) st = (*out)->kind->check(*out, cfg);
    if (st == M2_OK && spec->path) st = (*out)->kind->open(*out, cfg);
    if (st != M2_OK) m2_feed_close(out);
    return st;
}

m2_status m2_feed_check(const m2_config *cfg, const char *path)
{
    m2_feed *f;
    m2_feed_spec spec = {.path = path, .rows = 1};
    m2_status st = make(cfg, &spec, &f);
    if (st == M2_OK) st = f->kind->check(f, cfg);
    m2_feed_close(&f);
    return st;
}

int64_t m2_feed_rows(const m2_feed *f)
{
    if (f->pictures) return m2_image_loader_pictures(f->pictures);
    return f->loader ? m2_loader_sequences(f->loader) : f->glue.n;
}

int64_t m2_feed_size(const m2_feed *f)
{
    return f->size;
}

int m2_feed_counts(const m2_feed *f)
{
    return f->counts;
}

double m2_feed_waited(const m2_feed *f)
{
    if (f->pictures) return m2_image_loader_statistics(f->pictures).seconds_waited;
    return f->loader ? m2_loader_statistics(f->loader).seconds_waited : 0;
}

m2_status m2_feed_next(m2_feed *f, int64_t keep, int32_t *batch, int64_t *predicted)
{
    if (!f->spec.path) {
        *predicted = f->kind->invent(f, batch);
        return M2_OK;
    }
    int64_t row = f->spec.at(f->spec.at_ctx, f->batch++);
    if (keep > f->spec.rows) keep = f->spec.rows;
    return f->kind->next(f, row, keep < 0 ? 0 : keep, batch, predicted);
}

static m2_status write_scalar(m2_program *p, m2_tid t, double x)
{
    float narrow = (float)x;
    return m2_program_write(p, t, m2_program_desc(p, t).dtype == M2_F64 ? (void *)&x : &narrow);
}

/* The bits of floats, for an input of doubles. */
static m2_status write_wide(m2_program *p, m2_tid t, const int32_t *bits, int64_t n)
{
    double *wide = malloc((size_t)n * sizeof *wide + 1);
    if (!wide) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " targets", n);
    for (int64_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, bits + i, sizeof x);
        wide[i] = x;
    }
    m2_status st = m2_program_write(p, t, wide);
    free(wide);
    return st;
}

m2_status m2_feed_write(const m2_feed *f, const int32_t *batch, int64_t whole, m2_program *p)
{
    for (int i = 0; i < f->n_parts; i++) {
        m2_tid t = m2_program_find(p, f->parts[i].input);
        const int32_t *from = batch + f->parts[i].at;
        M2_TRY(m2_program_desc(p, t).dtype == M2_F64 ? write_wide(p, t, from, f->parts[i].count)
                                                     : m2_program_write(p, t, from));
    }
    m2_tid scale = m2_program_find(p, "scale");
    return scale == M2_NONE ? M2_OK : write_scalar(p, scale, whole ? 1 / (double)whole : 0);
}

const m2_glue_rows *m2_feed_glue(const m2_feed *f)
{
    return f->task ? &f->glue : NULL;
}

void m2_feed_close(m2_feed **fp)
{
    m2_feed *f = *fp;
    *fp = NULL;
    if (!f) return;
    m2_loader_close(&f->loader);
    m2_image_loader_close(&f->pictures);
    m2_mask_free(&f->mask);
    m2_glue_rows_free(&f->glue);
    free(f->whole);
    free(f->scratch);
    free(f->pixels);
    free(f->shares);
    free(f);
}
