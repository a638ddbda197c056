/* task.h - fine-tuning on a task of GLUE: what task.name stands for in a configuration. */
#ifndef M2_TASK_H
#define M2_TASK_H

#include "data/glue.h"
#include "runtime/tokens.h"

M2_API const m2_glue_task *m2_task_of(const m2_config *cfg); /* NULL: no task, a language model is trained */
/* Completes cfg of a task: model.* (but for dropout) and tokenizer are those of train.init, data.train and data.val the task's
 * files in task.data where they are not given. data->sequences: rows to train on. M2_USAGE when train.init or the files are not
 * named, M2_DATA for a bad row. */
M2_API m2_status m2_task_resolve(m2_config *cfg, m2_tokens *data) M2_MUST_USE;

#endif
