#define _GNU_SOURCE /* asprintf, scandir */
#include "data/text.h"
#include "data/unpack.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BLOCK = 1 << 20 };

/* ---- which files ------------------------------------------------------------------------------------------------- */
/* Does the name end with one of these, maybe with a packing's suffix behind? */
static int has_suffix(const char *path, const char *const *suffixes)
{
    static const char *const packed[] = {"", ".zst", ".gz", ".xz"};
    size_t n = strlen(path);
    for (size_t p = 0; p < sizeof packed / sizeof *packed; p++)
        for (const char *const *s = suffixes; *s; s++) {
            size_t a = strlen(*s), b = strlen(packed[p]);
            if (n > a + b && !strcmp(path + n - b, packed[p]) && !memcmp(path + n - b - a, *s, a)) return 1;
        }
    return 0;
}

static const char *const jsonl_names[] = {".jsonl", ".ndjson", NULL};
static const char *const text_names[] = {".jsonl", ".ndjson", ".txt", NULL};

static m2_status add_file(m2_text_files *f, char *path, int64_t bytes)
{
    if (f->count == f->capacity) {
        f->capacity = 2 * f->capacity + 16;
        char **more = realloc(f->paths, (size_t)f->capacity * sizeof *more);
        if (!more) {
            free(path);
            return m2_fail(M2_TRANSIENT, "out of memory for the names of files");
        }
        f->paths = more;
    }
    if (!path) return m2_fail(M2_TRANSIENT, "out of memory for the names of files");
    f->paths[f->count++] = path;
    f->bytes += bytes;
    return M2_OK;
}

static m2_status add_folder(m2_text_files *f, const char *folder)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, NULL, alphasort);
    if (n < 0) return m2_fail(M2_IO, "cannot list the folder %s: %s", folder, strerror(errno));
    m2_status st = M2_OK;
    for (int i = 0; i < n; i++) {
        char *path = NULL;
        struct stat s;
        if (st == M2_OK && entries[i]->d_name[0] != '.') {
            if (asprintf(&path, "%s/%s", folder, entries[i]->d_name) < 0) path = NULL;
            if (!path)
                st = m2_fail(M2_TRANSIENT, "out of memory for the names of files");
            else if (stat(path, &s))
                st = m2_fail(M2_IO, "cannot open %s: %s", path, strerror(errno));
            else if (S_ISDIR(s.st_mode))
                st = add_folder(f, path);
            else if (has_suffix(path, text_names)) {
                st = add_file(f, path, s.st_size);
                path = NULL;
            }
        }
        free(path);
        free(entries[i]);
    }
    free(entries);
    return st;
}

static m2_status add_glob(m2_text_files *f, const char *pattern)
{
    glob_t found;
    m2_status st = M2_OK;
    if (glob(pattern, 0, NULL, &found)) /* in the order of names */
        return m2_fail(M2_IO, "cannot open %s: %s", pattern, strerror(ENOENT));
    for (size_t i = 0; i < found.gl_pathc && st == M2_OK; i++)
        if (strcmp(found.gl_pathv[i], pattern)) st = m2_text_files_add(f, found.gl_pathv[i]);
    globfree(&found);
    return st;
}

m2_status m2_text_files_add(m2_text_files *f, const char *path)
{
    struct stat s;
    int64_t before = f->count;
    if (!strcmp(path, "-")) return add_file(f, strdup(path), 0);
    int missing = stat(path, &s);
    if (missing && strpbrk(path, "*?[")) return add_glob(f, path);
    if (missing) return m2_fail(M2_IO, "cannot open %s: %s", path, strerror(errno));
    if (!S_ISDIR(s.st_mode)) return add_file(f, strdup(path), s.st_size);
    M2_TRY(add_folder(f, path));
    if (f->count > before) return M2_OK;
    return m2_fail(
        M2_DATA,
        "the folder %s holds no text: expected .txt or .jsonl files, maybe packed as .zst, .gz or .xz", path);
}

void m2_text_files_free(m2_text_files *f)
{
    for (int64_t i = 0; i < f->count; i++) free(f->paths[i]);
    free(f->paths);
    memset(f, 0, sizeof *f);
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */
struct m2_text_reader {
    const m2_text_files *files;
    int64_t next; /* file to open */
    m2i_unpacker *file;
    const char *path;
    int jsonl;
    int64_t line, given, blocks; /* lines, bytes and blocks of this file handed out */
    int64_t split_at;            /* where its tail begins; -1: it has none */
    double fraction;
    int tolerant;
    char broken[512]; /* what is wrong with the file's packing */
    int (*wanted)(void *ctx, int64_t file);
    void *wanted_ctx;
    int64_t consumed;   /* of the files that are done */
    m2_text_block rest; /* read, but behind the last cut */
};

m2_status m2_text_reader_open(const m2_text_files *f, m2_text_reader **out)
{
    m2_text_reader *r = *out = calloc(1, sizeof *r);
    if (!r) return m2_fail(M2_TRANSIENT, "out of memory for reading text");
    r->files = f;
    return M2_OK;
}

void m2_text_reader_split(m2_text_reader *r, double fraction)
{
    r->fraction = fraction;
}

void m2_text_reader_tolerate(m2_text_reader *r)
{
    r->tolerant = 1;
}

void m2_text_reader_choose(m2_text_reader *r, int (*wanted)(void *ctx, int64_t file), void *ctx)
{
    r->wanted = wanted;
    r->wanted_ctx = ctx;
}

int64_t m2_text_reader_consumed(const m2_text_reader *r)
{
    return r->consumed + (r->file ? m2i_unpack_consumed(r->file) : 0);
}

static m2_status reserve(m2_text_block *b, size_t capacity)
{
    if (capacity <= b->capacity) return M2_OK;
    char *data = realloc(b->data, capacity);
    if (!data) return m2_fail(M2_TRANSIENT, "out of memory for %zu bytes of text", capacity);
    b->data = data;
    b->capacity = capacity;
    return M2_OK;
}

/* As m2i_unpack_read; for a tolerant reader, broken data are the end. */
static m2_status read_some(m2_text_reader *r, m2i_unpacker *u, char *to, size_t room, size_t *n)
{
    m2_status st = m2i_unpack_read(u, to, room, n);
    if (st != M2_DATA || !r->tolerant) return st;
    snprintf(r->broken, sizeof r->broken, "%s", m2_message());
    *n = 0;
    return M2_OK;
}

/* Bytes of a text when unpacked, by reading it through. */
static m2_status measure(m2_text_reader *r, int64_t *bytes)
{
    m2i_unpacker *u;
    size_t n;
    *bytes = 0;
    M2_TRY(reserve(&r->rest, BLOCK));
    M2_TRY(m2i_unpack_open(r->path, &u));
    m2_status st;
    while ((st = read_some(r, u, r->rest.data, BLOCK, &n)) == M2_OK && n) *bytes += (int64_t)n;
    m2i_unpack_close(&u);
    return st;
}

static m2_status open_next(m2_text_reader *r)
{
    r->path = r->files->paths[r->next++];
    r->jsonl = r->files->format == M2_TEXT_JSONL ||
               (r->files->format == M2_TEXT_BY_NAME && has_suffix(r->path, jsonl_names));
    r->line = 1;
    r->given = r->blocks = 0;
    r->split_at = -1;
    if (r->fraction > 0 && !r->jsonl) {
        int64_t bytes;
        if (!strcmp(r->path, "-"))
            return m2_fail(
                M2_USAGE,
                "the end of standard input cannot be set aside for validation: its size is not known; "
                "give a file");
        M2_TRY(measure(r, &bytes));
        r->split_at = (int64_t)((double)bytes * (1 - r->fraction));
    }
    r->broken[0] = 0;
    return m2i_unpack_open(r->path, &r->file);
}

static int blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The last place in text[from .. n) where it may be cut, 0 if there is none: before a space after ASCII that is no space, where
 * every pre-tokeniser cuts anyway; or behind a line. */
static size_t last_cut(const char *text, size_t n, int jsonl)
{
    for (size_t i = n; i > 1; i--) {
        if (jsonl && text[i - 1] == '\n') return i;
        if (!jsonl && i < n && blank(text[i]) && (unsigned char)text[i - 1] < 0x80 && !blank(text[i - 1]))
            return i;
    }
    return 0;
}

static size_t first_cut(const char *text, size_t from, size_t n)
{
    for (size_t i = from < 1 ? 1 : from; i < n; i++)
        if (blank(text[i]) && (unsigned char)text[i - 1] < 0x80 && !blank(text[i - 1])) return i;
    return n;
}

static int64_t count_lines(const char *p, size_t n)
{
    int64_t lines = 0;
    for (const char *end = p + n; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++) lines++;
    return lines;
}

/* Keeps b->data[0 .. cut) and moves what is behind it to r->rest. */
static m2_status cut_block(m2_text_reader *r, m2_text_block *b, size_t cut)
{
    size_t behind = b->size - cut;
    M2_TRY(reserve(&r->rest, behind));
    memcpy(r->rest.data, b->data + cut, behind);
    r->rest.size = behind;
    b->size = cut;
    return M2_OK;
}

/* The tail begins at the first cut at or behind split_at; the block that holds it ends the document there. */
static m2_status split_block(m2_text_reader *r, m2_text_block *b, int ended)
{
    b->tail = r->split_at >= 0 && r->given >= r->split_at;
    if (r->split_at < 0 || b->tail || r->given + (int64_t)b->size < r->split_at) return M2_OK;
    size_t cut = first_cut(b->data, (size_t)(r->split_at - r->given), b->size);
    if (cut == b->size && !ended) return M2_OK; /* none in this block: the next one begins at one */
    M2_TRY(cut_block(r, b, cut));
    r->split_at = r->given + (int64_t)cut;
    b->ends_document = 1;
    return M2_OK;
}

m2_status m2_text_reader_next(m2_text_reader *r, m2_text_block *b, int *more)
{
    *more = 0;
    while (!r->file && r->wanted && r->next < r->files->count && !r->wanted(r->wanted_ctx, r->next))
        r->next++;
    if (!r->file && r->next == r->files->count) return M2_OK;
    if (!r->file) M2_TRY(open_next(r));
    m2_text_block swap = *b; /* the rest of the last block is the beginning of this one */
    *b = r->rest;
    r->rest = swap;
    r->rest.size = 0;
    size_t cut = 0, want = BLOCK;
    int ended = 0;
    for (; !ended && !cut; want *= 2) {
        M2_TRY(reserve(b, want));
        while (!ended && b->size < want) {
            size_t n;
            M2_TRY(read_some(r, r->file, b->data + b->size, want - b->size, &n));
            b->size += n;
            ended = n == 0;
        }
        if (!ended) cut = last_cut(b->data, b->size, r->jsonl);
    }
    if (!ended) M2_TRY(cut_block(r, b, cut));
    b->path = r->path;
    b->file = r->next - 1;
    b->index = r->blocks++;
    b->line = r->line;
    b->offset = r->given;
    b->jsonl = r->jsonl;
    b->ends_document = ended;
    b->tail = 0;
    if (!r->jsonl) M2_TRY(split_block(r, b, ended));
    r->line += r->jsonl ? count_lines(b->data, b->size) : 0;
    r->given += (int64_t)b->size;
    b->ends_file = ended && r->rest.size == 0;
    b->broken[0] = 0;
    if (b->ends_file) {
        snprintf(b->broken, sizeof b->broken, "%s", r->broken);
        r->consumed += m2i_unpack_consumed(r->file);
        m2i_unpack_close(&r->file);
    }
    *more = 1;
    return M2_OK;
}

void m2_text_reader_close(m2_text_reader **rp)
{
    m2_text_reader *r = *rp;
    *rp = NULL;
    if (!r) return;
    m2i_unpack_close(&r->file);
    free(r->rest.data);
    free(r);
}
