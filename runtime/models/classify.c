/* classify.c - what stands in place of the language model's head when a model is fine-tuned on a task (SPEC 3.9).
 *
 *   h = mean of x over the first n positions;  pooled = dropout(tanh(h W^T + b));  y = pooled V^T + c
 *   classes: cross entropy of y;  a number: (y - target)^2. Means over the rows of the whole batch. */
#include "runtime/models/layers.h"

#include "data/glue.h"

/* Means over the first positions of each row, input "pooled" says how many. */
static m2_tid pool(m2_program *p, m2_tid x)
{
    m2_tid n = m2_program_input(p, "pooled", m2_desc_make(M2_I32, "B", m2_program_spec_of(p)->rows));
    return m2i_call(p, "mean", &m2_op_pool, NULL, NULL, x, n, M2_NONE, M2_NONE);
}

void m2i_embed(m2_program *p, m2_tid x)
{
    m2_program_output(p, "embedding", pool(p, x));
}

void m2i_classify(m2_program *p, const m2_config *cfg, m2_tid x)
{
    const m2_program_spec *s = m2_program_spec_of(p);
    const m2_glue_task *task = m2_glue_find(cfg->task_name);
    int64_t d = cfg->model_width, classes = m2_glue_classes(task);
    m2_dtype target = classes ? M2_I32 : m2_program_precise_dtype(p);
    m2_tid targets = m2_program_input(p, "targets", m2_desc_make(target, "B", s->rows));
    m2i_dense dense = {.out = d, .in = d, .std = cfg->model_init_std},
              last = {.out = classes ? classes : 1, .in = d, .std = cfg->model_init_std};
    m2_attrs tanh = {.i[M2_ACT_KIND] = M2_ACT_TANH}, mse = {.i[M2_MSE_DENOM] = s->rows_whole},
             xent = {.i = {[M2_XENT_IGNORE] = M2_TARGET_NONE, [M2_XENT_DENOM] = s->rows_whole}};
    m2_tid out[M2_MAX_OUT];
    m2_program_push(p, "classify");
    m2_tid h = m2_build_unary(p, "act", &m2_op_act, &tanh, m2i_linear(p, "pool", pool(p, x), &dense));
    h = m2i_linear(p, "out", m2i_dropout(p, "dropout", cfg->model_dropout, h), &last);
    if (classes)
        m2i_call(p, "xent", &m2_op_xent, &xent, out, h, targets, M2_NONE, M2_NONE);
    else
        m2i_call(p, "mse", &m2_op_mse, &mse, out, h, targets, M2_NONE, M2_NONE);
    m2_program_output(p, "loss", out[0]);
    if (s->mode == M2_MODE_EVAL) m2_program_output(p, "logits", h);
    m2_program_pop(p);
}
