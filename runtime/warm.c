#include "runtime/warm.h"
#include "kernels/base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum source { COPIED, REPEATED, OWN } source;

/* What became of the rows: how many of each, and the names of those that are not copied as they were. */
typedef struct tally {
    int n[OWN + 1];
    char names[OWN + 1][200];
} tally;

static void count(tally *c, source from, const char *name)
{
    char *list = c->names[from];
    size_t used = strlen(list), room = sizeof c->names[from] - used;
    if (room > strlen(name) + 8)
        snprintf(list + used, room, "%s%s", c->n[from] ? ", " : "", name);
    else if (strcmp(list + used - 3, "..."))
        snprintf(list + used, room, ", ...");
    c->n[from]++;
}

static int is_head(const char *name)
{
    return !strncmp(name, "head.", 5) || !strncmp(name, "classify.", 9);
}

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static int64_t elements(const m2_array_info *a)
{
    int64_t n = 1;
    for (int d = 0; d < a->rank; d++) n *= a->shape[d];
    return n;
}

/* Where row's values come from; tensor t of the checkpoint, -1 if it has none. */
static m2_status decide(const m2_manifest *mf, const m2_param *row, int t, source *out)
{
    *out = OWN;
    if (t < 0 && is_head(row->name)) return M2_OK;
    if (t < 0)
        return m2_fail(M2_DATA, "%s has no tensor param/%s, which this model needs", mf->folder, row->name);
    const m2_array_info *have = &mf->tensors[t].info;
    int same = have->rank == row->rank, longer = same && row->rank == 2 && have->shape[1] == row->dims[1];
    for (int d = 0; same && d < row->rank; d++) same = have->shape[d] == row->dims[d];
    if (same) return *out = COPIED, M2_OK;
    if (longer && !strcmp(row->name, "embed.position")) return *out = REPEATED, M2_OK;
    if ((longer && ends_with(row->name, "filter.position")) || is_head(row->name)) return M2_OK;
    return m2_fail(M2_DATA,
                   "%s: tensor param/%s has %" PRId64 " elements in %d dimensions, the first %" PRId64
                   "; this model's first is %" PRId64 ": it is of another model",
                   mf->folder, row->name, elements(have), have->rank, have->rank ? have->shape[0] : 1,
                   row->dims[0]);
}

static const m2_param *find_row(const m2_state *state, const char *name)
{
    for (int i = 0; i < state->n_rows; i++)
        if (!strcmp(state->rows[i].name, name)) return &state->rows[i];
    return NULL;
}

static m2_status check_left_over(const m2_manifest *mf, const m2_state *state)
{
    for (int t = 0; t < mf->n_tensors; t++) {
        const char *name = mf->tensors[t].name;
        if (strncmp(name, "param/", 6) || is_head(name + 6) || find_row(state, name + 6)) continue;
        return m2_fail(M2_DATA, "%s has tensor %s, which this model has not: it is of another model",
                       mf->folder, name);
    }
    return M2_OK;
}

/* Puts n values to the device, again and again until the row is full. */
static m2_status put(const m2_state *state, const m2_param *row, const double *x, int64_t n)
{
    int64_t size = m2_dtype_size(state->arrays[0].dtype), count = 1;
    for (int d = 0; d < row->rank; d++) count *= row->dims[d];
    void *raw = malloc((size_t)(count * size) + 1);
    if (!raw) return m2_fail(M2_TRANSIENT, "out of memory for %s", row->name);
    for (int64_t i = 0; i < count; i++) {
        if (size == 8)
            ((double *)raw)[i] = x[i % n];
        else
            ((float *)raw)[i] = (float)x[i % n];
    }
    m2_device *dev = state->device;
    char *to = (char *)state->arrays[0].base + row->offset * size;
    m2_status st = dev->api->copy(dev, to, raw, count * size, NULL);
    if (st == M2_OK) st = dev->api->stream_sync(dev, NULL);
    free(raw);
    return st;
}

static m2_status fill(const m2_manifest *mf, const m2_state *state, const m2_param *row, tally *made)
{
    char name[M2_TENSOR_NAME];
    source from;
    snprintf(name, sizeof name, "param/%s", row->name);
    int t = m2_manifest_tensor(mf, name);
    M2_TRY(decide(mf, row, t, &from));
    count(made, from, row->name);
    if (from == OWN) return M2_OK;
    int64_t n = elements(&mf->tensors[t].info);
    double *x = malloc((size_t)n * sizeof *x + 1);
    m2_status st =
        x ? m2_manifest_read_tensor(mf, t, x) : m2_fail(M2_TRANSIENT, "out of memory for %s", name);
    if (st == M2_OK) st = put(state, row, x, n);
    free(x);
    return st;
}

static void say(const tally *made, int rows, const char *folder)
{
    const char *const how[] = {NULL, "; repeated or cut to the new length: ", "; new: "};
    char text[M2_PATH + 600];
    int at = snprintf(text, sizeof text, "parameters: %d of %d tensors from %s", rows - made->n[OWN], rows, folder);
    for (int i = REPEATED; i <= OWN; i++)
        if (made->n[i] && at < (int)sizeof text)
            at += snprintf(text + at, sizeof text - (size_t)at, "%s%s", how[i], made->names[i]);
    m2_log(M2_LOG_INFO, "%s", text);
}

m2_status m2_warm_start(const char *path, const m2_state *state)
{
    char folder[M2_PATH];
    m2_manifest mf = {0};
    tally made = {0};
    M2_TRY(m2_checkpoint_find(path, folder, NULL));
    m2_status st = m2_manifest_read(folder, &mf);
    if (st == M2_OK) st = check_left_over(&mf, state);
    for (int i = 0; i < state->n_rows && st == M2_OK; i++) st = fill(&mf, state, &state->rows[i], &made);
    if (st == M2_OK) say(&made, state->n_rows, folder);
    m2_manifest_free(&mf);
    return m2_context(st, "train.init=%s", path);
}
