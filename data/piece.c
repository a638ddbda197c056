#define _GNU_SOURCE /* asprintf */
#include "data/piece.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static const char MAGIC[8] = "m2piece1";
enum { HEADER = offsetof(m2i_piece, documents) };

/* ---- in memory --------------------------------------------------------------------------------------------------- */
void m2i_piece_begin(m2i_piece *p, m2i_hash128 identity, int64_t width)
{
    m2i_piece kept = *p;
    memset(p, 0, sizeof *p);
    memcpy(p->magic, MAGIC, sizeof MAGIC);
    p->identity = identity;
    p->width = width;
    p->documents = kept.documents;
    p->document_room = kept.document_room;
    p->ids = kept.ids;
    p->byte_room = kept.byte_room;
}

static m2_status reserve(m2i_piece *p, int64_t documents, int64_t tokens)
{
    if (documents > p->document_room) {
        int64_t room = documents + documents / 2;
        m2i_piece_document *more = realloc(p->documents, (size_t)room * sizeof *more);
        if (!more) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " documents", documents);
        p->documents = more;
        p->document_room = room;
    }
    if (tokens * p->width > p->byte_room) {
        int64_t room = (tokens + tokens / 2) * p->width;
        void *more = realloc(p->ids, (size_t)room);
        if (!more) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " tokens", tokens);
        p->ids = more;
        p->byte_room = room;
    }
    return M2_OK;
}

m2_status m2i_piece_add(m2i_piece *p, const m2i_piece_document *document, const uint32_t *ids)
{
    int64_t n = document->tokens;
    M2_TRY(reserve(p, p->count + 1, p->tokens + n));
    p->documents[p->count++] = *document;
    if (p->width == 4)
        memcpy((uint32_t *)p->ids + p->tokens, ids, (size_t)n * 4);
    else
        for (int64_t i = 0; i < n; i++) ((uint16_t *)p->ids)[p->tokens + i] = (uint16_t)ids[i];
    p->tokens += n;
    return M2_OK;
}

void m2i_piece_free(m2i_piece *p)
{
    free(p->documents);
    free(p->ids);
    memset(p, 0, sizeof *p);
}

/* ---- on disk ----------------------------------------------------------------------------------------------------- */
static uint64_t checksum(const m2i_piece *p)
{
    m2i_piece header;
    memcpy(&header, p, HEADER);
    header.checksum = 0;
    uint64_t h = XXH3_64bits(&header, HEADER);
    h = XXH3_64bits_withSeed(p->documents, (size_t)p->count * sizeof *p->documents, h);
    return XXH3_64bits_withSeed(p->ids, (size_t)(p->tokens * p->width), h);
}

static int put(FILE *f, const void *bytes, size_t n)
{
    return n == 0 || fwrite(bytes, n, 1, f) == 1;
}

static int get(FILE *f, void *bytes, size_t n)
{
    return n == 0 || fread(bytes, n, 1, f) == 1;
}

m2_status m2i_piece_write(m2i_piece *p, const char *folder, int64_t file, int64_t number)
{
    char *name = NULL, *temporary = NULL;
    m2_status st = M2_OK;
    if (asprintf(&name, "%s/%" PRId64 "-%" PRId64, folder, file, number) < 0 ||
        asprintf(&temporary, "%s.%ld", name, (long)getpid()) < 0)
        return m2_fail(M2_TRANSIENT, "out of memory for the name of a piece of %s", folder);
    p->checksum = checksum(p);
    FILE *f = fopen(temporary, "wb");
    int good = f && put(f, p, HEADER) && put(f, p->documents, (size_t)p->count * sizeof *p->documents) &&
               put(f, p->ids, (size_t)(p->tokens * p->width));
    if (f && fclose(f)) good = 0;
    if (!good || rename(temporary, name)) {
        st = m2_fail(M2_IO, "cannot write %s: %s", temporary, strerror(errno));
        remove(temporary);
    }
    free(name);
    free(temporary);
    return st;
}

static int read_body(m2i_piece *p, FILE *f, m2_status *st)
{
    struct stat s;
    int64_t size = HEADER + p->count * (int64_t)sizeof *p->documents + p->tokens * p->width;
    if (fstat(fileno(f), &s) || p->count < 0 || p->tokens < 0 || s.st_size != size) return 0;
    if ((*st = reserve(p, p->count, p->tokens)) != M2_OK) return 0;
    return get(f, p->documents, (size_t)p->count * sizeof *p->documents) &&
           get(f, p->ids, (size_t)(p->tokens * p->width)) && checksum(p) == p->checksum;
}

m2_status m2i_piece_read(m2i_piece *p, const char *folder, int64_t file, int64_t number, m2i_hash128 identity,
                         int *found)
{
    char *name = NULL;
    m2_status st = M2_OK;
    *found = 0;
    m2i_piece_begin(p, identity, 0);
    if (asprintf(&name, "%s/%" PRId64 "-%" PRId64, folder, file, number) < 0)
        return m2_fail(M2_TRANSIENT, "out of memory for the name of a piece of %s", folder);
    FILE *f = fopen(name, "rb");
    if (!f && errno != ENOENT) st = m2_fail(M2_IO, "cannot read %s: %s", name, strerror(errno));
    if (f) {
        m2i_hash128 is;
        *found = get(f, p, HEADER) && !memcmp(p->magic, MAGIC, sizeof MAGIC);
        is = p->identity;
        *found = *found && is.low == identity.low && is.high == identity.high &&
                 (p->width == 2 || p->width == 4) && read_body(p, f, &st);
        fclose(f);
    }
    free(name);
    return st;
}

/* ---- the folder -------------------------------------------------------------------------------------------------- */
m2_status m2i_pieces_make_folder(const char *folder)
{
    if (!mkdir(folder, 0777) || errno == EEXIST) return M2_OK;
    return m2_fail(M2_IO, "cannot make the folder %s: %s", folder, strerror(errno));
}

void m2i_pieces_remove_folder(const char *folder, int only_empty)
{
    DIR *d = only_empty ? NULL : opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *name = NULL;
        if (*e->d_name < '0' || *e->d_name > '9' || asprintf(&name, "%s/%s", folder, e->d_name) < 0) continue;
        remove(name);
        free(name);
    }
    if (d) closedir(d);
    rmdir(folder);
}
