/* config.c - the options: a table made of options.def, one value at a time, and whole configurations as text. */
#include "runtime/config.h"
#include "runtime/config_rows.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const m2i_option options[] = {
#define AT(f) offsetof(m2_config, f)
#define INT(f, key, d, lo, hi, restart, help)                                                                \
    {key, M2I_INT, AT(f), restart, {.i = d}, lo, hi, 0, 0, NULL, help},
#define REAL(f, key, d, lo, hi, restart, help)                                                               \
    {key, M2I_REAL, AT(f), restart, {.r = d}, 0, 0, lo, hi, NULL, help},
#define BOOL(f, key, d, restart, help) {key, M2I_BOOL, AT(f), restart, {.i = d}, 0, 0, 0, 0, NULL, help},
#define STR(f, key, d, choices, restart, help)                                                               \
    {key, M2I_STR, AT(f), restart, {.s = d}, 0, 0, 0, 0, choices, help},
#include "runtime/options.def"
#undef INT
#undef REAL
#undef BOOL
#undef STR
#undef AT
};
enum { OPTIONS = sizeof options / sizeof *options, TEXT = sizeof((m2_config *)0)->run_dir };

int m2i_options(const m2i_option **rows)
{
    *rows = options;
    return OPTIONS;
}

const m2i_option *m2i_option_find(const char *key)
{
    for (int i = 0; i < OPTIONS; i++)
        if (!strcmp(options[i].key, key)) return &options[i];
    return NULL;
}

/* ---- the nearest name -------------------------------------------------------------------------------------------- */
/* Insertions, deletions, replacements and swaps of neighbours that make b out of a; up to 63 characters of each. */
static int edits(const char *a, const char *b)
{
    enum { MOST = 63 };
    int n = (int)strlen(a), m = (int)strlen(b), row[3][MOST + 1];
    if (n > MOST || m > MOST) return 1 << 20;
    int *before = row[0], *above = row[1], *here = row[2];
    for (int j = 0; j <= m; j++) above[j] = j;
    for (int i = 1; i <= n; i++) {
        here[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (here[j - 1] + 1 < best) best = here[j - 1] + 1;
            int swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < best) best = before[j - 2] + 1;
            here[j] = best;
        }
        int *free = before;
        before = above, above = here, here = free;
    }
    return above[m];
}

/* A name that lacks its section ("lr" for "optim.lr") counts as one edit; near is a third of the letters, at least 2. */
const char *m2_nearest_name(const char *name, const char *const *names, int n)
{
    const char *best = NULL;
    int limit = (int)strlen(name) / 3, least;
    least = (limit < 2 ? 2 : limit) + 1;
    for (int i = 0; i < n; i++) {
        const char *last = strrchr(names[i], '.');
        int d = edits(name, names[i]);
        if (last && !strchr(name, '.') && edits(name, last + 1) + 1 < d) d = edits(name, last + 1) + 1;
        if (d < least && d < (int)strlen(name)) best = names[i], least = d;
    }
    return best;
}

m2_status m2i_option_unknown(const char *where, const char *key)
{
    const char *names[OPTIONS], *colon = *where ? ": " : "";
    for (int i = 0; i < OPTIONS; i++) names[i] = options[i].key;
    const char *near = m2_nearest_name(key, names, OPTIONS);
    if (near)
        return m2_fail(M2_USAGE, "%s%sunknown option '%s'; did you mean '%s'?", where, colon, key, near);
    return m2_fail(M2_USAGE, "%s%sunknown option '%s'; m2 help options lists them all", where, colon, key);
}

/* ---- one value --------------------------------------------------------------------------------------------------- */
static m2_status wrong(const m2i_option *o, const char *where, const char *text)
{
    char expected[256];
    if (o->kind == M2I_INT)
        snprintf(expected, sizeof expected, "a whole number from %" PRId64 " to %" PRId64, o->lo, o->hi);
    else if (o->kind == M2I_REAL)
        snprintf(expected, sizeof expected, "a number from %g to %g", o->rlo, o->rhi);
    else if (o->kind == M2I_BOOL)
        snprintf(expected, sizeof expected, "true or false");
    else if (o->choices)
        snprintf(expected, sizeof expected, "one of %s", o->choices);
    else
        snprintf(expected, sizeof expected, "UTF-8 text of at most %d bytes without control characters",
                 TEXT - 1);
    return m2_fail(M2_USAGE, "%s%s%s = '%.80s': expected %s (%s)", where, *where ? ": " : "", o->key, text,
                   expected, o->help);
}

static int parse_bool(const char *text, int *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (int i = 0; i < 8; i++)
        if (!strcmp(text, words[i])) return *out = i & 1, 1;
    return 0;
}

static int is_choice(const char *text, const char *choices)
{
    size_t n = strlen(text);
    for (const char *c = choices; *c; c += strcspn(c, "|"), c += *c == '|')
        if (strcspn(c, "|") == n && !memcmp(c, text, n)) return 1;
    return 0;
}

/* What config.yaml can hold: well-formed UTF-8 (continuation bytes where lead bytes ask for them), no control codes. */
static int is_clean(const char *text)
{
    int expect = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        int continues = (*c & 0xc0) == 0x80;
        if (continues != (expect > 0) || *c < 32 || *c == 127) return 0;
        if (continues)
            expect--;
        else if (*c >= 0x80)
            expect = *c >= 0xf0 ? 3 : *c >= 0xe0 ? 2 : 1;
    }
    return !expect;
}

m2_status m2i_option_set(m2_config *cfg, const m2i_option *o, const char *where, const char *text)
{
    void *field = (char *)cfg + o->offset;
    char *end;
    errno = 0;
    if (o->kind == M2I_INT) {
        int64_t v = strtoll(text, &end, 10);
        if (end == text || *end || errno || v < o->lo || v > o->hi) return wrong(o, where, text);
        *(int64_t *)field = v;
    } else if (o->kind == M2I_REAL) {
        double v = strtod(text, &end);
        int decimal = strspn(text, "+-.0123456789eE") == strlen(text);
        if (end == text || *end || !decimal || !(v >= o->rlo && v <= o->rhi)) return wrong(o, where, text);
        *(double *)field = v;
    } else if (o->kind == M2I_BOOL) {
        if (!parse_bool(text, field)) return wrong(o, where, text);
    } else {
        int ok = o->choices ? is_choice(text, o->choices) : is_clean(text);
        if (!ok || strlen(text) >= TEXT) return wrong(o, where, text);
        memset(field, 0, TEXT);
        memcpy(field, text, strlen(text));
    }
    return M2_OK;
}

static char *real_text(double v, char *text, size_t size)
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, size, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    return text;
}

char *m2i_option_text(const m2_config *cfg, const m2i_option *o, char text[M2I_VALUE])
{
    const void *field = (const char *)cfg + o->offset;
    if (o->kind == M2I_INT)
        snprintf(text, M2I_VALUE, "%" PRId64, *(const int64_t *)field);
    else if (o->kind == M2I_REAL)
        real_text(*(const double *)field, text, M2I_VALUE);
    else if (o->kind == M2I_BOOL)
        snprintf(text, M2I_VALUE, "%s", *(const int *)field ? "true" : "false");
    else
        snprintf(text, M2I_VALUE, "%s", (const char *)field);
    return text;
}

/* ---- configurations ---------------------------------------------------------------------------------------------- */
void m2_config_defaults(m2_config *cfg)
{
    memset(cfg, 0, sizeof *cfg);
    for (const m2i_option *o = options; o < options + OPTIONS; o++) {
        void *field = (char *)cfg + o->offset;
        if (o->kind == M2I_INT) *(int64_t *)field = o->def.i;
        if (o->kind == M2I_REAL) *(double *)field = o->def.r;
        if (o->kind == M2I_BOOL) *(int *)field = (int)o->def.i;
        if (o->kind == M2I_STR) memcpy(field, o->def.s, strlen(o->def.s));
    }
}

m2_status m2_config_set(m2_config *cfg, const char *key_equals_value)
{
    char key[128];
    size_t n = strcspn(key_equals_value, "=");
    if (!key_equals_value[n] || !n)
        return m2_fail(M2_USAGE, "'%s' is not KEY=VALUE, such as optim.lr=3e-4", key_equals_value);
    snprintf(key, sizeof key, "%.*s", (int)n, key_equals_value);
    const m2i_option *o = m2i_option_find(key);
    return o ? m2i_option_set(cfg, o, "", key_equals_value + n + 1) : m2i_option_unknown("", key);
}

void m2_config_copy(m2_config *to, const m2_config *from, const char *prefix)
{
    static const size_t sizes[] = {
        [M2I_INT] = sizeof(int64_t), [M2I_REAL] = sizeof(double), [M2I_BOOL] = sizeof(int), [M2I_STR] = TEXT};
    for (const m2i_option *o = options; o < options + OPTIONS; o++)
        if (!strncmp(o->key, prefix, strlen(prefix)))
            memcpy((char *)to + o->offset, (const char *)from + o->offset, sizes[o->kind]);
}

static size_t section(const char *key)
{
    return strcspn(key, ".");
}

void m2_config_write(const m2_config *cfg, FILE *out)
{
    char text[M2I_VALUE];
    const char *last = "";
    for (const m2i_option *o = options; o < options + OPTIONS; o++) {
        size_t n = section(o->key);
        if (n != section(last) || memcmp(last, o->key, n) != 0)
            fprintf(out, "%s%.*s:\n", *last ? "\n" : "", (int)n, o->key);
        last = o->key;
        m2i_option_text(cfg, o, text);
        if (o->kind != M2I_STR || o->choices) {
            fprintf(out, "  %s: %s\n", o->key + n + 1, text);
            continue;
        }
        fprintf(out, "  %s: \"", o->key + n + 1);
        for (const char *c = text; *c; c++) fprintf(out, "%s%c", *c == '"' || *c == '\\' ? "\\" : "", *c);
        fputs("\"\n", out);
    }
}

m2_status m2_config_check_resume(const m2_config *saved, const m2_config *now)
{
    char was[M2I_VALUE], is[M2I_VALUE];
    for (const m2i_option *o = options; o < options + OPTIONS; o++)
        if (!o->restart && strcmp(m2i_option_text(saved, o, was), m2i_option_text(now, o, is)) != 0)
            return m2_fail(M2_USAGE,
                           "%s is '%s' but the run was started with '%s', and a resumed run has to keep it: "
                           "set it back, or "
                           "start a new run with another run.dir",
                           o->key, is, was);
    return M2_OK;
}

/* ---- help -------------------------------------------------------------------------------------------------------- */
enum { KEY = 25, VALUE = 11, WIDTH = 96 };

/* Words wrapped between two columns; the cursor stands at the left one. */
static void print_wrapped(FILE *out, const char *text, int left, int right)
{
    int at = left;
    for (const char *word = text; *word; word += strspn(word, " ")) {
        int n = (int)strcspn(word, " ");
        if (at > left && at + 1 + n > right)
            at = left + n, fprintf(out, "\n%*s%.*s", left, "", n, word);
        else
            at += fprintf(out, "%s%.*s", at > left ? " " : "", n, word);
        word += n;
    }
    fputc('\n', out);
}

static void print_row(FILE *out, const m2_config *defaults, const m2i_option *o)
{
    char value[M2I_VALUE], text[512], range[128] = "";
    m2i_option_text(defaults, o, value);
    if (o->kind == M2I_INT) snprintf(range, sizeof range, " (%" PRId64 "..%" PRId64 ")", o->lo, o->hi);
    if (o->kind == M2I_INT && o->hi == INT64_MAX) snprintf(range, sizeof range, " (from %" PRId64 ")", o->lo);
    if (o->kind == M2I_REAL) snprintf(range, sizeof range, " (%g..%g)", o->rlo, o->rhi);
    if (o->choices) snprintf(range, sizeof range, " (%s)", o->choices);
    snprintf(text, sizeof text, "%s%s", o->help, range);
    int left = 2 + KEY + VALUE;
    fprintf(out, "%c %-*s%-*s", o->restart ? ' ' : '*', KEY, o->key, VALUE - 1, *value ? value : "\"\"");
    fputc(' ', out);
    print_wrapped(out, text, left, WIDTH);
}

m2_status m2_config_help(FILE *out, const char *prefix)
{
    m2_config defaults;
    m2_config_defaults(&defaults);
    const char *last = NULL;
    for (const m2i_option *o = options; o < options + OPTIONS; o++) {
        if (strncmp(o->key, prefix, strlen(prefix)) != 0) continue;
        if (!last) fprintf(out, "  %-*s%-*s%s\n", KEY, "option", VALUE, "default", "meaning");
        if (!last || strncmp(last, o->key, section(o->key) + 1) != 0) fputc('\n', out);
        last = o->key;
        print_row(out, &defaults, o);
    }
    if (!last) return m2i_option_unknown("", prefix);
    fputs("\n* fixed for the life of a run: a resumed run has to keep it\n", out);
    return M2_OK;
}
