/* doctor_node.c - what one machine has: each function looks at one thing and notes what it found. */
#include "data/store.h"
#include "kernels/base/log.h"
#include "kernels/perf.h"
#include "tools/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const double mib = 1 << 20, gib = 1 << 30;

/* ---- program, processor, memory ---------------------------------------------------------------------------------- */
static void look_at_program(findings *f)
{
    doctor_find(f, FIT, "program", NAN, "", "m2 %s, %s, %s", M2_VERSION, m2_comm_library(), m2_store_library());
}

/* Programs are looked for as execvp does. */
static int on_path(const char *program)
{
    char file[4096];
    for (const char *p = getenv("PATH"); p && *p; p += strcspn(p, ":"), p += *p == ':') {
        snprintf(file, sizeof file, "%.*s/%s", (int)strcspn(p, ":"), p, program);
        if (!access(file, X_OK)) return 1;
    }
    return 0;
}

/* Another version of HDF5 than it was built for would abort m2 at its first use. */
static void look_at_hdf5(findings *f)
{
    if (m2_store_library_check() != M2_OK) doctor_find(f, UNFIT, "HDF5", NAN, "", "%s", m2_message());
}

static void look_at_launchers(findings *f)
{
    int mpirun = on_path("mpirun"), srun = on_path("srun");
    doctor_find(f, mpirun || srun ? FIT : DOUBTFUL, "launchers", NAN, "", "%s%s%s", mpirun ? "mpirun" : "",
                mpirun && srun ? ", srun" : srun ? "srun" : "",
                mpirun || srun ? "" : "neither mpirun nor srun is on PATH: one rank is all that can be started here");
}

static void look_at_processor(m2_device *dev, findings *f)
{
    double flops = 0;
    if (m2_perf_peak(dev, M2_F32, &flops) != M2_OK)
        doctor_find(f, UNFIT, "processor", NAN, "", "%s", m2_message());
    else
        doctor_find(f, FIT, "processor", flops / 1e9, "GFLOP/s:", "%s", dev->name);
}

/* A line "key   123 kB" of a file in /proc; -1: there is none. */
static double kilobytes(const char *file, const char *key)
{
    char line[256];
    double value = -1;
    FILE *in = fopen(file, "r");
    while (in && value < 0 && fgets(line, sizeof line, in))
        if (!strncmp(line, key, strlen(key))) value = strtod(line + strlen(key), NULL);
    if (in) fclose(in);
    return value;
}

static void look_at_memory(findings *f)
{
    double total = kilobytes("/proc/meminfo", "MemTotal:") * 1024, left = kilobytes("/proc/meminfo", "MemAvailable:") * 1024;
    if (total < 0 || left < 0) return;
    doctor_find(f, left < gib ? UNFIT : FIT, "memory", left / gib, "GiB", "of %.0f available%s", total / gib,
                left < gib ? ", expected 1 GiB at least" : "");
}

/* ---- GPUs -------------------------------------------------------------------------------------------------------- */
/* A pattern goes to the GPU and comes back. */
static m2_status exchange(m2_device *dev, void *device, unsigned char *host, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i++) host[i] = (unsigned char)(i * 131 >> 3);
    M2_TRY(dev->api->copy(dev, device, host, bytes, NULL));
    M2_TRY(dev->api->stream_sync(dev, NULL));
    memset(host, 0, (size_t)bytes);
    M2_TRY(dev->api->copy(dev, host, device, bytes, NULL));
    M2_TRY(dev->api->stream_sync(dev, NULL));
    for (int64_t i = 0; i < bytes; i++)
        if (host[i] != (unsigned char)(i * 131 >> 3))
            return m2_fail(M2_TRANSIENT, "%s (number %d): byte %lld of a copy came back as another one", dev->name, dev->index,
                           (long long)i);
    return M2_OK;
}

static void look_at_own_gpu(m2_device *dev, findings *f)
{
    enum { BYTES = 64 << 20 };
    void *device = NULL, *host = NULL;
    double begin = m2_now();
    m2_status st = dev->api->alloc(dev, M2_MEM_DEVICE, BYTES, &device);
    if (st == M2_OK) st = dev->api->alloc(dev, M2_MEM_HOST, BYTES, &host);
    if (st == M2_OK) st = exchange(dev, device, host, BYTES);
    if (st != M2_OK)
        doctor_find(f, UNFIT, "GPU memory", NAN, "", "%s", m2_message());
    else
        doctor_find(f, FIT, "GPU memory", (m2_now() - begin) * 1e3, "ms", "for 64 MiB to a %s of %.0f GiB and back", dev->name,
                    (double)dev->memory / gib);
    if (device) dev->api->free(dev, M2_MEM_DEVICE, device);
    if (host) dev->api->free(dev, M2_MEM_HOST, host);
}

static void look_at_gpus(const doctor_wishes *w, findings *f)
{
    int gpus = m2_device_gpus();
    if (w->gpus >= 0 && gpus != w->gpus)
        doctor_find(f, UNFIT, "GPUs", NAN, "", "%d, but %lld were promised", gpus, (long long)w->gpus);
    else
        doctor_find(f, FIT, "GPUs", NAN, "", "%d%s", gpus, gpus ? "" : ": training would run on the CPU");
}

/* What the driver's own tool says of every GPU: uncorrected memory errors, a clock held down by heat or power. */
static void look_at_gpu_health(findings *f)
{
    static const char query[] =
        "nvidia-smi --query-gpu=index,ecc.errors.uncorrected.volatile.total,clocks_throttle_reasons.hw_slowdown,"
        "clocks.max.sm,driver_version --format=csv,noheader,nounits 2>/dev/null";
    char line[256], errors[32], slow[32], driver[32] = "";
    int index, clock = 0, n = 0;
    FILE *in = popen(query, "r");
    while (in && fgets(line, sizeof line, in)) {
        if (sscanf(line, "%d, %31[^,], %31[^,], %d, %31[^\n]", &index, errors, slow, &clock, driver) != 5) continue;
        n++;
        if (strtol(errors, NULL, 10) > 0)
            doctor_find(f, UNFIT, "GPU health", NAN, "", "GPU %d: %s uncorrected memory errors", index, errors);
        else if (!strcmp(slow, "Active"))
            doctor_find(f, UNFIT, "GPU health", NAN, "", "GPU %d: its hardware holds the clock down", index);
    }
    if (in) pclose(in);
    if (n) doctor_find(f, FIT, "GPU driver", NAN, "", "%s, clocks up to %d MHz", driver, clock);
}

/* How GPUs reach each other: the table of nvidia-smi topo -m, whose rows are "GPU0 X NV18 NV18 ... ". Counts of each kind. */
static void look_at_gpu_links(int gpus, findings *f)
{
    enum { KINDS = 8 };
    struct {
        char name[16];
        int pairs;
    } kind[KINDS] = {{"", 0}};
    char line[4096], text[192] = "";
    int n = 0, from, at;
    FILE *in = gpus > 1 ? popen("nvidia-smi topo -m 2>/dev/null", "r") : NULL;
    while (in && fgets(line, sizeof line, in)) {
        if (sscanf(line, "GPU%d%n", &from, &at) != 1 || !strchr(line, 'X')) continue;
        char *rest, *word = strtok_r(line + at, " \t\n", &rest);
        for (int to = 0; to < from && word; to++, word = strtok_r(NULL, " \t\n", &rest)) {
            int k = 0;
            while (k < n && strcmp(kind[k].name, word)) k++;
            if (k == KINDS) continue;
            if (k == n) snprintf(kind[n++].name, sizeof kind->name, "%s", word);
            kind[k].pairs++;
        }
    }
    if (in) pclose(in);
    for (size_t k = 0, used = 0; k < (size_t)n && used < sizeof text; k++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%d pair%s over %s", k ? ", " : "", kind[k].pairs,
                 kind[k].pairs == 1 ? "" : "s", kind[k].name);
    if (n) doctor_find(f, n == 1 ? FIT : DOUBTFUL, "GPU links", NAN, "", "%.190s%s", text,
                       n == 1 ? "" : ": not alike");
}

/* ---- disks ------------------------------------------------------------------------------------------------------- */
enum { WRITE_BYTES = 16 << 20 };

static m2_status write_durably(int fd, const char *file, const char *bytes, double *wrote, double *synced)
{
    double begin = m2_now();
    for (int64_t done = 0; done < WRITE_BYTES;) {
        ssize_t n = write(fd, bytes + done, (size_t)(WRITE_BYTES - done));
        if (n <= 0) return m2_fail(M2_IO, "writing %s failed: %s", file, strerror(errno));
        done += n;
    }
    *wrote = m2_now() - begin;
    if (fsync(fd)) return m2_fail(M2_IO, "fsync of %s failed: %s", file, strerror(errno));
    *synced = m2_now() - begin;
    return M2_OK;
}

static m2_status try_folder(const char *folder, double *wrote, double *synced)
{
    char file[4096], *bytes = malloc(WRITE_BYTES);
    snprintf(file, sizeof file, "%s/m2-doctor-%ld-XXXXXX", folder, (long)getpid());
    if (!bytes) return m2_fail(M2_TRANSIENT, "out of memory for %d bytes to write", (int)WRITE_BYTES);
    memset(bytes, 0x5a, WRITE_BYTES);
    int fd = mkstemp(file);
    m2_status st = fd < 0 ? m2_fail(M2_IO, "making a file failed: %s", strerror(errno))
                          : write_durably(fd, file, bytes, wrote, synced);
    if (fd >= 0) {
        close(fd);
        unlink(file);
    }
    free(bytes);
    return st;
}

/* What a checkpoint does, in small: an array with a checksum is written, committed and read back. */
static m2_status try_store(const char *folder)
{
    enum { COUNT = 1000 };
    char file[4096];
    uint8_t wrote[COUNT], read[COUNT] = {0};
    m2_array_info info = {.dtype = M2_U8, .rank = 1, .shape = {COUNT}};
    m2_array_options options = {.chunk = COUNT, .fletcher32 = 1};
    m2_store *s = NULL;
    for (int i = 0; i < COUNT; i++) wrote[i] = (uint8_t)(i * 131 >> 3);
    int n = snprintf(file, sizeof file, "%s/m2-doctor-%ld.h5", folder, (long)getpid());
    if (n >= (int)sizeof file) return m2_fail(M2_USAGE, "the path %.60s... is too long", folder);
    m2_status st = m2_store_create(file, &s);
    if (st == M2_OK) st = m2_store_make(s, "trial", &info, &options);
    if (st == M2_OK) st = m2_store_write(s, "trial", (int64_t[]){0}, (int64_t[]){COUNT}, wrote);
    if (st == M2_OK) st = m2_store_commit(&s);
    if (st == M2_OK) st = m2_store_open(file, &s);
    if (st == M2_OK) st = m2_store_read(s, "trial", (int64_t[]){0}, (int64_t[]){COUNT}, read);
    if (st == M2_OK && memcmp(wrote, read, COUNT)) st = m2_fail(M2_IO, "%s: other bytes came back than were written", file);
    m2_store_close(&s);
    unlink(file);
    return st;
}

static void look_at_folder(const doctor_wishes *w, const char *folder, findings *f)
{
    char what[sizeof f->row->what];
    double wrote, synced;
    struct statvfs s;
    size_t length = strlen(folder);
    snprintf(what, sizeof what, "disk %s%s", length > 60 ? "..." : "", folder + (length > 60 ? length - 60 : 0));
    double left = statvfs(folder, &s) ? -1 : (double)s.f_bavail * (double)s.f_frsize / mib;
    if (left < 0)
        doctor_find(f, UNFIT, what, NAN, "", "%s", strerror(errno));
    else if (left < (double)w->free_mib)
        doctor_find(f, UNFIT, what, NAN, "", "%.0f MiB are left, expected %lld", left, (long long)w->free_mib);
    else if (try_folder(folder, &wrote, &synced) != M2_OK)
        doctor_find(f, UNFIT, what, NAN, "", "%s", m2_message());
    else if (m2_store_library_check() == M2_OK && try_store(folder) != M2_OK)
        doctor_find(f, UNFIT, what, NAN, "", "%s", m2_message());
    else
        doctor_find(f, FIT, what, synced * 1e3, "ms", "for 16 MiB with fsync");
}

static void look_at_shared_memory(findings *f)
{
    struct statvfs s;
    if (statvfs("/dev/shm", &s)) return;
    double left = (double)s.f_bavail * (double)s.f_frsize / mib;
    doctor_find(f, left < 64 ? UNFIT : FIT, "shared memory", left, "MiB", "left in /dev/shm%s",
                left < 64 ? ", expected 64 at least" : "");
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */
void doctor_node(const doctor_wishes *w, m2_device *dev, int whole, findings *f)
{
    int gpu = dev && strcmp(dev->api->kind, "cpu");
    if (gpu) look_at_own_gpu(dev, f);
    if (!whole) return;
    look_at_program(f);
    look_at_hdf5(f);
    look_at_launchers(f);
    if (dev && !gpu) look_at_processor(dev, f);
    look_at_memory(f);
    look_at_gpus(w, f);
    look_at_gpu_health(f);
    look_at_gpu_links(m2_device_gpus(), f);
    look_at_shared_memory(f);
    for (int i = 0; i < (int)(sizeof w->folder / sizeof *w->folder); i++)
        if (w->folder[i]) look_at_folder(w, w->folder[i], f);
}
