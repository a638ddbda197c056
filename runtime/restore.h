/* restore.h - a trained model from a checkpoint, for tools that do not train: its config, tokenizer and parameters. */
#ifndef M2_RESTORE_H
#define M2_RESTORE_H

#include "runtime/checkpoint.h"
#include "runtime/ranks.h"

typedef struct m2_restored {
    m2_manifest manifest;
    m2_config cfg; /* as trained, then the overrides; run.* back to their defaults */
} m2_restored;

/* path: a run folder, its checkpoints folder or one checkpoint. overrides: n times "key=value". Free also after a failure.
 * A precision that only a GPU has becomes "auto". */
M2_API m2_status m2_restore(const char *path, int n, char **overrides, m2_restored *out) M2_MUST_USE;
/* Reads the parameters into a bound program of m->cfg's model. */
M2_API m2_status m2_restore_params(const m2_restored *m, const m2_ranks *ranks, m2_program *p) M2_MUST_USE;
M2_API void m2_restored_free(m2_restored *m);

#endif
