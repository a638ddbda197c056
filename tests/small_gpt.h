/* small_gpt.h - a gated convolution model of three blocks and 1509 parameters, for tests of programs. */
#ifndef M2_TESTS_SMALL_GPT_H
#define M2_TESTS_SMALL_GPT_H

#include "tests/run_program.h"

enum { WIDTH = 8, VOCAB = 7, LAYERS = 3, FILTERS = 4, HIDDEN = 5, EMB = 5 };

static inline m2_tid small_filter(m2_program *p, int64_t length)
{
    m2_attrs by_row = {0}, decay = {.i[M2_DECAY_LMAX] = length, .f = {-3.07, -15.35}};
    m2_tid z = run_param(p, "z", M2_INIT_POSEMB, (double)length, M2_PARAM_PRECISE | M2_PARAM_FROZEN, 0, 2,
                         length, EMB, 0);
    m2_tid w0 = run_param(p, "w0", M2_INIT_NORMAL, 0.3, M2_PARAM_PRECISE, 1, 2, HIDDEN, EMB, 0);
    m2_tid a = run_param(p, "freq", M2_INIT_CONST, 10, M2_PARAM_PRECISE, 1, 1, HIDDEN, 0, 0);
    m2_tid w1 = run_param(p, "w1", M2_INIT_NORMAL, 0.3, M2_PARAM_PRECISE, 1, 2, HIDDEN, HIDDEN, 0);
    m2_tid w2 = run_param(p, "w2", M2_INIT_NORMAL, 0.3, M2_PARAM_PRECISE, 1, 2, FILTERS, HIDDEN, 0);
    m2_tid h = run_call(p, "in", &m2_op_linear, &by_row, NULL, z, w0, M2_NONE, M2_NONE);
    h = m2_build_binary(p, "sine0", &m2_op_sine, NULL, h, a);
    h = run_call(p, "mid", &m2_op_linear, &by_row, NULL, h, w1, M2_NONE, M2_NONE);
    h = m2_build_binary(p, "sine1", &m2_op_sine, NULL, h, a);
    h = run_call(p, "out", &m2_op_linear, &by_row, NULL, w2, h, M2_NONE, M2_NONE); /* (F, L) = W2 h^T */
    return m2_build_unary(p, "decay", &m2_op_decay, &decay, h);
}

static inline m2_tid small_mixer(m2_program *p, m2_tid u, int64_t length)
{
    m2_tid out[M2_MAX_OUT], y;
    m2_tid q = run_linear(p, "in", u, 3 * WIDTH, WIDTH, 0, 1);
    m2_tid ws = run_param(p, "short.weight", M2_INIT_UNIFORM, 0.5, M2_PARAM_PRECISE, 0, 2, 3 * WIDTH, 3, 0);
    m2_tid bs = run_param(p, "short.bias", M2_INIT_UNIFORM, 0.5, M2_PARAM_PRECISE, 0, 1, 3 * WIDTH, 0, 0);
    m2_attrs gate = {.i[M2_SHORTCONV_GATE] = M2_GATE_FIRST};
    run_call(p, "short", &m2_op_shortconv, &gate, out, q, ws, bs, M2_NONE);
    m2_program_push(p, "filter");
    m2_tid k = small_filter(p, length);
    m2_program_pop(p);
    m2_tid skip = run_param(p, "D", M2_INIT_NORMAL, 1, M2_PARAM_PRECISE, 0, 1, FILTERS, 0, 0),
           all[M2_MAX_OUT];
    m2_tid in[M2_MAX_IN] = {out[1], k, M2_NONE, skip, M2_NONE, out[0], M2_NONE, M2_NONE};
    y = m2_program_call(p, "conv", &m2_op_longconv, NULL, in, all);
    return run_linear(p, "out", y, WIDTH, WIDTH, 1, 0);
}

/* ctx NULL: norm, mixer, add. Else: addnorm blocks that hand on (residual, delta) instead of adding. */
static inline m2_tid small_gpt(m2_program *p, void *ctx)
{
    const m2_program_spec *s = m2_program_spec_of(p);
    m2_tid tokens = m2_program_input(p, "tokens", m2_desc_make(M2_I32, "BL", s->rows, s->length));
    m2_tid targets = m2_program_input(p, "targets", m2_desc_make(M2_I32, "BL", s->rows, s->length));
    m2_dtype t = m2_program_compute_dtype(p);
    m2_attrs embed = {.i = {[M2_EMBED_OUT_DTYPE] = t, [M2_EMBED_PAD] = -1}};
    m2_attrs drop = {.i[M2_DROPOUT_WHOLE_B] = s->rows_whole, .f[M2_DROPOUT_P] = 0.1};
    m2_attrs norm = {.i[M2_NORM_OUT_DTYPE] = t, .f[M2_NORM_EPS] = 1e-5};
    m2_tid table = run_param(p, "embed.weight", M2_INIT_NORMAL, 0.3, 0, 2, 2, VOCAB, WIDTH, 0);
    m2_tid x = run_call(p, "embed", &m2_op_embed, &embed, NULL, tokens, table, M2_NONE, M2_NONE),
           delta = M2_NONE;
    x = m2_build_unary(p, "dropout", &m2_op_dropout, &drop, x);
    for (int i = 0; i < LAYERS; i++) {
        m2_program_push_block(p, "block.%d", i);
        m2_tid u, out[M2_MAX_OUT];
        if (delta == M2_NONE) {
            u = run_norm(p, "norm", x);
        } else {
            m2_tid g = run_param(p, "norm.weight", M2_INIT_CONST, 1, M2_PARAM_PRECISE, 1, 1, WIDTH, 0, 0);
            m2_tid b = run_param(p, "norm.bias", M2_INIT_ZERO, 0, M2_PARAM_PRECISE, 1, 1, WIDTH, 0, 0);
            x = run_call(p, "addnorm", &m2_op_addnorm, &norm, out, x, delta, g, b);
            u = out[1];
        }
        delta = small_mixer(p, u, s->length);
        if (!ctx) x = m2_build_binary(p, "residual", &m2_op_add, NULL, x, delta), delta = M2_NONE;
        m2_program_pop(p);
    }
    if (delta != M2_NONE) x = m2_build_binary(p, "residual", &m2_op_add, NULL, x, delta);
    x = run_norm(p, "norm", x);
    m2_attrs head = {0}, xent = {.i[M2_XENT_IGNORE] = 3, .f = {0}};
    xent.i[M2_XENT_DENOM] = s->rows_whole * s->length;
    m2_tid logits = run_call(p, "head", &m2_op_linear, &head, NULL, x, table, M2_NONE, M2_NONE),
           out[M2_MAX_OUT];
    m2_tid loss = run_call(p, "xent", &m2_op_xent, &xent, out, logits, targets, M2_NONE, M2_NONE);
    m2_program_output(p, "loss", loss);
    m2_program_output(p, "hits", out[2]);
    return loss;
}
#endif
