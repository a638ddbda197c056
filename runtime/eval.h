/* eval.h - the mean loss of a model over the first sequences of a token store, with a program of its own.
 *
 * The sequences are dealt to the ranks in order; what is left over in the last batch is given no targets, so the result
 * does not depend on how many ranks there are or how large their batches are, but for rounding. */
#ifndef M2_EVAL_H
#define M2_EVAL_H

#include "runtime/ranks.h"

typedef struct m2_eval m2_eval;

typedef struct m2_eval_spec {
    const char *store;     /* token store, or TSV file */
    const char *tokenizer; /* serialized, for task.name */
    int64_t micro;     /* sequences at a time on this rank */
    int64_t sequences; /* how many to evaluate; 0 = all. More than the store has: all */
    m2_program *owner; /* whose parameters to use; NULL: its own, which the caller fills (m2_eval_program) */
} m2_eval_spec;

enum { M2_EVAL_SCORES = 2 };

typedef struct m2_eval_result {
    int64_t sequences, tokens; /* tokens: predicted ones */
    double loss;               /* nats per token */
    double top1;               /* share of tokens, or rows of a task, whose largest logit was right */
    int n_scores;              /* of task.name and pictures, the first one counts; 0 for language models */
    struct {
        const char *name;
        double value;
    } scores[M2_EVAL_SCORES];
} m2_eval_result;

/* Builds, plans and binds the EVAL program of cfg's model. Failures are this rank's own. */
M2_API m2_status m2_eval_open(const m2_config *cfg, const m2_ranks *ranks, const m2_eval_spec *spec, m2_eval **out) M2_MUST_USE;
/* What its activations will take beside the parameters. */
M2_API m2_status m2_eval_bytes(const m2_config *cfg, const m2_ranks *ranks, int64_t micro, int64_t *bytes) M2_MUST_USE;
M2_API m2_program *m2_eval_program(m2_eval *e);
/* Collective; all ranks get the same. Repeatable: always the same sequences. */
M2_API m2_status m2_eval_run(m2_eval *e, m2_eval_result *out) M2_MUST_USE;
M2_API void m2_eval_close(m2_eval **e); /* accepts NULL; nulls */

/* The value of a float scalar tensor, as a double. */
M2_API m2_status m2_read_scalar(m2_program *p, m2_tid t, double *out) M2_MUST_USE;

#endif
