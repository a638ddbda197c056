/* generate.h - a language model that goes on with a text, one token at a time. */
#ifndef M2_GENERATE_H
#define M2_GENERATE_H

#include "runtime/restore.h"

typedef struct m2_sampling {
    double temperature; /* logits are divided by it; 0 = always the most likely token */
    double top_p;       /* keep the most likely tokens that together have this probability; 1 = all */
    int64_t top_k;      /* keep this many most likely tokens; 0 = all */
    uint64_t seed;
} m2_sampling;

/* Draws from softmax(logits / temperature), cut by top_k, then top_p. Pure: u in [0, 1) is the randomness; scratch holds
 * 2 * n doubles. Ties go to the lower index; NaN logits are never drawn unless all are. */
M2_API int64_t m2_pick_token(const double *logits, int64_t n, const m2_sampling *s, double u, double *scratch);

typedef struct m2_generator m2_generator;
/* vocab: ids at or beyond it (padding of model.vocab) are never drawn. */
M2_API m2_status m2_generator_open(const m2_restored *m, const m2_ranks *ranks, int64_t vocab, m2_generator **out) M2_MUST_USE;
/* Appends to the context. Only its last model.length tokens count: the window slides. */
M2_API m2_status m2_generator_feed(m2_generator *g, const uint32_t *ids, int64_t n) M2_MUST_USE;
/* Draws the next token and appends it. The context must not be empty. Same seed and context: same tokens. */
M2_API m2_status m2_generator_next(m2_generator *g, const m2_sampling *s, uint32_t *id) M2_MUST_USE;
M2_API void m2_generator_close(m2_generator **g); /* accepts NULL; nulls */

#endif
