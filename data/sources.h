/* sources.h - the token stores that one path names: "a.h5", or a mixture "a.h5:3,b.h5:1" with weights, or "a.h5,b.h5" with
 * each store's share of the tokens as its weight. */
#ifndef M2_DATA_SOURCES_H
#define M2_DATA_SOURCES_H

#include "data/loader.h"
#include "data/sampler.h"

typedef struct m2i_source {
    char *path;
    double weight; /* 0: none was given */
    m2_store *store;
    m2_array_info tokens;
    m2_token_store_info info;
} m2i_source;

typedef struct m2i_sources {
    int count;
    m2i_source item[M2_MIXTURE_STORES];
} m2i_sources;

/* M2_USAGE for a mixture that cannot be read as one, M2_DATA for stores of different tokenizers. Close also after a failure. */
m2_status m2i_sources_open(const char *path, m2i_sources *out) M2_MUST_USE;
/* Rows of each store and their order. */
m2_status m2i_sources_mix(const m2i_sources *s, m2_row_kind kind, int64_t length, uint64_t seed, int shuffle,
                          m2_mixture *out) M2_MUST_USE;
void m2i_sources_close(m2i_sources *s);

m2_status m2i_token_store_read_info(m2_store *s, m2_token_store_info *out) M2_MUST_USE;

#endif
