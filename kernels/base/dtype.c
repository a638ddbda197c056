#include "kernels/base/dtype.h"

static const struct {
    const char *name;
    int64_t bytes;
} dtypes[] = {
#define ROW(e, name, bytes) {name, bytes},
    M2_DTYPE_TABLE(ROW)
#undef ROW
};

int64_t m2_dtype_size(m2_dtype t)
{
    return dtypes[t].bytes;
}

const char *m2_dtype_name(m2_dtype t)
{
    return dtypes[t].name;
}

m2_status m2_dtype_parse(const char *name, m2_dtype *out)
{
    for (int t = 0; t < M2_DTYPE_COUNT; t++)
        if (!strcmp(name, dtypes[t].name)) return *out = (m2_dtype)t, M2_OK;
    return m2_fail(M2_USAGE, "unknown dtype '%s': expected f32, f64, bf16, i32, i64, u8, u16 or u32", name);
}
