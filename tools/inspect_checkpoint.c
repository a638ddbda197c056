/* inspect_checkpoint.c - m2 inspect checkpoint PATH: what is in a checkpoint, and is it whole? */
#include "kernels/base/log.h"
#include "runtime/checkpoint.h"
#include "runtime/config.h"
#include "tools/inspect.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

const char inspect_checkpoint_usage[] =
    "usage: m2 inspect checkpoint PATH [--all] [--config] [--verify] [--json]\n"
    "\n"
    "The tensors of a checkpoint with their statistics, and where the run stood. PATH is a run folder (its\n"
    "newest checkpoint) or a checkpoints/step-N folder. Every byte read is checked against its hash.\n"
    "The content hash tells whether two checkpoints hold the same numbers, whatever ranks saved them.\n"
    "\n"
    "  --all      each tensor of the optimizer's moments m and v too, not only a line for all of them\n"
    "  --config   the run's configuration as YAML, nothing else\n"
    "  --verify   no table: read everything, name what is damaged or missing, exit 65 if anything is\n"
    "  --json     one JSON object\n";

/* ---- statistics -------------------------------------------------------------------------------------------------- */
typedef struct stats {
    int64_t count, bad, lost; /* elements: all read, not finite, unreadable */
    double min, max, sum, squares;
    XXH3_state_t *hash; /* of its bytes so far: slabs come in the order of the elements */
} stats;

typedef struct report {
    const m2_manifest *mf;
    m2_config cfg;
    stats *tensors;
    int verify, json;
    int64_t bytes, broken; /* broken slabs */
    char first[1024];      /* why the first of them is */
    uint64_t content;      /* hash of all names, shapes and numbers */
} report;

static void add(stats *s, double x)
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

static void merge(stats *into, const stats *s)
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

static double mean(const stats *s)
{
    return s->count > s->bad ? s->sum / (double)(s->count - s->bad) : 0;
}

static double deviation(const stats *s)
{
    double m = mean(s), n = (double)(s->count - s->bad);
    return n > 0 ? sqrt(fmax(0, s->squares / n - m * m)) : 0;
}

static int64_t elements(int rank, const int64_t *shape)
{
    int64_t n = 1;
    for (int d = 0; d < rank; d++) n *= shape[d];
    return n;
}

static m2_status look(void *ctx, const m2_saved_slab *slab, const void *data, m2_status bad)
{
    report *r = ctx;
    const m2_array_info *info = &r->mf->tensors[slab->tensor].info;
    stats *s = &r->tensors[slab->tensor];
    int64_t n = elements(info->rank, slab->count);
    r->bytes += n * m2_dtype_size(info->dtype);
    if (bad != M2_OK) {
        if (r->verify && !r->json)
            printf("damaged: %s (rank %d): %s\n", r->mf->tensors[slab->tensor].name, slab->rank,
                   m2_message());
        if (!r->broken++) snprintf(r->first, sizeof r->first, "%s", m2_message());
        s->lost += n;
        return M2_OK; /* the others are still worth looking at */
    }
    XXH3_64bits_update(s->hash, data, (size_t)(n * m2_dtype_size(info->dtype)));
    for (int64_t i = 0; !r->verify && i < n; i++)
        add(s, info->dtype == M2_F64 ? ((const double *)data)[i] : (double)((const float *)data)[i]);
    return M2_OK;
}

static m2_status collect(report *r)
{
    const m2_manifest *mf = r->mf;
    r->tensors = calloc((size_t)mf->n_tensors + 1, sizeof *r->tensors);
    int ok = r->tensors != NULL;
    for (int i = 0; ok && i < mf->n_tensors; i++)
        ok = (r->tensors[i].hash = XXH3_createState()) && XXH3_64bits_reset(r->tensors[i].hash) == XXH_OK;
    if (!ok) return m2_fail(M2_TRANSIENT, "out of memory for the statistics of %s", mf->folder);
    M2_TRY(m2_manifest_visit(mf, NULL, look, r));
    for (int i = 0; i < mf->n_tensors; i++) {
        const m2_saved_tensor *t = &mf->tensors[i];
        uint64_t bits = XXH3_64bits_digest(r->tensors[i].hash);
        r->content = XXH3_64bits_withSeed(t->name, strlen(t->name), r->content);
        r->content =
            XXH3_64bits_withSeed(t->info.shape, (size_t)t->info.rank * sizeof *t->info.shape, r->content);
        r->content = XXH3_64bits_withSeed(&bits, sizeof bits, r->content);
    }
    return M2_OK;
}

static void release(report *r)
{
    for (int i = 0; r->tensors && i < r->mf->n_tensors; i++) XXH3_freeState(r->tensors[i].hash);
    free(r->tensors);
}

/* ---- the tree ---------------------------------------------------------------------------------------------------- */
enum { NAME_COLUMNS = 34 };

static void print_stats(int depth, const char *name, const char *shape, const stats *s)
{
    int width = NAME_COLUMNS - 2 * depth;
    printf("%*s%-*s %15s", 2 * depth, "", width, name, shape);
    if (s->lost)
        printf("  unreadable: %" PRId64 " elements\n", s->lost);
    else
        printf(" %10.3g %10.3g %10.3g %10.3g", s->min, s->max, mean(s), deviation(s));
    if (!s->lost && s->bad) printf("  %" PRId64 " not finite", s->bad);
    if (!s->lost) putchar('\n');
}

static char *print_shape(char buf[96], const m2_array_info *info)
{
    int at = 0;
    for (int d = 0; d < info->rank; d++)
        at += snprintf(buf + at, (size_t)(96 - at), "%s%" PRId64, d ? " x " : "", info->shape[d]);
    return buf;
}

/* Length of the first component of name, its dot included if there are more. */
static size_t component(const char *name)
{
    const char *dot = strchr(name, '.');
    return dot ? (size_t)(dot - name) + 1 : strlen(name);
}

/* Tensors [begin, end) share their names' first `skip` characters. Levels with one tensor are joined to its name, and so are
 * those that hold nothing but tensors. */
static void print_tree(const report *r, int begin, int end, size_t skip, int depth)
{
    const m2_saved_tensor *t = r->mf->tensors;
    for (int i = begin, next; i < end; i = next) {
        const char *name = t[i].name + skip;
        size_t n = component(name);
        int leaves = 1;
        char shape[96];
        for (next = i;
             next < end && (next == i || (name[n - 1] == '.' && !strncmp(t[next].name + skip, name, n)));
             next++)
            leaves = leaves && !strchr(t[next].name + skip + n, '.');
        if (next == i + 1 || leaves) {
            for (int k = i; k < next; k++)
                print_stats(depth, t[k].name + skip, print_shape(shape, &t[k].info), &r->tensors[k]);
            continue;
        }
        printf("%*s%.*s\n", 2 * depth, "", (int)n - 1, name);
        print_tree(r, i, next, skip + n, depth + 1);
    }
}

/* Tensors of one kind are neighbours: [*begin, returned). */
static int kind_end(const m2_manifest *mf, int begin)
{
    size_t n = strcspn(mf->tensors[begin].name, "/") + 1;
    int end = begin;
    while (end < mf->n_tensors && !strncmp(mf->tensors[end].name, mf->tensors[begin].name, n)) end++;
    return end;
}

static const char *kind_says(const char *name)
{
    return !strncmp(name, "param/", 6) ? "parameters"
           : !strncmp(name, "m/", 2)   ? "first moments m"
                                       : "second moments v";
}

static void print_kinds(const report *r, int all)
{
    const m2_manifest *mf = r->mf;
    printf("%-*s %15s %10s %10s %10s %10s\n", NAME_COLUMNS, "tensor", "shape", "min", "max", "mean", "std");
    for (int i = 0, end; i < mf->n_tensors; i = end) {
        stats sum = {0};
        char count[32];
        end = kind_end(mf, i);
        for (int k = i; k < end; k++) merge(&sum, &r->tensors[k]);
        print_stats(0, kind_says(mf->tensors[i].name), m2_human_count(count, (double)(sum.count + sum.lost)),
                    &sum);
        if (all || i == 0) print_tree(r, i, end, strcspn(mf->tensors[i].name, "/") + 1, 1);
    }
}

static void print_head(const report *r)
{
    const m2_manifest *mf = r->mf;
    const m2_config *cfg = &r->cfg;
    char tokens[32], bytes[32];
    printf("%s\n", mf->folder);
    printf(
        "  run     step %" PRId64 " of %" PRId64 ", %s tokens seen; the loader goes on at row %" PRId64 "\n",
        mf->step, cfg->train_steps, m2_human_count(tokens, (double)(mf->rows * cfg->model_length)), mf->rows);
    printf("  model   %s, %" PRId64 " layers, width %" PRId64 ", length %" PRId64 ", vocabulary %" PRId64
           ", mlp %s\n",
           cfg->model_family, cfg->model_layers, cfg->model_width, cfg->model_length, cfg->model_vocab,
           cfg->model_mlp);
    printf("  saved   by %d rank%s (mesh: %s), %s, %s, content %016" PRIx64 "\n\n", mf->ranks,
           mf->ranks == 1 ? "" : "s", mf->mesh, m2_human_bytes(bytes, r->bytes), cfg->train_precision,
           r->content);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */
static void print_json_string(const char *s)
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

static void print_json(const report *r)
{
    const m2_manifest *mf = r->mf;
    printf("{\"checkpoint\": ");
    print_json_string(mf->folder);
    printf(", \"step\": %" PRId64 ", \"rows\": %" PRId64 ", \"tokens\": %" PRId64
           ", \"ranks\": %d, \"mesh\": \"%s\", ",
           mf->step, mf->rows, mf->rows * r->cfg.model_length, mf->ranks, mf->mesh);
    printf("\"bytes\": %" PRId64 ", \"broken_slabs\": %" PRId64 ", \"content\": \"%016" PRIx64
           "\", \"config\": ",
           r->bytes, r->broken, r->content);
    print_json_string(mf->config);
    printf(", \"tensors\": [");
    for (int i = 0; i < mf->n_tensors; i++) {
        const m2_saved_tensor *t = &mf->tensors[i];
        const stats *s = &r->tensors[i];
        printf("%s\n  {\"name\": \"%s\", \"dtype\": \"%s\", \"shape\": [", i ? "," : "", t->name,
               m2_dtype_name(t->info.dtype));
        for (int d = 0; d < t->info.rank; d++) printf("%s%" PRId64, d ? ", " : "", t->info.shape[d]);
        printf("], \"unreadable\": %" PRId64, s->lost);
        if (!r->verify)
            printf(", \"min\": %.9g, \"max\": %.9g, \"mean\": %.9g, \"std\": %.9g, \"not_finite\": %" PRId64,
                   s->min, s->max, mean(s), deviation(s), s->bad);
        putchar('}');
    }
    printf("]}\n");
}

/* ---- the subject ------------------------------------------------------------------------------------------------- */
static m2_status inspect(const char *path, int all, int config, int verify, int json)
{
    char folder[M2_PATH];
    m2_manifest mf = {0};
    M2_TRY(m2_checkpoint_find(path, folder, NULL));
    m2_status st = m2_manifest_read(folder, &mf);
    report r = {.mf = &mf, .verify = verify, .json = json};
    m2_config_defaults(&r.cfg);
    if (st == M2_OK) st = m2_config_parse_text(&r.cfg, mf.config, folder);
    if (st == M2_OK && config) {
        fputs(mf.config, stdout);
        m2_manifest_free(&mf);
        return M2_OK;
    }
    if (st == M2_OK) st = collect(&r);
    if (st == M2_OK) {
        char bytes[32];
        if (json)
            print_json(&r);
        else if (!verify)
            print_head(&r), print_kinds(&r, all);
        else if (!r.broken)
            printf("%s is whole: %d tensors in %d slabs, %s, content %016" PRIx64 "\n", folder, mf.n_tensors,
                   mf.n_slabs, m2_human_bytes(bytes, r.bytes), r.content);
        if (r.broken)
            st = m2_fail(M2_DATA, "%s: %" PRId64 " of %d slabs cannot be read; the first: %s", folder,
                         r.broken, mf.n_slabs, r.first);
    }
    release(&r);
    m2_manifest_free(&mf);
    return st;
}

m2_status inspect_checkpoint(int argc, char **argv)
{
    int all = 0, config = 0, verify = 0, json = 0;
    const m2_flag flags[] = {{"--all", M2_FLAG_ON, &all},
                             {"--config", M2_FLAG_ON, &config},
                             {"--verify", M2_FLAG_ON, &verify},
                             {"--json", M2_FLAG_ON, &json},
                             {NULL, M2_FLAG_ON, NULL}};
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (argc != 2)
        return m2_fail(M2_USAGE, "which checkpoint? m2 inspect checkpoint PATH, see m2 help inspect");
    return inspect(argv[1], all, config, verify, json);
}
