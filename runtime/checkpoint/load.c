/* load.c - walking the slabs of a checkpoint, and filling a program's state from them. */
#include "runtime/checkpoint/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* ---- walking ----------------------------------------------------------------------------------------------------- */
typedef struct rank_file {
    int fd; /* -1: cannot be read, and `why` tells */
    m2_error why;
} rank_file;

/* A file whose frame is damaged is still open: its slabs have their own hashes. */
static rank_file open_file(const m2_manifest *mf, int rank)
{
    char path[M2_PATH];
    rank_file f = {.fd = -1, .why = {.code = M2_OK}};
    m2_status st = m2i_rank_file(mf->folder, rank, path);
    if (st == M2_OK) f.fd = open(path, O_RDONLY);
    if (st == M2_OK && f.fd < 0)
        st = errno == ENOENT ? m2_fail(M2_DATA, "%s is missing", path)
                             : m2_fail(M2_IO, "opening %s failed: %s", path, strerror(errno));
    m2_error_take(&f.why, st);
    return f;
}

static m2_status read_slab(const m2_manifest *mf, const m2_saved_slab *slab, const rank_file *file, char *buf)
{
    int64_t n = m2i_slab_bytes(mf, slab);
    if (file->fd < 0) return m2_error_put(&file->why);
    for (int64_t done = 0; done < n;) {
        ssize_t k = pread(file->fd, buf + done, (size_t)(n - done), (off_t)(slab->at + done));
        if (k < 0 && errno == EINTR) continue;
        if (k < 0)
            return m2_fail(M2_IO, "reading %s/rank-%05d.h5 failed: %s", mf->folder, slab->rank,
                           strerror(errno));
        if (k == 0)
            return m2_fail(M2_DATA, "%s/rank-%05d.h5 is cut off within array %s", mf->folder, slab->rank,
                           slab->array);
        done += k;
    }
    if (XXH3_64bits(buf, (size_t)n) == slab->hash) return M2_OK;
    return m2_fail(M2_DATA, "%s/rank-%05d.h5: array %s is damaged: its bytes do not match their hash",
                   mf->folder, slab->rank, slab->array);
}

static int64_t largest_slab(const m2_manifest *mf, const char *wanted)
{
    int64_t most = 0;
    for (int i = 0; i < mf->n_slabs; i++) {
        int64_t n = m2i_slab_bytes(mf, &mf->slabs[i]);
        if (n > most && (!wanted || wanted[i])) most = n;
    }
    return most;
}

static m2_status visit_file(const m2_manifest *mf, int rank, const char *wanted, void *buf,
                            m2_slab_visit visit, void *ctx)
{
    rank_file file = {.fd = -1};
    m2_status st = M2_OK;
    for (int i = 0, opened = 0; i < mf->n_slabs && st == M2_OK; i++) {
        const m2_saved_slab *slab = &mf->slabs[i];
        if (slab->rank != rank || (wanted && !wanted[i])) continue;
        if (!opened++) file = open_file(mf, rank);
        m2_status bad = read_slab(mf, slab, &file, buf);
        bad = m2_context(bad, "tensor %s", mf->tensors[slab->tensor].name);
        st = visit(ctx, slab, bad == M2_OK ? buf : NULL, bad);
    }
    if (file.fd >= 0) close(file.fd);
    return st;
}

m2_status m2_manifest_visit(const m2_manifest *mf, const char *wanted, m2_slab_visit visit, void *ctx)
{
    void *buf = malloc((size_t)largest_slab(mf, wanted) + 1);
    if (!buf) return m2_fail(M2_TRANSIENT, "out of memory for reading %s", mf->folder);
    m2_status st = M2_OK;
    for (int rank = 0; rank < mf->ranks && st == M2_OK; rank++)
        st = visit_file(mf, rank, wanted, buf, visit, ctx);
    free(buf);
    return st;
}

/* ---- the same model? --------------------------------------------------------------------------------------------- */
static char *print_shape(char buf[96], const m2_array_info *info)
{
    int at = snprintf(buf, 96, "(");
    for (int d = 0; d < info->rank; d++)
        at += snprintf(buf + at, (size_t)(96 - at), "%s%" PRId64, d ? ", " : "", info->shape[d]);
    snprintf(buf + at, (size_t)(96 - at), ")");
    return buf;
}

typedef struct target {
    int array, row;
} target;

/* Where tensor `t` of the checkpoint goes; array -1: nowhere. */
static target find_target(const m2_state *state, const char *name)
{
    for (int a = 0; a < state->n_arrays; a++) {
        size_t n = strlen(state->arrays[a].kind);
        if (strncmp(name, state->arrays[a].kind, n) || name[n] != '/') continue;
        for (int i = 0; i < state->n_rows; i++)
            if (!strcmp(state->rows[i].name, name + n + 1)) return (target){a, i};
    }
    return (target){-1, -1};
}

static int kind_is_loaded(const m2_state *state, const char *name)
{
    for (int a = 0; a < state->n_arrays; a++) {
        size_t n = strlen(state->arrays[a].kind);
        if (!strncmp(name, state->arrays[a].kind, n) && name[n] == '/') return 1;
    }
    return 0;
}

static int has_kind(const m2_manifest *mf, const char *kind)
{
    size_t n = strlen(kind);
    int i = 0;
    while (i < mf->n_tensors && (strncmp(mf->tensors[i].name, kind, n) || mf->tensors[i].name[n] != '/')) i++;
    return i < mf->n_tensors;
}

static m2_status check_row(const m2_manifest *mf, const m2_state *state, int array, int row)
{
    const m2_param *p = &state->rows[row];
    m2_array_info mine = {.rank = p->rank ? p->rank : 1, .shape = {1}};
    char name[M2_TENSOR_NAME], here[96], there[96];
    for (int d = 0; d < p->rank; d++) mine.shape[d] = p->dims[d];
    snprintf(name, sizeof name, "%s/%s", state->arrays[array].kind, p->name);
    int t = m2_manifest_tensor(mf, name);
    if (t < 0 && !has_kind(mf, state->arrays[array].kind))
        return m2_fail(M2_DATA,
                       "%s has no optimizer moments, as after m2 convert: it cannot be resumed, but a new "
                       "run starts from its "
                       "parameters with train.init=%s",
                       mf->folder, mf->folder);
    if (t < 0)
        return m2_fail(M2_DATA,
                       "%s is of another model: it has no tensor %s, which this model has with shape %s",
                       mf->folder, name, print_shape(here, &mine));
    const m2_array_info *saved = &mf->tensors[t].info;
    int same =
        saved->rank == mine.rank && !memcmp(saved->shape, mine.shape, (size_t)mine.rank * sizeof *mine.shape);
    if (!same)
        return m2_fail(M2_DATA,
                       "%s is of another model: tensor %s has shape %s in the file and %s in this model",
                       mf->folder, name, print_shape(there, saved), print_shape(here, &mine));
    if (saved->dtype != M2_F32 && saved->dtype != M2_F64)
        return m2_fail(M2_DATA, "%s: tensor %s is %s, expected f32 or f64", mf->folder, name,
                       m2_dtype_name(saved->dtype));
    return M2_OK;
}

static m2_status check_model(const m2_manifest *mf, const m2_state *state)
{
    for (int a = 0; a < state->n_arrays; a++)
        for (int i = 0; i < state->n_rows; i++)
            if (!strcmp(state->arrays[a].kind, "param") || !(state->rows[i].flags & M2_PARAM_FROZEN))
                M2_TRY(check_row(mf, state, a, i));
    for (int t = 0; t < mf->n_tensors; t++) {
        const char *name = mf->tensors[t].name;
        char there[96];
        if (kind_is_loaded(state, name) && find_target(state, name).array < 0)
            return m2_fail(M2_DATA,
                           "%s is of another model: it has tensor %s of shape %s, which this model has not",
                           mf->folder, name, print_shape(there, &mf->tensors[t].info));
    }
    return M2_OK;
}

/* ---- filling ----------------------------------------------------------------------------------------------------- */
typedef struct filling {
    const m2_manifest *mf;
    const m2_state *state;
    const target *targets; /* per tensor of the manifest */
    char *converted;       /* a slab in the state's dtype */
} filling;

static const void *convert(filling *f, const void *data, int64_t n, m2_dtype from, m2_dtype to)
{
    if (from == to) return data;
    for (int64_t i = 0; i < n; i++) {
        if (to == M2_F64)
            ((double *)f->converted)[i] = (double)((const float *)data)[i];
        else
            ((float *)f->converted)[i] = (float)((const double *)data)[i];
    }
    return f->converted;
}

/* Flat elements `all` of the array, which are at `from`, to where this rank keeps them, if it does. */
static m2_status put_run(filling *f, int array, m2_slab all, const char *from)
{
    const m2_state *state = f->state;
    m2_device *dev = state->device;
    const m2_shards *shards = state->arrays[array].shards;
    int64_t size = m2_dtype_size(state->arrays[array].dtype);
    char *base = state->arrays[array].base;
    if (shards && all.at >= shards->total)
        base = (char *)state->arrays[array].rest, all.at -= shards->total, shards = NULL;
    if (!shards) return dev->api->copy(dev, base + all.at * size, from, all.count * size, NULL);
    m2_shard_part part;
    for (int bucket = 0; m2_shards_next(shards, state->arrays[array].shard, all, &bucket, &part);)
        M2_TRY(dev->api->copy(dev, base + part.at * size, from + (part.flat.at - all.at) * size,
                              part.flat.count * size, NULL));
    return M2_OK;
}

/* The box as contiguous runs of the tensor: each call gives the next one, from the box's element *done on. Elements. */
static int next_run(const m2_array_info *t, const m2_saved_slab *slab, int64_t *done, int64_t *at,
                    int64_t *run)
{
    int64_t n = m2i_elements(t->rank, slab->count), rest = *done, index[M2_STORE_RANK];
    int d = t->rank - 1; /* the innermost dimension of which the box is only a part */
    if (*done == n) return 0;
    *run = 1;
    while (d > 0 && slab->count[d] == t->shape[d]) *run *= t->shape[d--];
    *run *= slab->count[d];
    for (int k = t->rank - 1; k >= 0; rest /= slab->count[k--]) index[k] = rest % slab->count[k];
    *at = 0;
    for (int k = 0; k < t->rank; k++) *at = *at * t->shape[k] + slab->offset[k] + index[k];
    *done += *run;
    return 1;
}

static m2_status fill_slab(void *ctx, const m2_saved_slab *slab, const void *data, m2_status bad)
{
    filling *f = ctx;
    M2_TRY(bad);
    const m2_array_info *t = &f->mf->tensors[slab->tensor].info;
    target to = f->targets[slab->tensor];
    m2_device *dev = f->state->device;
    m2_dtype dtype = f->state->arrays[to.array].dtype;
    const char *from = convert(f, data, m2i_elements(t->rank, slab->count), t->dtype, dtype);
    for (int64_t done = 0, at, run; next_run(t, slab, &done, &at, &run);)
        M2_TRY(put_run(f, to.array, (m2_slab){f->state->rows[to.row].offset + at, run},
                       from + (done - run) * m2_dtype_size(dtype)));
    return dev->api->stream_sync(dev, NULL); /* the buffer is used again */
}

typedef struct gathering {
    const m2_array_info *info;
    char *out;
} gathering;

static m2_status gather_slab(void *ctx, const m2_saved_slab *slab, const void *data, m2_status bad)
{
    gathering *g = ctx;
    int64_t size = m2_dtype_size(g->info->dtype);
    M2_TRY(bad);
    for (int64_t done = 0, at, run; next_run(g->info, slab, &done, &at, &run);)
        memcpy(g->out + at * size, (const char *)data + (done - run) * size, (size_t)(run * size));
    return M2_OK;
}

m2_status m2_manifest_read_raw(const m2_manifest *mf, int tensor, void *out)
{
    char *wanted = calloc((size_t)mf->n_slabs + 1, 1);
    if (!wanted) return m2_fail(M2_TRANSIENT, "out of memory for reading %s", mf->folder);
    for (int i = 0; i < mf->n_slabs; i++) wanted[i] = mf->slabs[i].tensor == tensor;
    gathering g = {&mf->tensors[tensor].info, out};
    m2_status st = m2_manifest_visit(mf, wanted, gather_slab, &g);
    free(wanted);
    return st;
}

m2_status m2_manifest_read_tensor(const m2_manifest *mf, int tensor, double *out)
{
    const m2_array_info *info = &mf->tensors[tensor].info;
    int64_t n = m2i_elements(info->rank, info->shape);
    if (info->dtype == M2_F64) return m2_manifest_read_raw(mf, tensor, out);
    if (info->dtype != M2_F32)
        return m2_fail(M2_DATA, "%s: tensor %s is %s, expected f32 or f64", mf->folder,
                       mf->tensors[tensor].name, m2_dtype_name(info->dtype));
    float *narrow = malloc((size_t)n * sizeof *narrow);
    if (!narrow) return m2_fail(M2_TRANSIENT, "out of memory for reading %s", mf->folder);
    m2_status st = m2_manifest_read_raw(mf, tensor, narrow);
    for (int64_t i = 0; st == M2_OK && i < n; i++) out[i] = narrow[i];
    free(narrow);
    return st;
}

/* Does this rank keep any of the slab? Of an array in shards, the range from its first to its last element decides. */
static int needs(const m2_manifest *mf, const m2_state *state, target to, const m2_saved_slab *slab)
{
    if (to.array < 0) return 0;
    const m2_shards *shards = state->arrays[to.array].shards;
    if (!shards || state->rows[to.row].offset >= shards->total) return 1;
    const m2_array_info *t = &mf->tensors[slab->tensor].info;
    int64_t first = 0, last = 0;
    for (int d = 0; d < t->rank; d++) {
        first = first * t->shape[d] + slab->offset[d];
        last = last * t->shape[d] + slab->offset[d] + slab->count[d] - 1;
    }
    m2_shard_part part;
    m2_slab all = {state->rows[to.row].offset + first, last - first + 1};
    int bucket = 0;
    return m2_shards_next(shards, state->arrays[to.array].shard, all, &bucket, &part);
}

/* Marks the slabs to be read, and checks the files that hold them. */
static m2_status choose(const m2_manifest *mf, const m2_state *state, target *targets, char *wanted)
{
    for (int i = 0; i < mf->n_tensors; i++) targets[i] = find_target(state, mf->tensors[i].name);
    for (int i = 0; i < mf->n_slabs; i++)
        wanted[i] = (char)needs(mf, state, targets[mf->slabs[i].tensor], &mf->slabs[i]);
    for (int rank = 0; rank < mf->ranks; rank++) {
        int first = 0;
        while (first < mf->n_slabs && !(wanted[first] && mf->slabs[first].rank == rank)) first++;
        if (first == mf->n_slabs) continue;
        m2_status st = m2_manifest_check_file(mf, rank);
        if (st != M2_OK)
            return m2_context(st, "tensor %s and others of rank %d",
                              mf->tensors[mf->slabs[first].tensor].name, rank);
    }
    return M2_OK;
}

m2_status m2_checkpoint_load(const m2_manifest *mf, const m2_state *state)
{
    M2_TRY(check_model(mf, state));
    char *wanted = calloc((size_t)mf->n_slabs + 1, 1);
    target *targets = calloc((size_t)mf->n_tensors + 1, sizeof *targets);
    filling f = {.mf = mf, .state = state, .targets = targets};
    m2_status st =
        wanted && targets ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for reading %s", mf->folder);
    if (st == M2_OK) st = choose(mf, state, targets, wanted);
    if (st == M2_OK) {
        f.converted = malloc(2 * (size_t)largest_slab(mf, wanted) + 1);
        if (!f.converted) st = m2_fail(M2_TRANSIENT, "out of memory for reading %s", mf->folder);
    }
    if (st == M2_OK) st = m2_manifest_visit(mf, wanted, fill_slab, &f);
    free(f.converted);
    free(targets);
    free(wanted);
    return st;
}

m2_status m2_state_of(m2_program *p, m2_device *dev, int optimizer, m2_state *out)
{
    static const char *const kinds[] = {"param", "m", "v"};
    *out = (m2_state){.device = dev, .n_arrays = optimizer ? 3 : 1};
    out->n_rows = m2_program_params(p, &out->rows);
    for (int a = 0; a < out->n_arrays; a++) {
        out->arrays[a].kind = kinds[a];
        m2_part part;
        M2_TRY(m2_program_part(p, kinds[a], &part));
        out->arrays[a].base = part.base;
        out->arrays[a].rest = part.rest;
        out->arrays[a].dtype = part.dtype;
        out->arrays[a].shards = part.shards;
        out->arrays[a].shard = part.shard;
    }
    return M2_OK;
}
