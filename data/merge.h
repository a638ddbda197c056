/* merge.h - token stores as one: /tokens is virtual, made of theirs, /documents counts through. h5py and h5dump see one array.
 * Appending to a store is merging it with what comes behind. */
#ifndef M2_MERGE_H
#define M2_MERGE_H

#include "data/token_store.h"

/* The store `out` of the documents of all `paths` in order. The files must stay where they are, seen from `out`: those in its
 * folder by name, others by their full path. Notes: attributes key, value, ..., NULL. M2_DATA when tokenizers differ. */
M2_API m2_status m2_token_store_merge(const char *out, char *const *paths, int64_t count,
                                      const char *const *notes) M2_MUST_USE;

#endif
