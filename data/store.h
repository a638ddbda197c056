/* store.h - an HDF5 container of named global arrays with attributes. Token stores and checkpoints are both stores.
 * hdf5.h is included only in data/. Not thread-safe by HDF5's nature: calls are serialised by a process-wide lock inside.
 * Files are written under NAME.tmp-<pid>, flushed, fsynced and renamed by m2_store_commit: no half-written file is ever
 * visible under its final name. All functions: M2_IO for system errors, M2_DATA for wrong content, naming the file. */
#ifndef M2_STORE_H
#define M2_STORE_H

#include "kernels/base/dtype.h"

typedef struct m2_store m2_store;

enum { M2_STORE_RANK = 4 };
typedef struct m2_array_info {
    m2_dtype dtype;
    int rank;
    int64_t shape[M2_STORE_RANK];
} m2_array_info;

typedef struct m2_array_options {
    int64_t
        chunk; /* elements of the first dimension per chunk; 0 = contiguous (no checksum, no compression) */
    int fletcher32; /* checksum each chunk */
    int deflate;    /* 0..9 */
} m2_array_options;

M2_API const char *m2_store_library(void); /* "HDF5 1.10.8, serial" */
/* M2_TRANSIENT if the HDF5 library found on this machine is another version than m2 was built for: its first use would abort. */
M2_API m2_status m2_store_library_check(void) M2_MUST_USE;
M2_API m2_status m2_store_create(const char *path, m2_store **out) M2_MUST_USE; /* under a temporary name */
M2_API m2_status m2_store_open(const char *path, m2_store **out) M2_MUST_USE;   /* read-only */
/* Flush, close, fsync file and folder, rename; nulls. Closing instead deletes what was created. */
M2_API m2_status m2_store_commit(m2_store **s) M2_MUST_USE;
M2_API void m2_store_close(m2_store **s); /* accepts NULL; nulls */
M2_API const char *m2_store_path(const m2_store *s);

/* bf16 is stored as u16 with attribute m2_dtype = "bf16". Parent groups in `name` are made. shape[0] may be 0 and grow. */
M2_API m2_status m2_store_make(m2_store *s, const char *name, const m2_array_info *info,
                               const m2_array_options *opt) M2_MUST_USE;
M2_API int m2_store_has(m2_store *s, const char *name);
M2_API m2_status m2_store_info(m2_store *s, const char *name, m2_array_info *out) M2_MUST_USE;
/* Hyperslab [offset, offset + count) of every dimension; buf is dense and of the array's dtype. */
M2_API m2_status m2_store_write(m2_store *s, const char *name, const int64_t *offset, const int64_t *count,
                                const void *buf) M2_MUST_USE;
M2_API m2_status m2_store_read(m2_store *s, const char *name, const int64_t *offset, const int64_t *count,
                               void *buf) M2_MUST_USE;
M2_API m2_status m2_store_append(m2_store *s, const char *name, int64_t count,
                                 const void *buf) M2_MUST_USE; /* along the first dimension */

/* Bulk bytes past HDF5 and its lock, so that a writer in the background stops nobody: reserve makes a contiguous array and
 * fixes its place, the byte *at of the file; put writes bytes of the file there and starts their way to the disk. put is
 * for one thread per store at a time. Numbers are little-endian in the file: not for hosts that are not. */
M2_API m2_status m2_store_reserve(m2_store *s, const char *name, const m2_array_info *info,
                                  int64_t *at) M2_MUST_USE;
M2_API m2_status m2_store_put(m2_store *s, int64_t at, const void *bytes, int64_t n) M2_MUST_USE;

/* Attributes of an object ("/" = the file). */
M2_API m2_status m2_store_set_text(m2_store *s, const char *object, const char *key,
                                   const char *value) M2_MUST_USE;
M2_API m2_status m2_store_set_i64(m2_store *s, const char *object, const char *key,
                                  int64_t value) M2_MUST_USE;
/* Missing attribute: M2_DATA. text is malloc'd, the caller frees. */
M2_API m2_status m2_store_get_text(m2_store *s, const char *object, const char *key,
                                   char **value) M2_MUST_USE;
M2_API m2_status m2_store_get_i64(m2_store *s, const char *object, const char *key,
                                  int64_t *value) M2_MUST_USE;
M2_API m2_status m2_store_list(m2_store *s, const char *group, void (*visit)(void *ctx, const char *name),
                               void *ctx) M2_MUST_USE;

/* A virtual dataset: array `name` of `info`, composed of n slabs of arrays in other files (paths relative to this file). */
typedef struct m2_virtual_slab {
    const char *file, *array;
    int64_t offset[M2_STORE_RANK], count[M2_STORE_RANK]; /* where in the whole */
} m2_virtual_slab;                                       /* source array has exactly shape `count` */
M2_API m2_status m2_store_make_virtual(m2_store *s, const char *name, const m2_array_info *info, int n,
                                       const m2_virtual_slab *slabs) M2_MUST_USE;

#endif
