/* internal.h - shared by the files of this folder. Private.
 *
 *   slabs.c     pure: which rank saves what, boxes, the slab table as text
 *   folder.c    names, finding, deleting            manifest.c  the description on disk
 *   save.c      the three phases                    load.c      walking slabs, filling a program */
#ifndef M2_CHECKPOINT_INTERNAL_H
#define M2_CHECKPOINT_INTERNAL_H

#include "runtime/checkpoint.h"

/* ---- slabs.c */
typedef struct m2i_box {
    int64_t offset[M2_STORE_RANK], count[M2_STORE_RANK];
} m2i_box;
enum { M2I_MAX_BOXES = 2 * M2_STORE_RANK - 1 };

int64_t m2i_elements(int rank, const int64_t *shape);
/* Cuts elements [begin, end) of a row-major array into boxes, in order; returns their number. Each box is one
 * contiguous run of the array. */
int m2i_boxes(int rank, const int64_t *shape, int64_t begin, int64_t end, m2i_box *out);
/* The contiguous part [*begin, *end) of `total` elements that is rank's share. */
void m2i_share(int64_t total, int rank, int ranks, int64_t *begin, int64_t *end);
/* One line: name dtype shape offset count rank array hash. Returns its length like snprintf. */
int m2i_slab_print(char *buf, size_t n, const m2_saved_tensor *tensor, const m2_slab *slab);
/* Adds the lines of `text` to the manifest's tables; `origin` names the file in errors. */
m2_status m2i_slabs_parse(m2_manifest *mf, const char *text, const char *origin);

/* ---- folder.c */
m2_status m2i_path(char out[M2_PATH], const char *fmt, ...) M2_PRINTF(2, 3); /* M2_USAGE when too long */
m2_status m2i_rank_file(const char *folder, int rank, char out[M2_PATH]);
m2_status m2i_step_folder(const char *folder, int64_t step, char out[M2_PATH]);
m2_status m2i_sync_folder(const char *folder);
m2_status m2i_remove_folder(const char *folder); /* and the files in it */
m2_status m2i_prune(const char *folder, int64_t keep, int64_t keep_every);

/* ---- manifest.c */
m2_status m2i_text_write(m2_store *s, const char *name, const char *text);
m2_status m2i_text_read(m2_store *s, const char *name, char **text); /* caller frees */
/* Writes mf->folder/manifest.h5. */
m2_status m2i_manifest_write(const m2_manifest *mf);
m2_status m2i_manifest_check(const m2_manifest *mf); /* slabs cover each tensor exactly */

#endif
