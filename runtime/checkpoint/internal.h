/* internal.h - shared by the files of this folder. Private.
 *
 *   slabs.c     pure: which rank saves what, boxes, the slab table as text
 *   folder.c    names, finding, deleting            fence.c     whose run it is
 *   manifest.c  the description on disk             files.c     bytes of rank files, hashes of all that is no slab
 *   save.c      the stages of one save              saver.c     the thread, and when ranks talk
 *   load.c      walking slabs, filling a program */
#ifndef M2_CHECKPOINT_INTERNAL_H
#define M2_CHECKPOINT_INTERNAL_H

#include "kernels/base/fault.h"
#include "runtime/checkpoint.h"

#include <stdatomic.h>

/* ---- slabs.c */
typedef struct m2i_box {
    int64_t offset[M2_STORE_RANK], count[M2_STORE_RANK];
} m2i_box;
enum { M2I_MAX_BOXES = 2 * M2_STORE_RANK - 1 };

int64_t m2i_elements(int rank, const int64_t *shape);
int64_t m2i_slab_bytes(const m2_manifest *mf, const m2_saved_slab *slab);
/* Cuts elements [begin, end) of a row-major array into boxes, in order; returns their number. Each box is one
 * contiguous run of the array. */
int m2i_boxes(int rank, const int64_t *shape, int64_t begin, int64_t end, m2i_box *out);
/* The contiguous part [*begin, *end) of `total` elements that is rank's share. */
void m2i_share(int64_t total, int rank, int ranks, int64_t *begin, int64_t *end);
/* Appends; M2_TRANSIENT when memory is out. */
m2_status m2i_add_tensor(m2_manifest *mf, const m2_saved_tensor *t);
m2_status m2i_add_slab(m2_manifest *mf, const m2_saved_slab *slab);
/* All tensors of `state` and, when rank >= 0, the slabs that rank of `ranks` saves: in the order of tensors, and of the
 * elements within each. */
m2_status m2i_slabs_plan(const m2_state *state, int rank, int ranks, m2_manifest *out);
/* Names, dtypes and shapes of all tensors as text, a line each; and back. */
m2_status m2i_tensors_print(const m2_manifest *mf, char **text);
m2_status m2i_tensors_parse(m2_manifest *mf, const char *text, const char *origin);
/* The slab table as text, malloc'd: a line per slab. */
m2_status m2i_slabs_print(const m2_manifest *mf, char **text);
/* Adds the lines of `text` to the manifest's tables; `origin` names the file in errors. */
m2_status m2i_slabs_parse(m2_manifest *mf, const char *text, const char *origin);

/* ---- folder.c */
m2_status m2i_path(char out[M2_PATH], const char *fmt, ...) M2_PRINTF(2, 3); /* M2_USAGE when too long */
m2_status m2i_rank_file(const char *folder, int rank, char out[M2_PATH]);
m2_status m2i_step_folder(const char *folder, int64_t step, char out[M2_PATH]);
m2_status m2i_sync_folder(const char *folder);
m2_status m2i_remove_folder(const char *folder); /* and the files in it */
m2_status m2i_prune(const char *folder, int64_t keep, int64_t keep_every);

/* ---- files.c */
m2_status m2i_text_write(m2_store *s, const char *name, const char *text);
m2_status m2i_text_read(m2_store *s, const char *name, char **text); /* caller frees */
/* Size of rank's file and hash of its bytes outside mf's slabs of that rank. */
m2_status m2i_file_frame(const m2_manifest *mf, int rank, m2_saved_file *out);
/* Writes, flushes and checks FOLDER/manifest.xxh. */
m2_status m2i_seal_write(const char *folder);
m2_status m2i_seal_check(const char *folder);

/* ---- manifest.c */
/* Writes mf->folder/manifest.h5. */
m2_status m2i_manifest_write(const m2_manifest *mf);
m2_status m2i_manifest_check(const m2_manifest *mf); /* slabs cover each tensor exactly */
void m2i_manifest_sort(m2_manifest *mf);             /* slabs by tensor and place */

/* ---- save.c */
typedef struct m2i_save {
    m2_save_spec spec;
    int rank, ranks;
    char folder[M2_PATH], temporary[M2_PATH];
    m2_manifest mine; /* all tensors, the slabs of this rank */
    char *bytes;      /* the slabs one after the other; not owned */
    atomic_int hurry; /* somebody waits: the bandwidth is no longer kept to */
} m2i_save;

int64_t m2i_save_bytes(const m2_manifest *mine);
m2_status m2i_save_begin(m2i_save *s, const m2_state *state); /* rank 0 makes the folder; copies the state */
m2_status m2i_save_write(m2i_save *s);                        /* this rank's file; no communication, no device */
m2_status m2i_save_publish(m2i_save *s);                      /* rank 0: manifest, rename, deleting old ones */
/* Rank 0, after a failure: gives the space back. Returns `why`, or that the run was taken over if that is behind it. */
m2_status m2i_save_drop(m2i_save *s, m2_status why);

#endif
