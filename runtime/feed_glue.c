/* feed_glue.c - rows of TSV files: sentences and their labels. */
#include "data/sampler.h"
#include "runtime/feed_kinds.h"
#include "runtime/models/model.h"
#include "runtime/task.h"

#include <string.h>

static void parts_classify(m2_feed *f)
{
    m2i_feed_part(f, "tokens", f->spec.rows * f->length);
    m2i_feed_part(f, "pooled", f->spec.rows);
    m2i_feed_part(f, "targets", f->spec.rows); /* numbers: the bits of floats */
}

static int64_t invent_classify(const m2_feed *f, int32_t *batch)
{
    m2i_feed_random(f, 0, f->parts[0].count, batch);
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

const m2i_feed_kind m2i_feed_classify = {
    "classify", 0, parts_classify, check_classify, open_classify, next_classify, invent_classify};
