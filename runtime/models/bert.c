/* bert.c - the masked language model M2-BERT (SPEC 3).
 *
 *   x = dropout(norm(word[id] + type[0] + position[t]))
 *   per layer: x = Mixer(x), both ways, with the residual convolution;  x = norm(x + MLP(x))
 *   head at the hidden places: logits = norm(gelu(x W^T + b)) word^T + bias
 *
 * No residual path around the mixer: its second long convolution is one. Padding takes part like any other token. */
#include "runtime/models/layers.h"

#include <math.h>
#include <string.h>

enum { PAD = 0 }; /* first in BERT's vocabularies: its row stays zero and learns from the head only */

int64_t m2_mlm_places(int64_t tokens, double rate)
{
    double mean = (double)tokens * rate, deviation = sqrt(mean * (1 - rate));
    int64_t most = ((int64_t)ceil(mean + 8 * deviation) + 15) / 8 * 8;
    return most < tokens ? most : tokens;
}

static m2_tid table_of_words(m2_program *p, const m2_config *cfg)
{
    m2_param row = {.name = "embed.weight",
                    .rank = 2,
                    .dims = {cfg->model_vocab, cfg->model_width},
                    .axis = {'C', 'C', '.', '.'},
                    .init = M2_INIT_NORMAL,
                    .init_a = cfg->model_init_std,
                    .pad_row = PAD,
                    .group = M2_GROUP_DECAYED};
    return m2_program_param(p, row);
}

static m2_tid embed(m2_program *p, const m2_config *cfg, m2_tid tokens, m2_tid table)
{
    int64_t d = cfg->model_width;
    double std = cfg->model_init_std;
    m2_attrs attrs = {
        .i = {[M2_EMBED_OUT_DTYPE] = (int64_t)m2_program_precise_dtype(p), [M2_EMBED_PAD] = PAD}};
    m2_program_push(p, "embed");
    m2_tid position =
        m2i_param(p, "position", cfg->model_length, d, M2_INIT_NORMAL, std, M2_GROUP_DECAYED, 0);
    m2_tid type = m2i_param(p, "type", 2, d, M2_INIT_NORMAL, std, M2_GROUP_DECAYED, 0);
    m2i_stream x = {m2i_call(p, "sum", &m2_op_embed, &attrs, NULL, tokens, table, position, type), M2_NONE};
    m2_tid y = m2i_norm(p, "norm", &x, cfg->model_norm_eps);
    y = m2i_dropout(p, "dropout", cfg->model_dropout, y);
    m2_program_pop(p);
    return y;
}

static m2_tid block(m2_program *p, const m2_config *cfg, m2_tid u)
{
    m2i_mixing mixing = {
        .gate = M2_GATE_SECOND, .bidirectional = 1, .residual = 1, .out_std = cfg->model_init_std};
    m2i_stream x = {u, M2_NONE};
    m2_program_push(p, "mixer");
    if (cfg->model_additions) x.sum = m2i_norm(p, "norm", &x, 1e-5);
    x.sum = m2i_mixer(p, cfg, &mixing, M2_NONE, x.sum);
    m2_program_pop(p);
    m2_program_push(p, "mlp");
    x.delta = m2i_mlp(p, cfg, 1, x.sum);
    u = m2i_norm(p, "norm", &x, cfg->model_norm_eps);
    m2_program_pop(p);
    return u;
}

/* Loss and hits at the `places` of x, flat indices of the batch or -1. */
static void masked_head(m2_program *p, const m2_config *cfg, m2_tid x, m2_tid table)
{
    const m2_program_spec *s = m2_program_spec_of(p);
    double rate = s->mode == M2_MODE_TRAIN ? cfg->mlm_rate : cfg->mlm_val_rate;
    int64_t n = m2_mlm_places(s->rows * s->length, rate);
    m2_tid places = m2_program_input(p, "places", m2_desc_make(M2_I32, ".", n));
    m2_tid targets = m2_program_input(p, "targets", m2_desc_make(M2_I32, ".", n));
    m2_tid scale = m2_program_input(p, "scale", m2_desc_make(m2_program_precise_dtype(p), ""));
    m2i_dense dense = {.out = cfg->model_width, .in = cfg->model_width, .std = cfg->model_init_std};
    m2_attrs gelu = {.i[M2_ACT_KIND] = M2_ACT_GELU_ERF};
    m2_attrs xent = {.i = {[M2_XENT_IGNORE] = M2_TARGET_NONE, [M2_XENT_DENOM] = 1}};
    m2_tid out[M2_MAX_OUT];
    m2_program_push(p, "head");
    m2i_stream t = {m2i_call(p, "gather", &m2_op_gather, NULL, NULL, x, places, M2_NONE, M2_NONE), M2_NONE};
    t.sum = m2_build_unary(p, "act", &m2_op_act, &gelu, m2i_linear(p, "dense", t.sum, &dense));
    m2_tid y = m2i_norm(p, "norm", &t, cfg->model_norm_eps);
    m2_tid bias = m2i_param(p, "bias", cfg->model_vocab, 0, M2_INIT_ZERO, 0, M2_GROUP_DECAYED, 0);
    m2_tid logits = m2i_call(p, "words", &m2_op_linear, NULL, NULL, y, table, bias, M2_NONE);
    m2i_call(p, "xent", &m2_op_xent, &xent, out, logits, targets, M2_NONE, M2_NONE);
    m2_program_output(p, "loss", m2_build_binary(p, "loss", &m2_op_mul, NULL, out[0], scale));
    m2_program_output(p, "hits", out[2]);
    if (s->mode == M2_MODE_EVAL) m2_program_output(p, "logits", logits);
    m2_program_pop(p);
}

static void build(m2_program *p, const m2_config *cfg)
{
    const m2_program_spec *s = m2_program_spec_of(p);
    m2_tid tokens = m2_program_input(p, "tokens", m2_desc_make(M2_I32, "BL", s->rows, s->length));
    m2_tid table = table_of_words(p, cfg), x = embed(p, cfg, tokens, table);
    for (int64_t i = 0; i < cfg->model_layers; i++) {
        m2_program_push_block(p, "block.%d", (int)i);
        x = block(p, cfg, x);
        m2_program_pop(p);
    }
    if (!strcmp(cfg->task_name, "none"))
        masked_head(p, cfg, x, table);
    else if (!strcmp(cfg->task_name, "embed"))
        m2i_embed(p, x);
    else
        m2i_classify(p, cfg, x);
}

const m2_model m2i_model_bert = {
    .name = "bert",
    .task = "mlm",
    .summary = "masked language model: M2-BERT",
    .build = build,
};
