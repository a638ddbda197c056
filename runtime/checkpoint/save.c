/* save.c - the stages of a save: begin (folder, copy to host), write (this rank's file), publish (describe, rename).
 *
 * The elements of each flat array are shared evenly among the ranks that have them: N ranks write 1/N each. */
#include "runtime/checkpoint/internal.h"
#include "kernels/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

int64_t m2i_save_bytes(const m2_manifest *mine)
{
    int64_t n = 0;
    for (int i = 0; i < mine->n_slabs; i++) n += m2i_slab_bytes(mine, &mine->slabs[i]);
    return n;
}

/* ---- begin ------------------------------------------------------------------------------------------------------- */
/* The token is looked at after the folder was made: see fence.c. */
static m2_status make_folder(m2i_save *s)
{
    M2_FAULT("make the folder");
    if (access(s->temporary, F_OK) == 0)
        M2_TRY(m2i_remove_folder(s->temporary)); /* an earlier save that failed */
    if (mkdir(s->temporary, 0777))
        return m2_fail(M2_IO, "making folder %s failed: %s", s->temporary, strerror(errno));
    M2_FAULT("look for newer jobs");
    return m2_fence_check(&s->spec.fence);
}

/* Where this rank has an element of the flat array. */
static const char *place_of(const m2_state *state, int array, int64_t flat)
{
    const m2_shards *shards = state->arrays[array].shards;
    const char *base = state->arrays[array].base;
    int64_t size = m2_dtype_size(state->arrays[array].dtype);
    m2_shard_part part;
    int bucket = 0;
    if (!shards) return base + flat * size;
    if (flat >= shards->total) return (const char *)state->arrays[array].rest + (flat - shards->total) * size;
    m2_shards_next(shards, state->arrays[array].shard, (m2_slab){flat, 1}, &bucket, &part);
    return base + part.at * size;
}

/* The slabs are in the order of arrays and rows, and each is one contiguous run. */
static m2_status copy_slabs(m2i_save *s, const m2_state *state)
{
    int slab = 0, tensor = 0;
    int64_t to = 0;
    for (int a = 0; a < state->n_arrays; a++)
        for (int i = 0; i < state->n_rows; i++) {
            if (strcmp(state->arrays[a].kind, "param") && state->rows[i].flags & M2_PARAM_FROZEN) continue;
            const m2_array_info *t = &s->mine.tensors[tensor].info;
            for (; slab < s->mine.n_slabs && s->mine.slabs[slab].tensor == tensor; slab++) {
                const m2_saved_slab *b = &s->mine.slabs[slab];
                int64_t from = 0, n = m2i_slab_bytes(&s->mine, b);
                for (int d = 0; d < t->rank; d++) from = from * t->shape[d] + b->offset[d];
                const char *source = place_of(state, a, state->rows[i].offset + from);
                M2_TRY(state->device->api->copy(state->device, s->bytes + to, source, n, NULL));
                to += n;
            }
            tensor++;
        }
    return state->device->api->stream_sync(state->device, NULL);
}

m2_status m2i_save_begin(m2i_save *s, const m2_state *state)
{
    M2_TRY(m2i_step_folder(s->spec.folder, s->spec.step, s->folder));
    if (s->spec.fence.token)
        M2_TRY(m2i_path(s->temporary, "%s.%08" PRId64 ".tmp", s->folder, s->spec.fence.token));
    else
        M2_TRY(m2i_path(s->temporary, "%s.tmp", s->folder));
    if (s->rank == 0) M2_TRY(make_folder(s));
    return copy_slabs(s, state);
}

/* ---- write ------------------------------------------------------------------------------------------------------- */
/* Sleeps as long as `done` bytes since `begin` are ahead of the bandwidth, unless somebody waits for the save. */
static void keep_pace(m2i_save *s, double begin, int64_t done)
{
    while (s->spec.bandwidth > 0 && !atomic_load(&s->hurry)) {
        double ahead = (double)done / s->spec.bandwidth - (m2_now() - begin);
        if (ahead <= 0) return;
        nanosleep(&(struct timespec){.tv_nsec = ahead < 0.02 ? (long)(ahead * 1e9) : 20000000}, NULL);
    }
}

/* In pieces that fit the cache: hashed, then written. */
static m2_status write_bytes(m2i_save *s, m2_store *store)
{
    enum { PIECE = 4 << 20 };
    m2_manifest *mf = &s->mine;
    double begin = m2_now();
    int64_t done = 0;
    XXH3_state_t *state = XXH3_createState();
    m2_status st = state ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for the hash of a slab");
    for (int i = 0; i < mf->n_slabs && st == M2_OK; i++) {
        int64_t n = m2i_slab_bytes(mf, &mf->slabs[i]);
        XXH3_64bits_reset(state);
        for (int64_t at = 0; at < n && st == M2_OK; at += PIECE) {
            int64_t k = n - at < PIECE ? n - at : PIECE;
            XXH3_64bits_update(state, s->bytes + done, (size_t)k);
            st = m2_store_put(store, mf->slabs[i].at + at, s->bytes + done, k);
            done += k;
            keep_pace(s, begin, done);
        }
        mf->slabs[i].hash = XXH3_64bits_digest(state);
    }
    XXH3_freeState(state);
    return st;
}

static m2_status write_content(m2i_save *s, m2_store *store)
{
    m2_manifest *mf = &s->mine;
    char *table = NULL, *tensors = NULL;
    for (int i = 0; i < mf->n_slabs; i++) {
        m2_saved_slab *slab = &mf->slabs[i];
        m2_array_info info = mf->tensors[slab->tensor].info;
        memcpy(info.shape, slab->count, sizeof slab->count);
        M2_TRY(m2_store_reserve(store, slab->array, &info, &slab->at));
    }
    M2_TRY(write_bytes(s, store));
    m2_status st = m2i_slabs_print(mf, &table);
    if (st == M2_OK) st = m2i_text_write(store, "slabs", table);
    if (st == M2_OK) st = m2i_tensors_print(mf, &tensors);
    if (st == M2_OK) st = m2i_text_write(store, "tensors", tensors);
    free(table);
    free(tensors);
    M2_TRY(st);
    M2_TRY(m2_store_set_i64(store, "/", "step", s->spec.step));
    M2_TRY(m2_store_set_i64(store, "/", "rows", s->spec.rows));
    return m2_store_set_i64(store, "/", "ranks", s->ranks);
}

m2_status m2i_save_write(m2i_save *s)
{
    char path[M2_PATH];
    m2_store *store = NULL;
    M2_TRY(m2i_rank_file(s->temporary, s->rank, path));
    M2_FAULT("make a rank's file");
    m2_status st = m2_store_create(path, &store);
    if (st == M2_OK) st = write_content(s, store);
    if (st == M2_OK) st = m2_store_commit(&store);
    m2_store_close(&store);
    return st;
}

/* ---- publish ----------------------------------------------------------------------------------------------------- */
static m2_status read_table(m2_manifest *mf, int rank)
{
    char path[M2_PATH], *text = NULL;
    m2_store *store = NULL;
    M2_TRY(m2i_rank_file(mf->folder, rank, path));
    m2_status st = m2_store_open(path, &store);
    if (st == M2_OK) st = m2i_text_read(store, "slabs", &text);
    if (st == M2_OK) st = m2i_slabs_parse(mf, text, path);
    if (st == M2_OK) st = m2i_file_frame(mf, rank, &mf->files[rank]);
    free(text);
    m2_store_close(&store);
    return st;
}

/* The manifest from every rank's table, in the folder that is not yet a checkpoint. */
static m2_status write_description(m2i_save *s)
{
    m2_manifest mf = {.step = s->spec.step, .rows = s->spec.rows, .ranks = s->ranks};
    m2_status st = M2_OK;
    if (s->spec.mesh)
        snprintf(mf.mesh, sizeof mf.mesh, "%s", s->spec.mesh);
    else
        snprintf(mf.mesh, sizeof mf.mesh, "data %d", s->ranks);
    snprintf(mf.folder, sizeof mf.folder, "%s", s->temporary);
    memcpy(mf.guard, s->spec.guard, sizeof mf.guard);
    mf.config = (char *)s->spec.config;
    mf.tokenizer = (char *)s->spec.tokenizer;
    mf.files = calloc((size_t)s->ranks, sizeof *mf.files);
    if (!mf.files) st = m2_fail(M2_TRANSIENT, "out of memory for a manifest");
    for (int i = 0; i < s->mine.n_tensors && st == M2_OK; i++) st = m2i_add_tensor(&mf, &s->mine.tensors[i]);
    for (int r = 0; r < s->ranks && st == M2_OK; r++) st = read_table(&mf, r);
    if (st == M2_OK) st = m2i_manifest_check(&mf);
    if (st == M2_OK) m2i_manifest_sort(&mf);
    if (st == M2_OK) st = m2i_manifest_write(&mf);
    if (st == M2_OK) st = m2i_seal_write(s->temporary);
    mf.config = mf.tokenizer = NULL; /* the caller's */
    m2_manifest_free(&mf);
    return st;
}

m2_status m2i_save_publish(m2i_save *s)
{
    M2_TRY(write_description(s));
    M2_TRY(m2i_sync_folder(s->temporary));
    M2_TRY(m2_fence_check(&s->spec.fence));
    M2_FAULT("commit");
    if (rename(s->temporary, s->folder))
        return m2_fail(M2_IO, "committing checkpoint %s failed: %s", s->folder, strerror(errno));
    M2_FAULT("flush the commit");
    M2_TRY(m2i_sync_folder(s->spec.folder));
    return m2i_prune(s->spec.folder, s->spec.keep, s->spec.keep_every);
}

m2_status m2i_save_drop(m2i_save *s, m2_status why)
{
    m2_error first;
    m2_error_take(&first, why);
    if (access(s->temporary, F_OK) == 0) (void)m2i_remove_folder(s->temporary);
    m2_status newer = m2_fence_check(&s->spec.fence);
    return newer == M2_USAGE ? newer : m2_error_put(&first);
}
