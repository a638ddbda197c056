#include "tools/checkpoint_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

static int64_t elements(int rank, const int64_t *shape)
{
    int64_t n = 1;
    for (int d = 0; d < rank; d++) n *= shape[d];
    return n;
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */
/* Notes this thread's message. */
static m2_status note(m2i_report *r, int rank, int tensor, const char *why)
{
    if (r->n_damages == r->room_damages) {
        int more = r->room_damages ? 2 * r->room_damages : 16;
        m2i_damage *bigger = realloc(r->damages, (size_t)more * sizeof *bigger);
        if (!bigger) return m2_fail(M2_TRANSIENT, "out of memory for the report on %s", r->mf.folder);
        r->damages = bigger;
        r->room_damages = more;
    }
    m2i_damage *d = &r->damages[r->n_damages++];
    d->rank = rank;
    d->tensor = tensor;
    snprintf(d->why, sizeof d->why, "%s", why);
    return M2_OK;
}

static m2_status check_files(m2i_report *r)
{
    for (int rank = 0; rank < r->mf.ranks; rank++) {
        char path[M2_PATH + 32], owned[256] = "";
        int n = 0, first = -1;
        for (int i = 0; i < r->mf.n_slabs; i++)
            if (r->mf.slabs[i].rank == rank && n++ == 0) first = r->mf.slabs[i].tensor;
        snprintf(path, sizeof path, "%s/rank-%05d.h5", r->mf.folder, rank);
        if (access(path, F_OK)) {
            snprintf(owned, sizeof owned, "rank-%05d.h5 is missing", rank);
            if (n)
                snprintf(owned + strlen(owned), sizeof owned - strlen(owned),
                         ", with %d slab%s from %.110s on", n, n == 1 ? "" : "s", r->mf.tensors[first].name);
            M2_TRY(note(r, rank, -1, owned));
            continue;
        }
        if (r->rebuilt) {
            if (!n) M2_TRY(note(r, rank, -1, "its file cannot be read at all"));
            continue;
        }
        m2_status st = m2_manifest_check_file(&r->mf, rank);
        if (st == M2_TRANSIENT) return st;
        if (st != M2_OK) M2_TRY(note(r, rank, -1, m2_message()));
    }
    return M2_OK;
}

/* Elements that no slab holds: what a lost file of a lost manifest had. */
static m2_status check_cover(m2i_report *r)
{
    for (int i = 0; i < r->mf.n_slabs; i++) {
        const m2_saved_slab *s = &r->mf.slabs[i];
        r->tensors[s->tensor].lost -= elements(r->mf.tensors[s->tensor].info.rank, s->count);
    }
    for (int i = 0; i < r->mf.n_tensors; i++) {
        const m2_array_info *info = &r->mf.tensors[i].info;
        int64_t all = elements(info->rank, info->shape), *lost = &r->tensors[i].lost;
        *lost += all;
        if (!*lost) continue;
        char text[256];
        snprintf(text, sizeof text, "%" PRId64 " of its %" PRId64 " elements are in no file", *lost, all);
        M2_TRY(note(r, -1, i, text));
    }
    return M2_OK;
}

/* ---- statistics -------------------------------------------------------------------------------------------------- */
static void add(m2i_stats *s, double x)
{
    s->count++;
    if (!isfinite(x)) {
        s->bad++;
        return;
    }
    if (s->count - s->bad == 1) s->min = s->max = x;
    if (x < s->min) s->min = x;
    if (x > s->max) s->max = x;
    s->sum += x;
    s->squares += x * x;
}

void m2i_stats_merge(m2i_stats *into, const m2i_stats *s)
{
    int first = into->count == into->bad, any = s->count > s->bad;
    if (any && (first || s->min < into->min)) into->min = s->min;
    if (any && (first || s->max > into->max)) into->max = s->max;
    into->count += s->count;
    into->bad += s->bad;
    into->lost += s->lost;
    into->sum += s->sum;
    into->squares += s->squares;
}

double m2i_stats_mean(const m2i_stats *s)
{
    return s->count > s->bad ? s->sum / (double)(s->count - s->bad) : 0;
}

double m2i_stats_deviation(const m2i_stats *s)
{
    double m = m2i_stats_mean(s), n = (double)(s->count - s->bad);
    return n > 0 ? sqrt(fmax(0, s->squares / n - m * m)) : 0;
}

static double element(const void *data, m2_dtype dtype, int64_t i)
{
    return dtype == M2_F64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

typedef struct looking {
    m2i_report *r;
    m2i_depth depth;
} looking;

static m2_status look(void *ctx, const m2_saved_slab *slab, const void *data, m2_status bad)
{
    looking *l = ctx;
    m2i_report *r = l->r;
    const m2_array_info *info = &r->mf.tensors[slab->tensor].info;
    m2i_stats *s = &r->tensors[slab->tensor];
    int64_t n = elements(info->rank, slab->count), bytes = n * m2_dtype_size(info->dtype);
    r->bytes += bytes;
    if (bad != M2_OK) {
        const char *why = strstr(m2_message(), r->mf.folder); /* the tensor is named anyway */
        s->lost += n;
        return note(r, slab->rank, slab->tensor,
                    why ? why : m2_message()); /* others are still worth looking at */
    }
    XXH3_64bits_update(s->hash, data, (size_t)bytes);
    for (int64_t i = 0; l->depth >= M2I_STATS && i < n; i++) add(s, element(data, info->dtype, i));
    return M2_OK;
}

static m2_status count_bins(void *ctx, const m2_saved_slab *slab, const void *data, m2_status bad)
{
    looking *l = ctx;
    const m2_array_info *info = &l->r->mf.tensors[slab->tensor].info;
    m2i_stats *s = &l->r->tensors[slab->tensor];
    double width = s->max > s->min ? (s->max - s->min) / M2I_BINS : 1;
    if (bad != M2_OK) return M2_OK; /* noted before */
    for (int64_t i = 0, n = elements(info->rank, slab->count); i < n; i++) {
        double x = element(data, info->dtype, i);
        if (!isfinite(x)) continue;
        int bin = (int)((x - s->min) / width);
        s->bins[bin < M2I_BINS ? bin : M2I_BINS - 1]++;
    }
    return M2_OK;
}

static void hash_content(m2i_report *r)
{
    for (int i = 0; i < r->mf.n_tensors; i++) {
        const m2_saved_tensor *t = &r->mf.tensors[i];
        uint64_t bits = XXH3_64bits_digest(r->tensors[i].hash);
        r->content = XXH3_64bits_withSeed(t->name, strlen(t->name), r->content);
        r->content =
            XXH3_64bits_withSeed(t->info.shape, (size_t)t->info.rank * sizeof *t->info.shape, r->content);
        r->content = XXH3_64bits_withSeed(&bits, sizeof bits, r->content);
    }
}

/* ---- the report -------------------------------------------------------------------------------------------------- */
/* The manifest, or what can be known without it. */
static m2_status read_manifest(const char *folder, m2i_report *r)
{
    m2_error why;
    m2_status st = m2_manifest_read(folder, &r->mf);
    if (st == M2_OK || st == M2_TRANSIENT) return st;
    m2_error_take(&why, st);
    m2_manifest_free(&r->mf);
    r->rebuilt = 1;
    if (m2_manifest_rebuild(folder, &r->mf) != M2_OK) return m2_error_put(&why);
    return note(r, -1, -1, why.message);
}

m2_status m2i_report_make(const char *folder, m2i_depth depth, m2i_report *out)
{
    memset(out, 0, sizeof *out);
    M2_TRY(read_manifest(folder, out));
    out->tensors = calloc((size_t)out->mf.n_tensors + 1, sizeof *out->tensors);
    int ok = out->tensors != NULL;
    for (int i = 0; ok && i < out->mf.n_tensors; i++)
        ok = (out->tensors[i].hash = XXH3_createState()) && XXH3_64bits_reset(out->tensors[i].hash) == XXH_OK;
    if (!ok) return m2_fail(M2_TRANSIENT, "out of memory for the statistics of %s", folder);
    looking l = {out, depth};
    M2_TRY(check_files(out));
    M2_TRY(check_cover(out));
    M2_TRY(m2_manifest_visit(&out->mf, NULL, look, &l));
    if (depth == M2I_HISTOGRAMS) M2_TRY(m2_manifest_visit(&out->mf, NULL, count_bins, &l));
    hash_content(out);
    return M2_OK;
}

void m2i_report_free(m2i_report *r)
{
    for (int i = 0; r->tensors && i < r->mf.n_tensors; i++) XXH3_freeState(r->tensors[i].hash);
    free(r->tensors);
    free(r->damages);
    m2_manifest_free(&r->mf);
}

m2_status m2i_report_verdict(const m2i_report *r)
{
    if (!r->n_damages) return M2_OK;
    return m2_fail(M2_DATA, "%s: %d thing%s damaged or missing; the first: %s", r->mf.folder, r->n_damages,
                   r->n_damages == 1 ? " is" : "s are", r->damages[0].why);
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */
char *m2i_owners(const m2_manifest *mf, int begin, int end, char *buf, size_t n)
{
    int last = -2, from = -2;
    size_t at = 0;
    buf[0] = 0;
    for (int rank = 0; rank <= mf->ranks; rank++) {
        int owns = 0;
        for (int i = 0; rank < mf->ranks && i < mf->n_slabs && !owns; i++)
            owns = mf->slabs[i].rank == rank && mf->slabs[i].tensor >= begin && mf->slabs[i].tensor < end;
        if (owns && last == rank - 1) {
            last = rank;
        } else if (owns) {
            from = last = rank;
        }
        if (owns || last != rank - 1 || from < 0) continue;
        int k = snprintf(buf + at, n - at, from == last ? "%s%d" : "%s%d-%d", at ? "," : "", from, last);
        if (k < 0 || (size_t)k >= n - at) return buf; /* cut off: too scattered for a column */
        at += (size_t)k;
    }
    return buf;
}

char *m2i_shape_text(const m2_array_info *info, char *buf, size_t n)
{
    size_t at = 0;
    for (int d = 0; d < info->rank && at < n; d++)
        at += (size_t)snprintf(buf + at, n - at, "%s%" PRId64, d ? " x " : "", info->shape[d]);
    return buf;
}

void m2i_print_json_string(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            printf("\\%c", *s);
        else if ((unsigned char)*s < 32)
            printf("\\u%04x", *s);
        else
            putchar(*s);
    }
    putchar('"');
}
