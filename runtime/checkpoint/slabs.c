/* slabs.c - who saves what: shares, boxes, and the slab table as text. Pure. */
#include "runtime/checkpoint/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t m2i_elements(int rank, const int64_t *shape)
{
    int64_t n = 1;
    for (int d = 0; d < rank; d++) n *= shape[d];
    return n;
}

void m2i_share(int64_t total, int rank, int ranks, int64_t *begin, int64_t *end)
{
    int64_t each = total / ranks, more = total % ranks;
    *begin = each * rank + (rank < more ? rank : more);
    *end = *begin + each + (rank < more);
}

int m2i_boxes(int rank, const int64_t *shape, int64_t begin, int64_t end, m2i_box *out)
{
    int n = 0;
    while (begin < end) {
        /* the outermost dimension of which whole slices start here and fit */
        int d = 0;
        int64_t inner = m2i_elements(rank, shape) / shape[0];
        while (begin % inner || end - begin < inner) inner /= shape[++d];
        m2i_box *box = &out[n++];
        int64_t rest = begin / inner;
        for (int k = d; k >= 0; k--) {
            box->offset[k] = rest % shape[k];
            box->count[k] = 1;
            rest /= shape[k];
        }
        for (int k = d + 1; k < rank; k++) {
            box->offset[k] = 0;
            box->count[k] = shape[k];
        }
        int64_t fit = (end - begin) / inner, room = shape[d] - box->offset[d];
        box->count[d] = fit < room ? fit : room;
        begin += box->count[d] * inner;
    }
    return n;
}

/* ---- growing ----------------------------------------------------------------------------------------------------- */
/* Makes room for one more; 0 when memory is out. */
static int grow(void *array, int n, int *room, size_t size)
{
    if (n < *room) return 1;
    int more = *room ? 2 * *room : 64;
    void *bigger = realloc(*(void **)array, (size_t)more * size);
    if (!bigger) return 0;
    *(void **)array = bigger;
    *room = more;
    return 1;
}

m2_status m2i_add_tensor(m2_manifest *mf, const m2_saved_tensor *t)
{
    if (!grow(&mf->tensors, mf->n_tensors, &mf->room_tensors, sizeof *mf->tensors))
        return m2_fail(M2_TRANSIENT, "out of memory for the table of a checkpoint's tensors");
    mf->tensors[mf->n_tensors++] = *t;
    return M2_OK;
}

m2_status m2i_add_slab(m2_manifest *mf, const m2_saved_slab *slab)
{
    if (!grow(&mf->slabs, mf->n_slabs, &mf->room_slabs, sizeof *mf->slabs))
        return m2_fail(M2_TRANSIENT, "out of memory for a slab table");
    mf->slabs[mf->n_slabs++] = *slab;
    return M2_OK;
}

int64_t m2i_slab_bytes(const m2_manifest *mf, const m2_saved_slab *slab)
{
    const m2_array_info *info = &mf->tensors[slab->tensor].info;
    return m2i_elements(info->rank, slab->count) * m2_dtype_size(info->dtype);
}

/* ---- who saves what ---------------------------------------------------------------------------------------------- */
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

/* The newest tensor's elements [begin, end) as slabs of `rank`; numbered from *n. */
static m2_status add_run(m2_manifest *mf, int rank, int64_t begin, int64_t end, int *n)
{
    const m2_saved_tensor *t = &mf->tensors[mf->n_tensors - 1];
    m2i_box boxes[M2I_MAX_BOXES];
    int k = m2i_boxes(t->info.rank, t->info.shape, begin, end, boxes);
    for (int i = 0; i < k; i++) {
        m2_saved_slab slab;
        memset(&slab, 0, sizeof slab);
        slab.tensor = mf->n_tensors - 1;
        slab.rank = rank;
        memcpy(slab.offset, boxes[i].offset, sizeof boxes[i].offset);
        memcpy(slab.count, boxes[i].count, sizeof boxes[i].count);
        int at = snprintf(slab.array, sizeof slab.array, "%s", t->name);
        if (*n) snprintf(slab.array + at, sizeof slab.array - (size_t)at, "@%d", *n);
        (*n)++;
        M2_TRY(m2i_add_slab(mf, &slab));
    }
    return M2_OK;
}

/* What `rank` saves of a row that is flat elements `all`: of an array in shards, its own pieces of it; else, and of rows that
 * are not in the table, what lies in its share. */
static m2_status add_row(m2_manifest *mf, const m2_state *state, int array, m2_slab all, int rank,
                         m2_slab share)
{
    const m2_shards *shards = state->arrays[array].shards;
    int n = 0;
    if (!shards || all.at >= shards->total) {
        m2_slab own = m2_slab_meet(all, share);
        return own.count ? add_run(mf, rank, own.at - all.at, own.at - all.at + own.count, &n) : M2_OK;
    }
    m2_shard_part part;
    if (state->arrays[array].copy) return M2_OK;
    for (int bucket = 0; m2_shards_next(shards, state->arrays[array].shard, all, &bucket, &part);) {
        int64_t from = part.flat.at - all.at;
        M2_TRY(add_run(mf, rank, from, from + part.flat.count, &n));
    }
    return M2_OK;
}

m2_status m2i_slabs_plan(const m2_state *state, int rank, int ranks, m2_manifest *out)
{
    for (int a = 0; a < state->n_arrays; a++) {
        int frozen = !strcmp(state->arrays[a].kind, "param");
        int64_t total = 0, begin, end;
        for (int i = 0; i < state->n_rows; i++) {
            const m2_param *p = &state->rows[i];
            int64_t stop = p->offset + m2i_elements(p->rank, p->dims);
            if (stop > total && (frozen || !(p->flags & M2_PARAM_FROZEN))) total = stop;
        }
        const m2_shards *shards = state->arrays[a].shards;
        int64_t shared = shards && shards->total < total ? shards->total : shards ? total : 0; /* is in the table */
        m2i_share(total - shared, rank, ranks, &begin, &end);
        begin += shared, end += shared;
        for (int i = 0; i < state->n_rows; i++) {
            const m2_param *p = &state->rows[i];
            if (!frozen && p->flags & M2_PARAM_FROZEN) continue;
            m2_saved_tensor t = describe(state, a, i);
            m2_slab all = {p->offset, m2i_elements(p->rank, p->dims)};
            M2_TRY(m2i_add_tensor(out, &t));
            M2_TRY(add_row(out, state, a, all, rank, (m2_slab){begin, end - begin}));
        }
    }
    return M2_OK;
}

/* ---- the table as text ------------------------------------------------------------------------------------------- */
enum { DIMS_TEXT = M2_STORE_RANK * 21 };

static char *print_dims(char buf[DIMS_TEXT], int rank, const int64_t *dims)
{
    int at = 0;
    for (int d = 0; d < rank; d++)
        at += snprintf(buf + at, (size_t)(DIMS_TEXT - at), d ? ",%" PRId64 : "%" PRId64, dims[d]);
    return buf;
}

/* Reads up to M2_STORE_RANK numbers; returns how many, 0 when it is not a list of numbers >= 0. */
static int parse_dims(const char *text, int64_t *dims)
{
    for (int n = 0; n < M2_STORE_RANK; n++) {
        char *end;
        dims[n] = strtoll(text, &end, 10);
        if (end == text || dims[n] < 0) return 0;
        if (*end == 0) return n + 1;
        if (*end != ',') return 0;
        text = end + 1;
    }
    return 0;
}

/* One line: name dtype shape offset count rank array byte hash. Returns its length like snprintf. */
static int print_slab(char *buf, size_t n, const m2_saved_tensor *tensor, const m2_saved_slab *slab)
{
    char shape[DIMS_TEXT], offset[DIMS_TEXT], count[DIMS_TEXT];
    const m2_array_info *info = &tensor->info;
    return snprintf(buf, n, "%s %s %s %s %s %d %s %" PRId64 " %016" PRIx64 "\n", tensor->name,
                    m2_dtype_name(info->dtype), print_dims(shape, info->rank, info->shape),
                    print_dims(offset, info->rank, slab->offset), print_dims(count, info->rank, slab->count),
                    slab->rank, slab->array, slab->at, slab->hash);
}

m2_status m2i_slabs_print(const m2_manifest *mf, char **text)
{
    enum { LINE = M2_TENSOR_NAME * 2 + 3 * DIMS_TEXT + 96 };
    size_t room = 1 + (size_t)mf->n_slabs * LINE, at = 0;
    *text = malloc(room);
    if (!*text) return m2_fail(M2_TRANSIENT, "out of memory for a slab table");
    (*text)[0] = 0;
    for (int i = 0; i < mf->n_slabs; i++)
        at += (size_t)print_slab(*text + at, room - at, &mf->tensors[mf->slabs[i].tensor], &mf->slabs[i]);
    return M2_OK;
}

m2_status m2i_tensors_print(const m2_manifest *mf, char **text)
{
    enum { LINE = M2_TENSOR_NAME + DIMS_TEXT + 16 };
    size_t room = 1 + (size_t)mf->n_tensors * LINE, at = 0;
    *text = malloc(room);
    if (!*text) return m2_fail(M2_TRANSIENT, "out of memory for a table of tensors");
    (*text)[0] = 0;
    for (int i = 0; i < mf->n_tensors; i++) {
        const m2_saved_tensor *t = &mf->tensors[i];
        char shape[DIMS_TEXT];
        at += (size_t)snprintf(*text + at, room - at, "%s %s %s\n", t->name, m2_dtype_name(t->info.dtype),
                               print_dims(shape, t->info.rank, t->info.shape));
    }
    return M2_OK;
}

/* The part of a table that follows its next line. */
static const char *next_line(const char *line)
{
    const char *end = strchr(line, '\n');
    return end ? end + 1 : line + strlen(line);
}

m2_status m2i_tensors_parse(m2_manifest *mf, const char *text, const char *origin)
{
    int number = 1;
    for (const char *line = text; *line; line = next_line(line), number++) {
        m2_saved_tensor t;
        char dtype[8], shape[DIMS_TEXT];
        memset(&t, 0, sizeof t);
        int ok = sscanf(line, "%111s %7s %83s", t.name, dtype, shape) == 3 &&
                 m2_dtype_parse(dtype, &t.info.dtype) == M2_OK &&
                 (t.info.rank = parse_dims(shape, t.info.shape)) > 0;
        if (!ok) return m2_fail(M2_DATA, "%s: line %d of its table of tensors is damaged", origin, number);
        if (m2_manifest_tensor(mf, t.name) < 0) M2_TRY(m2i_add_tensor(mf, &t));
    }
    return M2_OK;
}

static int same_tensor(const m2_saved_tensor *a, const m2_saved_tensor *b)
{
    return a->info.dtype == b->info.dtype && a->info.rank == b->info.rank &&
           !memcmp(a->info.shape, b->info.shape, (size_t)a->info.rank * sizeof *a->info.shape);
}

static int parse_line(const char *line, m2_saved_tensor *t, m2_saved_slab *slab)
{
    char dtype[8], shape[DIMS_TEXT], offset[DIMS_TEXT], count[DIMS_TEXT];
    memset(t, 0, sizeof *t);
    memset(slab, 0, sizeof *slab);
    if (sscanf(line, "%111s %7s %83s %83s %83s %d %119s %" SCNd64 " %16" SCNx64, t->name, dtype, shape,
               offset, count, &slab->rank, slab->array, &slab->at, &slab->hash) != 9)
        return 0;
    t->info.rank = parse_dims(shape, t->info.shape);
    int ok = t->info.rank > 0 && m2_dtype_parse(dtype, &t->info.dtype) == M2_OK && slab->rank >= 0 &&
             slab->at >= 0;
    ok = ok && parse_dims(offset, slab->offset) == t->info.rank &&
         parse_dims(count, slab->count) == t->info.rank;
    for (int d = 0; ok && d < t->info.rank; d++)
        ok = slab->count[d] > 0 && slab->offset[d] + slab->count[d] <= t->info.shape[d];
    return ok;
}

/* Sets slab->tensor; appends the tensor when it is new. */
static m2_status place(m2_manifest *mf, const m2_saved_tensor *t, m2_saved_slab *slab, const char *origin)
{
    int newest = mf->n_tensors - 1;
    slab->tensor =
        newest >= 0 && !strcmp(mf->tensors[newest].name, t->name) ? newest : m2_manifest_tensor(mf, t->name);
    if (slab->tensor < 0) {
        slab->tensor = mf->n_tensors;
        return m2i_add_tensor(mf, t);
    }
    return same_tensor(&mf->tensors[slab->tensor], t)
               ? M2_OK
               : m2_fail(M2_DATA, "%s: its slab table says two shapes of tensor %s", origin, t->name);
}

m2_status m2i_slabs_parse(m2_manifest *mf, const char *text, const char *origin)
{
    int number = 1;
    for (const char *line = text; *line; line = next_line(line), number++) {
        m2_saved_tensor t;
        m2_saved_slab slab;
        if (!parse_line(line, &t, &slab))
            return m2_fail(M2_DATA, "%s: line %d of its slab table is damaged", origin, number);
        M2_TRY(place(mf, &t, &slab, origin));
        M2_TRY(m2i_add_slab(mf, &slab));
    }
    return M2_OK;
}
