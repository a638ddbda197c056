#include "data/tar.h"
#include "data/unpack.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512, NAME_LIMIT = 1 << 16 };

typedef struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], time[12], checksum[8], type, link[100];
    char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
} header;

struct m2i_tar {
    char *path;
    m2i_unpacker *file;
    int64_t at;         /* bytes of the unpacked archive that were read */
    int64_t left, tail; /* of the current file: contents, and padding to the next block */
    char name[257];
    char *long_name; /* replaces the next header's */
};

m2_status m2i_tar_open(const char *path, m2i_tar **out)
{
    m2i_tar *t = *out = calloc(1, sizeof *t);
    if (t) t->path = strdup(path);
    m2_status st =
        t && t->path ? m2i_unpack_open(path, &t->file) : m2_fail(M2_TRANSIENT, "out of memory for %s", path);
    if (st != M2_OK) m2i_tar_close(out);
    return st;
}

void m2i_tar_close(m2i_tar **tp)
{
    m2i_tar *t = *tp;
    *tp = NULL;
    if (!t) return;
    m2i_unpack_close(&t->file);
    free(t->long_name);
    free(t->path);
    free(t);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */
/* *got < n only at the end of the archive. */
static m2_status read_bytes(m2i_tar *t, void *to, size_t n, size_t *got)
{
    size_t some = 1;
    for (*got = 0; *got < n && some; *got += some) {
        M2_TRY(m2i_unpack_read(t->file, (char *)to + *got, n - *got, &some));
        t->at += (int64_t)some;
    }
    return M2_OK;
}

static m2_status read_all(m2i_tar *t, void *to, size_t n)
{
    size_t got;
    M2_TRY(read_bytes(t, to, n, &got));
    if (got == n) return M2_OK;
    return m2_fail(M2_DATA, "%s: cut off at byte %" PRId64 " of the archive, inside %s", t->path, t->at,
                   t->name);
}

static m2_status pass_over(m2i_tar *t, int64_t n)
{
    char scratch[16 * BLOCK];
    for (int64_t part; n > 0; n -= part) {
        part = n < (int64_t)sizeof scratch ? n : (int64_t)sizeof scratch;
        M2_TRY(read_all(t, scratch, (size_t)part));
    }
    return M2_OK;
}

m2_status m2i_tar_read(m2i_tar *t, void *to)
{
    int64_t n = t->left;
    t->left = 0;
    return read_all(t, to, (size_t)n);
}

/* ---- headers ----------------------------------------------------------------------------------------------------- */
/* Octal digits; or, after a byte 0x80, a big-endian number. */
static int64_t number(const char *field, size_t n)
{
    int64_t value = 0;
    if (*field & 0x80) {
        for (size_t i = n > 8 ? n - 8 : 1; i < n; i++) value = value << 8 | (unsigned char)field[i];
        return value;
    }
    for (size_t i = 0; i < n && field[i] != '\0'; i++)
        if (field[i] >= '0' && field[i] <= '7') value = value * 8 + field[i] - '0';
    return value;
}

static int is_sound(const header *h)
{
    header zeroed = *h;
    const unsigned char *bytes = (const unsigned char *)&zeroed;
    int64_t sum = 0;
    memset(zeroed.checksum, ' ', sizeof zeroed.checksum);
    for (size_t i = 0; i < BLOCK; i++) sum += bytes[i];
    return sum == number(h->checksum, sizeof h->checksum);
}

static void join_name(const header *h, char name[257])
{
    size_t n = 0;
    if (!memcmp(h->magic, "ustar", 5) && *h->prefix) {
        n = strnlen(h->prefix, sizeof h->prefix);
        memcpy(name, h->prefix, n);
        name[n++] = '/';
    }
    size_t more = strnlen(h->name, sizeof h->name);
    memcpy(name + n, h->name, more);
    name[n + more] = 0;
}

/* "27 path=a/long/name\n" among the records of a pax header. */
static void find_pax_path(m2i_tar *t, char *records, size_t n)
{
    for (char *p = records, *end = records + n, *key; p < end;) {
        long length = strtol(p, &key, 10);
        if (length <= 0 || length > end - p || *key != ' ') return;
        if (!strncmp(key + 1, "path=", 5)) {
            p[length - 1] = 0;
            memmove(records, key + 6, strlen(key + 6) + 1);
            free(t->long_name);
            t->long_name = records;
            return;
        }
        p += length;
    }
}

static m2_status read_long_name(m2i_tar *t, char type)
{
    if (t->left > NAME_LIMIT)
        return m2_fail(M2_DATA, "%s: a name of %" PRId64 " bytes at byte %" PRId64 " of the archive", t->path,
                       t->left, t->at);
    size_t n = (size_t)t->left;
    char *text = calloc(n + 1, 1);
    if (!text) return m2_fail(M2_TRANSIENT, "out of memory for a name of %zu bytes", n);
    m2_status st = m2i_tar_read(t, text);
    if (st == M2_OK && type == 'x')
        find_pax_path(t, text, n);
    else if (st == M2_OK) {
        free(t->long_name);
        t->long_name = text;
    }
    if (t->long_name != text) free(text);
    return st;
}

static m2_status read_header(m2i_tar *t, header *h, int *more)
{
    size_t got;
    static const header zero;
    M2_TRY(pass_over(t, t->left + t->tail));
    int64_t at = t->at;
    M2_TRY(read_bytes(t, h, BLOCK, &got));
    *more = got == BLOCK && memcmp(h, &zero, BLOCK) != 0;
    if (got && got < BLOCK)
        return m2_fail(M2_DATA, "%s: cut off at byte %" PRId64 " of the archive", t->path, t->at);
    if (*more && !is_sound(h))
        return m2_fail(M2_DATA, "%s: byte %" PRId64 " of the archive is not the beginning of a tar header",
                       t->path, at);
    t->left = *more ? number(h->size, sizeof h->size) : 0;
    t->tail = (BLOCK - t->left % BLOCK) % BLOCK;
    if (t->left < 0) return m2_fail(M2_DATA, "%s: a file of negative size at byte %" PRId64, t->path, at);
    return M2_OK;
}

m2_status m2i_tar_next(m2i_tar *t, const char **name, int64_t *bytes)
{
    header h;
    for (int more;;) {
        *name = NULL;
        M2_TRY(read_header(t, &h, &more));
        if (!more) return M2_OK;
        join_name(&h, t->name);
        if (h.type == 'L' || h.type == 'x') {
            M2_TRY(read_long_name(t, h.type));
            continue;
        }
        if (h.type == '0' || h.type == '\0') break;
        free(t->long_name); /* a folder, a link: its name is its own */
        t->long_name = NULL;
    }
    if (t->long_name) strncpy(t->name, t->long_name, sizeof t->name - 1);
    *name = t->name;
    *bytes = t->left;
    free(t->long_name);
    t->long_name = NULL;
    return M2_OK;
}
