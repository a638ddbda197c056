/* weights.h - a model as numbers in host memory, between file formats: checkpoints of m2, safetensors, averages.
 *
 * Names in safetensors files: family bert has those of the published M2-BERT state dict (models/published.def), all
 * others have our own, param/ left out; optimizer moments are m/NAME and v/NAME. What a checkpoint knows beside numbers
 * (config, tokenizer, step, row) is in the file's metadata, so that the way back needs nothing else. */
#ifndef M2_WEIGHTS_H
#define M2_WEIGHTS_H

#include "runtime/checkpoint.h"
#include "runtime/config.h"

typedef struct m2_weights {
    m2_config cfg;
    char *config, *tokenizer; /* texts; tokenizer "" = none */
    int64_t step, rows;
    m2_device *device;   /* the CPU */
    m2_program *program; /* planned, not bound: for its table of parameters */
    m2_state state;      /* over `flat`; 1 array, or 3 with moments */
    void *flat[3];
} m2_weights;

/* From a run folder or checkpoint; moments: also m and v, if it has them. Free also after a failure. */
M2_API m2_status m2_weights_load(const char *path, int moments, m2_weights *out) M2_MUST_USE;
/* The mean of the parameters of n checkpoints of one model; everything else is that of the last. */
M2_API m2_status m2_weights_average(int n, char **paths, m2_weights *out) M2_MUST_USE;
/* Makes a run folder with this as its only checkpoint. M2_USAGE when there is a checkpoint already. */
M2_API m2_status m2_weights_save(const m2_weights *w, const char *run) M2_MUST_USE;

typedef struct m2_export_spec {
    m2_dtype dtype;     /* M2_F32, M2_BF16, M2_F64; M2_DTYPE_COUNT: as saved */
    int own_names;      /* our names for every family */
    int64_t file_bytes; /* > 0: several files and an index in a folder */
} m2_export_spec;
M2_API m2_status m2_weights_export(const m2_weights *w, const m2_export_spec *spec, const char *path) M2_MUST_USE;

/* cfg: of the model, or NULL for the config in the file's metadata; model.vocab = 0 is taken from the embedding. tokenizer: a
 * serialized one, or NULL for that of the metadata. M2_DATA naming tensors that are missing, left over or of another shape. */
M2_API m2_status m2_weights_import(const char *path, const m2_config *cfg, const char *tokenizer, m2_weights *out) M2_MUST_USE;
M2_API void m2_weights_free(m2_weights *w); /* accepts a zeroed one */

#endif
