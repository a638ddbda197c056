/* vit.c - the image classifier M2-ViT (SPEC 4): HyenaViT with block-diagonal MLPs.
 *
 *   x = patch W^T + b;  per layer: x += Mixer(norm(x)); x += MLP(norm(x));  logits = mean over the patches of norm(x) V^T + c
 *
 * No position embeddings and no class token: the filters know where they are, one per channel with features of its own. */
#include "runtime/models/layers.h"

static m2_status check(const m2_config *cfg)
{
    int64_t side = cfg->model_image / cfg->model_patch;
    if (cfg->model_image % cfg->model_patch)
        return m2_fail(M2_USAGE, "model.patch=%lld does not divide model.image=%lld",
                       (long long)cfg->model_patch, (long long)cfg->model_image);
    if (cfg->model_length != side * side)
        return m2_fail(M2_USAGE, "model.length=%lld: pictures of %lld cut into patches of %lld need %lld",
                       (long long)cfg->model_length, (long long)cfg->model_image, (long long)cfg->model_patch,
                       (long long)(side * side));
    return M2_OK;
}

/* (B, L, values) to the residual stream, in the precise dtype. */
static m2_tid embed(m2_program *p, const m2_config *cfg, m2_tid patches, int64_t values)
{
    m2_attrs compute = {.i[M2_CAST_OUT_DTYPE] = (int64_t)m2_program_compute_dtype(p)},
             precise = {.i[M2_CAST_OUT_DTYPE] = (int64_t)m2_program_precise_dtype(p)};
    m2i_dense dense = {.out = cfg->model_width, .in = values, .std = cfg->model_init_std};
    int narrow = m2_program_compute_dtype(p) != m2_program_precise_dtype(p);
    m2_tid x = narrow ? m2_build_unary(p, "narrow", &m2_op_cast, &compute, patches) : patches;
    x = m2i_linear(p, "embed", x, &dense);
    return narrow ? m2_build_unary(p, "wide", &m2_op_cast, &precise, x) : x;
}

static void classify(m2_program *p, const m2_config *cfg, m2_tid x, m2_tid pooled, m2_tid targets)
{
    const m2_program_spec *s = m2_program_spec_of(p);
    m2_attrs xent = {.i = {[M2_XENT_IGNORE] = M2_TARGET_NONE, [M2_XENT_DENOM] = 1}},
             soft = {.i[M2_SOFTXENT_DENOM] = 1};
    m2i_dense head = {.out = cfg->model_classes, .in = cfg->model_width, .std = cfg->model_init_std};
    m2_tid scale = m2_program_input(p, "scale", m2_desc_make(m2_program_precise_dtype(p), "")),
           out[M2_MAX_OUT];
    m2_tid mean = m2i_call(p, "mean", &m2_op_pool, NULL, NULL, x, pooled, M2_NONE, M2_NONE);
    m2_tid logits = m2i_linear(p, "head", mean, &head);
    if (m2_model_soft_targets(cfg, s->mode == M2_MODE_TRAIN))
        m2i_call(p, "xent", &m2_op_softxent, &soft, out, logits, targets, M2_NONE, M2_NONE);
    else
        m2i_call(p, "xent", &m2_op_xent, &xent, out, logits, targets, M2_NONE, M2_NONE);
    m2_program_output(p, "loss", m2_build_binary(p, "loss", &m2_op_mul, NULL, out[0], scale));
    m2_program_output(p, "hits", out[2]);
    if (s->mode == M2_MODE_EVAL) m2_program_output(p, "logits", logits);
}

static void build(m2_program *p, const m2_config *cfg)
{
    const m2_program_spec *s = m2_program_spec_of(p);
    int64_t values = 3 * cfg->model_patch * cfg->model_patch;
    m2_dtype precise = m2_program_precise_dtype(p);
    m2i_mixing mixing = {
        .gate = M2_GATE_SECOND, .bidirectional = cfg->model_bidirectional, .out_std = cfg->model_init_std};
    m2_status st = check(cfg);
    if (st != M2_OK) {
        m2_program_reject(p, st);
        return;
    }
    m2_tid patches = m2_program_input(p, "patches", m2_desc_make(precise, "BLC", s->rows, s->length, values));
    m2_desc class = m2_desc_make(M2_I32, "B", s->rows),
            shares = m2_desc_make(precise, "BC", s->rows, cfg->model_classes);
    int soft = m2_model_soft_targets(cfg, s->mode == M2_MODE_TRAIN);
    m2_tid targets = m2_program_input(p, "targets", soft ? shares : class);
    m2_tid pooled = m2_program_input(p, "pooled", m2_desc_make(M2_I32, "B", s->rows)); /* L each */
    m2i_stream x = {embed(p, cfg, patches, values), M2_NONE};
    x.sum = m2i_dropout(p, "dropout", cfg->model_dropout, x.sum);
    for (int64_t i = 0; i < cfg->model_layers; i++) {
        m2_program_push_block(p, "block.%d", (int)i);
        m2i_block(p, cfg, &mixing, 1, M2_NONE, &x);
        m2_program_pop(p);
    }
    classify(p, cfg, m2i_norm(p, "norm", &x, cfg->model_norm_eps), pooled, targets);
}

const m2_model m2i_model_vit = {
    .name = "vit",
    .task = "image",
    .summary = "image classifier: M2-ViT",
    .build = build,
};
