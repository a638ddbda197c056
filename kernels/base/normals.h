/* normals.h - many normal draws at once: what m2_rng_normal gives, to 1e-14 relative to the largest, several times as fast. */
#ifndef M2_BASE_NORMALS_H
#define M2_BASE_NORMALS_H

#include "kernels/base/rng.h"
#include "kernels/base/status.h"

/* out[i] = normal number from + i of the key's stream. The bits of a draw do not depend on from and n, so work may be cut
 * anywhere. */
M2_API void m2_rng_normals(m2_rng_key key, int64_t from, int64_t n, double *out);
#endif
