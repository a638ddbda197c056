/* manifest.c - the description on disk.
 *
 * Attributes of / : format, step, rows, ranks, mesh, hash. Texts (u8 arrays): /config /tokenizer /slabs. hash is the
 * XXH3-64 over all the others, so a flipped byte anywhere in the description is noticed. /param/NAME, /m/NAME and /v/NAME
 * are virtual datasets over the rank files: h5dump and h5py see whole tensors. */
#include "runtime/checkpoint/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char FORMAT[] = "m2 checkpoint 1";

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

/* ---- writing ----------------------------------------------------------------------------------------------------- */
static uint64_t description_hash(const m2_manifest *mf, const char *slabs)
{
    char head[256];
    int n = snprintf(head, sizeof head, "%s\n%" PRId64 "\n%" PRId64 "\n%d\n%s\n", FORMAT, mf->step, mf->rows,
                     mf->ranks, mf->mesh);
    const char *parts[] = {head, mf->config, mf->tokenizer, slabs};
    uint64_t hash = (uint64_t)n;
    for (int i = 0; i < 4; i++) hash = XXH3_64bits_withSeed(parts[i], strlen(parts[i]), hash);
    return hash;
}

static m2_status print_slabs(const m2_manifest *mf, char **text)
{
    size_t room = 64 + (size_t)mf->n_slabs * 640, at = 0;
    *text = malloc(room);
    if (!*text) return m2_fail(M2_TRANSIENT, "out of memory for the slab table of %s", mf->folder);
    (*text)[0] = 0;
    for (int i = 0; i < mf->n_slabs; i++)
        at += (size_t)m2i_slab_print(*text + at, room - at, &mf->tensors[mf->slabs[i].tensor], &mf->slabs[i]);
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
        const m2_slab *slab = &mf->slabs[i];
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

static m2_status write_content(m2_store *s, const m2_manifest *mf, const char *slabs)
{
    char hash[17];
    snprintf(hash, sizeof hash, "%016" PRIx64, description_hash(mf, slabs));
    M2_TRY(m2_store_set_text(s, "/", "format", FORMAT));
    M2_TRY(m2_store_set_i64(s, "/", "step", mf->step));
    M2_TRY(m2_store_set_i64(s, "/", "rows", mf->rows));
    M2_TRY(m2_store_set_i64(s, "/", "ranks", mf->ranks));
    M2_TRY(m2_store_set_text(s, "/", "mesh", mf->mesh));
    M2_TRY(m2_store_set_text(s, "/", "hash", hash));
    M2_TRY(m2i_text_write(s, "config", mf->config));
    M2_TRY(m2i_text_write(s, "tokenizer", mf->tokenizer));
    M2_TRY(m2i_text_write(s, "slabs", slabs));
    for (int i = 0; i < mf->n_tensors; i++) M2_TRY(write_virtual(s, mf, i));
    return M2_OK;
}

m2_status m2i_manifest_write(const m2_manifest *mf)
{
    char path[M2_PATH], *slabs = NULL;
    m2_store *s = NULL;
    M2_TRY(m2i_path(path, "%s/manifest.h5", mf->folder));
    m2_status st = print_slabs(mf, &slabs);
    if (st == M2_OK) st = m2_store_create(path, &s);
    if (st == M2_OK) st = write_content(s, mf, slabs);
    if (st == M2_OK) st = m2_store_commit(&s);
    m2_store_close(&s);
    free(slabs);
    return st;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */
static m2_status read_content(m2_store *s, m2_manifest *mf, char **slabs)
{
    char *format = NULL, *mesh = NULL, *hash = NULL;
    int64_t ranks = 0;
    m2_status st = m2_store_get_text(s, "/", "format", &format);
    if (st == M2_OK && strcmp(format, FORMAT))
        st = m2_fail(M2_DATA, "%s has format '%s', this m2 reads '%s'", m2_store_path(s), format, FORMAT);
    if (st == M2_OK) st = m2_store_get_i64(s, "/", "step", &mf->step);
    if (st == M2_OK) st = m2_store_get_i64(s, "/", "rows", &mf->rows);
    if (st == M2_OK) st = m2_store_get_i64(s, "/", "ranks", &ranks);
    if (st == M2_OK) st = m2_store_get_text(s, "/", "mesh", &mesh);
    if (st == M2_OK) st = m2_store_get_text(s, "/", "hash", &hash);
    if (st == M2_OK) st = m2i_text_read(s, "config", &mf->config);
    if (st == M2_OK) st = m2i_text_read(s, "tokenizer", &mf->tokenizer);
    if (st == M2_OK) st = m2i_text_read(s, "slabs", slabs);
    if (st == M2_OK) {
        mf->ranks = (int)ranks;
        snprintf(mf->mesh, sizeof mf->mesh, "%s", mesh);
        if (strtoull(hash, NULL, 16) != description_hash(mf, *slabs))
            st = m2_fail(M2_DATA, "%s is damaged: its contents do not match its hash", m2_store_path(s));
    }
    free(format);
    free(mesh);
    free(hash);
    return st;
}

m2_status m2i_manifest_check(const m2_manifest *mf)
{
    int64_t *covered = calloc((size_t)mf->n_tensors + 1, sizeof *covered);
    if (!covered) return m2_fail(M2_TRANSIENT, "out of memory for the manifest of %s", mf->folder);
    m2_status st = M2_OK;
    for (int i = 0; i < mf->n_slabs; i++) {
        const m2_slab *s = &mf->slabs[i];
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
    char path[M2_PATH], *slabs = NULL;
    m2_store *s = NULL;
    memset(out, 0, sizeof *out);
    M2_TRY(m2i_path(out->folder, "%s", folder));
    M2_TRY(m2i_path(path, "%s/manifest.h5", folder));
    m2_status st = m2_store_open(path, &s);
    if (st == M2_OK) st = read_content(s, out, &slabs);
    if (st == M2_OK) st = m2i_slabs_parse(out, slabs, path);
    if (st == M2_OK) st = m2i_manifest_check(out);
    free(slabs);
    m2_store_close(&s);
    return st;
}

void m2_manifest_free(m2_manifest *mf)
{
    free(mf->config);
    free(mf->tokenizer);
    free(mf->tensors);
    free(mf->slabs);
    memset(mf, 0, sizeof *mf);
}

int m2_manifest_tensor(const m2_manifest *mf, const char *name)
{
    for (int i = 0; i < mf->n_tensors; i++)
        if (!strcmp(mf->tensors[i].name, name)) return i;
    return -1;
}
