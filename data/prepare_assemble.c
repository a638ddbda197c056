#include "data/prepare_pieces.h"
#include "kernels/base/rng.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the pieces say in their order, document by document, becomes one store or two. */
typedef struct assembly {
    const m2_prepare_spec *spec;
    m2_prepare_report *report;
    char *folder;
    m2_token_writer *writer[2]; /* training, validation */
    m2i_piece piece;
    int64_t numbered;   /* .jsonl documents met: what draws the validation set */
    int64_t open_bytes; /* of the text whose end has not come yet */
    m2i_hash128 *seen;  /* hash table for dedup; all 0 = empty */
    uint64_t seen_count, seen_slots;
} assembly;

/* ---- duplicates -------------------------------------------------------------------------------------------------- */
static uint64_t slot_of(const m2i_hash128 *table, uint64_t slots, m2i_hash128 h)
{
    uint64_t at = h.low & (slots - 1);
    while ((table[at].low || table[at].high) && (table[at].low != h.low || table[at].high != h.high))
        at = (at + 1) & (slots - 1);
    return at;
}

/* Is the hash a new one? Then it is kept. */
static m2_status first_seen(assembly *a, m2i_hash128 h, int *fresh)
{
    if (2 * a->seen_count >= a->seen_slots) {
        uint64_t slots = a->seen_slots ? 2 * a->seen_slots : 1 << 16;
        m2i_hash128 *table = calloc(slots, sizeof *table);
        if (!table)
            return m2_fail(M2_TRANSIENT, "out of memory for the hashes of %" PRIu64 " documents",
                           a->seen_count);
        for (uint64_t i = 0; i < a->seen_slots; i++)
            if (a->seen[i].low || a->seen[i].high) table[slot_of(table, slots, a->seen[i])] = a->seen[i];
        free(a->seen);
        a->seen = table;
        a->seen_slots = slots;
    }
    uint64_t at = slot_of(a->seen, a->seen_slots, h);
    *fresh = !a->seen[at].low && !a->seen[at].high;
    a->seen_count += (uint64_t)*fresh;
    a->seen[at] = h;
    return M2_OK;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */
/* Validation or training? Texts know it (tail); .jsonl documents are drawn by their number. */
static m2_token_writer *choose_writer(assembly *a, int64_t flags)
{
    if (!a->writer[1]) return a->writer[0];
    if (!(flags & M2I_PIECE_LINE)) return a->writer[flags & M2I_PIECE_TAIL ? 1 : 0];
    static const m2_rng_key key = {{0x6d32, 0x76616c}};
    return a->writer[m2_rng_uniform(key, (uint64_t)a->numbered) < a->spec->val_fraction];
}

static m2_status add_document(assembly *a, const m2i_piece_document *d, const void *ids)
{
    m2_token_writer *w = choose_writer(a, d->flags);
    int fresh = 1, ends = (d->flags & M2I_PIECE_ENDS) != 0;
    int whole = ends && !a->open_bytes; /* of a long text only parts are here */
    a->numbered += (d->flags & M2I_PIECE_LINE) != 0;
    if (a->spec->dedup && whole && d->bytes) M2_TRY(first_seen(a, d->hash, &fresh));
    a->open_bytes += d->bytes;
    int empty = ends && !a->open_bytes;
    a->report->duplicates += !fresh;
    a->report->empty += empty;
    if (ends) a->open_bytes = 0;
    if (!fresh || empty) return M2_OK;
    M2_TRY(m2_token_writer_add_stored(w, ids, d->tokens, d->bytes));
    return ends ? m2_token_writer_end_document(w) : M2_OK;
}

static m2_status add_piece(assembly *a)
{
    const m2i_piece *p = &a->piece;
    m2_prepare_report *r = a->report;
    if (p->skipped && !r->skipped) memcpy(r->first_skipped, p->first_skipped, sizeof r->first_skipped);
    r->skipped += p->skipped;
    const char *ids = p->ids;
    for (int64_t i = 0; i < p->count; ids += p->documents[i++].tokens * p->width)
        M2_TRY(add_document(a, &p->documents[i], ids));
    return M2_OK;
}

static m2_status add_file(assembly *a, int64_t file)
{
    m2i_hash128 identity;
    int found;
    M2_TRY(m2i_prepare_identity(a->spec, file, &identity));
    for (int64_t k = 0;; k++) {
        M2_TRY(m2i_piece_read(&a->piece, a->folder, file, k, identity, &found));
        if (!found)
            return m2_fail(M2_DATA,
                           "piece %" PRId64
                           " of %s is not in %s: the file was changed while it was read, or the "
                           "ranks do not see the same folder; prepare it again",
                           k, a->spec->files->paths[file], a->folder);
        M2_TRY(add_piece(a));
        if (a->piece.last) return M2_OK;
    }
}

static m2_status commit(assembly *a)
{
    const m2_prepare_spec *s = a->spec;
    m2_prepare_report *r = a->report;
    r->out = m2_token_writer_info(a->writer[0]);
    if (a->writer[1]) r->val = m2_token_writer_info(a->writer[1]);
    if (!r->out.documents)
        return m2_fail(M2_DATA, "the input holds no document with any text, so %s is not written", s->out);
    if (a->writer[1] && !r->val.documents)
        return m2_fail(M2_DATA,
                       "no document of %" PRId64
                       " came into the validation set of fraction %g: raise --val-fraction",
                       r->out.documents, s->val_fraction);
    for (int i = 0; i < 2; i++)
        for (const char *const *n = s->notes; a->writer[i] && n && *n; n += 2)
            M2_TRY(m2_token_writer_note(a->writer[i], n[0], n[1]));
    if (a->writer[1]) M2_TRY(m2_token_writer_commit(&a->writer[1]));
    return m2_token_writer_commit(&a->writer[0]);
}

/* What an assembly that was killed left: whoever assembles is the only writer of `path`. */
static void sweep(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *folder = strndup(path, slash ? (size_t)(name - path) : 0);
    size_t n = strlen(name);
    DIR *d = folder ? opendir(slash ? folder : ".") : NULL;
    for (struct dirent *e; d && (e = readdir(d));)
        if (!strncmp(e->d_name, name, n) && !strncmp(e->d_name + n, ".tmp-", 5))
            unlinkat(dirfd(d), e->d_name, 0);
    if (d) closedir(d);
    free(folder);
}

static m2_status assemble(assembly *a)
{
    const m2_prepare_spec *s = a->spec;
    M2_TRY(m2i_prepare_folder(s, &a->folder));
    sweep(s->out);
    if (s->val_out) sweep(s->val_out);
    M2_TRY(m2_token_writer_create(s->out, s->tokenizer, &a->writer[0]));
    if (s->val_out) M2_TRY(m2_token_writer_create(s->val_out, s->tokenizer, &a->writer[1]));
    for (int64_t f = 0; f < s->files->count; f++) M2_TRY(add_file(a, f));
    return commit(a);
}

m2_status m2_prepare_assemble(const m2_prepare_spec *spec, m2_prepare_report *out)
{
    assembly a = {.spec = spec, .report = out};
    m2_status st = assemble(&a);
    m2_token_writer_close(&a.writer[1]);
    m2_token_writer_close(&a.writer[0]);
    if (st == M2_OK || st == M2_DATA) m2i_pieces_remove_folder(a.folder, 0);
    free(a.folder);
    free(a.seen);
    m2i_piece_free(&a.piece);
    return st;
}
