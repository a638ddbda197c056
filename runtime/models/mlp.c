/* mlp.c - dimension mixing: dense, block-diagonal (SPEC 2), block-diagonal with a gate (SPEC 2.4), inner width e.
 *
 *   dense, blockdiag   act(u W1^T + b1) W2^T + b2          blockdiag_glu   (act(g) v) W2^T + b2, [g, v] = u W1^T */
#include "runtime/models/layers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const acts[M2_ACT_COUNT] = {[M2_ACT_GELU_ERF] = "gelu_erf",
                                               [M2_ACT_GELU_TANH] = "gelu_tanh",
                                               [M2_ACT_RELU] = "relu",
                                               [M2_ACT_SILU] = "silu",
                                               [M2_ACT_TANH] = "tanh"};

/* Weight (blocks, out / blocks, in / blocks), uniform as SPEC 2.3 says, times `scale`. */
static m2_tid blockdiag(m2_program *p, const m2_config *cfg, const char *name, m2_tid x, int64_t out,
                        int64_t in, double scale, int bias)
{
    int64_t blocks = cfg->model_mlp_blocks, q = out / blocks, r = in / blocks;
    m2_param row = {.rank = 3,
                    .dims = {blocks, q, r},
                    .axis = {'C', 'C', 'C', '.'},
                    .init = M2_INIT_UNIFORM,
                    .init_a = scale / sqrt((double)r),
                    .pad_row = -1,
                    .group = M2_GROUP_DECAYED,
                    .flags = m2i_alike(cfg)};
    snprintf(row.name, sizeof row.name, "weight");
    m2_program_push(p, "%s", name);
    m2_tid w = m2_program_param(p, row), b = M2_NONE;
    if (bias)
        b = m2i_param(p, "bias", out, 0, M2_INIT_UNIFORM, 1 / sqrt((double)out), M2_GROUP_DECAYED, row.flags);
    m2_tid y = m2i_call(p, "blockdiag", &m2_op_blockdiag, NULL, NULL, x, w, b, M2_NONE);
    m2_program_pop(p);
    return y;
}

m2_tid m2i_mlp(m2_program *p, const m2_config *cfg, double ending, m2_tid u)
{
    int64_t d = cfg->model_width, e = (int64_t)(cfg->model_mlp_ratio * (double)d + 0.5),
            blocks = cfg->model_mlp_blocks;
    int dense = !strcmp(cfg->model_mlp, "dense"), gate = !strcmp(cfg->model_mlp, "blockdiag_glu");
    m2_attrs act = {0};
    for (int k = 0; k < M2_ACT_COUNT; k++)
        if (!strcmp(cfg->model_act, acts[k])) act.i[M2_ACT_KIND] = k;
    if (fabs(cfg->model_mlp_ratio * (double)d - (double)e) > 1e-6)
        return m2_program_reject(
            p,
            m2_fail(M2_USAGE, "model.mlp_ratio=%g times model.width=%lld is not a whole number of channels",
                    cfg->model_mlp_ratio, (long long)d));
    if (!dense && (d % blocks || e % blocks))
        return m2_program_reject(
            p, m2_fail(M2_USAGE,
                       "model.mlp_blocks=%lld does not divide model.width=%lld and the MLP's inner width "
                       "%lld (model.mlp_ratio times the width)",
                       (long long)blocks, (long long)d, (long long)e));
    if (dense) {
        m2i_dense up = {.out = e, .in = d, .std = cfg->model_init_std};
        m2i_dense down = {.out = d, .in = e, .std = ending * cfg->model_init_std};
        m2_tid h = m2i_linear(p, "up", u, &up);
        h = m2_build_unary(p, "act", &m2_op_act, &act, h);
        h = m2i_dropout(p, "dropout", cfg->model_mlp_dropout, h);
        return m2i_linear(p, "down", h, &down);
    }
    m2_tid h = blockdiag(p, cfg, "up", u, gate ? 2 * e : e, d, 1, !gate);
    h = m2_build_unary(p, "act", gate ? &m2_op_glu : &m2_op_act, &act, h);
    h = m2i_dropout(p, "dropout", cfg->model_mlp_dropout, h);
    return blockdiag(p, cfg, "down", h, d, e, ending, 1);
}
