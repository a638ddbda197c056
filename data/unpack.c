#include "data/unpack.h"

#include <errno.h>
#include <inttypes.h>
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

enum { INPUT = 256 << 10 };

/* A packing: consumes from in[0 .. *used) up to in_size, writes to out[0 .. *made). *inside: a frame has begun and not
 * ended. Returns NULL or what is wrong. */
typedef struct packing {
    const char *name;
    unsigned char magic[6];
    size_t magic_size;
    int (*open)(m2i_unpacker *u); /* 1 = done */
    const char *(*step)(m2i_unpacker *u, const char *in, size_t in_size, size_t *used, char *out, size_t room,
                        size_t *made);
    void (*close)(m2i_unpacker *u);
} packing;

struct m2i_unpacker {
    char *path;
    FILE *file;
    const packing *packing;
    union {
        ZSTD_DStream *zstd;
        z_stream gzip;
        lzma_stream xz;
    } state;
    char input[INPUT];
    size_t at, size; /* in input */
    int64_t consumed;
    int inside, ended; /* in a frame; the file has no more */
};

/* ---- the packings ------------------------------------------------------------------------------------------------ */
static int open_plain(m2i_unpacker *u)
{
    (void)u;
    return 1;
}

static const char *step_plain(m2i_unpacker *u, const char *in, size_t in_size, size_t *used, char *out,
                              size_t room, size_t *made)
{
    (void)u;
    *used = *made = in_size < room ? in_size : room;
    memcpy(out, in, *made);
    return NULL;
}

static void close_plain(m2i_unpacker *u)
{
    (void)u;
}

static int open_zstd(m2i_unpacker *u)
{
    u->state.zstd = ZSTD_createDStream();
    if (u->state.zstd) ZSTD_DCtx_setParameter(u->state.zstd, ZSTD_d_windowLogMax, 31);
    return u->state.zstd != NULL;
}

static const char *step_zstd(m2i_unpacker *u, const char *in, size_t in_size, size_t *used, char *out,
                             size_t room, size_t *made)
{
    ZSTD_inBuffer source = {in, in_size, 0};
    ZSTD_outBuffer target = {out, room, 0};
    size_t left = ZSTD_decompressStream(u->state.zstd, &target, &source);
    if (ZSTD_isError(left)) return ZSTD_getErrorName(left);
    *used = source.pos;
    *made = target.pos;
    u->inside = left != 0;
    return NULL;
}

static void close_zstd(m2i_unpacker *u)
{
    ZSTD_freeDStream(u->state.zstd);
}

static int open_gzip(m2i_unpacker *u)
{
    return inflateInit2(&u->state.gzip, 15 + 16) == Z_OK;
}

static const char *step_gzip(m2i_unpacker *u, const char *in, size_t in_size, size_t *used, char *out,
                             size_t room, size_t *made)
{
    z_stream *z = &u->state.gzip;
    z->next_in = (unsigned char *)in;
    z->avail_in = (unsigned)in_size;
    z->next_out = (unsigned char *)out;
    z->avail_out = (unsigned)room;
    int code = inflate(z, Z_NO_FLUSH);
    if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR) return z->msg ? z->msg : "not gzip data";
    *used = in_size - z->avail_in;
    *made = room - z->avail_out;
    u->inside = code != Z_STREAM_END;
    if (code == Z_STREAM_END) inflateReset(z); /* another member may follow */
    return NULL;
}

static void close_gzip(m2i_unpacker *u)
{
    inflateEnd(&u->state.gzip);
}

static int open_xz(m2i_unpacker *u)
{
    u->state.xz = (lzma_stream)LZMA_STREAM_INIT;
    return lzma_stream_decoder(&u->state.xz, UINT64_MAX, 0) == LZMA_OK;
}

static const char *step_xz(m2i_unpacker *u, const char *in, size_t in_size, size_t *used, char *out,
                           size_t room, size_t *made)
{
    lzma_stream *z = &u->state.xz;
    z->next_in = (const uint8_t *)in;
    z->avail_in = in_size;
    z->next_out = (uint8_t *)out;
    z->avail_out = room;
    lzma_ret code = lzma_code(z, LZMA_RUN);
    if (code != LZMA_OK && code != LZMA_STREAM_END && code != LZMA_BUF_ERROR) return "corrupt xz data";
    *used = in_size - z->avail_in;
    *made = room - z->avail_out;
    u->inside = code != LZMA_STREAM_END;
    if (code == LZMA_STREAM_END && lzma_stream_decoder(z, UINT64_MAX, 0) != LZMA_OK) return "out of memory";
    return NULL;
}

static void close_xz(m2i_unpacker *u)
{
    lzma_end(&u->state.xz);
}

static const packing packings[] = {
    {"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, open_zstd, step_zstd, close_zstd},
    {"gzip", {0x1f, 0x8b}, 2, open_gzip, step_gzip, close_gzip},
    {"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, open_xz, step_xz, close_xz},
    {"plain", {0}, 0, open_plain, step_plain, close_plain}, /* last: fits everything */
};

/* ---- the stream -------------------------------------------------------------------------------------------------- */
static m2_status refill(m2i_unpacker *u)
{
    if (u->at < u->size || u->ended) return M2_OK;
    u->at = 0;
    u->size = fread(u->input, 1, INPUT, u->file);
    u->ended = u->size == 0;
    u->consumed += (int64_t)u->size;
    return ferror(u->file) ? m2_fail(M2_IO, "cannot read %s: %s", u->path, strerror(errno)) : M2_OK;
}

static m2_status detect(m2i_unpacker *u)
{
    M2_TRY(refill(u));
    const packing *p = packings;
    while (u->size < p->magic_size || memcmp(u->input, p->magic, p->magic_size)) p++;
    if (!p->open(u)) return m2_fail(M2_TRANSIENT, "out of memory for reading %s", u->path);
    u->packing = p;
    return M2_OK;
}

static int is_folder(FILE *f)
{
    struct stat s;
    return !fstat(fileno(f), &s) && S_ISDIR(s.st_mode);
}

m2_status m2i_unpack_open(const char *path, m2i_unpacker **out)
{
    m2i_unpacker *u = *out = calloc(1, sizeof *u);
    if (!u) return m2_fail(M2_TRANSIENT, "out of memory for reading %s", path);
    m2_status st = M2_OK;
    u->path = strdup(path);
    if (!u->path) st = m2_fail(M2_TRANSIENT, "out of memory for reading %s", path);
    else {
        u->file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
        if (!u->file)
            st = m2_fail(M2_IO, "cannot open %s: %s", path, strerror(errno));
        else if (is_folder(u->file))
            st = m2_fail(M2_IO, "cannot read %s: it is a folder", path);
        else
            st = detect(u);
    }
    if (st != M2_OK) m2i_unpack_close(out);
    return st;
}

m2_status m2i_unpack_read(m2i_unpacker *u, char *to, size_t room, size_t *n)
{
    for (*n = 0; *n == 0;) {
        M2_TRY(refill(u));
        size_t used = 0, made = 0;
        int dry = u->at == u->size;
        const char *wrong = dry && !u->inside ? NULL
                                              : u->packing->step(u, u->input + u->at, u->size - u->at, &used,
                                                                 to, room, &made);
        int64_t where = u->consumed - (int64_t)(u->size - u->at);
        if (wrong)
            return m2_fail(M2_DATA, "%s: broken %s data at byte %" PRId64 ": %s", u->path, u->packing->name,
                           where, wrong);
        u->at += used;
        *n = made;
        if (dry && !made && u->inside)
            return m2_fail(M2_DATA, "%s: cut off inside %s data at byte %" PRId64, u->path, u->packing->name,
                           where);
        if (dry && !made) return M2_OK;
    }
    return M2_OK;
}

int64_t m2i_unpack_consumed(const m2i_unpacker *u)
{
    return u->consumed;
}

void m2i_unpack_close(m2i_unpacker **up)
{
    m2i_unpacker *u = *up;
    *up = NULL;
    if (!u) return;
    if (u->packing) u->packing->close(u);
    if (u->file && u->file != stdin) fclose(u->file);
    free(u->path);
    free(u);
}
