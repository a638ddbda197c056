/* mask.h - masked language modelling: which tokens of a row are hidden, what stands there instead, what is to be guessed.
 *
 * Of the ordinary tokens (not special ones: separators, [CLS], ...) each is chosen with probability `rate`; of the chosen,
 * 80 % become the mask token, 10 % a random ordinary token, 10 % stay. All draws are functions of (seed, row, place): the
 * same for any number of ranks, after a resume, and read again. */
#ifndef M2_MASK_H
#define M2_MASK_H

#include "data/tokenizer.h"

typedef struct m2_mask {
    double rate; /* in [0, 1] */
    uint64_t seed;
    int32_t mask_id;
    int32_t vocab;    /* random tokens are in [0, vocab) */
    uint8_t *special; /* vocab entries: 1 = never chosen, never drawn */
} m2_mask;

/* For tokenizer t; its mask token is "[MASK]", which must be one of its special tokens (M2_DATA). M2_USAGE for a rate outside
 * [0, 1]. Free with m2_mask_free. */
M2_API m2_status m2_mask_make(const m2_tokenizer *t, double rate, uint64_t seed, m2_mask *out) M2_MUST_USE;
M2_API void m2_mask_free(m2_mask *m);

/* Row `row` of the stream: hides tokens[0 .. n) in place; places and labels (room for n each) list the chosen ones in order.
 * Returns their number. Tokens outside the vocabulary are left alone. */
M2_API int64_t m2_mask_row(const m2_mask *m, int64_t row, int64_t n, int32_t *tokens, int32_t *places,
                           int32_t *labels);

#endif
