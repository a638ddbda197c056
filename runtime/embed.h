/* embed.h - documents as vectors: the mean of the last layer over the tokens of each, for search and comparison. */
#ifndef M2_EMBED_H
#define M2_EMBED_H

#include "runtime/restore.h"

typedef struct m2_embedder m2_embedder;

/* Of the documents of a token store, each cut at model.length tokens, `rows` at a time. m->cfg may be longer than the checkpoint
 * (runtime/warm.h); a head that the checkpoint has is left out. M2_USAGE for a causal model. One process. */
M2_API m2_status m2_embedder_open(const m2_restored *m, const m2_ranks *ranks, const char *store, int64_t rows,
                                  m2_embedder **out) M2_MUST_USE;
M2_API int64_t m2_embedder_documents(const m2_embedder *e);
M2_API int64_t m2_embedder_width(const m2_embedder *e);
/* The next documents, at most `rows`: x (n, width). n = 0 at the end. */
M2_API m2_status m2_embedder_next(m2_embedder *e, float *x, int64_t *n) M2_MUST_USE;
M2_API void m2_embedder_close(m2_embedder **e); /* accepts NULL; nulls */

#endif
