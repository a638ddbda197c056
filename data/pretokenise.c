#include "data/pretokenise.h"

#include <stdint.h>
#include <string.h>

enum { CODE_POINTS = 0x110000 };

static uint8_t classes[CODE_POINTS]; /* only the pages of scripts that occur become resident */

static void mark(int first, int last, m2i_class c)
{
    memset(classes + first, c, (size_t)(last - first + 1));
}

/* Before main, so that the scanner needs no check: 800 ranges, mostly a memset of the ideographs. */
__attribute__((constructor)) static void fill_classes(void)
{
#define LETTER(first, last) mark(first, last, M2I_LETTER);
#define NUMBER(first, last) mark(first, last, M2I_NUMBER);
#define SPACE(first, last)  mark(first, last, M2I_SPACE);
#include "data/unicode.def"
#undef LETTER
#undef NUMBER
#undef SPACE
}

static int continues(unsigned char c)
{
    return (c & 0xc0) == 0x80;
}

int m2i_utf8(const unsigned char *p, const unsigned char *end, int *bytes)
{
    ptrdiff_t left = end - p;
    *bytes = 1;
    if (*p < 0x80) return *p;
    if (*p >= 0xc2 && *p < 0xe0 && left > 1 && continues(p[1])) {
        *bytes = 2;
        return (*p & 0x1f) << 6 | (p[1] & 0x3f);
    }
    if ((*p & 0xf0) == 0xe0 && left > 2 && continues(p[1]) && continues(p[2])) {
        int c = (*p & 0x0f) << 12 | (p[1] & 0x3f) << 6 | (p[2] & 0x3f);
        if (c < 0x800 || (c >= 0xd800 && c < 0xe000)) return -1; /* overlong; surrogates */
        *bytes = 3;
        return c;
    }
    if ((*p & 0xf8) == 0xf0 && left > 3 && continues(p[1]) && continues(p[2]) && continues(p[3])) {
        int c = (*p & 0x07) << 18 | (p[1] & 0x3f) << 12 | (p[2] & 0x3f) << 6 | (p[3] & 0x3f);
        if (c < 0x10000 || c >= CODE_POINTS) return -1;
        *bytes = 4;
        return c;
    }
    return -1;
}

static inline int class_at(const unsigned char *p, const unsigned char *end, int *bytes)
{
    *bytes = 1;
    if (*p < 0x80) return classes[*p];
    int c = m2i_utf8(p, end, bytes);
    return c < 0 ? M2I_OTHER : classes[c];
}

static size_t contraction(const unsigned char *p, const unsigned char *end)
{
    ptrdiff_t left = end - p;
    if (left > 1 && memchr("stmd", p[1], 4)) return 2;
    if (left > 2 && (!memcmp(p + 1, "re", 2) || !memcmp(p + 1, "ve", 2) || !memcmp(p + 1, "ll", 2))) return 3;
    return 0;
}

size_t m2i_pretoken(const unsigned char *p, const unsigned char *end)
{
    const unsigned char *q = p;
    int bytes, class;
    if (*p == '\'') {
        size_t n = contraction(p, end);
        if (n) return n;
    }
    class = class_at(p, end, &bytes);
    if (class == M2I_SPACE) {
        const unsigned char *last = p; /* the last space of the run stays for what follows it */
        int next = 0, first = bytes;
        for (q = p + bytes; q < end && (next = class_at(q, end, &bytes)) == M2I_SPACE; q += bytes) last = q;
        if (q == end) return (size_t)(q - p);
        if (last != p) return (size_t)(last - p);
        if (*p != ' ') return (size_t)first;
        class = next;
    }
    do q += bytes;
    while (q < end && class_at(q, end, &bytes) == class);
    return (size_t)(q - p);
}
