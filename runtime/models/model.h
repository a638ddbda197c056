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
    /* Inputs that it declares, (B, L) = (rows, length) of the spec:
     *   "causal"  "tokens" and "targets" (B, L) i32, M2_TARGET_NONE where nothing is to be predicted; "scale" as below if
     *             m2_model_skips_targets
     *   "mlm"     "tokens" (B, L) i32; for N = m2_mlm_places "places" (N) i32, flat indices of (B, L) or -1, and "targets"
     *             (N) i32, M2_TARGET_NONE where places is -1; "scale" () P, which is 1 / places of the whole batch
     *   "classify" (task.name) "tokens" (B, L) i32; "pooled" (B) i32, how many first positions are averaged; "targets" (B) i32
     *             classes, or P numbers
     *   "embed"   (m2 embed) "tokens" (B, L) i32 and "pooled" (B) i32; output "embedding" (B, d), the means, and no others
     *   "image"   "patches" (B, L, 3 * patch * patch) P, patches in raster order, in each its channels, rows, columns;
     *             "pooled" (B) i32, L each; "targets" (B) i32, or with m2_model_soft_targets (B, classes) P; "scale" () P, which
     *             is 1 / pictures of the whole batch
     * Outputs: "loss", a sum over the microbatch times 1 / (rows_whole * L), "scale" or 1 / rows_whole; "hits", not for
     * "classify"; and in EVAL mode "logits" (a named output keeps its memory; training has no use for them). Parameter groups:
     * runtime/optim.h. */
    void (*build)(m2_program *p, const m2_config *cfg);
} m2_model;

/* How many places of `tokens` a program has for hidden ones, each hidden with probability `rate`: eight standard deviations
 * beyond what is expected, all of them for rate 1. Pure. */
M2_API int64_t m2_mlm_places(int64_t tokens, double rate);

M2_API const m2_model *m2_model_find(const char *name); /* NULL if none */
/* 1: some tokens of causal rows are no targets, so that the program divides by their number: input "scale". */
M2_API int m2_model_skips_targets(const m2_config *cfg);
/* 1: programs of this mode learn from distributions over the classes (mixed pictures, smoothed labels). */
M2_API int m2_model_soft_targets(const m2_config *cfg, int training);
M2_API const char *m2_model_task(const m2_config *cfg); /* "classify", "embed", or of cfg's family; "" if there is none */
/* Builds cfg's model for spec: M2_USAGE for impossible combinations. Returned program is not planned; caller frees. */
M2_API m2_status m2_model_build(const m2_config *cfg, const m2_program_spec *spec, m2_program **out) M2_MUST_USE;

#endif
