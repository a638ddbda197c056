/* dtype.h - element types. */
#ifndef M2_BASE_DTYPE_H
#define M2_BASE_DTYPE_H

#include "kernels/base/status.h"
#include <stdint.h>
#include <string.h>

/* X(enum, name, bytes). Names are also what configs, stores and checkpoints say. */
#define M2_DTYPE_TABLE(X)                                                                                       \
    X(M2_F32, "f32", 4)                                                                                         \
    X(M2_F64, "f64", 8)                                                                                         \
    X(M2_BF16, "bf16", 2)                                                                                       \
    X(M2_I32, "i32", 4)                                                                                         \
    X(M2_I64, "i64", 8)                                                                                         \
    X(M2_U8, "u8", 1)                                                                                           \
    X(M2_U16, "u16", 2)                                                                                         \
    X(M2_U32, "u32", 4)

typedef enum m2_dtype {
#define M2_DTYPE_ENUM(e, name, bytes) e,
    M2_DTYPE_TABLE(M2_DTYPE_ENUM)
#undef M2_DTYPE_ENUM
    M2_DTYPE_COUNT
} m2_dtype;

#ifdef __cplusplus
extern "C" {
#endif
M2_API int64_t m2_dtype_size(m2_dtype t);
M2_API const char *m2_dtype_name(m2_dtype t);
M2_API m2_status m2_dtype_parse(const char *name, m2_dtype *out); /* M2_USAGE, naming the choices */
#ifdef __cplusplus
}
#endif

/* bfloat16 on the host: upper half of a float, round to nearest even, NaN stays NaN. */
static inline uint16_t m2_bf16_from_f32(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

static inline float m2_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}
#endif
