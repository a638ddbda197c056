/* manifest.c - the description on disk.
 *
 * Attributes of / : format, step, rows, ranks, mesh. Texts (u8 arrays): /config /tokenizer /slabs /files /guard. /param/NAME,
 * /m/NAME and /v/NAME are virtual datasets over the rank files: h5dump and h5py see whole tensors. The seal beside it
 * (files.c) is checked before HDF5 sees a byte. */
#include "runtime/checkpoint/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char FORMAT[] = "m2 checkpoint 2";

/* ---- writing ----------------------------------------------------------------------------------------------------- */
/* A line per rank: size of its file, hash of the file's frame. */
static m2_status print_files(const m2_manifest *mf, char **text)
{
    enum { LINE = 48 };
    size_t room = 1 + (size_t)mf->ranks * LINE, at = 0;
    *text = malloc(room);
    if (!*text) return m2_fail(M2_TRANSIENT, "out of memory for the manifest of %s", mf->folder);
    (*text)[0] = 0;
    for (int r = 0; r < mf->ranks; r++)
        at += (size_t)snprintf(*text + at, room - at, "%" PRId64 " %016" PRIx64 "\n", mf->files[r].size,
                               mf->files[r].frame);
    return M2_OK;
}

/* The tensor whole: every rank's slab of it, by file names relative to the manifest. */
static m2_status write_virtual(m2_store *s, const m2_manifest *mf, int tensor)
{
    m2_virtual_slab *pieces = calloc((size_t)mf->n_slabs, sizeof *pieces);
    char(*files)[24] = calloc((size_t)mf->n_slabs, sizeof *files);
    m2_status st = pieces && files ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for %s", m2_store_path(s));
    int n = 0;
    for (int i = 0; st == M2_OK && i < mf->n_slabs; i++) {
        const m2_saved_slab *slab = &mf->slabs[i];
        if (slab->tensor != tensor) continue;
        snprintf(files[n], sizeof *files, "rank-%05d.h5", slab->rank);
        pieces[n] = (m2_virtual_slab){.file = files[n], .array = slab->array};
        memcpy(pieces[n].offset, slab->offset, sizeof slab->offset);
        memcpy(pieces[n].count, slab->count, sizeof slab->count);
        n++;
    }
    const m2_saved_tensor *t = &mf->tensors[tensor];
    if (st == M2_OK) st = m2_store_make_virtual(s, t->name, &t->info, n, pieces);
    free(pieces);
    free(files);
    return st;
}

static m2_status write_content(m2_store *s, const m2_manifest *mf, const char *slabs, const char *files)
{
    M2_TRY(m2_store_set_text(s, "/", "format", FORMAT));
    M2_TRY(m2_store_set_i64(s, "/", "step", mf->step));
    M2_TRY(m2_store_set_i64(s, "/", "rows", mf->rows));
    M2_TRY(m2_store_set_i64(s, "/", "ranks", mf->ranks));
    M2_TRY(m2_store_set_text(s, "/", "mesh", mf->mesh));
    M2_TRY(m2i_text_write(s, "guard", mf->guard));
    M2_TRY(m2i_text_write(s, "config", mf->config));
    M2_TRY(m2i_text_write(s, "tokenizer", mf->tokenizer));
    M2_TRY(m2i_text_write(s, "slabs", slabs));
    M2_TRY(m2i_text_write(s, "files", files));
    for (int i = 0; i < mf->n_tensors; i++) M2_TRY(write_virtual(s, mf, i));
    return M2_OK;
}

m2_status m2i_manifest_write(const m2_manifest *mf)
{
    char path[M2_PATH], *slabs = NULL, *files = NULL;
    m2_store *s = NULL;
    M2_TRY(m2i_path(path, "%s/manifest.h5", mf->folder));
    m2_status st = m2i_slabs_print(mf, &slabs);
    if (st == M2_OK) st = print_files(mf, &files);
    if (st == M2_OK) st = m2_store_create(path, &s);
    if (st == M2_OK) st = write_content(s, mf, slabs, files);
    if (st == M2_OK) st = m2_store_commit(&s);
    m2_store_close(&s);
    free(slabs);
    free(files);
    return st;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */
static m2_status parse_files(m2_manifest *mf, const char *text, const char *origin)
{
    mf->files = calloc((size_t)mf->ranks + 1, sizeof *mf->files);
    if (!mf->files) return m2_fail(M2_TRANSIENT, "out of memory for %s", origin);
    for (int r = 0; r < mf->ranks; r++) {
        int n = 0;
        if (sscanf(text, "%" SCNd64 " %16" SCNx64 "\n%n", &mf->files[r].size, &mf->files[r].frame, &n) != 2)
            return m2_fail(M2_DATA, "%s: line %d of its table of files is damaged", origin, r + 1);
        text += n;
    }
    return M2_OK;
}

static m2_status read_numbers(m2_store *s, m2_manifest *mf)
{
    int64_t ranks;
    M2_TRY(m2_store_get_i64(s, "/", "step", &mf->step));
    M2_TRY(m2_store_get_i64(s, "/", "rows", &mf->rows));
    M2_TRY(m2_store_get_i64(s, "/", "ranks", &ranks));
    if (ranks < 1 || ranks > 1 << 24)
        return m2_fail(M2_DATA, "%s says that %" PRId64 " ranks saved it", m2_store_path(s), ranks);
    mf->ranks = (int)ranks;
    return M2_OK;
}

/* Checkpoints of older versions have none. */
static m2_status read_guard(m2_store *s, m2_manifest *mf)
{
    char *text = NULL;
    if (!m2_store_has(s, "guard")) return M2_OK;
    M2_TRY(m2i_text_read(s, "guard", &text));
    snprintf(mf->guard, sizeof mf->guard, "%s", text);
    free(text);
    return M2_OK;
}

static m2_status read_content(m2_store *s, m2_manifest *mf)
{
    char *format = NULL, *mesh = NULL, *slabs = NULL, *files = NULL;
    m2_status st = m2_store_get_text(s, "/", "format", &format);
    if (st == M2_OK && strcmp(format, FORMAT))
        st = m2_fail(M2_DATA, "%s has format '%s', this m2 reads '%s'", m2_store_path(s), format, FORMAT);
    if (st == M2_OK) st = read_numbers(s, mf);
    if (st == M2_OK) st = read_guard(s, mf);
    if (st == M2_OK) st = m2_store_get_text(s, "/", "mesh", &mesh);
    if (st == M2_OK) st = m2i_text_read(s, "config", &mf->config);
    if (st == M2_OK) st = m2i_text_read(s, "tokenizer", &mf->tokenizer);
    if (st == M2_OK) st = m2i_text_read(s, "slabs", &slabs);
    if (st == M2_OK) st = m2i_text_read(s, "files", &files);
    if (st == M2_OK) snprintf(mf->mesh, sizeof mf->mesh, "%s", mesh);
    if (st == M2_OK) st = parse_files(mf, files, m2_store_path(s));
    if (st == M2_OK) st = m2i_slabs_parse(mf, slabs, m2_store_path(s));
    free(format);
    free(mesh);
    free(slabs);
    free(files);
    return st;
}

/* The order of the table: that of the tensors, and of the elements within each. */
static int by_place(const void *a, const void *b)
{
    const m2_saved_slab *x = a, *y = b;
    if (x->tensor != y->tensor) return x->tensor < y->tensor ? -1 : 1;
    for (int d = 0; d < M2_STORE_RANK; d++)
        if (x->offset[d] != y->offset[d]) return x->offset[d] < y->offset[d] ? -1 : 1;
    return 0;
}

void m2i_manifest_sort(m2_manifest *mf)
{
    if (mf->n_slabs) qsort(mf->slabs, (size_t)mf->n_slabs, sizeof *mf->slabs, by_place);
}

m2_status m2i_manifest_check(const m2_manifest *mf)
{
    int64_t *covered = calloc((size_t)mf->n_tensors + 1, sizeof *covered);
    if (!covered) return m2_fail(M2_TRANSIENT, "out of memory for the manifest of %s", mf->folder);
    m2_status st = M2_OK;
    for (int i = 0; i < mf->n_slabs; i++) {
        const m2_saved_slab *s = &mf->slabs[i];
        if (s->rank >= mf->ranks) continue;
        covered[s->tensor] += m2i_elements(mf->tensors[s->tensor].info.rank, s->count);
    }
    for (int i = 0; i < mf->n_tensors && st == M2_OK; i++) {
        const m2_saved_tensor *t = &mf->tensors[i];
        int64_t whole = m2i_elements(t->info.rank, t->info.shape);
        if (covered[i] != whole)
            st = m2_fail(M2_DATA,
                         "%s is not whole: its slabs hold %" PRId64 " of the %" PRId64 " elements of %s",
                         mf->folder, covered[i], whole, t->name);
    }
    free(covered);
    return st;
}

m2_status m2_manifest_read(const char *folder, m2_manifest *out)
{
    char path[M2_PATH];
    m2_store *s = NULL;
    memset(out, 0, sizeof *out);
    M2_TRY(m2i_path(out->folder, "%s", folder));
    M2_TRY(m2i_path(path, "%s/manifest.h5", folder));
    M2_TRY(m2i_seal_check(folder));
    m2_status st = m2_store_open(path, &s);
    if (st == M2_OK) st = read_content(s, out);
    if (st == M2_OK) st = m2i_manifest_check(out);
    m2_store_close(&s);
    return st;
}

/* ---- rebuilding -------------------------------------------------------------------------------------------------- */
static m2_status add_file(m2_manifest *mf, int rank)
{
    char path[M2_PATH], *slabs = NULL, *tensors = NULL;
    m2_store *s = NULL;
    M2_TRY(m2i_rank_file(mf->folder, rank, path));
    m2_status st = m2_store_open(path, &s);
    if (st == M2_OK) st = read_numbers(s, mf);
    if (st == M2_OK) st = m2i_text_read(s, "tensors", &tensors);
    if (st == M2_OK) st = m2i_text_read(s, "slabs", &slabs);
    if (st == M2_OK) st = m2i_tensors_parse(mf, tensors, path);
    if (st == M2_OK) st = m2i_slabs_parse(mf, slabs, path);
    free(slabs);
    free(tensors);
    m2_store_close(&s);
    return st;
}

m2_status m2_manifest_rebuild(const char *folder, m2_manifest *out)
{
    enum {
        BEYOND = 64
    }; /* files to look for when the first ones are gone and nobody says how many there were */
    char path[M2_PATH];
    m2_error why = {.code = M2_OK};
    memset(out, 0, sizeof *out);
    M2_TRY(m2i_path(out->folder, "%s", folder));
    out->config = calloc(1, 1);
    out->tokenizer = calloc(1, 1);
    if (!out->config || !out->tokenizer) return m2_fail(M2_TRANSIENT, "out of memory for %s", folder);
    int found = 0;
    for (int r = 0; r < (found ? out->ranks : BEYOND); r++) {
        M2_TRY(m2i_rank_file(folder, r, path));
        if (access(path, F_OK)) continue;
        m2_status st = add_file(out, r);
        if (st == M2_OK)
            found++;
        else
            m2_error_take(&why, st);
    }
    m2i_manifest_sort(out);
    if (found) return M2_OK;
    return why.code != M2_OK ? m2_error_put(&why)
                             : m2_fail(M2_DATA, "%s holds no part of a checkpoint", folder);
}

void m2_manifest_free(m2_manifest *mf)
{
    free(mf->config);
    free(mf->tokenizer);
    free(mf->tensors);
    free(mf->slabs);
    free(mf->files);
    memset(mf, 0, sizeof *mf);
}

int m2_manifest_tensor(const m2_manifest *mf, const char *name)
{
    for (int i = 0; i < mf->n_tensors; i++)
        if (!strcmp(mf->tensors[i].name, name)) return i;
    return -1;
}
