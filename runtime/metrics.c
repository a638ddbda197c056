#include "runtime/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct m2_metrics {
    FILE *file;
    char path[1100];
};

static m2_status failed(const char *path, const char *doing)
{
    return m2_fail(M2_IO, "%s %s failed: %s", doing, path, strerror(errno));
}

/* Copies the records up to `step`. */
static int copy_records(FILE *from, FILE *to, int64_t step)
{
    char *line = NULL;
    size_t room = 0;
    int ok = 1;
    for (ssize_t n; ok && (n = getline(&line, &room, from)) > 0;) {
        long long at;
        if (line[n - 1] != '\n' || sscanf(line, "{\"step\": %lld,", &at) != 1 || at > step) continue;
        ok = fwrite(line, 1, (size_t)n, to) == (size_t)n;
    }
    free(line);
    return ok && !ferror(from);
}

static m2_status rewind_to(const char *path, int64_t step)
{
    char temporary[1110];
    FILE *from = fopen(path, "r");
    if (!from) return errno == ENOENT ? M2_OK : failed(path, "reading");
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *to = fopen(temporary, "w");
    int ok = to && copy_records(from, to, step);
    if (to && fclose(to)) ok = 0;
    fclose(from);
    if (!ok || rename(temporary, path)) return failed(temporary, "writing");
    return M2_OK;
}

m2_status m2_metrics_open(const char *path, int64_t step, m2_metrics **out)
{
    m2_metrics *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m) return m2_fail(M2_TRANSIENT, "out of memory for %s", path);
    snprintf(m->path, sizeof m->path, "%s", path);
    m2_status st = rewind_to(m->path, step);
    if (st == M2_OK) {
        m->file = fopen(m->path, "a");
        if (!m->file) st = failed(m->path, "opening");
    }
    *out = m;
    if (st != M2_OK) m2_metrics_close(out);
    return st;
}

static void put_real(FILE *file, const char *key, double x, int digits)
{
    if (x == M2_ABSENT) return;
    if (isfinite(x))
        fprintf(file, ", \"%s\": %.*g", key, digits, x);
    else
        fprintf(file, ", \"%s\": null", key);
}

m2_status m2_metrics_write(m2_metrics *m, const m2_record *r)
{
    const char *lead = "{";
#define INT(field)                                                                                           \
    fprintf(m->file, "%s\"" #field "\": %" PRId64, lead, r->field);                                          \
    lead = ", ";
#define REAL(field, digits) put_real(m->file, #field, r->field, digits);
    M2_METRICS_TABLE(INT, REAL)
#undef INT
#undef REAL
    fputs("}\n", m->file);
    return fflush(m->file) || ferror(m->file) ? failed(m->path, "writing") : M2_OK;
}

m2_status m2_metrics_back(m2_metrics *m, int64_t step, const char *event)
{
    int bad = fclose(m->file);
    m->file = NULL;
    if (bad) return failed(m->path, "writing");
    M2_TRY(rewind_to(m->path, step));
    m->file = fopen(m->path, "a");
    if (!m->file) return failed(m->path, "opening");
    fprintf(m->file, "%s\n", event);
    return fflush(m->file) || ferror(m->file) ? failed(m->path, "writing") : M2_OK;
}

m2_status m2_metrics_last(const char *path, const char *key, double *out)
{
    char *line = NULL, name[64];
    size_t room = 0;
    int found = 0;
    FILE *file = fopen(path, "r");
    if (!file) return failed(path, "reading");
    snprintf(name, sizeof name, "\"%s\": ", key);
    while (getline(&line, &room, file) > 0) {
        const char *at = strstr(line, name);
        if (at && sscanf(at + strlen(name), "%lf", out) == 1) found = 1;
    }
    free(line);
    fclose(file);
    return found ? M2_OK : m2_fail(M2_DATA, "%s has no %s", path, key);
}

void m2_metrics_close(m2_metrics **m)
{
    if (*m && (*m)->file) fclose((*m)->file);
    free(*m);
    *m = NULL;
}
