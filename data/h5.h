/* h5.h - what the sources of data/ share about HDF5: the lock, the types, one sentence out of its error stack. */
#ifndef M2_DATA_H5_H
#define M2_DATA_H5_H

#include "kernels/base/dtype.h"
#include "data/store.h"
#include <hdf5.h>

/* The library is not thread-safe: every use of it stands between these two. Recursive. HDF5 prints nothing inside. */
void m2i_h5_enter(void);
void m2i_h5_leave(void);

/* Did this HDF5 call fail? Wrapped around the call itself, since the next one wipes HDF5's error stack: the stack's
 * innermost message ("data error detected by Fletcher32 checksum") is then what m2i_h5_why says in this thread. */
int m2i_h5_failed(int64_t result);
const char *m2i_h5_why(void);

hid_t m2i_h5_memory_type(m2_dtype t); /* of the machine; not to be closed */
hid_t m2i_h5_file_type(m2_dtype t);   /* little-endian; not to be closed. bf16 is u16 */
/* The dtype of a stored type; returns 0 for types that a store does not hold. bf16 comes out as u16. */
int m2i_h5_dtype(hid_t type, m2_dtype *out);

/* The body of a public function: returns the result of `call`, made under the lock. */
#define M2I_LOCKED(call)                                                                                     \
    do {                                                                                                     \
        m2i_h5_enter();                                                                                      \
        m2_status locked_ = (call);                                                                          \
        m2i_h5_leave();                                                                                      \
        return locked_;                                                                                      \
    } while (0)

hid_t m2i_store_file(const m2_store *s);
/* After [offset, offset + count) of an array could not be read: ", in bytes 4096 to 8192 of the file", the first chunk that is
 * damaged, or "" where that cannot be told. */
void m2i_store_find_damage(hid_t array, const int64_t *offset, const int64_t *count, int rank, char *where, size_t n);
m2_status m2i_attribute_set_text(hid_t object, const char *key, const char *value) M2_MUST_USE;

#endif
