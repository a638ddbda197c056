/* folder.c - names of checkpoints, the newest one, deleting old ones. */
#include "runtime/checkpoint/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

m2_status m2i_path(char out[M2_PATH], const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, M2_PATH, fmt, ap);
    va_end(ap);
    if (n < M2_PATH) return M2_OK;
    return m2_fail(M2_USAGE, "path '%.60s...' is longer than %d bytes: choose a shorter run.dir", out,
                   M2_PATH - 1);
}

m2_status m2i_rank_file(const char *folder, int rank, char out[M2_PATH])
{
    return m2i_path(out, "%s/rank-%05d.h5", folder, rank);
}

m2_status m2i_step_folder(const char *folder, int64_t step, char out[M2_PATH])
{
    return m2i_path(out, "%s/step-%08" PRId64, folder, step);
}

/* step-00001000 -> 1000; anything else, also step-00001000.tmp: -1. */
static int64_t step_of_name(const char *name)
{
    if (strncmp(name, "step-", 5) || !name[5] || strspn(name + 5, "0123456789") != strlen(name + 5))
        return -1;
    return strtoll(name + 5, NULL, 10);
}

static int exists(const char *folder, const char *name)
{
    char path[M2_PATH];
    return m2i_path(path, "%s/%s", folder, name) == M2_OK && access(path, F_OK) == 0;
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* Steps of the committed checkpoints in `folder`, newest first, malloc'd. A missing folder has none. */
static m2_status list_steps(const char *folder, int64_t **steps, int *n)
{
    *steps = NULL;
    *n = 0;
    DIR *dir = opendir(folder);
    if (!dir && errno == ENOENT) return M2_OK;
    if (!dir && errno == ENOTDIR)
        return m2_fail(M2_DATA, "%s is a file: a run folder or a checkpoints/step-N folder was expected", folder);
    if (!dir) return m2_fail(M2_IO, "reading folder %s failed: %s", folder, strerror(errno));
    int room = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        int64_t step = step_of_name(e->d_name);
        if (step < 0) continue;
        if (*n == room) {
            room = room ? 2 * room : 16;
            int64_t *more = realloc(*steps, (size_t)room * sizeof *more);
            if (!more) {
                closedir(dir);
                free(*steps);
                return m2_fail(M2_TRANSIENT, "out of memory for the checkpoints of %s", folder);
            }
            *steps = more;
        }
        (*steps)[(*n)++] = step;
    }
    closedir(dir);
    if (*n) qsort(*steps, (size_t)*n, sizeof **steps, descending);
    return M2_OK;
}

m2_status m2_checkpoint_find(const char *path, char folder[M2_PATH], int *none)
{
    if (none) *none = 0;
    if (exists(path, "manifest.h5")) return m2i_path(folder, "%s", path);
    char inside[M2_PATH];
    M2_TRY(m2i_path(inside, exists(path, "checkpoints") ? "%s/checkpoints" : "%s", path));
    int64_t *steps;
    int n;
    M2_TRY(list_steps(inside, &steps, &n));
    int64_t newest = n ? steps[0] : -1, older = n > 1 ? steps[1] : -1;
    free(steps);
    if (newest < 0) {
        if (none) *none = 1;
        return access(path, F_OK)
                   ? m2_fail(M2_DATA, "%s: there is no such run folder or checkpoint", path)
                   : m2_fail(M2_DATA,
                             "%s holds no checkpoint: give a run folder or a checkpoints/step-N folder",
                             path);
    }
    M2_TRY(m2i_step_folder(inside, newest, folder));
    if (exists(folder, "manifest.h5")) return M2_OK;
    if (older < 0)
        return m2_fail(M2_DATA, "%s has lost its manifest.h5: this checkpoint cannot be read", folder);
    return m2_fail(M2_DATA, "%s has lost its manifest.h5: delete this folder to go on from step %" PRId64,
                   folder, older);
}

m2_status m2_checkpoint_back(const char *folder, int64_t every, int64_t *step)
{
    int64_t *steps;
    int n, i = 0;
    M2_TRY(list_steps(folder, &steps, &n));
    while (i < n && (every <= 0 || steps[i] % every)) i++;
    *step = !n ? -1 : i < n ? steps[i] : steps[0];
    free(steps);
    return M2_OK;
}

m2_status m2_checkpoint_at(const char *folder, int64_t step, char out[M2_PATH])
{
    return m2i_step_folder(folder, step, out);
}

/* ---- deleting ---------------------------------------------------------------------------------------------------- */
m2_status m2i_sync_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY);
    int bad = fd < 0 || fsync(fd) != 0;
    int why = errno;
    if (fd >= 0) close(fd);
    return bad ? m2_fail(M2_IO, "making folder %s durable failed: %s", folder, strerror(why)) : M2_OK;
}

m2_status m2i_remove_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir && errno == ENOENT) return M2_OK; /* another job was faster */
    if (!dir) return m2_fail(M2_IO, "reading folder %s failed: %s", folder, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
            M2_FAULT("delete a file");
            unlinkat(dirfd(dir), e->d_name, 0);
        }
    closedir(dir);
    if (rmdir(folder) && errno != ENOENT)
        return m2_fail(M2_IO, "deleting folder %s failed: %s", folder, strerror(errno));
    return M2_OK;
}

/* Renames first: a checkpoint that is half deleted no longer looks like one. */
static m2_status retire(const char *folder, int64_t step)
{
    char name[M2_PATH], doomed[M2_PATH];
    M2_TRY(m2i_step_folder(folder, step, name));
    M2_TRY(m2i_path(doomed, "%s.old.tmp", name));
    M2_FAULT("retire a checkpoint");
    if (rename(name, doomed))
        return m2_fail(M2_IO, "retiring checkpoint %s failed: %s", name, strerror(errno));
    return m2i_remove_folder(doomed);
}

m2_status m2_checkpoint_forget(const char *folder, int64_t step)
{
    int64_t *steps;
    int n;
    m2_status st = M2_OK;
    M2_TRY(list_steps(folder, &steps, &n));
    for (int i = 0; i < n && steps[i] > step && st == M2_OK; i++) st = retire(folder, steps[i]);
    free(steps);
    return st;
}

m2_status m2i_prune(const char *folder, int64_t keep, int64_t keep_every)
{
    int64_t *steps;
    int n;
    m2_status st = M2_OK;
    M2_TRY(list_steps(folder, &steps, &n));
    for (int i = 0; i < n && st == M2_OK; i++)
        if (i >= keep && !(keep_every > 0 && steps[i] % keep_every == 0)) st = retire(folder, steps[i]);
    free(steps);
    return st;
}

/* Renamed first: who may still be writing there can neither go on nor commit (fence.c). */
static m2_status sweep_one(const char *folder, const char *name)
{
    static const char swept[] = ".swept.tmp";
    char path[M2_PATH], doomed[M2_PATH];
    size_t n = strlen(name), k = sizeof swept - 1;
    M2_TRY(m2i_path(path, "%s/%s", folder, name));
    if (n > k && !strcmp(name + n - k, swept)) return m2i_remove_folder(path);
    M2_TRY(m2i_path(doomed, "%s%s", path, swept));
    if (rename(path, doomed)) {
        if (errno == ENOENT) return M2_OK;
        return m2_fail(M2_IO, "sweeping %s failed: %s", path, strerror(errno));
    }
    return m2i_remove_folder(doomed);
}

m2_status m2_checkpoint_sweep(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir) return m2_fail(M2_IO, "reading folder %s failed: %s", folder, strerror(errno));
    m2_status st = M2_OK;
    for (struct dirent *e; st == M2_OK && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        if (n < 9 || strncmp(e->d_name, "step-", 5) || strcmp(e->d_name + n - 4, ".tmp")) continue;
        st = sweep_one(folder, e->d_name);
    }
    closedir(dir);
    return st;
}

m2_status m2_checkpoint_remove(const char *folder)
{
    M2_TRY(m2_checkpoint_sweep(folder));
    M2_TRY(m2i_prune(folder, 0, 0));
    return m2i_remove_folder(folder);
}
