#include "data/json_text.h"
#include "data/pretokenise.h"

#include <stdint.h>
#include <string.h>

enum { DEEPEST = 200 };

typedef struct cursor {
    const unsigned char *p, *end;
    char *out; /* where strings go; NULL: nowhere */
    size_t size;
} cursor;

static void skip_space(cursor *c)
{
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\t' || *c->p == '\n' || *c->p == '\r')) c->p++;
}

static void put(cursor *c, const void *bytes, size_t n)
{
    if (c->out) memcpy(c->out + c->size, bytes, n);
    c->size += n;
}

/* ---- strings ----------------------------------------------------------------------------------------------------- */
/* Bytes from p on that stand for themselves: ASCII without controls, quotes and backslashes. Eight at a time. */
static size_t plain_run(const unsigned char *p, const unsigned char *end)
{
    const unsigned char *start = p;
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    for (uint64_t v; end - p >= 8; p += 8) {
        memcpy(&v, p, 8);
        uint64_t quote = v ^ ones * '"', slash = v ^ ones * '\\';
        uint64_t stop =
            (v | (v - ones * 0x20) | (quote - ones) | (slash - ones)) & high; /* may stop early, never late */
        if (stop) break;
    }
    while (p < end && *p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\') p++;
    return (size_t)(p - start);
}

static int hex4(cursor *c)
{
    int value = 0;
    if (c->end - c->p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int x = *c->p++, digit = x >= '0' && x <= '9'                 ? x - '0'
                                 : (x | 32) >= 'a' && (x | 32) <= 'f' ? (x | 32) - 'a' + 10
                                                                      : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

static void put_code_point(cursor *c, int x)
{
    unsigned char b[4];
    size_t n = x < 0x80 ? 1 : x < 0x800 ? 2 : x < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; x >>= 6) b[i] = (unsigned char)(0x80 | (x & 0x3f));
    b[0] = (unsigned char)(lead[n] | x);
    put(c, b, n);
}

static const char *unicode_escape(cursor *c)
{
    int x = hex4(c);
    if (x < 0) return "\\u without four hexadecimal digits";
    if (x >= 0xd800 && x < 0xdc00) { /* the first half of a pair */
        int pair = c->end - c->p >= 2 && c->p[0] == '\\' && c->p[1] == 'u';
        c->p += pair ? 2 : 0;
        int low = pair ? hex4(c) : -1;
        if (low < 0xdc00 || low >= 0xe000) return "half of a surrogate pair";
        x = 0x10000 + ((x - 0xd800) << 10) + (low - 0xdc00);
    } else if (x >= 0xdc00 && x < 0xe000)
        return "half of a surrogate pair";
    put_code_point(c, x);
    return NULL;
}

static const char *escape(cursor *c)
{
    static const char letters[] = "\"\\/bfnrt", means[] = "\"\\/\b\f\n\r\t";
    if (c->p == c->end) return "a string that does not end";
    int letter = *c->p++;
    if (letter == 'u') return unicode_escape(c);
    const char *at = letter ? strchr(letters, letter) : NULL;
    if (!at) return "an unknown escape";
    put(c, &means[at - letters], 1);
    return NULL;
}

static const char *string(cursor *c)
{
    c->size = 0;
    for (c->p++;;) {
        size_t n = plain_run(c->p, c->end);
        put(c, c->p, n);
        c->p += n;
        if (c->p == c->end) return "a string that does not end";
        if (*c->p == '"') {
            c->p++;
            return NULL;
        }
        if (*c->p == '\\') {
            c->p++;
            const char *wrong = escape(c);
            if (wrong) return wrong;
            continue;
        }
        int size;
        if (*c->p < 0x20) return "a control character in a string";
        if (m2i_utf8(c->p, c->end, &size) < 0) return "not UTF-8";
        put(c, c->p, (size_t)size);
        c->p += size;
    }
}

/* ---- values that are not wanted ---------------------------------------------------------------------------------- */
static const char *skip_value(cursor *c, int depth);

static int take(cursor *c, int byte)
{
    skip_space(c);
    if (c->p == c->end || *c->p != byte) return 0;
    c->p++;
    return 1;
}

static const char *skip_members(cursor *c, int depth, int closing)
{
    c->p++;
    if (take(c, closing)) return NULL;
    do {
        skip_space(c);
        if (closing == '}') {
            if (c->p == c->end || *c->p != '"') return "expected a name in quotes";
            const char *wrong = string(c);
            if (wrong) return wrong;
            if (!take(c, ':')) return "expected ':'";
        }
        const char *wrong = skip_value(c, depth + 1);
        if (wrong) return wrong;
    } while (take(c, ','));
    return take(c, closing) ? NULL : "expected ',' or an end";
}

static const char *skip_word(cursor *c)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(c->end - c->p) < n || memcmp(c->p, words[i], n)) continue;
        c->p += n;
        return NULL;
    }
    const unsigned char *start = c->p;
    while (c->p < c->end && ((*c->p >= '0' && *c->p <= '9') || memchr("+-.eE", *c->p, 5))) c->p++;
    return c->p > start ? NULL : "expected a value";
}

static const char *skip_value(cursor *c, int depth)
{
    skip_space(c);
    if (depth > DEEPEST) return "too deep";
    if (c->p == c->end) return "expected a value";
    if (*c->p == '"') return string(c);
    if (*c->p == '{') return skip_members(c, depth, '}');
    if (*c->p == '[') return skip_members(c, depth, ']');
    return skip_word(c);
}

/* ---- the object -------------------------------------------------------------------------------------------------- */
/* The value behind a name: kept if it is the wanted one and a string. */
static const char *member(cursor *c, const char *field, char *out, size_t *size, int *found)
{
    skip_space(c);
    if (c->p == c->end || *c->p != '"') return "expected a name in quotes";
    c->out = out + *size; /* behind what was found: name and value are never longer than the line */
    const char *wrong = string(c);
    if (wrong) return wrong;
    int wanted = c->size == strlen(field) && !memcmp(c->out, field, c->size);
    c->out = NULL;
    if (!take(c, ':')) return "expected ':'";
    skip_space(c);
    if (!wanted) return skip_value(c, 0);
    *found = c->p < c->end && *c->p == '"';
    *size = 0;
    if (!*found) return skip_value(c, 0);
    c->out = out;
    wrong = string(c);
    *size = c->size;
    c->out = NULL;
    return wrong;
}

const char *m2i_json_text(const char *line, size_t n, const char *field, char *out, size_t *size, int *found,
                          size_t *at)
{
    cursor c = {(const unsigned char *)line, (const unsigned char *)line + n, NULL, 0};
    const char *wrong = NULL;
    *size = 0;
    *found = 0;
    if (!take(&c, '{'))
        wrong = "expected an object";
    else if (!take(&c, '}')) {
        do wrong = member(&c, field, out, size, found);
        while (!wrong && take(&c, ','));
        if (!wrong && !take(&c, '}')) wrong = "expected ',' or '}'";
    }
    skip_space(&c);
    if (!wrong && c.p < c.end) wrong = "something follows the object";
    *at = (size_t)(c.p - (const unsigned char *)line);
    return wrong;
}
