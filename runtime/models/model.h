/* model.h - what a model family is: a name, its options' defaults live in options.def, and one builder.
 *
 * A builder appends inputs, parameters and calls for one forward pass, and names its outputs. It never mentions ranks,
 * devices, gradients or memory. Adding a family: one file with a builder, one line in models.def, a config, a golden. */
#ifndef M2_MODEL_H
#define M2_MODEL_H

#include "runtime/config.h"
#include "runtime/program.h"

enum { M2_TARGET_NONE = -1 };

typedef struct m2_model {
    const char *name;    /* "gpt": value of model.family */
    const char *task;    /* what the loader must provide: "causal" | "mlm" | "image" */
    const char *summary; /* one line for help */
    /* Inputs it declares for task "causal": "tokens" (B, L) i32 and "targets" (B, L) i32, M2_TARGET_NONE where nothing is
     * to be predicted. Outputs: "loss" = sum over the microbatch / (rows_whole * L), "hits", and in EVAL mode "logits" (a
     * named output keeps its memory; training has no use for them). Parameter groups: runtime/optim.h. */
    void (*build)(m2_program *p, const m2_config *cfg);
} m2_model;

M2_API const m2_model *m2_model_find(const char *name); /* NULL if none */
/* Builds cfg's model for spec: M2_USAGE for impossible combinations. Returned program is not planned; caller frees. */
M2_API m2_status m2_model_build(const m2_config *cfg, const m2_program_spec *spec, m2_program **out) M2_MUST_USE;

#endif
