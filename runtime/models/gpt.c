/* gpt.c - the causal language model: M2-GPT (SPEC 5.2; model.mlp none), Hyena-GPT (model.mlp dense, model.share 1).
 *
 *   x = dropout(embed(tokens));  per layer: x += Mixer(norm(x)) [; x += MLP(norm(x))];  logits = norm(x) embed^T
 *
 * No positions: the convolutions know them. The head is tied to the embedding. */
#include "runtime/models/layers.h"

#include <math.h>

static void build(m2_program *p, const m2_config *cfg)
{
    const m2_program_spec *s = m2_program_spec_of(p);
    m2_tid tokens = m2_program_input(p, "tokens", m2_desc_make(M2_I32, "BL", s->rows, s->length));
    m2_tid targets = m2_program_input(p, "targets", m2_desc_make(M2_I32, "BL", s->rows, s->length));

    m2_attrs embed = {
        .i = {[M2_EMBED_OUT_DTYPE] = (int64_t)m2_program_precise_dtype(p), [M2_EMBED_PAD] = -1}};
    m2_tid table = m2i_param(p, "embed.weight", cfg->model_vocab, cfg->model_width, M2_INIT_NORMAL,
                             cfg->model_init_std, M2_GROUP_DECAYED, 0);
    m2i_stream x = {m2i_call(p, "embed", &m2_op_embed, &embed, NULL, tokens, table, M2_NONE, M2_NONE),
                    M2_NONE};
    x.sum = m2i_dropout(p, "dropout", cfg->model_dropout, x.sum);
    double ending = 1 / sqrt(2 * (double)cfg->model_layers); /* of a residual branch, SPEC 5.1 */
    m2i_mixing mixing = {.gate = M2_GATE_FIRST, .out_std = ending * cfg->model_init_std};
    m2_tid position = m2i_position(p, cfg);
    for (int64_t i = 0; i < cfg->model_layers; i++) {
        m2_program_push_block(p, "block.%d", (int)i);
        m2i_block(p, cfg, &mixing, ending, position, &x);
        m2_program_pop(p);
    }
    m2_tid y = m2i_norm(p, "norm", &x, cfg->model_norm_eps);

    int counts = m2_model_skips_targets(cfg);
    m2_attrs xent = {
        .i = {[M2_XENT_IGNORE] = M2_TARGET_NONE, [M2_XENT_DENOM] = counts ? 1 : s->rows_whole * m2_program_length(p)}};
    m2_tid logits = m2i_call(p, "head", &m2_op_linear, NULL, NULL, y, table, M2_NONE, M2_NONE),
           out[M2_MAX_OUT];
    m2i_call(p, "loss", &m2_op_xent, &xent, out, logits, targets, M2_NONE, M2_NONE);
    if (counts) {
        m2_tid scale = m2_program_input(p, "scale", m2_desc_make(m2_program_precise_dtype(p), ""));
        out[0] = m2_build_binary(p, "scaled", &m2_op_mul, NULL, out[0], scale);
    }
    m2_program_output(p, "loss", out[0]);
    m2_program_output(p, "hits", out[2]);
    if (s->mode == M2_MODE_EVAL) m2_program_output(p, "logits", logits);
}

const m2_model m2i_model_gpt = {
    .name = "gpt",
    .task = "causal",
    .summary = "causal language model: M2-GPT, Hyena-GPT",
    .build = build,
};
