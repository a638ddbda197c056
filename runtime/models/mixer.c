/* mixer.c - sequence mixing by gated long convolution (SPEC 3.2, 5.1, 5.2), channel-major from the in- to the out-projection.
 *
 *   p = u Win^T + bin (3d);  x0, x1, v = thirds of the short causal convolution of p;  w = v x1
 *   y[c] = filter of c's head * w[c] + D w[c];   result = (y x0) Wout^T + bout
 *   residual: result = (y x0 + yr) Wout^T + bout, yr[c] = filter' of c's head * u[c] + D' u[c]
 *
 * The filters, one per model.share channels, come from a small network of the position (SPEC 3.3):
 *   h = sin(a (W0 z + b0)), again per inner layer, then k = (W h) exp(-t |delta|), z the positional features
 * model.filter.taps cuts them, model.filter.band keeps their low frequencies only (kernels/ops.h).
 * Bidirectional ones have a second network, with the same z and a, for the taps that reach into the future. */
#include "runtime/models/layers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A filter shorter than the sequence is the beginning of the one that would be as long: positions stay fractions of
 * model.length. */
static int64_t taps_of(const m2_config *cfg)
{
    return cfg->model_filter_taps ? cfg->model_filter_taps : cfg->model_length;
}

m2_tid m2i_position(m2_program *p, const m2_config *cfg)
{
    return m2i_param(p, "filter.position", taps_of(cfg), cfg->model_filter_emb, M2_INIT_POSEMB,
                     (double)cfg->model_length, M2_GROUP_FILTER, M2_PARAM_PRECISE | M2_PARAM_FROZEN);
}

/* -> k (F, taps) */
static m2_tid implicit_filter(m2_program *p, const m2_config *cfg, m2_tid position, m2_tid frequency)
{
    int64_t width = cfg->model_filter_width, filters = cfg->model_width / cfg->model_share;
    m2i_dense layer = {.out = width,
                       .in = cfg->model_filter_emb,
                       .std = cfg->model_init_std,
                       .group = M2_GROUP_FILTER,
                       .flags = M2_PARAM_PRECISE};
    m2_attrs decay = {.i[M2_DECAY_LMAX] = cfg->model_length,
                      .f = {[M2_DECAY_DELTA0] = log(0.01) / 1.5, [M2_DECAY_DELTA1] = log(0.01) / 0.3}};
    m2_tid h = position;
    for (int64_t i = 0; i <= cfg->model_filter_layers; i++) {
        char name[32];
        snprintf(name, sizeof name, "layer.%d", (int)i);
        h = m2i_linear(p, name, h, &layer);
        snprintf(name, sizeof name, "sine.%d", (int)i);
        h = m2_build_binary(p, name, &m2_op_sine, NULL, h, frequency);
        layer.in = width;
    }
    m2_tid w = m2i_param(p, "out.weight", filters, width, M2_INIT_NORMAL, cfg->model_init_std,
                         M2_GROUP_FILTER, M2_PARAM_PRECISE);
    h = m2i_call(p, "out", &m2_op_linear, NULL, NULL, w, h, M2_NONE, M2_NONE); /* W h^T: already (F, L) */
    return m2_build_unary(p, "decay", &m2_op_decay, &decay, h);
}

/* u, post (d, B, L) -> (filter * u + D u) post; post may be M2_NONE. */
static m2_tid long_convolution(m2_program *p, const m2_config *cfg, const m2i_mixing *kind, m2_tid position,
                               m2_tid u, m2_tid post)
{
    m2_tid future = M2_NONE, out[M2_MAX_OUT];
    m2_program_push(p, "filter");
    m2_tid frequency = m2i_param(p, "frequency", cfg->model_filter_width, 0, M2_INIT_CONST,
                                 cfg->model_filter_freq, M2_GROUP_FILTER, M2_PARAM_PRECISE);
    if (position == M2_NONE)
        position = m2i_param(p, "position", taps_of(cfg), cfg->model_filter_emb, M2_INIT_POSEMB,
                             (double)cfg->model_length, M2_GROUP_POSITION, M2_PARAM_PRECISE);
    m2_tid k = implicit_filter(p, cfg, position, frequency);
    if (kind->bidirectional) {
        m2_program_push(p, "reverse");
        future = implicit_filter(p, cfg, position, frequency);
        m2_program_pop(p);
    }
    m2_program_pop(p);
    m2_tid skip = m2i_param(p, "skip", cfg->model_width / cfg->model_share, 0, M2_INIT_NORMAL, 1,
                            M2_GROUP_DECAYED, M2_PARAM_PRECISE | m2i_alike(cfg));
    m2_attrs attrs = {.i[M2_LONGCONV_SHARE] =
                          strcmp(cfg->model_share_by, "index") ? M2_SHARE_HEAD : M2_SHARE_INDEX,
                      .f[M2_LONGCONV_BAND] = cfg->model_filter_band < 1 ? cfg->model_filter_band : 0};
    m2_tid operands[M2_MAX_IN] = {u, k, future, skip, M2_NONE, post, M2_NONE, M2_NONE};
    return m2_program_call(p, "conv", &m2_op_longconv, &attrs, operands, out);
}

m2_tid m2i_mixer(m2_program *p, const m2_config *cfg, const m2i_mixing *kind, m2_tid position, m2_tid u)
{
    int64_t d = cfg->model_width, taps = cfg->model_short_taps;
    unsigned flags = M2_PARAM_PRECISE | m2i_alike(cfg);
    m2i_dense in = {.out = 3 * d, .in = d, .std = cfg->model_init_std, .x_cm = kind->residual, .y_cm = 1};
    m2i_dense out = {.out = d, .in = d, .std = kind->out_std, .x_cm = 1};
    if (kind->residual) u = m2_build_unary(p, "turn", &m2_op_transpose, NULL, u);
    m2_tid q = m2i_linear(p, "in", u, &in), gated[M2_MAX_OUT];

    m2_attrs gate = {.i[M2_SHORTCONV_GATE] = kind->gate};
    double bound = 1 / sqrt((double)taps);
    m2_tid w = m2i_param(p, "short.weight", 3 * d, taps, M2_INIT_UNIFORM, bound, M2_GROUP_DECAYED, flags);
    m2_tid b = m2i_param(p, "short.bias", 3 * d, 0, M2_INIT_UNIFORM, bound, M2_GROUP_DECAYED, flags);
    m2i_call(p, "short", &m2_op_shortconv, &gate, gated, q, w, b, M2_NONE);

    m2_tid y = long_convolution(p, cfg, kind, position, gated[1], gated[0]);
    if (kind->residual) {
        m2_program_push(p, "residual");
        m2_tid beside = long_convolution(p, cfg, kind, position, u, M2_NONE);
        m2_program_pop(p);
        y = m2_build_binary(p, "sum", &m2_op_add, NULL, y, beside);
    }
    return m2i_linear(p, "out", y, &out);
}
