#include "runtime/feed.h"
#include "data/mask.h"
#include "data/sampler.h"
#include "kernels/base/rng.h"
#include "runtime/models/model.h"
#include "runtime/task.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS = 3 };

typedef struct kind kind;

struct m2_feed {
    const kind *kind;
    m2_feed_spec spec;
    int64_t length, batch; /* batch: the next one */
    int counts;            /* the number of targets differs from batch to batch */
    struct {
        const char *input; /* of the program */
        int64_t at, count; /* in the batch */
    } parts[PARTS];
    int n_parts;
    int64_t size;
    m2_loader *loader;
    m2_row_frame frame;
    m2_mask mask;
    double rate; /* of hidden tokens */
    int64_t vocab;
    int32_t *scratch; /* places and labels of a row */
    const m2_glue_task *task;
    m2_glue_rows glue;
    uint64_t seed;
};

struct kind {
    const char *task;
    int counts; /* targets */
    void (*parts)(m2_feed *f);
    m2_status (*check)(m2_feed *f, const m2_config *cfg); /* can this file be of the task? Before open */
    m2_status (*open)(m2_feed *f, const m2_config *cfg);
    m2_status (*next)(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted);
    int64_t (*invent)(const m2_feed *f, int32_t *batch); /* without data; returns the number of targets */
};

static void add_part(m2_feed *f, const char *input, int64_t count)
{
    f->parts[f->n_parts].input = input;
    f->parts[f->n_parts].at = f->size;
    f->parts[f->n_parts++].count = count;
    f->size += count;
}

m2_row_kind m2_feed_row_kind(const m2_config *cfg)
{
    if (!strcmp(m2_model_task(cfg), "embed")) return M2_ROWS_DOCUMENT;
    if (strcmp(m2_model_task(cfg), "mlm") != 0)
        return strcmp(cfg->data_documents, "packed") ? M2_ROWS_TRUNCATED : M2_ROWS_STREAM;
    return strcmp(cfg->mlm_rows, "packed") ? M2_ROWS_DOCUMENT : M2_ROWS_PACKED;
}

static m2_status open_loader(m2_feed *f, const m2_config *cfg)
{
    m2_loader_spec loader = {.path = f->spec.path,
                             .length = f->length,
                             .seed = f->seed,
                             .shuffle = f->spec.training,
                             .rows = f->spec.rows,
                             .workers = f->spec.training ? (int)cfg->data_workers : 1,
                             .frame = f->frame};
    return m2_loader_open(&loader, f->spec.at, f->spec.at_ctx, f->spec.first_batch, &f->loader);
}

static void random_tokens(const m2_feed *f, uint64_t stream, int64_t n, int32_t *out)
{
    m2_rng_key key = m2_rng_make_key(0, 0, stream);
    for (int64_t i = 0; i < n; i++) out[i] = (int32_t)(m2_rng_uniform(key, (uint64_t)i) * (double)f->vocab);
}

/* ---- causal: the next token -------------------------------------------------------------------------------------- */
static void parts_causal(m2_feed *f)
{
    add_part(f, "tokens", f->spec.rows * f->length);
    add_part(f, "targets", f->spec.rows * f->length);
}

static int64_t invent_causal(const m2_feed *f, int32_t *batch)
{
    random_tokens(f, 0, f->size, batch);
    return f->parts[1].count;
}

static m2_status check_causal(m2_feed *f, const m2_config *cfg)
{
    m2_token_store_info info;
    M2_TRY(m2_token_store_info_read(f->spec.path, &info));
    f->frame = (m2_row_frame){.kind = m2_feed_row_kind(cfg),
                              .pad = (int32_t)info.separator,
                              .none = M2_TARGET_NONE,
                              .mask_starts = cfg->data_mask_starts};
    return M2_OK;
}

static m2_status next_causal(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted)
{
    (void)row;
    int32_t *targets = batch + f->parts[1].at;
    M2_TRY(m2_loader_next(f->loader, batch, targets));
    for (int64_t i = keep * f->length; i < f->parts[1].count; i++) targets[i] = M2_TARGET_NONE;
    *predicted = 0;
    for (int64_t i = 0; i < keep * f->length; i++) *predicted += targets[i] != M2_TARGET_NONE;
    return M2_OK;
}

/* ---- mlm: hidden tokens ------------------------------------------------------------------------------------------ */
static void parts_mlm(m2_feed *f)
{
    int64_t tokens = f->spec.rows * f->length, places = m2_mlm_places(tokens, f->rate);
    add_part(f, "tokens", tokens);
    add_part(f, "places", places);
    add_part(f, "targets", places);
}

/* As many places as are expected, at equal distances. */
static int64_t invent_mlm(const m2_feed *f, int32_t *batch)
{
    int64_t tokens = f->parts[0].count, room = f->parts[1].count, n = (int64_t)((double)tokens * f->rate);
    int32_t *places = batch + f->parts[1].at, *targets = batch + f->parts[2].at;
    random_tokens(f, 0, tokens, batch);
    random_tokens(f, 1, room, targets);
    for (int64_t i = 0; i < room; i++) places[i] = i < n ? (int32_t)(i * tokens / n) : -1;
    for (int64_t i = n; i < room; i++) targets[i] = M2_TARGET_NONE;
    return n;
}

static m2_status find_frame(m2_feed *f, const m2_config *cfg, const m2_tokenizer *t)
{
    static const char *const names[] = {"[CLS]", "[SEP]", "[PAD]"};
    int64_t ids[3];
    for (int i = 0; i < 3; i++) {
        ids[i] = m2_tokenizer_special(t, names[i]);
        if (ids[i] < 0)
            return m2_fail(
                M2_DATA,
                "%s was written with a %s tokenizer, which has no token %s: model.family=%s needs a "
                "WordPiece vocabulary such as BERT's vocab.txt",
                f->spec.path, m2_tokenizer_kind(t), names[i], cfg->model_family);
    }
    f->frame = (m2_row_frame){m2_feed_row_kind(cfg), (int32_t)ids[0], (int32_t)ids[1], (int32_t)ids[2], 0, 0};
    return M2_OK;
}

static m2_status open_tokenizer(const m2_feed *f, m2_tokenizer **out)
{
    char *text = NULL;
    M2_TRY(m2_token_store_tokenizer(f->spec.path, &text));
    m2_status st = m2_tokenizer_parse(text, out);
    free(text);
    return st;
}

static m2_status check_mlm(m2_feed *f, const m2_config *cfg)
{
    m2_tokenizer *t = NULL;
    M2_TRY(open_tokenizer(f, &t));
    m2_status st = find_frame(f, cfg, t);
    if (st == M2_OK) st = m2_mask_make(t, f->rate, f->seed, &f->mask);
    m2_tokenizer_close(&t);
    return st;
}

static m2_status open_mlm(m2_feed *f, const m2_config *cfg)
{
    f->scratch = malloc(2 * (size_t)f->length * sizeof *f->scratch);
    if (!f->scratch) return m2_fail(M2_TRANSIENT, "out of memory for a row of %" PRId64 " tokens", f->length);
    return open_loader(f, cfg);
}

static m2_status next_mlm(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted)
{
    int32_t *places = batch + f->parts[1].at, *targets = batch + f->parts[2].at;
    int64_t room = f->parts[1].count, n = 0, length = f->length;
    M2_TRY(m2_loader_next(f->loader, batch, NULL));
    for (int64_t r = 0; r < keep; r++) {
        int32_t *labels = f->scratch + length;
        int64_t hidden = m2_mask_row(&f->mask, row + r, length, batch + r * length, f->scratch, labels);
        if (n + hidden > room)
            return m2_fail(
                M2_BUG,
                "more than %" PRId64 " of %" PRId64
                " tokens were drawn to be hidden at a rate of %g: start the run with another train.seed",
                room, f->parts[0].count, f->mask.rate);
        for (int64_t i = 0; i < hidden; i++, n++) {
            places[n] = (int32_t)(r * length) + f->scratch[i];
            targets[n] = labels[i];
        }
    }
    *predicted = n;
    for (; n < room; n++) places[n] = -1, targets[n] = M2_TARGET_NONE;
    return M2_OK;
}

/* ---- classify: sentences and their labels ------------------------------------------------------------------------ */
static void parts_classify(m2_feed *f)
{
    add_part(f, "tokens", f->spec.rows * f->length);
    add_part(f, "pooled", f->spec.rows);
    add_part(f, "targets", f->spec.rows); /* numbers: the bits of floats */
}

static int64_t invent_classify(const m2_feed *f, int32_t *batch)
{
    random_tokens(f, 0, f->parts[0].count, batch);
    for (int64_t r = 0; r < f->spec.rows; r++) {
        batch[f->parts[1].at + r] = 1;
        batch[f->parts[2].at + r] = 0;
    }
    return f->spec.rows;
}

static m2_status check_classify(m2_feed *f, const m2_config *cfg)
{
    (void)f, (void)cfg; /* m2_task_resolve has read the file */
    return M2_OK;
}

static m2_status open_classify(m2_feed *f, const m2_config *cfg)
{
    m2_tokenizer *t = NULL;
    int skip = !strcmp(cfg->task_on_error, "skip");
    f->task = m2_task_of(cfg);
    M2_TRY(m2_tokenizer_parse(f->spec.tokenizer, &t));
    m2_status st = m2_glue_read(f->task, f->spec.path, t, f->length, skip, &f->glue);
    m2_tokenizer_close(&t);
    return st;
}

static m2_status next_classify(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted)
{
    const m2_glue_rows *g = &f->glue;
    int classes = m2_glue_classes(f->task);
    for (int64_t r = 0; r < f->spec.rows; r++) {
        int64_t i = m2_sampler_item(row + r, g->n, f->seed, f->spec.training);
        float number = (float)g->label[i];
        int32_t *target = batch + f->parts[2].at + r;
        memcpy(batch + r * f->length, g->tokens + i * f->length, (size_t)f->length * sizeof *batch);
        batch[f->parts[1].at + r] = f->task->pool_all ? g->used[i] : 1;
        if (classes)
            *target = r < keep ? (int32_t)g->label[i] : M2_TARGET_NONE;
        else
            memcpy(target, &number, sizeof number);
    }
    *predicted = keep;
    return M2_OK;
}

/* ---- embed: beginnings of documents ------------------------------------------------------------------------------ */
static void parts_embed(m2_feed *f)
{
    add_part(f, "tokens", f->spec.rows * f->length);
    add_part(f, "pooled", f->spec.rows);
}

static int64_t invent_embed(const m2_feed *f, int32_t *batch)
{
    random_tokens(f, 0, f->parts[0].count, batch);
    for (int64_t r = 0; r < f->spec.rows; r++) batch[f->parts[1].at + r] = (int32_t)f->length;
    return f->spec.rows;
}

static m2_status check_embed(m2_feed *f, const m2_config *cfg)
{
    m2_tokenizer *t = NULL;
    M2_TRY(open_tokenizer(f, &t));
    m2_status st = find_frame(f, cfg, t);
    m2_tokenizer_close(&t);
    return st;
}

static m2_status next_embed(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted)
{
    (void)row;
    M2_TRY(m2_loader_next(f->loader, batch, NULL));
    for (int64_t r = 0; r < f->spec.rows; r++) {
        int64_t n = f->length;
        while (n > 0 && batch[r * f->length + n - 1] == f->frame.pad) n--;
        batch[f->parts[1].at + r] = (int32_t)n;
    }
    *predicted = keep;
    return M2_OK;
}

static const kind kinds[] = {
    {"causal", 0, parts_causal, check_causal, open_loader, next_causal, invent_causal},
    {"mlm", 1, parts_mlm, check_mlm, open_mlm, next_mlm, invent_mlm},
    {"classify", 0, parts_classify, check_classify, open_classify, next_classify, invent_classify},
    {"embed", 0, parts_embed, check_embed, open_loader, next_embed, invent_embed},
};

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status make(const m2_config *cfg, const m2_feed_spec *spec, m2_feed **out)
{
    m2_feed *f = *out = calloc(1, sizeof *f);
    if (!f) return m2_fail(M2_TRANSIENT, "out of memory for reading data");
    f->spec = *spec;
    f->length = cfg->model_length;
    f->batch = spec->first_batch;
    f->rate = spec->training ? cfg->mlm_rate : cfg->mlm_val_rate;
    f->vocab = cfg->model_vocab;
    f->seed = (uint64_t)cfg->train_seed;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].task, m2_model_task(cfg))) f->kind = &kinds[i];
    if (!f->kind) return m2_fail(M2_BUG, "nothing reads data for task %s", m2_model_task(cfg));
    f->counts = f->kind->counts || m2_model_skips_targets(cfg);
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
    m2_mask_free(&f->mask);
    m2_glue_rows_free(&f->glue);
    free(f->scratch);
    free(f);
}
