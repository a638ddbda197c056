/* layout.h - which part of a global array a rank holds. Pure arithmetic: no communicator, no memory. */
#ifndef M2_LAYOUT_H
#define M2_LAYOUT_H

#include "kernels/base/tensor.h"

/* One contiguous range of one dimension, in elements. */
typedef struct m2_slab {
    int64_t at, count;
} m2_slab;

/* Part i of n elements cut into `parts` consecutive slabs whose sizes differ by at most one: the first n % parts slabs
 * have one more. */
static inline m2_slab m2_slab_of(int64_t n, int parts, int i)
{
    int64_t q = n / parts, more = n % parts;
    m2_slab s = {q * i + (i < more ? i : more), q + (i < more)};
    return s;
}
#endif
