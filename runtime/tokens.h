/* tokens.h - does a token store fit this run? Checked before anything is built, so that a wrong file costs a second. */
#ifndef M2_TOKENS_H
#define M2_TOKENS_H

#include "data/loader.h"
#include "runtime/config.h"

typedef struct m2_tokens {
    m2_token_store_info info;
    int64_t sequences; /* of model.length tokens */
    char *tokenizer;   /* serialized, malloc'd */
} m2_tokens;

/* Opens the store that option `key` ("data.train") names as `path`. M2_USAGE when no path is given, M2_DATA when it is
 * shorter than one sequence or its tokens do not fit model.vocab (0 = no check). Free also after a failure. */
M2_API m2_status m2_tokens_open(const m2_config *cfg, const char *key, const char *path, m2_tokens *out) M2_MUST_USE;
/* M2_DATA unless the store's tokenizer is `expected` (serialized), which `whose` names: "the checkpoint". */
M2_API m2_status m2_tokens_expect(const m2_tokens *t, const char *path, const char *expected, const char *whose) M2_MUST_USE;
/* The same against the tokenizer that data.tokenizer names, if it does. */
M2_API m2_status m2_tokens_expect_option(const m2_config *cfg, const m2_tokens *t, const char *path) M2_MUST_USE;
M2_API void m2_tokens_free(m2_tokens *t);

/* model.vocab for a tokenizer of `vocab` ids: the next multiple of 8. */
M2_API int64_t m2_tokens_padded(int64_t vocab);

#endif
