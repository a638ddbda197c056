#define _GNU_SOURCE /* recursive mutex initialiser */
#include "data/h5.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void m2i_h5_enter(void)
{
    static int entered;
    pthread_mutex_lock(&lock);
    if (!entered++) H5dont_atexit(); /* its exit handler crashes on files that could not be written */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void m2i_h5_leave(void)
{
    pthread_mutex_unlock(&lock);
}

static _Thread_local char reason[256];

static herr_t innermost(unsigned n, const H5E_error2_t *e, void *unused)
{
    static const char system_says[] = "error message = '";
    (void)unused;
    if (n != 0 || !e->desc) return 0;
    const char *found = strstr(e->desc, system_says);
    snprintf(reason, sizeof reason, "%s", found ? found + sizeof system_says - 1 : e->desc);
    reason[strcspn(reason, found ? "'\n" : "\n")] = 0;
    return 0;
}

int m2i_h5_failed(int64_t result)
{
    if (result >= 0) return 0;
    snprintf(reason, sizeof reason, "HDF5 gives no reason");
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, NULL);
    H5Eclear2(H5E_DEFAULT);
    return 1;
}

const char *m2i_h5_why(void)
{
    return reason;
}

hid_t m2i_h5_memory_type(m2_dtype t)
{
    switch (t) {
    case M2_F32: return H5T_NATIVE_FLOAT;
    case M2_F64: return H5T_NATIVE_DOUBLE;
    case M2_I32: return H5T_NATIVE_INT32;
    case M2_I64: return H5T_NATIVE_INT64;
    case M2_U8: return H5T_NATIVE_UINT8;
    case M2_U32: return H5T_NATIVE_UINT32;
    default: return H5T_NATIVE_UINT16;
    }
}

hid_t m2i_h5_file_type(m2_dtype t)
{
    switch (t) {
    case M2_F32: return H5T_IEEE_F32LE;
    case M2_F64: return H5T_IEEE_F64LE;
    case M2_I32: return H5T_STD_I32LE;
    case M2_I64: return H5T_STD_I64LE;
    case M2_U8: return H5T_STD_U8LE;
    case M2_U32: return H5T_STD_U32LE;
    default: return H5T_STD_U16LE;
    }
}

int m2i_h5_dtype(hid_t type, m2_dtype *out)
{
    static const m2_dtype known[] = {M2_F32, M2_F64, M2_I32, M2_I64, M2_U8, M2_U16, M2_U32};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        hid_t t = m2i_h5_file_type(known[i]);
        if (H5Tget_class(type) != H5Tget_class(t) || H5Tget_size(type) != H5Tget_size(t)) continue;
        if (H5Tget_class(t) == H5T_INTEGER && H5Tget_sign(type) != H5Tget_sign(t)) continue;
        *out = known[i];
        return 1;
    }
    return 0;
}
