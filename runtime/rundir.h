/* rundir.h - a run's folder: config.yaml (resolved), metrics.jsonl, checkpoints/, lock. Rank 0 uses these. */
#ifndef M2_RUNDIR_H
#define M2_RUNDIR_H

#include "runtime/checkpoint.h"
#include "runtime/config.h"

typedef struct m2_rundir {
    char path[M2_PATH], checkpoints[M2_PATH], metrics[M2_PATH], flight[M2_PATH];
    int lock; /* file descriptor, -1 = not held */
} m2_rundir;

/* What run.dir is when it is not given: runs/NAME-HASH, where NAME is the config file's and HASH tells apart what would be
 * different runs (every option that is not restart-safe, and the data). The same command finds its run again. */
M2_API void m2_rundir_default(const m2_config *cfg, const char *config_path, char *out, size_t n);

/* The paths alone. */
M2_API m2_status m2_rundir_paths(const char *path, m2_rundir *out) M2_MUST_USE;
M2_API m2_status m2_rundir_make(const m2_rundir *dir) M2_MUST_USE; /* the folders alone */
/* Makes the folders and takes the lock, waiting a few seconds for a process that is just ending. M2_USAGE when another
 * one keeps it. The lock is the kernel's (fcntl): a process that dies, in whatever way, has released it. Where the file
 * system has no locks, or an earlier start of the same Slurm job still holds it from a node that was cut off, the fencing
 * token alone decides (m2_fence_take): the newest job goes on. */
M2_API m2_status m2_rundir_open(m2_rundir *dir) M2_MUST_USE;
M2_API m2_status m2_rundir_write_config(const m2_rundir *dir, const m2_config *cfg) M2_MUST_USE;
M2_API void m2_rundir_close(m2_rundir *dir);

/* The resolved config as text, malloc'd. */
M2_API m2_status m2_config_text(const m2_config *cfg, char **text) M2_MUST_USE;

#endif
