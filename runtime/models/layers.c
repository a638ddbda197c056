#include "runtime/models/layers.h"

#include <stdio.h>
#include <string.h>

m2_tid m2i_param(m2_program *p, const char *name, int64_t d0, int64_t d1, m2_init_kind init, double a,
                 int group, unsigned flags)
{
    m2_param row = {.rank = d1 ? 2 : 1,
                    .dims = {d0, d1},
                    .axis = {'C', 'C', '.', '.'},
                    .init = init,
                    .init_a = a,
                    .pad_row = -1,
                    .group = group,
                    .flags = flags};
    snprintf(row.name, sizeof row.name, "%s", name);
    return m2_program_param(p, row);
}

m2_tid m2i_call(m2_program *p, const char *name, const m2_op *op, const m2_attrs *attrs, m2_tid *out,
                m2_tid a, m2_tid b, m2_tid c, m2_tid d)
{
    m2_tid in[M2_MAX_IN], local[M2_MAX_OUT];
    for (int i = 0; i < M2_MAX_IN; i++) in[i] = M2_NONE;
    in[0] = a, in[1] = b, in[2] = c, in[3] = d;
    return m2_program_call(p, name, op, attrs, in, out ? out : local);
}

m2_tid m2i_linear(m2_program *p, const char *name, m2_tid x, const m2i_dense *d)
{
    m2_attrs layout = {.i = {[M2_LINEAR_X_CM] = d->x_cm, [M2_LINEAR_Y_CM] = d->y_cm}};
    m2_program_push(p, "%s", name);
    m2_tid w = m2i_param(p, "weight", d->out, d->in, M2_INIT_NORMAL, d->std, d->group, d->flags), b = M2_NONE;
    if (!d->no_bias) b = m2i_param(p, "bias", d->out, 0, M2_INIT_ZERO, 0, d->group, d->flags);
    m2_tid y = m2i_call(p, "linear", &m2_op_linear, &layout, NULL, x, w, b, M2_NONE);
    m2_program_pop(p);
    return y;
}

m2_tid m2i_dropout(m2_program *p, const char *name, double rate, m2_tid x)
{
    const m2_program_spec *s = m2_program_spec_of(p);
    m2_attrs attrs = {.i[M2_DROPOUT_WHOLE_B] = s->rows_whole, .f[M2_DROPOUT_P] = rate};
    if (s->mode != M2_MODE_TRAIN || rate <= 0) return x;
    return m2_build_unary(p, name, &m2_op_dropout, &attrs, x);
}

unsigned m2i_alike(const m2_config *cfg)
{
    return strcmp(cfg->model_init, "reference") ? 0 : M2_PARAM_ALIKE;
}

m2_tid m2i_norm(m2_program *p, const char *name, m2i_stream *s, double eps)
{
    m2_attrs attrs = {.i[M2_NORM_OUT_DTYPE] = (int64_t)m2_program_compute_dtype(p), .f[M2_NORM_EPS] = eps};
    m2_desc x = m2_program_desc(p, s->sum);
    int64_t width = x.rank > 0 ? x.shape[x.rank - 1] : 0;
    m2_program_push(p, "%s", name);
    m2_tid g = m2i_param(p, "weight", width, 0, M2_INIT_CONST, 1, M2_GROUP_DECAYED, M2_PARAM_PRECISE);
    m2_tid b = m2i_param(p, "bias", width, 0, M2_INIT_ZERO, 0, M2_GROUP_DECAYED, M2_PARAM_PRECISE);
    m2_tid out[M2_MAX_OUT], y;
    if (s->delta == M2_NONE) {
        y = m2i_call(p, "norm", &m2_op_norm, &attrs, NULL, s->sum, g, b, M2_NONE);
    } else {
        s->sum = m2i_call(p, "addnorm", &m2_op_addnorm, &attrs, out, s->sum, s->delta, g, b);
        s->delta = M2_NONE;
        y = out[1];
    }
    m2_program_pop(p);
    return y;
}
