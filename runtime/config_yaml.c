/* config_yaml.c - a YAML file becomes options: nested maps join their keys with dots, `base:` loads another file first. */
#include "runtime/config.h"
#include "runtime/config_rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_KEY = 128, MAX_ROWS = 256, MAX_BASES = 8 };

typedef struct reader {
    m2_config *cfg;
    yaml_parser_t yaml;
    const char *origin;  /* for messages; the path if it is a file */
    int is_file, depth;  /* depth: how many files asked for this one by `base` */
    long line[MAX_ROWS]; /* where an option was set in this file, 0 = not yet */
    int options_seen;
    char where[512];
} reader;

static m2_status load(m2_config *cfg, const char *path, int depth);

static const char *where(reader *r, const yaml_mark_t *mark)
{
    snprintf(r->where, sizeof r->where, "%s:%zu", r->origin, mark->line + 1);
    return r->where;
}

static m2_status next(reader *r, yaml_event_t *event)
{
    if (!yaml_parser_parse(&r->yaml, event))
        return m2_fail(M2_USAGE, "%s: not YAML: %s", where(r, &r->yaml.problem_mark),
                       r->yaml.problem ? r->yaml.problem : "unreadable");
    return M2_OK;
}

/* Is this key the beginning of longer ones, as "model" or "model.filter" are? */
static int is_section(const char *key)
{
    const m2i_option *rows;
    size_t n = strlen(key);
    for (int i = 0, count = m2i_options(&rows); i < count; i++)
        if (!strncmp(rows[i].key, key, n) && rows[i].key[n] == '.') return 1;
    return 0;
}

static m2_status set_base(reader *r, const yaml_event_t *value)
{
    const char *name = (const char *)value->data.scalar.value, *slash = strrchr(r->origin, '/');
    const char *at = where(r, &value->start_mark);
    if (!r->is_file) return m2_fail(M2_USAGE, "%s: 'base' is for files", at);
    if (r->options_seen) return m2_fail(M2_USAGE, "%s: 'base' comes before all options, which change it", at);
    if (r->depth >= MAX_BASES)
        return m2_fail(M2_USAGE, "%s: 'base' of 'base' more than %d deep; does a file name itself?", at,
                       MAX_BASES);
    int folder = *name == '/' || !slash ? 0 : (int)(slash - r->origin + 1);
    char path[4096];
    if (snprintf(path, sizeof path, "%.*s%s", folder, r->origin, name) >= (int)sizeof path)
        return m2_fail(M2_USAGE, "%s: the path of 'base' is too long", at);
    return m2_context(load(r->cfg, path, r->depth + 1), "%s", at);
}

static m2_status set_scalar(reader *r, const char *key, const yaml_event_t *value)
{
    const char *text = (const char *)value->data.scalar.value, *at = where(r, &value->start_mark);
    const m2i_option *rows, *o = m2i_option_find(key);
    m2i_options(&rows);
    if (!strcmp(key, "base")) return set_base(r, value);
    if (!o && is_section(key))
        return m2_fail(M2_USAGE, "%s: '%s' is a section; expected options below it", at, key);
    if (!o) return m2i_option_unknown(at, key);
    long *first = &r->line[o - rows];
    if (*first) return m2_fail(M2_USAGE, "%s: %s is already set in line %ld", at, key, *first);
    *first = (long)value->start_mark.line + 1;
    r->options_seen = 1;
    int null =
        value->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && (!strcmp(text, "~") || !strcmp(text, "null"));
    return m2i_option_set(r->cfg, o, at, null ? "" : text);
}

/* The map whose start was just read; prefix: key of the map with its dot, or "". */
static m2_status read_map(reader *r, const char *prefix)
{
    for (;;) {
        yaml_event_t key, value;
        char name[MAX_KEY];
        M2_TRY(next(r, &key));
        yaml_event_type_t type = key.type;
        const char *at = where(r, &key.start_mark);
        int n = type == YAML_SCALAR_EVENT
                    ? snprintf(name, sizeof name, "%s%s", prefix, (const char *)key.data.scalar.value)
                    : 0;
        yaml_event_delete(&key);
        if (type == YAML_MAPPING_END_EVENT) return M2_OK;
        if (type != YAML_SCALAR_EVENT || n >= MAX_KEY)
            return m2_fail(M2_USAGE, "%s: expected the name of an option, such as optim.lr", at);
        M2_TRY(next(r, &value));
        m2_status st = M2_OK;
        type = value.type;
        at = where(r, &value.start_mark);
        if (type == YAML_SCALAR_EVENT)
            st = set_scalar(r, name, &value);
        else if (type != YAML_MAPPING_START_EVENT || m2i_option_find(name))
            st = m2_fail(M2_USAGE, "%s: %s: expected one value, not a list, a map or a reference", at, name);
        else if (!is_section(name))
            st = m2i_option_unknown(at, name);
        yaml_event_delete(&value);
        if (st == M2_OK && type == YAML_MAPPING_START_EVENT) {
            char below[MAX_KEY + 1];
            snprintf(below, sizeof below, "%s.", name);
            st = read_map(r, below);
        }
        if (st != M2_OK) return st;
    }
}

static m2_status read_document(reader *r)
{
    int documents = 0;
    for (;;) {
        yaml_event_t event;
        M2_TRY(next(r, &event));
        yaml_event_type_t type = event.type;
        const char *at = where(r, &event.start_mark);
        int empty = type == YAML_SCALAR_EVENT && !event.data.scalar.value[0];
        yaml_event_delete(&event);
        if (type == YAML_STREAM_END_EVENT) return M2_OK;
        if (type == YAML_DOCUMENT_START_EVENT && documents++)
            return m2_fail(M2_USAGE, "%s: expected one YAML document, here a second begins", at);
        if (type == YAML_MAPPING_START_EVENT)
            M2_TRY(read_map(r, ""));
        else if (!empty && (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT))
            return m2_fail(M2_USAGE, "%s: expected options, such as 'model:' with 'width: 256' below it", at);
    }
}

static m2_status read_all(reader *r, FILE *file, const char *text)
{
    const m2i_option *rows;
    M2_CHECK(m2i_options(&rows) <= MAX_ROWS);
    if (!yaml_parser_initialize(&r->yaml))
        return m2_fail(M2_TRANSIENT, "out of memory for reading %s", r->origin);
    if (file)
        yaml_parser_set_input_file(&r->yaml, file);
    else
        yaml_parser_set_input_string(&r->yaml, (const unsigned char *)text, strlen(text));
    m2_status st = read_document(r);
    yaml_parser_delete(&r->yaml);
    return st;
}

static m2_status load(m2_config *cfg, const char *path, int depth)
{
    FILE *file = fopen(path, "rb");
    if (!file) return m2_fail(M2_USAGE, "cannot read configuration %s: %s", path, strerror(errno));
    reader r = {.cfg = cfg, .origin = path, .is_file = 1, .depth = depth};
    m2_status st = read_all(&r, file, NULL);
    fclose(file);
    return st;
}

m2_status m2_config_load(m2_config *cfg, const char *path)
{
    return load(cfg, path, 0);
}

m2_status m2_config_parse_text(m2_config *cfg, const char *yaml, const char *origin)
{
    reader r = {.cfg = cfg, .origin = origin};
    return read_all(&r, NULL, yaml);
}
