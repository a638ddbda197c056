/* checkpoint.h - a run's state on disk: a description and pieces (ARCHITECTURE 6).
 *
 *   RUN/checkpoints/step-00001000/manifest.h5    what it is (m2_manifest), and every tensor whole as a virtual dataset
 *                                 manifest.xxh   XXH3-128 of manifest.h5, as `xxh128sum` writes and checks it
 *                                 rank-00000.h5  slabs of rank 0 with their table; one file per rank that saved
 *
 * A tensor is called KIND/NAME: param/block.3.mixer.in.weight, m/... and v/... (optimizer moments). A slab is a box of
 * one tensor with the XXH3-64 of its bytes; the manifest also has a hash of what is in each file outside its slabs, so no
 * byte of a checkpoint is without one, and none is read before it is checked. Folders are written as step-*.tmp; renaming
 * the finished folder is the commit, so a folder without .tmp is whole. Hidden or half-written files are never read.
 *
 * A save copies the rank's share of the state to host memory, and a thread puts it on disk while training goes on; ranks
 * talk only at the ends of its two stages, between steps (m2_saver). Loading takes what it needs from the slabs,
 * whatever ranks, mesh and ZeRO stage saved them.
 * Errors: M2_IO for the file system, M2_DATA for wrong content, naming file and tensor; M2_USAGE when another job has taken
 * the run over. */
#ifndef M2_CHECKPOINT_H
#define M2_CHECKPOINT_H

#include "data/store.h"
#include "parallel/comm.h"
#include "parallel/shard.h"
#include "runtime/program.h"

enum { M2_PATH = 1024, M2_TENSOR_NAME = 112, M2_GUARD_TEXT = 128 };

/* ---- the description --------------------------------------------------------------------------------------------- */
typedef struct m2_saved_tensor {
    char name[M2_TENSOR_NAME]; /* KIND/NAME */
    m2_array_info info;        /* whole shape */
} m2_saved_tensor;

typedef struct m2_saved_slab {
    int tensor, rank; /* row of m2_manifest.tensors; whose file */
    int64_t offset[M2_STORE_RANK], count[M2_STORE_RANK];
    char array[M2_TENSOR_NAME + 8]; /* in the file, of shape `count` */
    int64_t at;                     /* byte of the file where it begins */
    uint64_t hash;
} m2_saved_slab;

typedef struct m2_saved_file {
    int64_t size;
    uint64_t frame; /* hash of its bytes outside the slabs */
} m2_saved_file;

typedef struct m2_manifest {
    char folder[M2_PATH]; /* the checkpoint's own */
    int64_t step;         /* optimizer steps done */
    int64_t rows;         /* rows consumed, or passed over: where the loader goes on */
    char guard[M2_GUARD_TEXT]; /* what the guard had counted (runtime/guard.h); "" = not recorded */
    int ranks;            /* that saved it */
    char mesh[64];        /* "data 2" */
    char *config;         /* resolved, as config.yaml */
    char *tokenizer;      /* serialized; "" = none */
    m2_saved_file *files; /* of each rank */
    int n_tensors, n_slabs, room_tensors, room_slabs;
    m2_saved_tensor *tensors; /* param/..., m/..., v/..., each in the order of the model */
    m2_saved_slab *slabs;     /* in the order of tensors, and of elements within each */
} m2_manifest;

/* Finds the newest committed checkpoint at `path`: a run folder, its checkpoints folder, or one checkpoint. M2_DATA when
 * there is none (*none = 1 then, if not NULL) or when the newest has lost its manifest. */
M2_API m2_status m2_checkpoint_find(const char *path, char folder[M2_PATH], int *none) M2_MUST_USE;
/* Reads and checks the description: M2_DATA unless it is undamaged and the slabs cover every tensor exactly. Free also
 * after a failure. */
M2_API m2_status m2_manifest_read(const char *folder, m2_manifest *out) M2_MUST_USE;
/* What the rank files that are still there say, for a folder that lost its manifest: all tensors, but no config and no
 * tokenizer, and only the slabs of these files. M2_DATA when there is not one readable file. Free also after a failure. */
M2_API m2_status m2_manifest_rebuild(const char *folder, m2_manifest *out) M2_MUST_USE;
M2_API void m2_manifest_free(m2_manifest *mf);
/* The checkpoint a run goes back to: the newest in `folder` whose step is a multiple of `every`, where one is there, so that
 * it does not depend on where the run was interrupted; else the newest. *step: -1 = none. */
M2_API m2_status m2_checkpoint_back(const char *folder, int64_t every, int64_t *step) M2_MUST_USE;
/* Its folder. */
M2_API m2_status m2_checkpoint_at(const char *folder, int64_t step, char out[M2_PATH]) M2_MUST_USE;
/* Deletes the checkpoints of steps beyond `step`. */
M2_API m2_status m2_checkpoint_forget(const char *folder, int64_t step) M2_MUST_USE;
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
        /* ZeRO: not NULL, `base` is only shard `shard` of the flat array. Of ranks with the same shard, the one with
         * copy == 0 saves it. NULL: every rank has all of it, and saves its even part. `rest`: the rows that are not in
         * the table, from flat element shards->total on, which every rank has. */
        const m2_shards *shards;
        int shard, copy;
        void *rest;
    } arrays[3]; /* only "param" has the rows that are frozen */
} m2_state;

/* Of a bound program; optimizer: 0 leaves the moments out. */
M2_API m2_status m2_state_of(m2_program *p, m2_device *dev, int optimizer, m2_state *out) M2_MUST_USE;

/* ---- whose run it is --------------------------------------------------------------------------------------------- */
/* A fencing token: job N of a run folder is whoever made RUN/fence/N, exclusively. The newest is the owner. A job that was
 * cut off and comes back finds a newer token and commits nothing more. Rank 0 takes it. */
typedef struct m2_fence {
    char folder[M2_PATH]; /* RUN/fence */
    int64_t token;        /* >= 1; 0 = none */
} m2_fence;

/* Takes the next token for this job (from Slurm's variables, else host and process) and, so that no older job can commit
 * any more, moves its unfinished saves in `checkpoints` away. */
M2_API m2_status m2_fence_take(const char *run, const char *checkpoints, m2_fence *out) M2_MUST_USE;
/* This job in words: "Slurm job 4711, restart 2, process 99 on node3 since 2026-01-02 03:04:05 UTC". */
M2_API void m2_fence_job(char *text, size_t n);
/* M2_USAGE, naming the job, when a newer token exists. */
M2_API m2_status m2_fence_check(const m2_fence *f) M2_MUST_USE;

/* ---- saving ------------------------------------------------------------------------------------------------------ */
typedef struct m2_save_spec {
    const char *folder; /* RUN/checkpoints, must exist */
    int64_t step, rows;
    char guard[M2_GUARD_TEXT];
    const char *config, *tokenizer; /* kept in the manifest; must live until commit */
    const char *mesh;               /* in words; NULL: "data N" */
    int64_t keep, keep_every;       /* newest to keep; also keep multiples of this step (0 = none) */
    double bandwidth;               /* bytes/s that each rank may write; 0 = as fast as the disk */
    m2_fence fence;                 /* token 0: nobody else saves here */
} m2_save_spec;

typedef struct m2_saver_stats {
    int64_t bytes;      /* of this rank's share */
    double copied;      /* seconds the newest save kept training waiting for its copy */
    double stalled;     /* the same with everything else that training waited for */
    double wrote;       /* seconds its file took the writer, fsync included */
    double published;   /* rank 0: seconds for the manifest and the commit */
} m2_saver_stats;

typedef struct m2_saver m2_saver;
/* Takes the host memory that all saves of `state` go through. state and comm stay the caller's. */
M2_API m2_status m2_saver_open(const m2_state *state, m2_comm *comm, m2_saver **out) M2_MUST_USE;
/* Copies the state and begins to write; nothing may be in flight. Collective, ranks agree on the result. */
M2_API m2_status m2_saver_start(m2_saver *s, const m2_save_spec *spec) M2_MUST_USE;
M2_API int m2_saver_pending(const m2_saver *s); /* a save is in flight: the same on all ranks */
M2_API int m2_saver_busy(const m2_saver *s);    /* this rank's thread is at work */
/* Ends the stage that the threads have finished; waits for this rank's if it has not. Collective; all ranks get the same
 * answer. *committed: step of the checkpoint that is now whole, -1 = not yet. A failure ends the save. */
M2_API m2_status m2_saver_advance(m2_saver *s, int64_t *committed) M2_MUST_USE;
/* Advances to the end, as fast as the disk takes it. Collective. */
M2_API m2_status m2_saver_wait(m2_saver *s, int64_t *committed) M2_MUST_USE;
M2_API m2_saver_stats m2_saver_statistics(const m2_saver *s);
M2_API void m2_saver_close(m2_saver **s); /* waits for the thread and drops what is in flight; accepts NULL; nulls */

/* open, start, wait. Collective. */
M2_API m2_status m2_checkpoint_save(const m2_save_spec *spec, const m2_state *state, m2_comm *comm) M2_MUST_USE;
/* Deletes what interrupted saves left. Only while nobody else can be saving there. */
M2_API m2_status m2_checkpoint_sweep(const char *folder) M2_MUST_USE;

/* Deletes a checkpoints folder with all that is in it. */
M2_API m2_status m2_checkpoint_remove(const char *folder) M2_MUST_USE;

/* ---- loading ----------------------------------------------------------------------------------------------------- */
/* Fills all arrays of `state`, whatever number of ranks saved them; every byte read is verified. Another model's
 * checkpoint: M2_DATA naming the first tensor that differs with both shapes. f32 and f64 convert into each other. */
M2_API m2_status m2_checkpoint_load(const m2_manifest *mf, const m2_state *state) M2_MUST_USE;

/* Calls visit for each slab i with wanted[i] != 0 (NULL = all), file by file; those of one tensor in the order of its
 * elements. When the slab cannot be read or fails its hash, data is NULL and `bad` tells why (m2_message). visit's
 * failure ends the walk. */
typedef m2_status (*m2_slab_visit)(void *ctx, const m2_saved_slab *slab, const void *data, m2_status bad);
M2_API m2_status m2_manifest_visit(const m2_manifest *mf, const char *wanted, m2_slab_visit visit, void *ctx) M2_MUST_USE;
/* One whole tensor, dense, in its own dtype; every byte read is verified. */
M2_API m2_status m2_manifest_read_raw(const m2_manifest *mf, int tensor, void *out) M2_MUST_USE;
/* The same as doubles. */
M2_API m2_status m2_manifest_read_tensor(const m2_manifest *mf, int tensor, double *out) M2_MUST_USE;
/* Is every byte of rank's file outside the slabs what the manifest says? M2_DATA when not. Not for rebuilt ones. */
M2_API m2_status m2_manifest_check_file(const m2_manifest *mf, int rank) M2_MUST_USE;

#endif
