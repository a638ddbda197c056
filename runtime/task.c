#include "runtime/task.h"
#include "kernels/base/log.h"
#include "runtime/restore.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const m2_glue_task *m2_task_of(const m2_config *cfg)
{
    return m2_glue_find(cfg->task_name);
}

/* The body is that of train.init; what only training has stays as configured. */
static m2_status take_model(m2_config *cfg, char **tokenizer)
{
    m2_restored m;
    double dropout = cfg->model_dropout, mlp_dropout = cfg->model_mlp_dropout;
    m2_status st = m2_restore(cfg->train_init, 0, NULL, &m);
    if (st == M2_OK) {
        m2_config_copy(cfg, &m.cfg, "model.");
        cfg->model_dropout = dropout;
        cfg->model_mlp_dropout = mlp_dropout;
        *tokenizer = strdup(m.manifest.tokenizer);
        if (!*tokenizer) st = m2_fail(M2_TRANSIENT, "out of memory for a tokenizer");
    }
    m2_restored_free(&m);
    return m2_context(st, "train.init=%s", cfg->train_init);
}

/* An option that names no file gets the task's own. */
static m2_status take_file(const m2_config *cfg, const m2_glue_task *task, const char *key, const char *file,
                           char path[256])
{
    if (*path) return M2_OK;
    if (!*cfg->task_data)
        return m2_fail(M2_USAGE, "task.data is not set: name the folder that has %s/train.tsv, or %s",
                       task->folder, key);
    int n = snprintf(path, 256, "%s/%s/%s", cfg->task_data, task->folder, file);
    return n < 256 ? M2_OK : m2_fail(M2_USAGE, "the path of %s in task.data is longer than 255 bytes", file);
}

static m2_status count_rows(const m2_config *cfg, const m2_glue_task *task, const char *path,
                            const m2_tokenizer *t, int64_t *n)
{
    m2_glue_rows rows;
    m2_status st = m2_glue_read(task, path, t, cfg->model_length, !strcmp(cfg->task_on_error, "skip"), &rows);
    *n = rows.n;
    if (rows.skipped)
        m2_log(M2_LOG_WARN, "%s: %" PRId64 " bad row%s left out", path, rows.skipped, rows.skipped == 1 ? "" : "s");
    m2_glue_rows_free(&rows);
    return st;
}

m2_status m2_task_resolve(m2_config *cfg, m2_tokens *data)
{
    const m2_glue_task *task = m2_task_of(cfg);
    m2_tokenizer *t = NULL;
    int64_t validation;
    *data = (m2_tokens){0};
    if (!*cfg->train_init)
        return m2_fail(M2_USAGE,
                       "train.init is not set: task.name=%s starts from a trained model, name its run folder",
                       cfg->task_name);
    M2_TRY(take_model(cfg, &data->tokenizer));
    M2_TRY(take_file(cfg, task, "data.train", "train.tsv", cfg->data_train));
    M2_TRY(take_file(cfg, task, "data.val", task->validation, cfg->data_val));
    M2_TRY(m2_tokenizer_parse(data->tokenizer, &t));
    data->info.vocab = m2_tokenizer_vocab(t);
    m2_status st = count_rows(cfg, task, cfg->data_train, t, &data->sequences);
    if (st == M2_OK) st = count_rows(cfg, task, cfg->data_val, t, &validation);
    m2_tokenizer_close(&t);
    return st;
}
