/* checkpoint.h - a run's state on disk: a description and pieces (ARCHITECTURE 6).
 *
 *   RUN/checkpoints/step-00001000/manifest.h5    what it is (m2_manifest), and every tensor whole as a virtual dataset
 *                                 rank-00000.h5  slabs of rank 0 with their table; one file per rank that saved
 *
 * A tensor is called KIND/NAME: param/block.3.mixer.in.weight, m/... and v/... (optimizer moments). A slab is a box of
 * one tensor with the XXH3-64 of its bytes. Folders are written as step-00001000.tmp; renaming the finished folder is the
 * commit, so a folder without .tmp is whole. Hidden or half-written files are never read.
 *
 * Saving has three phases so that the middle one can run beside training: begin copies the rank's share of the state
 * to host memory, write puts it on disk (no communication, no device; any thread), commit agrees and renames.
 * Errors: M2_IO for the file system, M2_DATA for wrong content, naming file and tensor. */
#ifndef M2_CHECKPOINT_H
#define M2_CHECKPOINT_H

#include "data/store.h"
#include "parallel/comm.h"
#include "runtime/program.h"

enum { M2_PATH = 1024, M2_TENSOR_NAME = 112 };

/* ---- the description --------------------------------------------------------------------------------------------- */
typedef struct m2_saved_tensor {
    char name[M2_TENSOR_NAME]; /* KIND/NAME */
    m2_array_info info;        /* whole shape */
} m2_saved_tensor;

typedef struct m2_slab {
    int tensor, rank; /* row of m2_manifest.tensors; whose file */
    int64_t offset[M2_STORE_RANK], count[M2_STORE_RANK];
    char array[M2_TENSOR_NAME + 8]; /* in the file, of shape `count` */
    uint64_t hash;
} m2_slab;

typedef struct m2_manifest {
    char folder[M2_PATH]; /* the checkpoint's own */
    int64_t step;         /* optimizer steps done */
    int64_t rows;         /* rows consumed: where the loader goes on */
    int ranks;            /* that saved it */
    char mesh[64];        /* "data 2" */
    char *config;         /* resolved, as config.yaml */
    char *tokenizer;      /* serialized; "" = none */
    int n_tensors, n_slabs, room_tensors, room_slabs;
    m2_saved_tensor *tensors; /* param/..., m/..., v/..., each in the order of the model */
    m2_slab *slabs;           /* in the order of tensors, and of elements within each */
} m2_manifest;

/* Finds the newest committed checkpoint at `path`: a run folder, its checkpoints folder, or one checkpoint. M2_DATA when
 * there is none (*none = 1 then, if not NULL) or when the newest has lost its manifest. */
M2_API m2_status m2_checkpoint_find(const char *path, char folder[M2_PATH], int *none) M2_MUST_USE;
/* Reads and checks the description: M2_DATA unless the slabs cover every tensor exactly. Free also after a failure. */
M2_API m2_status m2_manifest_read(const char *folder, m2_manifest *out) M2_MUST_USE;
M2_API void m2_manifest_free(m2_manifest *mf);
M2_API int m2_manifest_tensor(const m2_manifest *mf, const char *name); /* its row, or -1 */

/* ---- the state of a program -------------------------------------------------------------------------------------- */
typedef struct m2_state {
    m2_device *device;
    int n_rows, n_arrays;
    const m2_param *rows;
    struct {
        const char *kind; /* "param" | "m" | "v" */
        void *base;       /* flat array in device memory: row i at rows[i].offset */
        m2_dtype dtype;
    } arrays[3];          /* only "param" has the rows that are frozen */
} m2_state;

/* Of a bound program; optimizer: 0 leaves the moments out. */
M2_API m2_status m2_state_of(m2_program *p, m2_device *dev, int optimizer, m2_state *out) M2_MUST_USE;

/* ---- saving ------------------------------------------------------------------------------------------------------ */
typedef struct m2_save_spec {
    const char *folder; /* RUN/checkpoints, must exist */
    int64_t step, rows;
    const char *config, *tokenizer; /* kept in the manifest; must live until commit */
    int64_t keep, keep_every;       /* newest to keep; also keep multiples of this step (0 = none) */
} m2_save_spec;

typedef struct m2_save m2_save;
M2_API m2_status m2_save_begin(const m2_save_spec *spec, const m2_state *state, int rank, int ranks, m2_save **out) M2_MUST_USE;
M2_API m2_status m2_save_write(m2_save *save) M2_MUST_USE;
/* Collective. `mine` is what write returned; all ranks get the same answer. Deletes superseded checkpoints. */
M2_API m2_status m2_save_commit(m2_save *save, m2_comm *comm, m2_status mine) M2_MUST_USE;
M2_API int64_t m2_save_bytes(const m2_save *save); /* of this rank's share */
M2_API void m2_save_free(m2_save **save);          /* accepts NULL; nulls */
/* begin, write, commit. Collective. */
M2_API m2_status m2_checkpoint_save(const m2_save_spec *spec, const m2_state *state, m2_comm *comm) M2_MUST_USE;
/* Deletes what interrupted saves left. Only while nobody else can be saving there. */
M2_API m2_status m2_checkpoint_sweep(const char *folder) M2_MUST_USE;

/* ---- loading ----------------------------------------------------------------------------------------------------- */
/* Fills all arrays of `state`, whatever number of ranks saved them; every byte read is verified. Another model's
 * checkpoint: M2_DATA naming the first tensor that differs with both shapes. f32 and f64 convert into each other. */
M2_API m2_status m2_checkpoint_load(const m2_manifest *mf, const m2_state *state) M2_MUST_USE;

/* Calls visit for each slab of the tensors with wanted[i] != 0 (NULL = all), file by file; those of one tensor in the order of
 * its elements. When the slab cannot be read or fails its
 * hash, data is NULL and `bad` tells why (m2_message). visit's failure ends the walk. */
typedef m2_status (*m2_slab_visit)(void *ctx, const m2_slab *slab, const void *data, m2_status bad);
M2_API m2_status m2_manifest_visit(const m2_manifest *mf, const char *wanted, m2_slab_visit visit, void *ctx) M2_MUST_USE;

#endif
