/* model.c - finding and building a family. */
#include "runtime/models/model.h"

#include <string.h>

#define M2_MODEL(name) extern const m2_model m2i_model_##name;
#include "runtime/models/models.def"
#undef M2_MODEL

static const m2_model *const models[] = {
#define M2_MODEL(name) &m2i_model_##name,
#include "runtime/models/models.def"
#undef M2_MODEL
};

const m2_model *m2_model_find(const char *name)
{
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        if (!strcmp(models[i]->name, name)) return models[i];
    return NULL;
}

int m2_model_soft_targets(const m2_config *cfg, int training)
{
    int mixed = cfg->data_mixup > 0 || cfg->data_cutmix > 0 || cfg->data_smoothing > 0;
    return training && mixed && !strcmp(m2_model_task(cfg), "image");
}

const char *m2_model_task(const m2_config *cfg)
{
    const m2_model *model = m2_model_find(cfg->model_family);
    if (!strcmp(cfg->task_name, "embed")) return "embed";
    if (strcmp(cfg->task_name, "none") != 0) return "classify";
    return model ? model->task : "";
}

int m2_model_skips_targets(const m2_config *cfg)
{
    return !strcmp(m2_model_task(cfg), "causal") &&
           (strcmp(cfg->data_documents, "packed") || cfg->data_mask_starts);
}

static m2_status check(const m2_config *cfg, const m2_program_spec *spec)
{
    if (cfg->model_width % cfg->model_share)
        return m2_fail(
            M2_USAGE,
            "model.share=%lld does not divide model.width=%lld: every filter serves as many channels",
            (long long)cfg->model_share, (long long)cfg->model_width);
    if (cfg->model_filter_emb % 2 == 0)
        return m2_fail(M2_USAGE, "model.filter.emb=%lld must be odd: time, and as many cosines as sines",
                       (long long)cfg->model_filter_emb);
    if (cfg->model_filter_taps > cfg->model_length)
        return m2_fail(
            M2_USAGE,
            "model.filter.taps=%lld is more than model.length=%lld: 0 takes as many as there can be",
            (long long)cfg->model_filter_taps, (long long)cfg->model_length);
    if (cfg->model_filter_band < 1 && !strcmp(cfg->model_family, "gpt"))
        return m2_fail(
            M2_USAGE,
            "model.filter.band=%g: without its high frequencies a filter reaches into the future, which a "
            "model.family=gpt must not see; use 1, or cut filters with model.filter.taps",
            cfg->model_filter_band);
    if (strcmp(cfg->task_name, "none") != 0 && strcmp(cfg->model_family, "bert") != 0)
        return m2_fail(M2_USAGE, "task.name=%s needs model.family=bert, not %s", cfg->task_name,
                       cfg->model_family);
    if (!cfg->model_vocab && strcmp(cfg->model_family, "vit") != 0)
        return m2_fail(M2_USAGE, "model.vocab is not set, and there is no token store to take it from");
    int64_t length = spec->length * (spec->sequence.ranks > 1 ? spec->sequence.ranks : 1);
    if (length != cfg->model_length) /* the filters' positions are fractions of model.length */
        return m2_fail(M2_BUG, "a program of %lld positions for a model of model.length=%lld",
                       (long long)length, (long long)cfg->model_length);
    return M2_OK;
}

m2_status m2_model_build(const m2_config *cfg, const m2_program_spec *spec, m2_program **out)
{
    const m2_model *model = m2_model_find(cfg->model_family);
    *out = NULL;
    if (!model) return m2_fail(M2_USAGE, "model.family=%s: there is no such family", cfg->model_family);
    M2_TRY(check(cfg, spec));
    *out = m2_program_new(spec);
    if (!*out) return m2_fail(M2_TRANSIENT, "out of memory for a program");
    model->build(*out, cfg);
    m2_status st = m2_program_error(*out);
    if (st != M2_OK) m2_program_free(out);
    return st;
}
