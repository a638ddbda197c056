/* slow_disk.c - preloaded, it makes every fsync take SLOW_DISK_MS milliseconds: runs that save often then take as long on every
 * machine, however fast, so that there is time for something to happen to them. */
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int fsync(int fd)
{
    const char *ms = getenv("SLOW_DISK_MS");
    long wait = ms ? atol(ms) : 0;
    nanosleep(&(struct timespec){.tv_sec = wait / 1000, .tv_nsec = wait % 1000 * 1000000}, NULL);
    return fdatasync(fd);
}
