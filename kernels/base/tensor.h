/* tensor.h - a view of memory: data, dtype, shape, strides. Never owns.
 *
 * Each dimension carries an axis tag that says what it means. Tags are how the rest of the system reasons about
 * a tensor without knowing the model: the mesh cuts tensors by tag, dropout numbers its elements by tag.
 *   'B' rows of the batch   'L' positions of the sequence   'C' channels (any feature width)   '.' anything else
 * Layout names used everywhere: token-major (B, L, C) and channel-major (C, B, L); last dimension contiguous. */
#ifndef M2_BASE_TENSOR_H
#define M2_BASE_TENSOR_H

#include "kernels/base/dtype.h"

enum { M2_MAX_RANK = 4 };

/* Shape and type without data. rank -1 is "absent" (an optional input that was not given). */
typedef struct m2_desc {
    m2_dtype dtype;
    int rank;
    int64_t shape[M2_MAX_RANK];
    char axis[M2_MAX_RANK];
} m2_desc;

/* `whole` and `origin` (elements, per dimension) place this view inside the global array it is a slab of:
 * unsharded, whole == shape and origin == 0. data == NULL is "absent". */
typedef struct m2_tensor {
    void *data;
    m2_dtype dtype;
    int rank;
    int64_t shape[M2_MAX_RANK];
    int64_t stride[M2_MAX_RANK]; /* in elements */
    char axis[M2_MAX_RANK];
    int64_t whole[M2_MAX_RANK], origin[M2_MAX_RANK];
} m2_tensor;

#ifdef __cplusplus
extern "C" {
#endif

/* axes: one tag per dimension, e.g. m2_desc_make(M2_F32, "BLC", b, l, d); dimensions are int64_t. */
M2_API m2_desc m2_desc_make(m2_dtype dtype, const char *axes, ...);
M2_API m2_desc m2_desc_none(void);
M2_API int64_t m2_desc_count(const m2_desc *d); /* elements; 0 when absent, 1 for rank 0 */
M2_API int64_t m2_desc_bytes(const m2_desc *d);
M2_API int m2_desc_same_shape(const m2_desc *a, const m2_desc *b);
/* "f32 (B 8, L 1024, C 256)" into buf of >= 96 bytes; returns buf. */
M2_API char *m2_desc_print(char *buf, const m2_desc *d);

/* A dense row-major view of the whole array at `data` (whole = shape, origin = 0). */
M2_API m2_tensor m2_tensor_make(const m2_desc *d, void *data);
M2_API m2_desc m2_tensor_desc(const m2_tensor *t);
M2_API int64_t m2_tensor_count(const m2_tensor *t);
M2_API int64_t m2_tensor_bytes(const m2_tensor *t);
M2_API int m2_tensor_dense(const m2_tensor *t); /* 1 when row-major without gaps */
M2_API int m2_tensor_rows(const m2_tensor *t);  /* 1 when dense, or rank 2 with gaps between dense rows */

#ifdef __cplusplus
}
#endif

static inline int m2_absent(const m2_tensor *t)
{
    return t->data == 0;
}
#endif
