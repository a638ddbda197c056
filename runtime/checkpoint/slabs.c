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

int m2i_slab_print(char *buf, size_t n, const m2_saved_tensor *tensor, const m2_slab *slab)
{
    char shape[DIMS_TEXT], offset[DIMS_TEXT], count[DIMS_TEXT];
    const m2_array_info *info = &tensor->info;
    return snprintf(buf, n, "%s %s %s %s %s %d %s %016" PRIx64 "\n", tensor->name, m2_dtype_name(info->dtype),
                    print_dims(shape, info->rank, info->shape), print_dims(offset, info->rank, slab->offset),
                    print_dims(count, info->rank, slab->count), slab->rank, slab->array, slab->hash);
}

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

static int same_tensor(const m2_saved_tensor *a, const m2_saved_tensor *b)
{
    return a->info.dtype == b->info.dtype && a->info.rank == b->info.rank &&
           !memcmp(a->info.shape, b->info.shape, (size_t)a->info.rank * sizeof *a->info.shape);
}

/* Row of the tensor, appended when new; -1 when it contradicts an earlier line, -2 when memory is out. */
static int tensor_row(m2_manifest *mf, const m2_saved_tensor *t)
{
    int row = m2_manifest_tensor(mf, t->name);
    if (row >= 0) return same_tensor(&mf->tensors[row], t) ? row : -1;
    if (!grow(&mf->tensors, mf->n_tensors, &mf->room_tensors, sizeof *mf->tensors)) return -2;
    mf->tensors[mf->n_tensors] = *t;
    return mf->n_tensors++;
}

static int parse_line(const char *line, m2_saved_tensor *t, m2_slab *slab)
{
    char dtype[8], shape[DIMS_TEXT], offset[DIMS_TEXT], count[DIMS_TEXT];
    memset(t, 0, sizeof *t);
    memset(slab, 0, sizeof *slab);
    if (sscanf(line, "%111s %7s %83s %83s %83s %d %119s %16" SCNx64, t->name, dtype, shape, offset, count,
               &slab->rank, slab->array, &slab->hash) != 8)
        return 0;
    t->info.rank = parse_dims(shape, t->info.shape);
    int ok = t->info.rank > 0 && m2_dtype_parse(dtype, &t->info.dtype) == M2_OK && slab->rank >= 0;
    ok = ok && parse_dims(offset, slab->offset) == t->info.rank &&
         parse_dims(count, slab->count) == t->info.rank;
    for (int d = 0; ok && d < t->info.rank; d++)
        ok = slab->count[d] > 0 && slab->offset[d] + slab->count[d] <= t->info.shape[d];
    return ok;
}

m2_status m2i_slabs_parse(m2_manifest *mf, const char *text, const char *origin)
{
    int number = 1;
    for (const char *line = text; *line; number++) {
        m2_saved_tensor t;
        m2_slab slab;
        if (!parse_line(line, &t, &slab))
            return m2_fail(M2_DATA, "%s: line %d of its slab table is damaged", origin, number);
        slab.tensor = tensor_row(mf, &t);
        if (slab.tensor == -1)
            return m2_fail(M2_DATA, "%s: its slab table says two shapes of tensor %s", origin, t.name);
        if (slab.tensor < 0 || !grow(&mf->slabs, mf->n_slabs, &mf->room_slabs, sizeof *mf->slabs))
            return m2_fail(M2_TRANSIENT, "out of memory for the slab table of %s", origin);
        mf->slabs[mf->n_slabs++] = slab;
        const char *end = strchr(line, '\n');
        line = end ? end + 1 : line + strlen(line);
    }
    return M2_OK;
}
