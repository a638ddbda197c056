#include "runtime/yaml_map.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

enum { MAX_KEY = 128 };

typedef struct reader {
    yaml_parser_t yaml;
    const char *path;
    m2i_yaml_fn fn;
    void *ctx;
    char where[512];
} reader;

static const char *where(reader *r, const yaml_mark_t *mark)
{
    snprintf(r->where, sizeof r->where, "%s:%zu", r->path, mark->line + 1);
    return r->where;
}

static m2_status next(reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->yaml, event)) return M2_OK;
    return m2_fail(M2_USAGE, "%s: not YAML: %s", where(r, &r->yaml.problem_mark),
                   r->yaml.problem ? r->yaml.problem : "unreadable");
}

static m2_status read_map(reader *r, const char *prefix);

static m2_status read_value(reader *r, const char *key)
{
    yaml_event_t value;
    M2_TRY(next(r, &value));
    yaml_event_type_t type = value.type;
    const char *at = where(r, &value.start_mark);
    m2_status st = M2_OK;
    if (type == YAML_SCALAR_EVENT)
        st = r->fn(r->ctx, at, key, (const char *)value.data.scalar.value);
    else if (type != YAML_MAPPING_START_EVENT)
        st = m2_fail(M2_USAGE, "%s: %s: expected one value or a map", at, key);
    yaml_event_delete(&value);
    return st == M2_OK && type == YAML_MAPPING_START_EVENT ? read_map(r, key) : st;
}

/* The map whose start was just read; prefix: its key, or "". */
static m2_status read_map(reader *r, const char *prefix)
{
    for (;;) {
        yaml_event_t key;
        char name[MAX_KEY] = "";
        M2_TRY(next(r, &key));
        yaml_event_type_t type = key.type;
        const char *at = where(r, &key.start_mark);
        int n = type == YAML_SCALAR_EVENT ? snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "",
                                                     (const char *)key.data.scalar.value)
                                          : 0;
        yaml_event_delete(&key);
        if (type == YAML_MAPPING_END_EVENT) return M2_OK;
        if (type != YAML_SCALAR_EVENT || n >= MAX_KEY) return m2_fail(M2_USAGE, "%s: expected a name", at);
        M2_TRY(read_value(r, name));
    }
}

static m2_status read_file(reader *r)
{
    for (;;) {
        yaml_event_t event;
        M2_TRY(next(r, &event));
        yaml_event_type_t type = event.type;
        const char *at = where(r, &event.start_mark);
        yaml_event_delete(&event);
        if (type == YAML_STREAM_END_EVENT) return M2_OK;
        if (type == YAML_MAPPING_START_EVENT) M2_TRY(read_map(r, ""));
        if (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT)
            return m2_fail(M2_USAGE, "%s: expected names with values", at);
    }
}

m2_status m2i_yaml_each(const char *path, m2i_yaml_fn fn, void *ctx)
{
    reader r = {.path = path, .fn = fn, .ctx = ctx};
    FILE *file = fopen(path, "rb");
    if (!file) return m2_fail(M2_USAGE, "cannot read %s: %s", path, strerror(errno));
    m2_status st =
        yaml_parser_initialize(&r.yaml) ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for reading %s", path);
    if (st == M2_OK) {
        yaml_parser_set_input_file(&r.yaml, file);
        st = read_file(&r);
        yaml_parser_delete(&r.yaml);
    }
    fclose(file);
    return st;
}
