/* unpack.h - a file's bytes, decompressed on the way: zstd, gzip, xz or as they are, told apart by the first bytes. */
#ifndef M2_DATA_UNPACK_H
#define M2_DATA_UNPACK_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct m2i_unpacker m2i_unpacker;

m2_status m2i_unpack_open(const char *path, m2i_unpacker **out) M2_MUST_USE; /* "-" is standard input */
/* Up to `room` bytes; *n = 0 at the end. M2_DATA names a broken or unfinished frame and where it is. */
m2_status m2i_unpack_read(m2i_unpacker *u, char *to, size_t room, size_t *n) M2_MUST_USE;
int64_t m2i_unpack_consumed(const m2i_unpacker *u); /* bytes of the file itself */
void m2i_unpack_close(m2i_unpacker **u);

#endif
