#include "runtime/rundir.h"
#include "kernels/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

/* ---- name -------------------------------------------------------------------------------------------------------- */
static uint64_t mix(uint64_t hash, const char *key, const char *value)
{
    hash = XXH3_64bits_withSeed(key, strlen(key), hash);
    return XXH3_64bits_withSeed(value, strlen(value), hash);
}

static uint64_t identity(const m2_config *cfg)
{
    uint64_t hash = mix(0, "data.train", cfg->data_train);
    char text[64];
#define INT(field, key, def, lo, hi, restart, help)                                                          \
    snprintf(text, sizeof text, "%" PRId64, cfg->field);                                                     \
    if (!restart) hash = mix(hash, key, text);
#define REAL(field, key, def, lo, hi, restart, help)                                                         \
    snprintf(text, sizeof text, "%.17g", cfg->field);                                                        \
    if (!restart) hash = mix(hash, key, text);
#define BOOL(field, key, def, restart, help)                                                                 \
    if (!restart) hash = mix(hash, key, cfg->field ? "1" : "0");
#define STR(field, key, def, choices, restart, help)                                                         \
    if (!restart) hash = mix(hash, key, cfg->field);
#include "runtime/options.def"
#undef INT
#undef REAL
#undef BOOL
#undef STR
    return hash;
}

void m2_rundir_default(const m2_config *cfg, const char *config_path, char *out, size_t n)
{
    const char *base = strrchr(config_path, '/');
    base = base ? base + 1 : config_path;
    const char *dot = strrchr(base, '.');
    int length = dot ? (int)(dot - base) : (int)strlen(base);
    snprintf(out, n, "runs/%s-%.*s-%08x", cfg->model_family, length, base, (unsigned)identity(cfg));
}

m2_status m2_rundir_paths(const char *path, m2_rundir *out)
{
    *out = (m2_rundir){.lock = -1};
    if (strlen(path) + sizeof "/checkpoints/step-000000000000.tmp/rank-00000.h5" > M2_PATH)
        return m2_fail(M2_USAGE, "run.dir '%.60s...' is too long", path);
    snprintf(out->path, M2_PATH, "%s", path);
    snprintf(out->checkpoints, M2_PATH, "%s/checkpoints", path);
    snprintf(out->metrics, M2_PATH, "%s/metrics.jsonl", path);
    snprintf(out->flight, M2_PATH, "%s/flight", path);
    return M2_OK;
}

/* ---- lock -------------------------------------------------------------------------------------------------------- */
/* The entry of `path` in the folder above it. */
static m2_status sync_entry(const char *path)
{
    char above[M2_PATH];
    const char *slash = strrchr(path, '/');
    snprintf(above, sizeof above, "%.*s", slash == path ? 1 : slash ? (int)(slash - path) : 1, slash ? path : ".");
    int fd = open(above, O_RDONLY), bad = fd < 0 || fsync(fd);
    m2_status st = bad ? m2_fail(M2_IO, "making folder %s durable failed: %s", path, strerror(errno)) : M2_OK;
    if (fd >= 0) close(fd);
    return st;
}

/* With the folders above it. */
static m2_status make_folder(const char *path)
{
    char part[M2_PATH];
    for (const char *end = path; *end;) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        snprintf(part, sizeof part, "%.*s", (int)(end - path), path);
        if (mkdir(part, 0777) == 0)
            M2_TRY(sync_entry(part));
        else if (errno != EEXIST)
            return m2_fail(M2_IO, "making folder %s failed: %s", part, strerror(errno));
    }
    return M2_OK;
}

/* Is `owner` an earlier start of this very job? Slurm restarts a job only when it gave the earlier one up. */
static int gave_up(const char *owner)
{
    const char *job = getenv("SLURM_JOB_ID"), *restart = getenv("SLURM_RESTART_COUNT");
    char its[40] = "";
    long count = 0;
    return job && restart && sscanf(owner, "Slurm job %39[^,], restart %ld,", its, &count) == 2 &&
           !strcmp(its, job) && count < atol(restart);
}

static void read_owner(int fd, char *owner, size_t room)
{
    ssize_t n = pread(fd, owner, room - 1, 0);
    owner[n > 0 ? n : 0] = 0;
    owner[strcspn(owner, "\n")] = 0;
}

/* Takes the lock file's lock, or tells who has it. *held: 0 when it goes on without. */
static m2_status lock(int fd, const char *file, int *held)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char owner[256];
    enum { TRIES = 50 };
    *held = 0;
    for (int i = 0; i < TRIES; i++) {
        *held = fcntl(fd, F_SETLK, &whole) == 0;
        if (*held) return M2_OK;
        if (errno != EACCES && errno != EAGAIN) {
            m2_log(M2_LOG_WARN, "%s cannot be locked (%s): the newest job that uses this folder goes on, others stop",
                   file, strerror(errno));
            return M2_OK;
        }
        read_owner(fd, owner, sizeof owner);
        if (gave_up(owner)) {
            m2_log(M2_LOG_WARN, "%s is still held by an earlier start of this job (%s): taking the run over", file,
                   owner);
            return M2_OK;
        }
        if (i == 10) m2_log(M2_LOG_INFO, "%s is in use: waiting for that run to end", file);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return m2_fail(M2_USAGE, "%s: another run uses this folder (%s): stop it, or choose another run.dir",
                   file, owner);
}

static m2_status sign(int fd, const char *file)
{
    char text[384];
    m2_fence_job(text, sizeof text - 1);
    size_t n = strlen(text);
    text[n++] = '\n';
    if (ftruncate(fd, 0) || pwrite(fd, text, n, 0) != (ssize_t)n)
        return m2_fail(M2_IO, "writing %s failed: %s", file, strerror(errno));
    return M2_OK;
}

m2_status m2_rundir_make(const m2_rundir *dir)
{
    return make_folder(dir->checkpoints);
}

m2_status m2_rundir_open(m2_rundir *dir)
{
    char file[M2_PATH + 8];
    M2_TRY(m2_rundir_make(dir));
    snprintf(file, sizeof file, "%s/lock", dir->path);
    dir->lock = open(file, O_RDWR | O_CREAT, 0666);
    if (dir->lock < 0) return m2_fail(M2_IO, "opening %s failed: %s", file, strerror(errno));
    int held;
    m2_status st = lock(dir->lock, file, &held);
    if (st == M2_OK && held) st = sign(dir->lock, file);
    if (st != M2_OK) m2_rundir_close(dir);
    return st;
}

void m2_rundir_close(m2_rundir *dir)
{
    if (dir->lock >= 0) close(dir->lock); /* releases the lock */
    dir->lock = -1;
}

/* ---- config ------------------------------------------------------------------------------------------------------ */
m2_status m2_config_text(const m2_config *cfg, char **text)
{
    size_t n;
    *text = NULL;
    FILE *stream = open_memstream(text, &n);
    if (stream) m2_config_write(cfg, stream);
    if (!stream || fclose(stream)) return m2_fail(M2_TRANSIENT, "out of memory for the config's text");
    return M2_OK;
}

m2_status m2_rundir_write_config(const m2_rundir *dir, const m2_config *cfg)
{
    char file[M2_PATH + 16], temporary[M2_PATH + 24];
    snprintf(file, sizeof file, "%s/config.yaml", dir->path);
    snprintf(temporary, sizeof temporary, "%s.tmp", file);
    FILE *out = fopen(temporary, "w");
    if (out) m2_config_write(cfg, out);
    int bad = !out || ferror(out);
    if (out && fclose(out)) bad = 1;
    if (bad || rename(temporary, file)) return m2_fail(M2_IO, "writing %s failed: %s", file, strerror(errno));
    return M2_OK;
}
