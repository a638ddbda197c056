/* tar.h - the files in a tar archive, one after the other, packed or not: ustar, with the long names of GNU and pax. */
#ifndef M2_DATA_TAR_H
#define M2_DATA_TAR_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct m2i_tar m2i_tar;

m2_status m2i_tar_open(const char *path, m2i_tar **out) M2_MUST_USE;
/* The next regular file: its name, valid until the next call, and size; *name = NULL at the end. M2_DATA names the place of
 * what is no tar header. What was not read of the last file is passed over. */
m2_status m2i_tar_next(m2i_tar *t, const char **name, int64_t *bytes) M2_MUST_USE;
/* All of its contents, into a buffer with room for `bytes`. */
m2_status m2i_tar_read(m2i_tar *t, void *to) M2_MUST_USE;
void m2i_tar_close(m2i_tar **t); /* accepts NULL; nulls */

#endif
