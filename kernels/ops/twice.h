/* twice.h - compiles a file's kernels for float and for double.
 *
 * An op file defines SELF as its own path and includes this page from a section where REAL is not defined; the page
 * includes the file twice, with REAL the type, NAME(x) the symbol and FN(x) the elementary function of that type.
 * P and T of kernels/ops.h are both REAL on the CPU. */
#define M2I_PASTE_(a, b) a##b
#define M2I_PASTE(a, b)  M2I_PASTE_(a, b)

#define REAL    float
#define NAME(x) M2I_PASTE(x, _f32)
#define FN(x)   M2I_PASTE(m2i_v##x, _f32)
#include SELF
#undef REAL
#undef NAME
#undef FN

#define REAL    double
#define NAME(x) M2I_PASTE(x, _f64)
#define FN(x)   M2I_PASTE(m2i_v##x, _f64)
#include SELF
#undef REAL
#undef NAME
#undef FN
#undef SELF
