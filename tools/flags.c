/* flags.c - takes "--flag value" words out of a command line, and finds the subject of a tool that has several. */
#include "runtime/config.h"
#include "tools/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FLAGS = 64 };

static m2_status unknown(const char *tool, const char *word, size_t length, const m2_flag *flags)
{
    const char *names[MAX_FLAGS];
    int n = 0;
    while (n < MAX_FLAGS && flags[n].name) names[n] = flags[n].name, n++;
    char name[64];
    if (length >= sizeof name) length = sizeof name - 1;
    memcpy(name, word, length);
    name[length] = 0;
    const char *near = m2_nearest_name(name, names, n);
    if (near) return m2_fail(M2_USAGE, "m2 %s has no flag %s; did you mean %s?", tool, name, near);
    return m2_fail(M2_USAGE, "m2 %s has no flag %s; m2 help %s lists those it has", tool, name, tool);
}

static m2_status store(const char *tool, const m2_flag *flag, const char *text)
{
    char *end = NULL;
    errno = 0;
    if (flag->kind == M2_FLAG_TEXT) {
        *(const char **)flag->value = text;
    } else if (flag->kind == M2_FLAG_INT) {
        long long v = strtoll(text, &end, 10);
        if (end == text || *end || errno || v < 0)
            return m2_fail(M2_USAGE, "m2 %s: %s %s: expected a whole number, at least 0", tool, flag->name,
                           text);
        *(int64_t *)flag->value = v;
    } else {
        double v = strtod(text, &end);
        if (end == text || *end || errno || v != v)
            return m2_fail(M2_USAGE, "m2 %s: %s %s: expected a number", tool, flag->name, text);
        *(double *)flag->value = v;
    }
    return M2_OK;
}

m2_status m2_flags_take(int *argc, char **argv, const m2_flag *flags)
{
    int kept = 1, i = 1;
    for (; i < *argc && strcmp(argv[i], "--"); i++) {
        const char *word = argv[i], *equals = strchr(word, '=');
        if (word[0] != '-' || !word[1]) {
            argv[kept++] = argv[i];
            continue;
        }
        size_t length = equals ? (size_t)(equals - word) : strlen(word);
        const m2_flag *flag = flags;
        while (flag->name && (strlen(flag->name) != length || memcmp(flag->name, word, length) != 0)) flag++;
        if (!flag->name) return unknown(argv[0], word, length, flags);
        if (flag->kind == M2_FLAG_ON) {
            if (equals) return m2_fail(M2_USAGE, "m2 %s: %s takes no value", argv[0], flag->name);
            *(int *)flag->value = 1;
        } else if (equals) {
            M2_TRY(store(argv[0], flag, equals + 1));
        } else if (i + 1 < *argc) {
            M2_TRY(store(argv[0], flag, argv[++i]));
        } else {
            return m2_fail(M2_USAGE, "m2 %s: %s needs a value", argv[0], flag->name);
        }
    }
    for (i++; i < *argc; i++) argv[kept++] = argv[i];
    argv[kept] = NULL;
    *argc = kept;
    return M2_OK;
}

m2_status m2_config_take(int argc, char **argv, m2_config *out)
{
    if (argc < 2 || strchr(argv[1], '='))
        return m2_fail(M2_USAGE, "which configuration? m2 %s CONFIG.yaml [KEY=VALUE ...], see m2 help %.*s",
                       argv[0], (int)strcspn(argv[0], " "), argv[0]);
    m2_config_defaults(out);
    M2_TRY(m2_config_load(out, argv[1]));
    for (int i = 2; i < argc; i++) M2_TRY(m2_config_set(out, argv[i]));
    return M2_OK;
}

m2_status m2_subjects_run(int argc, char **argv, const m2_subject *subjects)
{
    const char *names[MAX_FLAGS];
    char list[256] = "", title[64];
    int n = 0;
    for (const m2_subject *s = subjects; s->name && n < MAX_FLAGS; s++) {
        names[n++] = s->name;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", s == subjects ? "" : ", ", s->name);
    }
    if (argc < 2) return m2_fail(M2_USAGE, "m2 %s what? One of: %s", argv[0], list);
    const m2_subject *s = subjects;
    while (s->name && strcmp(s->name, argv[1]) != 0) s++;
    const char *near = s->name ? NULL : m2_nearest_name(argv[1], names, n);
    if (near) return m2_fail(M2_USAGE, "m2 %s knows no '%s'; did you mean '%s'?", argv[0], argv[1], near);
    if (!s->name)
        return m2_fail(M2_USAGE, "m2 %s knows no '%s'; expected one of: %s", argv[0], argv[1], list);
    if (s->usage && argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
        fputs(s->usage, stdout);
        return M2_OK;
    }
    snprintf(title, sizeof title, "%s %s", argv[0], argv[1]);
    argv[1] = title;
    return s->run(argc - 1, argv + 1);
}
