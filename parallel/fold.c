/* fold.c - sums (maxima, minima) of arrays in a fixed order. */
#include "parallel/verbs.h"

enum { TILE = 512 }; /* elements whose running result stays in registers and the first cache */

/* X(suffix, dtype, element, accumulator, load, store, add). Integer sums wrap. bf16 is summed in f32, rounded once. */
#define SAME(x)      (x)
#define WRAP32(a, b) ((int32_t)((uint32_t)(a) + (uint32_t)(b)))
#define WRAP64(a, b) ((int64_t)((uint64_t)(a) + (uint64_t)(b)))
#define PLUS(a, b)   ((a) + (b))
#define NONE(a, b)   (a)
#define TYPES(X)                                                                                             \
    X(f32, M2_F32, float, float, SAME, SAME, PLUS)                                                           \
    X(f64, M2_F64, double, double, SAME, SAME, PLUS)                                                         \
    X(bf16, M2_BF16, uint16_t, float, m2_bf16_to_f32, m2_bf16_from_f32, PLUS)                                \
    X(i32, M2_I32, int32_t, int32_t, SAME, SAME, WRAP32)                                                     \
    X(i64, M2_I64, int64_t, int64_t, SAME, SAME, WRAP64)                                                     \
    X(u8, M2_U8, uint8_t, uint8_t, SAME, SAME, NONE)

/* A NaN wins over every number, wherever it stands. */
#define MORE(a, b) ((b) > (a) || (b) != (b) ? (b) : (a))
#define LESS(a, b) ((b) < (a) || (b) != (b) ? (b) : (a))

#define FOLD(suffix, dtype, element, accumulator, load, store, add)                                          \
    static void fold_##suffix(void *dst, const void *const *terms, int n, int64_t count, m2_reduce op)       \
    {                                                                                                        \
        accumulator acc[TILE];                                                                               \
        for (int64_t at = 0; at < count; at += TILE) {                                                       \
            int64_t m = count - at < TILE ? count - at : TILE;                                               \
            const element *x = (const element *)terms[0] + at;                                               \
            for (int64_t i = 0; i < m; i++) acc[i] = load(x[i]);                                             \
            for (int k = 1; k < n; k++) {                                                                    \
                x = (const element *)terms[k] + at;                                                          \
                if (op == M2_SUM)                                                                            \
                    for (int64_t i = 0; i < m; i++) acc[i] = add(acc[i], load(x[i]));                        \
                else if (op == M2_MAX)                                                                       \
                    for (int64_t i = 0; i < m; i++) acc[i] = MORE(acc[i], load(x[i]));                       \
                else                                                                                         \
                    for (int64_t i = 0; i < m; i++) acc[i] = LESS(acc[i], load(x[i]));                       \
            }                                                                                                \
            element *y = (element *)dst + at;                                                                \
            for (int64_t i = 0; i < m; i++) y[i] = store(acc[i]);                                            \
        }                                                                                                    \
    }
TYPES(FOLD)

typedef void (*fold_fn)(void *dst, const void *const *terms, int n, int64_t count, m2_reduce op);
static const fold_fn folds[M2_DTYPE_COUNT] = {
#define ROW(suffix, dtype, ...) [dtype] = fold_##suffix,
    TYPES(ROW)
#undef ROW
};

m2_status m2i_fold_terms(void *dst, const void *const *terms, int n, int64_t count, m2_dtype t, m2_reduce op)
{
    if (!folds[t] || (t == M2_U8 && op == M2_SUM))
        return m2_fail(
            M2_BUG,
            "no %s over elements of type %s: sums take f32, f64, bf16, i32 and i64, maxima and minima "
            "u8 too",
            op == M2_SUM   ? "sum"
            : op == M2_MAX ? "maximum"
                           : "minimum",
            m2_dtype_name(t));
    folds[t](dst, terms, n, count, op);
    return M2_OK;
}
