/* weights_safetensors.c - a model as safetensors, and back. */
#include "runtime/models/published.h"
#include "runtime/rundir.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"
#include "runtime/weights_names.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 200 };

static int64_t row_elements(const m2_param *p)
{
    int64_t n = 1;
    for (int d = 0; d < p->rank; d++) n *= p->dims[d];
    return n;
}

static char *row_data(const m2_weights *w, int array, int row)
{
    int64_t size = m2_dtype_size(w->state.arrays[array].dtype);
    return (char *)w->flat[array] + w->state.rows[row].offset * size;
}

static int is_there(const m2_weights *w, int array, int row)
{
    return array == 0 || !(w->state.rows[row].flags & M2_PARAM_FROZEN);
}

/* ---- names ------------------------------------------------------------------------------------------------------- */
/* One tensor of a file: which part of the model it is, in which shape. */
typedef struct place {
    char name[NAME];
    int array, row, rank; /* row M2_PUBLISHED_BUFFER: no part of it, but what `numbering` says */
    int64_t dims[M2_MAX_RANK];
    m2_published_numbering numbering;
} place;

typedef struct places {
    int n, room;
    place *all;
} places;

static m2_status add_place(places *p, const char *name, int array, int row, int rank, const int64_t *dims)
{
    if (p->n == p->room) {
        int more = p->room ? 2 * p->room : 256;
        place *bigger = realloc(p->all, (size_t)more * sizeof *bigger);
        if (!bigger) return m2_fail(M2_TRANSIENT, "out of memory for a list of tensors");
        p->all = bigger;
        p->room = more;
    }
    place *one = &p->all[p->n++];
    snprintf(one->name, sizeof one->name, "%s", name);
    one->array = array;
    one->row = row;
    one->rank = rank;
    memcpy(one->dims, dims, (size_t)rank * sizeof *dims);
    return M2_OK;
}

static m2_status add_published(void *ctx, const m2_published_tensor *t)
{
    places *p = ctx;
    M2_TRY(add_place(p, t->key, 0, t->row, t->rank, t->dims));
    p->all[p->n - 1].numbering = t->numbering;
    return M2_OK;
}

static m2_status list_places(const m2_weights *w, int own_names, places *out)
{
    int published = !own_names && !strcmp(w->cfg.model_family, "bert");
    for (int a = 0; a < w->state.n_arrays; a++) {
        if (a == 0 && published) {
            M2_TRY(m2_published_keys(w->state.rows, w->state.n_rows, add_published, out));
            continue;
        }
        for (int i = 0; i < w->state.n_rows; i++) {
            char name[NAME];
            if (!is_there(w, a, i)) continue;
            snprintf(name, sizeof name, "%s%s%s", a ? w->state.arrays[a].kind : "", a ? "/" : "",
                     w->state.rows[i].name);
            M2_TRY(add_place(out, name, a, i, w->state.rows[i].rank, w->state.rows[i].dims));
        }
    }
    return M2_OK;
}

/* ---- export ------------------------------------------------------------------------------------------------------ */
typedef struct exporting {
    const m2_weights *w;
    const places *places;
    m2_dtype dtype;
} exporting;

static int64_t place_elements(const place *p)
{
    int64_t n = 1;
    for (int d = 0; d < p->rank; d++) n *= p->dims[d];
    return n;
}

static int is_ids(const place *p)
{
    return p->row == M2_PUBLISHED_BUFFER && p->numbering == M2_PUBLISHED_IDS;
}

static void convert(const void *data, m2_dtype from, int64_t n, m2_dtype to, void *out)
{
    for (int64_t i = 0; i < n; i++) {
        double x = from == M2_F64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
        if (to == M2_F64)
            ((double *)out)[i] = x;
        else if (to == M2_F32)
            ((float *)out)[i] = (float)x;
        else
            ((uint16_t *)out)[i] = m2_bf16_from_f32((float)x);
    }
}

static m2_status fill_buffer(const place *p, m2_dtype dtype, void *out)
{
    int64_t n = place_elements(p);
    double *x = malloc(((size_t)n + 1) * sizeof *x);
    if (!x) return m2_fail(M2_TRANSIENT, "out of memory for tensor %s", p->name);
    m2_published_numbers(p->numbering, n, x);
    if (!is_ids(p)) convert(x, M2_F64, n, dtype, out);
    for (int64_t i = 0; i < n && is_ids(p); i++) ((int64_t *)out)[i] = (int64_t)x[i];
    free(x);
    return M2_OK;
}

static m2_status fill(void *ctx, int tensor, void *out)
{
    const exporting *e = ctx;
    const place *p = &e->places->all[tensor];
    if (p->row == M2_PUBLISHED_BUFFER) return fill_buffer(p, e->dtype, out);
    m2_dtype from = e->w->state.arrays[p->array].dtype;
    const void *data = row_data(e->w, p->array, p->row);
    if (from == e->dtype)
        memcpy(out, data, (size_t)(place_elements(p) * m2_dtype_size(from)));
    else
        convert(data, from, place_elements(p), e->dtype, out);
    return M2_OK;
}

static m2_status write_out(const m2_weights *w, const m2_export_spec *spec, const places *p, const char *path)
{
    exporting e = {w, p, spec->dtype == M2_DTYPE_COUNT ? w->state.arrays[0].dtype : spec->dtype};
    char step[32], rows[32];
    const char *metadata[] = {"format",     "pt",      "m2.config", w->config, "m2.tokenizer",
                              w->tokenizer, "m2.step", step,        "m2.rows", rows};
    snprintf(step, sizeof step, "%" PRId64, w->step);
    snprintf(rows, sizeof rows, "%" PRId64, w->rows);
    m2_safetensor *tensors = calloc((size_t)p->n + 1, sizeof *tensors);
    if (!tensors) return m2_fail(M2_TRANSIENT, "out of memory for %s", path);
    for (int i = 0; i < p->n; i++) {
        const place *one = &p->all[i];
        const char *dtype = is_ids(one) ? "I64" : e.dtype == M2_F64 ? "F64" : e.dtype == M2_F32 ? "F32" : "BF16";
        tensors[i].name = one->name;
        snprintf(tensors[i].dtype, sizeof tensors[i].dtype, "%s", dtype);
        tensors[i].rank = one->rank;
        memcpy(tensors[i].dims, one->dims, (size_t)one->rank * sizeof *one->dims);
        tensors[i].bytes = place_elements(one) * (is_ids(one) ? 8 : m2_dtype_size(e.dtype));
    }
    m2_safetensors_spec file = {.n = p->n,
                                .tensors = tensors,
                                .fill = fill,
                                .ctx = &e,
                                .n_metadata = 5,
                                .metadata = metadata,
                                .file_bytes = spec->file_bytes};
    m2_status st = m2_safetensors_write(path, &file);
    free(tensors);
    return st;
}

m2_status m2_weights_export(const m2_weights *w, const m2_export_spec *spec, const char *path)
{
    places p = {0};
    m2_status st = list_places(w, spec->own_names, &p);
    if (st == M2_OK) st = write_out(w, spec, &p, path);
    free(p.all);
    return st;
}

/* ---- import ------------------------------------------------------------------------------------------------------ */
static int is_published(const char *name)
{
    if (!strncmp(name, "model.", 6)) name += 6;
    return !strncmp(name, "bert.", 5) || !strncmp(name, "cls.", 4);
}

/* The array that a tensor belongs to by its name; *name moves behind "m/" or "v/". */
static int array_of(const m2_weights *w, const char **name)
{
    for (int a = 1; a < w->state.n_arrays; a++) {
        size_t n = strlen(w->state.arrays[a].kind);
        if (!strncmp(*name, w->state.arrays[a].kind, n) && (*name)[n] == '/') return *name += n + 1, a;
    }
    return 0;
}

static m2_status same_dims(const m2_safetensor *t, const m2_param *p)
{
    int same = t->rank == p->rank && !memcmp(t->dims, p->dims, (size_t)t->rank * sizeof *t->dims);
    return same ? M2_OK : m2_fail(M2_DATA, "tensor %s has another shape in the file than in this model", t->name);
}

/* A moment, by our own names: there are no published ones. */
static m2_status match_moment(const m2_weights *w, const m2_safetensor *t, places *out)
{
    const char *name = t->name;
    int array = array_of(w, &name), row = 0;
    while (row < w->state.n_rows && strcmp(w->state.rows[row].name, name) != 0) row++;
    if (row == w->state.n_rows || !is_there(w, array, row))
        return m2_fail(M2_DATA, "tensor %s is none of this model", t->name);
    M2_TRY(same_dims(t, &w->state.rows[row]));
    return add_place(out, t->name, array, row, t->rank, t->dims);
}

static m2_status expect_moments(const m2_weights *w, const places *found)
{
    for (int a = 1; a < w->state.n_arrays; a++)
        for (int row = 0; row < w->state.n_rows; row++) {
            int i = 0;
            while (i < found->n && (found->all[i].array != a || found->all[i].row != row)) i++;
            if (i == found->n && is_there(w, a, row))
                return m2_fail(M2_DATA, "tensor %s/%s of this model is missing", w->state.arrays[a].kind,
                               w->state.rows[row].name);
        }
    return M2_OK;
}

/* Tensors of the state dict and, among them, moments; out: in the order of the file. */
static m2_status match_published(const m2_weights *w, const m2_safetensors *file, places *out)
{
    int n = m2_safetensors_count(file), published = 0, next = 0;
    m2_published_tensor *tensors = calloc((size_t)n + 1, sizeof *tensors);
    m2_status st = tensors ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for a list of tensors");
    for (int i = 0; i < n && st == M2_OK; i++) {
        const m2_safetensor *t = m2_safetensors_tensor(file, i);
        const char *name = t->name;
        if (array_of(w, &name)) continue;
        tensors[published].key = t->name;
        tensors[published].rank = t->rank;
        if (t->rank > M2_MAX_RANK)
            st = m2_fail(M2_DATA, "tensor %s has %d dimensions, at most %d were expected", t->name, t->rank,
                         M2_MAX_RANK);
        else
            memcpy(tensors[published++].dims, t->dims, (size_t)t->rank * sizeof *t->dims);
    }
    if (st == M2_OK) st = m2_published_match(tensors, published, w->state.rows, w->state.n_rows);
    for (int i = 0; i < n && st == M2_OK; i++) {
        const m2_safetensor *t = m2_safetensors_tensor(file, i);
        const m2_published_tensor *key = &tensors[next];
        if (next == published || key->key != t->name) {
            st = match_moment(w, t, out);
            continue;
        }
        next++;
        st = add_place(out, key->key, 0, key->row, key->rank, key->dims);
        if (st == M2_OK) out->all[i].numbering = key->numbering;
    }
    if (st == M2_OK) st = expect_moments(w, out);
    free(tensors);
    return st;
}

/* Our own names: every tensor of the model exactly once, and nothing else. out: in the order of the file. */
static m2_status match_own(const m2_weights *w, const m2_safetensors *file, places *out)
{
    places want = {0};
    m2_status st = list_places(w, 1, &want);
    int n = m2_safetensors_count(file);
    for (int i = 0; i < n && st == M2_OK; i++) {
        const m2_safetensor *t = m2_safetensors_tensor(file, i);
        int k = 0;
        while (k < want.n && strcmp(want.all[k].name, t->name) != 0) k++;
        if (k == want.n)
            st = m2_fail(M2_DATA, "tensor %s is none of this model (%s, %d tensors)", t->name,
                         w->cfg.model_family, want.n);
        else
            st = same_dims(t, &w->state.rows[want.all[k].row]);
        if (st == M2_OK)
            st = add_place(out, t->name, want.all[k].array, want.all[k].row, t->rank, t->dims);
    }
    for (int k = 0; k < want.n && st == M2_OK; k++) {
        int i = 0;
        while (i < out->n && strcmp(out->all[i].name, want.all[k].name) != 0) i++;
        if (i == out->n) st = m2_fail(M2_DATA, "tensor %s of this model is missing", want.all[k].name);
    }
    free(want.all);
    return st;
}

/* Into the row's place; a second tensor of the same row must have the same bits. */
static m2_status take(m2_weights *w, const m2_safetensor *t, const place *p, char *filled)
{
    int64_t n = row_elements(&w->state.rows[p->row]);
    m2_dtype dtype = w->state.arrays[p->array].dtype;
    size_t bytes = (size_t)(n * m2_dtype_size(dtype));
    double *wide = malloc(((size_t)n + 1) * sizeof *wide);
    if (!wide) return m2_fail(M2_TRANSIENT, "out of memory for tensor %s", t->name);
    m2_status st = m2_safetensors_doubles(t, wide);
    if (dtype == M2_F32) /* a float after the double it came from: never over what is still to be read */
        for (int64_t i = 0; i < n; i++) {
            float x = (float)wide[i];
            memcpy((char *)wide + 4 * i, &x, 4);
        }
    char *to = row_data(w, p->array, p->row), *seen = &filled[p->array * w->state.n_rows + p->row];
    if (st == M2_OK && *seen && memcmp(to, wide, bytes) != 0)
        st = m2_fail(M2_DATA, "tensor %s should hold the same numbers as the others of %s, and does not",
                     t->name, w->state.rows[p->row].name);
    if (st == M2_OK) memcpy(to, wide, bytes);
    *seen = 1;
    free(wide);
    return st;
}

/* A buffer with other numbers is of a model that computes something else. Narrow types round them. */
static m2_status check_buffer(const m2_safetensor *t, const place *p)
{
    int64_t n = m2_safetensors_elements(t), i = 0;
    if (is_ids(p)) return M2_OK; /* nothing is computed from them */
    double *x = malloc((2 * (size_t)n + 1) * sizeof *x);
    if (!x) return m2_fail(M2_TRANSIENT, "out of memory for tensor %s", t->name);
    m2_status st = m2_safetensors_doubles(t, x);
    m2_published_numbers(p->numbering, n, x + n);
    while (st == M2_OK && i < n && fabs(x[i] - x[n + i]) <= 0.01 * fabs(x[n + i])) i++;
    if (st == M2_OK && i < n)
        st = m2_fail(M2_DATA, "element %" PRId64 " of %s is %g, m2 computes with %g: this is another kind of model",
                     i, t->name, x[i], x[n + i]);
    free(x);
    return st;
}

static m2_status read_tensors(m2_weights *w, const m2_safetensors *file)
{
    places p = {0};
    int published = 0;
    char *filled = calloc(3 * (size_t)w->state.n_rows + 1, 1);
    for (int i = 0; i < m2_safetensors_count(file); i++)
        published |= is_published(m2_safetensors_tensor(file, i)->name);
    m2_status st = filled ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for a list of tensors");
    if (st == M2_OK && published && strcmp(w->cfg.model_family, "bert") != 0)
        st = m2_fail(M2_DATA, "the file has the names of an M2-BERT, the configuration is of model.family=%s",
                     w->cfg.model_family);
    if (st == M2_OK) st = published ? match_published(w, file, &p) : match_own(w, file, &p);
    for (int i = 0; i < p.n && st == M2_OK; i++)
        st = p.all[i].row < 0 ? check_buffer(m2_safetensors_tensor(file, i), &p.all[i])
                              : take(w, m2_safetensors_tensor(file, i), &p.all[i], filled);
    free(filled);
    free(p.all);
    return st;
}

/* What the tensors tell: whether there are moments, the widest type, the vocabulary. */
static void survey(const m2_safetensors *file, int *arrays, m2_dtype *dtype, int64_t *vocab)
{
    *arrays = 1;
    *dtype = M2_F32;
    for (int i = 0; i < m2_safetensors_count(file); i++) {
        const m2_safetensor *t = m2_safetensors_tensor(file, i);
        const char *name = strncmp(t->name, "model.", 6) ? t->name : t->name + 6;
        if (!strncmp(name, "v/", 2)) *arrays = 3;
        if (!strcmp(t->dtype, "F64")) *dtype = M2_F64;
        if (!strcmp(name, "embed.weight") || !strcmp(name, "bert.embeddings.word_embeddings.weight"))
            *vocab = t->dims[0];
    }
}

/* The configuration: the caller's, or the file's own. *text is malloc'd. */
static m2_status configure(m2_weights *w, const m2_safetensors *file, const m2_config *cfg, int64_t vocab,
                           const char *path, char **text)
{
    const char *own = m2_safetensors_metadata(file, "m2.config");
    if (cfg) {
        w->cfg = *cfg;
    } else {
        m2_config_defaults(&w->cfg);
        if (!own)
            return m2_fail(M2_USAGE,
                           "%s does not say what model it is: name its configuration, --config FILE.yaml",
                           path);
        M2_TRY(m2_config_parse_text(&w->cfg, own, path));
    }
    if (!w->cfg.model_vocab) w->cfg.model_vocab = vocab;
    if (cfg) return m2_config_text(&w->cfg, text);
    *text = malloc(strlen(own) + 1);
    if (!*text) return m2_fail(M2_TRANSIENT, "out of memory for %s", path);
    memcpy(*text, own, strlen(own) + 1);
    return M2_OK;
}

static int64_t number(const char *text)
{
    return text ? strtoll(text, NULL, 10) : 0;
}

m2_status m2_weights_import(const char *path, const m2_config *cfg, const char *tokenizer, m2_weights *out)
{
    m2_safetensors *file = NULL;
    char *text = NULL;
    int arrays;
    m2_dtype dtype;
    int64_t vocab = 0;
    memset(out, 0, sizeof *out);
    M2_TRY(m2_safetensors_open(path, &file));
    survey(file, &arrays, &dtype, &vocab);
    if (!tokenizer) tokenizer = m2_safetensors_metadata(file, "m2.tokenizer");
    m2_status st = configure(out, file, cfg, vocab, path, &text);
    if (st == M2_OK) st = m2i_weights_make(out, text, tokenizer ? tokenizer : "", arrays, dtype);
    if (st == M2_OK) st = m2_context(read_tensors(out, file), "%s", path);
    out->step = number(m2_safetensors_metadata(file, "m2.step"));
    out->rows = number(m2_safetensors_metadata(file, "m2.rows"));
    free(text);
    m2_safetensors_close(&file);
    return st;
}
