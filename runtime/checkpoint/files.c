/* files.c - bytes of a checkpoint's files: texts in them, and the hashes of everything that is no slab.
 *
 * A rank file is slabs, which have their own hashes, and a frame around them: HDF5's structures, names, the slab table.
 * manifest.h5 has the frames' hashes; manifest.xxh has the hash of manifest.h5 and consists of nothing else. */
#include "runtime/checkpoint/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* ---- texts as arrays: attributes have limits, tokenizers have megabytes ------------------------------------------ */
m2_status m2i_text_write(m2_store *s, const char *name, const char *text)
{
    int64_t zero = 0, n = (int64_t)strlen(text);
    m2_array_info info = {.dtype = M2_U8, .rank = 1, .shape = {n}};
    m2_array_options options = {.chunk = n < 65536 ? n : 65536, .fletcher32 = 1, .deflate = 1};
    if (n == 0) options = (m2_array_options){0};
    M2_TRY(m2_store_make(s, name, &info, &options));
    return n ? m2_store_write(s, name, &zero, &n, text) : M2_OK;
}

m2_status m2i_text_read(m2_store *s, const char *name, char **text)
{
    m2_array_info info;
    *text = NULL;
    M2_TRY(m2_store_info(s, name, &info));
    if (info.dtype != M2_U8 || info.rank != 1)
        return m2_fail(M2_DATA, "%s: %s should be a text (u8, one dimension)", m2_store_path(s), name);
    int64_t zero = 0, n = info.shape[0];
    *text = malloc((size_t)n + 1);
    if (!*text) return m2_fail(M2_TRANSIENT, "out of memory for %s of %s", name, m2_store_path(s));
    (*text)[n] = 0;
    return n ? m2_store_read(s, name, &zero, &n, *text) : M2_OK;
}

/* ---- frames ------------------------------------------------------------------------------------------------------ */
typedef struct span {
    int64_t at, bytes;
} span;

static int by_place(const void *a, const void *b)
{
    int64_t x = ((const span *)a)->at, y = ((const span *)b)->at;
    return (x > y) - (x < y);
}

/* Where the slabs of rank's file are, in the order of the file, malloc'd; one more entry than *n. */
static span *slab_spans(const m2_manifest *mf, int rank, int *n)
{
    span *spans = malloc(((size_t)mf->n_slabs + 1) * sizeof *spans);
    *n = 0;
    for (int i = 0; spans && i < mf->n_slabs; i++)
        if (mf->slabs[i].rank == rank)
            spans[(*n)++] = (span){mf->slabs[i].at, m2i_slab_bytes(mf, &mf->slabs[i])};
    if (spans && *n) qsort(spans, (size_t)*n, sizeof *spans, by_place);
    return spans;
}

static m2_status hash_range(int fd, const char *path, int64_t from, int64_t to, XXH3_state_t *state)
{
    char buf[1 << 16];
    while (from < to) {
        int64_t want = to - from < (int64_t)sizeof buf ? to - from : (int64_t)sizeof buf;
        ssize_t got = pread(fd, buf, (size_t)want, (off_t)from);
        if (got < 0) return m2_fail(M2_IO, "reading %s failed: %s", path, strerror(errno));
        if (got == 0) return m2_fail(M2_DATA, "%s is cut off at byte %" PRId64, path, from);
        XXH3_64bits_update(state, buf, (size_t)got);
        from += got;
    }
    return M2_OK;
}

static m2_status hash_frame(int fd, const char *path, const span *spans, int n, int64_t size,
                            XXH3_state_t *state)
{
    int64_t from = 0;
    for (int i = 0; i < n; i++) {
        if (spans[i].at < from || spans[i].at > size - spans[i].bytes)
            return m2_fail(M2_DATA, "%s has %" PRId64 " bytes, but should have a slab at byte %" PRId64, path,
                           size, spans[i].at);
        M2_TRY(hash_range(fd, path, from, spans[i].at, state));
        from = spans[i].at + spans[i].bytes;
    }
    return hash_range(fd, path, from, size, state);
}

m2_status m2i_file_frame(const m2_manifest *mf, int rank, m2_saved_file *out)
{
    char path[M2_PATH];
    struct stat info;
    int n;
    M2_TRY(m2i_rank_file(mf->folder, rank, path));
    int fd = open(path, O_RDONLY);
    if (fd < 0 && errno == ENOENT) return m2_fail(M2_DATA, "%s is missing", path);
    if (fd < 0 || fstat(fd, &info)) {
        m2_status st = m2_fail(M2_IO, "opening %s failed: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return st;
    }
    span *spans = slab_spans(mf, rank, &n);
    XXH3_state_t *state = XXH3_createState();
    m2_status st = M2_OK;
    if (!spans || !state || XXH3_64bits_reset(state) != XXH_OK)
        st = m2_fail(M2_TRANSIENT, "out of memory for checking %s", path);
    if (st == M2_OK) st = hash_frame(fd, path, spans, n, (int64_t)info.st_size, state);
    if (st == M2_OK) *out = (m2_saved_file){(int64_t)info.st_size, XXH3_64bits_digest(state)};
    XXH3_freeState(state);
    free(spans);
    close(fd);
    return st;
}

m2_status m2_manifest_check_file(const m2_manifest *mf, int rank)
{
    m2_saved_file is, *was = &mf->files[rank];
    M2_TRY(m2i_file_frame(mf, rank, &is));
    if (is.size == was->size && is.frame == was->frame) return M2_OK;
    if (is.size != was->size)
        return m2_fail(M2_DATA, "%s/rank-%05d.h5 has %" PRId64 " bytes, it was saved with %" PRId64,
                       mf->folder, rank, is.size, was->size);
    return m2_fail(M2_DATA,
                   "%s/rank-%05d.h5 is damaged: its bytes between the tensors do not match their hash",
                   mf->folder, rank);
}

/* ---- the seal of manifest.h5 ------------------------------------------------------------------------------------- */
enum { SEAL = 64 };

static m2_status seal_text(const char *folder, char text[SEAL])
{
    char path[M2_PATH], *buf = malloc(1 << 20);
    XXH3_state_t *state = XXH3_createState();
    m2_status st = m2i_path(path, "%s/manifest.h5", folder);
    FILE *f = st == M2_OK ? fopen(path, "rb") : NULL;
    if (st == M2_OK && !f)
        st = errno == ENOENT ? m2_fail(M2_DATA, "%s is missing", path)
                             : m2_fail(M2_IO, "opening %s failed: %s", path, strerror(errno));
    if (st == M2_OK && (!buf || !state || XXH3_128bits_reset(state) != XXH_OK))
        st = m2_fail(M2_TRANSIENT, "out of memory for checking %s", path);
    for (size_t n; st == M2_OK && (n = fread(buf, 1, 1 << 20, f)) > 0;) XXH3_128bits_update(state, buf, n);
    if (st == M2_OK && ferror(f)) st = m2_fail(M2_IO, "reading %s failed: %s", path, strerror(errno));
    if (st == M2_OK) {
        XXH128_hash_t h = XXH3_128bits_digest(state);
        snprintf(text, SEAL, "%016" PRIx64 "%016" PRIx64 "  manifest.h5\n", (uint64_t)h.high64,
                 (uint64_t)h.low64);
    }
    if (f) fclose(f);
    XXH3_freeState(state);
    free(buf);
    return st;
}

m2_status m2i_seal_write(const char *folder)
{
    char path[M2_PATH], text[SEAL];
    M2_TRY(seal_text(folder, text));
    M2_TRY(m2i_path(path, "%s/manifest.xxh", folder));
    M2_FAULT("write the seal");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    ssize_t n = (ssize_t)strlen(text);
    int bad = fd < 0 || write(fd, text, (size_t)n) != n || fsync(fd);
    m2_status st = bad ? m2_fail(M2_IO, "writing %s failed: %s", path, strerror(errno)) : M2_OK;
    if (fd >= 0 && close(fd) && st == M2_OK)
        st = m2_fail(M2_IO, "writing %s failed: %s", path, strerror(errno));
    return st;
}

m2_status m2i_seal_check(const char *folder)
{
    char path[M2_PATH], text[SEAL], found[SEAL + 1];
    M2_TRY(seal_text(folder, text));
    M2_TRY(m2i_path(path, "%s/manifest.xxh", folder));
    FILE *f = fopen(path, "rb");
    if (!f && errno == ENOENT) return m2_fail(M2_DATA, "%s is missing", path);
    if (!f) return m2_fail(M2_IO, "opening %s failed: %s", path, strerror(errno));
    size_t n = fread(found, 1, sizeof found, f);
    fclose(f);
    if (n == strlen(text) && !memcmp(found, text, n)) return M2_OK;
    return m2_fail(M2_DATA, "%s/manifest.h5 is damaged, or manifest.xxh beside it: they do not match",
                   folder);
}
