/* save.c - the three phases of a save: begin (copy to host), write (this rank's file), commit (agree, describe, rename).
 *
 * The elements of each flat array, padding left out, are shared evenly among the ranks: N ranks write 1/N each. */
#include "runtime/checkpoint/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

struct m2_save {
    m2_save_spec spec;
    int rank, ranks;
    char folder[M2_PATH], temporary[M2_PATH];
    m2_manifest mine; /* all tensors, the slabs of this rank */
    char *bytes;      /* the slabs one after the other */
    int64_t n_bytes;
};

/* ---- begin ------------------------------------------------------------------------------------------------------- */
static int saved(const m2_state *state, int array, int row)
{
    return !strcmp(state->arrays[array].kind, "param") || !(state->rows[row].flags & M2_PARAM_FROZEN);
}

static m2_saved_tensor describe(const m2_state *state, int array, int row)
{
    const m2_param *p = &state->rows[row];
    m2_saved_tensor t;
    memset(&t, 0, sizeof t);
    snprintf(t.name, sizeof t.name, "%s/%s", state->arrays[array].kind, p->name);
    t.info.dtype = state->arrays[array].dtype;
    t.info.rank = p->rank ? p->rank : 1;
    for (int d = 0; d < t.info.rank; d++) t.info.shape[d] = p->rank ? p->dims[d] : 1;
    return t;
}

static int64_t count_row(const m2_param *p)
{
    return m2i_elements(p->rank, p->dims);
}

static void add_slab(m2_save *s, int tensor, int box_number, const m2i_box *box)
{
    m2_slab *slab = &s->mine.slabs[s->mine.n_slabs++];
    const m2_saved_tensor *t = &s->mine.tensors[tensor];
    memset(slab, 0, sizeof *slab);
    slab->tensor = tensor;
    slab->rank = s->rank;
    memcpy(slab->offset, box->offset, sizeof box->offset);
    memcpy(slab->count, box->count, sizeof box->count);
    int n = snprintf(slab->array, sizeof slab->array, "%s", t->name);
    if (box_number) snprintf(slab->array + n, sizeof slab->array - (size_t)n, "@%d", box_number);
    s->n_bytes += m2i_elements(t->info.rank, box->count) * m2_dtype_size(t->info.dtype);
}

/* Lists the tensors of all arrays and this rank's slabs of them. */
static void plan_slabs(m2_save *s, const m2_state *state)
{
    for (int a = 0; a < state->n_arrays; a++) {
        int64_t total = 0, begin, end, at = 0;
        for (int i = 0; i < state->n_rows; i++)
            if (saved(state, a, i)) total += count_row(&state->rows[i]);
        m2i_share(total, s->rank, s->ranks, &begin, &end);
        for (int i = 0; i < state->n_rows; i++) {
            if (!saved(state, a, i)) continue;
            int tensor = s->mine.n_tensors++;
            m2_saved_tensor *t = &s->mine.tensors[tensor];
            *t = describe(state, a, i);
            int64_t n = count_row(&state->rows[i]), from = begin - at, to = end - at;
            m2i_box boxes[M2I_MAX_BOXES];
            int k = m2i_boxes(t->info.rank, t->info.shape, from > 0 ? from : 0, to < n ? to : n, boxes);
            for (int j = 0; j < k; j++) add_slab(s, tensor, j, &boxes[j]);
            at += n;
        }
    }
}

/* Copies this rank's slabs to host memory. Boxes of a share are contiguous in the flat array. */
static m2_status copy_slabs(m2_save *s, const m2_state *state)
{
    int slab = 0, tensor = 0;
    int64_t to = 0;
    for (int a = 0; a < state->n_arrays; a++)
        for (int i = 0; i < state->n_rows; i++) {
            if (!saved(state, a, i)) continue;
            const m2_saved_tensor *t = &s->mine.tensors[tensor];
            int64_t size = m2_dtype_size(t->info.dtype);
            for (; slab < s->mine.n_slabs && s->mine.slabs[slab].tensor == tensor; slab++) {
                const m2_slab *b = &s->mine.slabs[slab];
                int64_t from = 0, n = m2i_elements(t->info.rank, b->count) * size;
                for (int d = 0; d < t->info.rank; d++) from = from * t->info.shape[d] + b->offset[d];
                const char *source =
                    (const char *)state->arrays[a].base + (state->rows[i].offset + from) * size;
                M2_TRY(state->device->api->copy(state->device, s->bytes + to, source, n, NULL));
                to += n;
            }
            tensor++;
        }
    return state->device->api->stream_sync(state->device, NULL);
}

m2_status m2_save_begin(const m2_save_spec *spec, const m2_state *state, int rank, int ranks, m2_save **out)
{
    m2_save *s = calloc(1, sizeof *s);
    size_t tensors = (size_t)(state->n_rows * state->n_arrays) + 1;
    if (s) {
        *s = (m2_save){.spec = *spec, .rank = rank, .ranks = ranks};
        s->mine.tensors = calloc(tensors, sizeof *s->mine.tensors);
        s->mine.slabs =
            calloc(tensors + (size_t)(2 * state->n_arrays * M2I_MAX_BOXES), sizeof *s->mine.slabs);
    }
    *out = s;
    m2_status st = M2_OK;
    if (s && s->mine.tensors && s->mine.slabs) {
        plan_slabs(s, state);
        s->bytes = malloc((size_t)s->n_bytes + 1);
    }
    if (!s || !s->bytes)
        st = m2_fail(M2_TRANSIENT, "out of memory for the copy of the state that a checkpoint saves");
    if (st == M2_OK) st = m2i_step_folder(spec->folder, spec->step, s->folder);
    if (st == M2_OK) st = m2i_path(s->temporary, "%s.tmp", s->folder);
    if (st == M2_OK) st = copy_slabs(s, state);
    if (st != M2_OK) m2_save_free(out);
    return st;
}

/* ---- write ------------------------------------------------------------------------------------------------------- */
static m2_status write_slabs(m2_save *s, m2_store *store)
{
    const m2_manifest *mf = &s->mine;
    int64_t from = 0, at = 0, room = 64 + (int64_t)mf->n_slabs * 640;
    char *table = malloc((size_t)room);
    m2_status st = table ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for a slab table");
    if (table) table[0] = 0;
    for (int i = 0; i < mf->n_slabs && st == M2_OK; i++) {
        m2_slab *slab = &mf->slabs[i];
        const m2_saved_tensor *t = &mf->tensors[slab->tensor];
        m2_array_info info = {.dtype = t->info.dtype, .rank = t->info.rank};
        memcpy(info.shape, slab->count, sizeof slab->count);
        int64_t zero[M2_STORE_RANK] = {0},
                n = m2i_elements(info.rank, info.shape) * m2_dtype_size(info.dtype);
        m2_array_options contiguous = {0};
        slab->hash = XXH3_64bits(s->bytes + from, (size_t)n);
        st = m2_store_make(store, slab->array, &info, &contiguous);
        if (st == M2_OK) st = m2_store_write(store, slab->array, zero, slab->count, s->bytes + from);
        at += m2i_slab_print(table + at, (size_t)(room - at), t, slab);
        from += n;
    }
    if (st == M2_OK) st = m2i_text_write(store, "slabs", table);
    free(table);
    return st;
}

m2_status m2_save_write(m2_save *s)
{
    char path[M2_PATH];
    if (mkdir(s->temporary, 0777) && errno != EEXIST)
        return m2_fail(M2_IO, "making folder %s failed: %s", s->temporary, strerror(errno));
    M2_TRY(m2i_rank_file(s->temporary, s->rank, path));
    m2_store *store = NULL;
    m2_status st = m2_store_create(path, &store);
    if (st == M2_OK) st = write_slabs(s, store);
    if (st == M2_OK) st = m2_store_commit(&store);
    m2_store_close(&store);
    return st;
}

/* ---- commit ------------------------------------------------------------------------------------------------------ */
static m2_status read_table(m2_manifest *mf, int rank)
{
    char path[M2_PATH], *text = NULL;
    m2_store *store = NULL;
    M2_TRY(m2i_rank_file(mf->folder, rank, path));
    m2_status st = m2_store_open(path, &store);
    if (st == M2_OK) st = m2i_text_read(store, "slabs", &text);
    if (st == M2_OK) st = m2i_slabs_parse(mf, text, path);
    free(text);
    m2_store_close(&store);
    return st;
}

/* The order of the table: that of the tensors, and of the elements within each. */
static int by_place(const void *a, const void *b)
{
    const m2_slab *x = a, *y = b;
    if (x->tensor != y->tensor) return x->tensor < y->tensor ? -1 : 1;
    for (int d = 0; d < M2_STORE_RANK; d++)
        if (x->offset[d] != y->offset[d]) return x->offset[d] < y->offset[d] ? -1 : 1;
    return 0;
}

/* Rank 0: the manifest from every rank's table, then the rename that makes it a checkpoint. */
static m2_status publish(m2_save *s)
{
    m2_manifest mf = {.step = s->spec.step, .rows = s->spec.rows, .ranks = s->ranks};
    snprintf(mf.mesh, sizeof mf.mesh, "data %d", s->ranks);
    snprintf(mf.folder, sizeof mf.folder, "%s", s->temporary);
    mf.config = (char *)s->spec.config;
    mf.tokenizer = (char *)s->spec.tokenizer;
    mf.n_tensors = mf.room_tensors = s->mine.n_tensors;
    mf.tensors = malloc(((size_t)mf.n_tensors + 1) * sizeof *mf.tensors);
    m2_status st = mf.tensors ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for a manifest");
    if (mf.tensors) memcpy(mf.tensors, s->mine.tensors, (size_t)mf.n_tensors * sizeof *mf.tensors);
    for (int r = 0; r < s->ranks && st == M2_OK; r++) st = read_table(&mf, r);
    if (st == M2_OK) st = m2i_manifest_check(&mf);
    if (st == M2_OK) qsort(mf.slabs, (size_t)mf.n_slabs, sizeof *mf.slabs, by_place);
    if (st == M2_OK) st = m2i_manifest_write(&mf);
    if (st == M2_OK) st = m2i_sync_folder(s->temporary);
    if (st == M2_OK && rename(s->temporary, s->folder))
        st = m2_fail(M2_IO, "committing checkpoint %s failed: %s", s->folder, strerror(errno));
    if (st == M2_OK) st = m2i_sync_folder(s->spec.folder);
    mf.config = mf.tokenizer = NULL; /* the caller's */
    m2_manifest_free(&mf);
    return st;
}

m2_status m2_save_commit(m2_save *s, m2_comm *comm, m2_status mine)
{
    m2_status st = m2_comm_agree(comm, mine);
    if (st == M2_OK) {
        if (s->rank == 0) st = publish(s);
        if (s->rank == 0 && st == M2_OK) st = m2i_prune(s->spec.folder, s->spec.keep, s->spec.keep_every);
        st = m2_comm_agree(comm, st);
    }
    if (st != M2_OK && s->rank == 0) { /* give the space back; the reason is what matters */
        m2_error why;
        m2_error_take(&why, st);
        (void)m2i_remove_folder(s->temporary);
        m2_error_put(&why);
    }
    return m2_context(st, "saving checkpoint of step %" PRId64, s->spec.step);
}

int64_t m2_save_bytes(const m2_save *s)
{
    return s->n_bytes;
}

void m2_save_free(m2_save **save)
{
    m2_save *s = *save;
    if (!s) return;
    m2_manifest_free(&s->mine);
    free(s->bytes);
    free(s);
    *save = NULL;
}

m2_status m2_checkpoint_save(const m2_save_spec *spec, const m2_state *state, m2_comm *comm)
{
    m2_save *s = NULL;
    m2_status st = m2_comm_agree(comm, m2_save_begin(spec, state, comm->rank, comm->size, &s));
    if (st == M2_OK) st = m2_save_commit(s, comm, m2_save_write(s));
    m2_save_free(&s);
    return st;
}
