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
    if (dev && !gpu) look_at_processor(dev, f);
    look_at_memory(f);
    look_at_gpus(w, f);
    look_at_gpu_health(f);
    look_at_shared_memory(f);
    for (int i = 0; i < (int)(sizeof w->folder / sizeof *w->folder); i++)
        if (w->folder[i]) look_at_folder(w, w->folder[i], f);
}
