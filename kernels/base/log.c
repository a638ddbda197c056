#include "kernels/base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct {
    pthread_mutex_t lock;
    m2_log_level lowest;
    int rank;
    uint64_t said[256]; /* hashes of the sentences of m2_log_once */
    int n_said;
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER, .lowest = M2_LOG_INFO};

void m2_log_setup(m2_log_level lowest, int rank)
{
    pthread_mutex_lock(&sink.lock);
    const char *wish = getenv("M2_LOG");
    sink.lowest = wish && !strcmp(wish, "debug") ? M2_LOG_DEBUG : lowest;
    sink.rank = rank;
    pthread_mutex_unlock(&sink.lock);
}

int m2_log_rank(void)
{
    pthread_mutex_lock(&sink.lock);
    int rank = sink.rank;
    pthread_mutex_unlock(&sink.lock);
    return rank;
}

static void say(m2_log_level level, const char *text)
{
    static const char *const tag[] = {"debug: ", "", "warning: ", "error: "};
    if (level < sink.lowest || (sink.rank != 0 && level < M2_LOG_ERROR)) return;
    fprintf(stderr, "m2: %s%s\n", tag[level], text);
}

void m2_log(m2_log_level level, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&sink.lock);
    say(level, text);
    pthread_mutex_unlock(&sink.lock);
}

void m2_log_once(m2_log_level level, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (const char *c = text; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    pthread_mutex_lock(&sink.lock);
    int i = 0;
    while (i < sink.n_said && sink.said[i] != hash) i++;
    if (i == sink.n_said) {
        if (i < (int)(sizeof sink.said / sizeof *sink.said)) sink.said[sink.n_said++] = hash;
        say(level, text);
    }
    pthread_mutex_unlock(&sink.lock);
}

double m2_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

char *m2_human_bytes(char *buf, int64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double x = (double)bytes;
    int u = 0;
    while (x >= 1024 && u < 5) x /= 1024, u++;
    snprintf(buf, 32, u ? "%.2f %s" : "%.0f %s", x, unit[u]);
    return buf;
}

char *m2_human_count(char *buf, double count)
{
    static const char *const unit[] = {"", "K", "M", "G", "T", "P"};
    int u = 0;
    while (count >= 1000 && u < 5) count /= 1000, u++;
    snprintf(buf, 32, u ? "%.1f%s" : "%.0f%s", count, unit[u]);
    return buf;
}

char *m2_human_time(char *buf, double seconds)
{
    long s = (long)(seconds + 0.5);
    if (s < 60) snprintf(buf, 32, "%lds", s);
    else if (s < 3600) snprintf(buf, 32, "%ldm%02lds", s / 60, s % 60);
    else if (s < 86400) snprintf(buf, 32, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else snprintf(buf, 32, "%ldd%02ldh", s / 86400, s / 3600 % 24);
    return buf;
}
