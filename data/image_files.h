/* image_files.h - the picture files in folders and tar archives, one after the other. */
#ifndef M2_DATA_IMAGE_FILES_H
#define M2_DATA_IMAGE_FILES_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct m2i_image_files m2i_image_files;

m2_status m2i_image_files_open(char *const *paths, int64_t count, m2i_image_files **out) M2_MUST_USE;
/* The next file called .jpg, .jpeg or .png: its path, valid until the next call ("archive.tar:train/cat/1.jpg", from[at ..]
 * being the path inside the archive or folder), and its contents in *data, which grows as needed. *path = NULL at the end. */
m2_status m2i_image_files_next(m2i_image_files *f, const char **path, const char **inside, char **data,
                               size_t *room, size_t *bytes) M2_MUST_USE;
void m2i_image_files_close(m2i_image_files **f); /* accepts NULL; nulls */

#endif
