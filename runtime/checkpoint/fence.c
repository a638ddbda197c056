/* fence.c - whose run it is.
 *
 * A job takes token N + 1 by making RUN/fence/N+1 exclusively, then moves every unfinished save away; only then it looks for
 * the newest checkpoint. A save makes its folder first, then looks for newer tokens, and its last act is renaming that
 * folder. So whatever an older job does, either its folder existed when the new job swept, and its rename fails, or it
 * was made after the new token, and the look finds it: nothing is committed behind the new job's back, without clocks
 * or locks. */
#include "runtime/checkpoint/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The newest token of the folder; 0: none. Listing asks the server anew where a look-up might be answered from a cache. */
static m2_status newest(const char *folder, int64_t *token)
{
    *token = 0;
    DIR *dir = opendir(folder);
    if (!dir) return m2_fail(M2_IO, "reading folder %s failed: %s", folder, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) {
        if (strspn(e->d_name, "0123456789") != strlen(e->d_name)) continue;
        int64_t n = strtoll(e->d_name, NULL, 10);
        if (n > *token) *token = n;
    }
    closedir(dir);
    return M2_OK;
}

void m2_fence_job(char *text, size_t n)
{
    const char *job = getenv("SLURM_JOB_ID"), *restart = getenv("SLURM_RESTART_COUNT");
    char host[128] = "", when[32], slurm[96] = "";
    time_t now = time(NULL);
    struct tm utc;
    gethostname(host, sizeof host - 1);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&now, &utc));
    if (job) snprintf(slurm, sizeof slurm, "Slurm job %.32s, restart %.16s, ", job, restart ? restart : "0");
    snprintf(text, n, "%sprocess %ld on %s since %s", slurm, (long)getpid(), host, when);
}

static m2_status make(const char *path, const char *text, int *taken)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
    *taken = fd < 0 && errno == EEXIST;
    if (*taken) return M2_OK;
    ssize_t n = (ssize_t)strlen(text);
    int bad = fd < 0 || write(fd, text, (size_t)n) != n || fsync(fd);
    m2_status st = bad ? m2_fail(M2_IO, "writing %s failed: %s", path, strerror(errno)) : M2_OK;
    if (fd >= 0) close(fd);
    return st;
}

m2_status m2_fence_take(const char *run, const char *checkpoints, m2_fence *out)
{
    char path[M2_PATH], text[384];
    *out = (m2_fence){0};
    m2_fence_job(text, sizeof text);
    M2_TRY(m2i_path(out->folder, "%s/fence", run));
    if (mkdir(out->folder, 0777) && errno != EEXIST)
        return m2_fail(M2_IO, "making folder %s failed: %s", out->folder, strerror(errno));
    for (int taken = 1; taken;) {
        int64_t last;
        M2_TRY(newest(out->folder, &last));
        out->token = last + 1;
        M2_TRY(m2i_path(path, "%s/%08" PRId64, out->folder, out->token));
        M2_TRY(make(path, text, &taken));
    }
    M2_TRY(m2i_sync_folder(out->folder));
    return m2_checkpoint_sweep(checkpoints);
}

m2_status m2_fence_check(const m2_fence *f)
{
    char path[M2_PATH], who[256] = "";
    int64_t last;
    if (!f->token || !*f->folder) return M2_OK;
    M2_TRY(newest(f->folder, &last));
    if (last <= f->token) return M2_OK;
    M2_TRY(m2i_path(path, "%s/%08" PRId64, f->folder, last));
    FILE *file = fopen(path, "r");
    if (file && !fgets(who, sizeof who, file)) who[0] = 0;
    if (file) fclose(file);
    who[strcspn(who, "\n")] = 0;
    return m2_fail(M2_USAGE,
                   "%.*s has been taken over by %s (token %" PRId64 ", this job has %" PRId64
                   "): this job stops and saves nothing more",
                   (int)(strrchr(f->folder, '/') - f->folder), f->folder, *who ? who : "another job", last,
                   f->token);
}
