/* provenance.c - what a store says of its making. */
#include "tools/prepare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

char *prepare_join(char *const *words, int64_t n, const char *between)
{
    size_t size = 1;
    for (int64_t i = 0; i < n; i++) size += strlen(words[i]) + strlen(between);
    char *text = malloc(size), *p = text;
    if (!text) return NULL;
    *p = 0;
    for (int64_t i = 0; i < n; i++)
        p += snprintf(p, size - (size_t)(p - text), "%s%s", i ? between : "", words[i]);
    return text;
}

char *prepare_command(char *const *words, int count)
{
    char **kept = malloc((size_t)count * sizeof *kept);
    int n = 0;
    for (int i = 0; kept && i < count; i++) {
        if (!strcmp(words[i], "--threads"))
            i++;
        else if (strcmp(words[i], "--force") && strncmp(words[i], "--threads=", 10))
            kept[n++] = words[i];
    }
    char *text = kept ? prepare_join(kept, n, " ") : NULL;
    free(kept);
    return text;
}

void prepare_date(char date[32])
{
    const char *fixed = getenv("SOURCE_DATE_EPOCH");
    time_t now = fixed ? (time_t)strtoll(fixed, NULL, 10) : time(NULL);
    struct tm utc;
    strftime(date, 32, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
}

m2_status prepare_check_free(const char *path, int force)
{
    if (!path || force || access(path, F_OK)) return M2_OK;
    return m2_fail(M2_USAGE, "%s exists; --force overwrites it", path);
}
