/* inspect_checkpoint.c - m2 inspect checkpoint PATH: what is in a checkpoint, and is it whole? */
#include "kernels/base/log.h"
#include "runtime/config.h"
#include "runtime/optim.h"
#include "runtime/tokens.h"
#include "tools/checkpoint_report.h"
#include "tools/inspect.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char inspect_checkpoint_usage[] =
    "usage: m2 inspect checkpoint PATH [--all] [--histogram] [--config] [--verify] [--json]\n"
    "       m2 inspect checkpoint diff A B [--all] [--json]\n"
    "\n"
    "The tensors of a checkpoint with their statistics, and where the run stood. PATH is a run folder (its\n"
    "newest checkpoint) or a checkpoints/step-N folder. Every byte read is checked against its hash. Of a\n"
    "folder that is damaged or partly deleted, what is left is shown and what is not is named (exit 65).\n"
    "The content hash tells whether two checkpoints hold the same numbers, whatever ranks saved them.\n"
    "diff compares two checkpoints: what changed, and how much of it.\n"
    "\n"
    "  --all        each tensor of the optimizer's moments m and v too, not only a line for all of them\n"
    "  --histogram  how the values are spread from min to max, a small picture behind each tensor\n"
    "  --config     the run's configuration as YAML, nothing else\n"
    "  --verify     no table: read everything, name what is damaged or missing, exit 65 if anything is\n"
    "  --json       one JSON object\n";

enum { NAME_COLUMNS = 34, SHAPE = 96, OWNERS = 24 };

typedef struct view {
    const m2i_report *r;
    m2_config cfg;
    int has_config, all, histogram, verify;
} view;

/* ---- the tree ---------------------------------------------------------------------------------------------------- */
static void print_bins(const m2i_stats *s)
{
    static const char *const bars[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    int64_t most = 1;
    for (int i = 0; i < M2I_BINS; i++)
        if (s->bins[i] > most) most = s->bins[i];
    printf("  |");
    for (int i = 0; i < M2I_BINS; i++) fputs(bars[s->bins[i] ? 1 + s->bins[i] * 7 / most : 0], stdout);
    printf("|");
}

/* begin, end: the tensors that the line is about. */
static void print_line(const view *v, int depth, const char *name, const char *shape, int begin, int end,
                       const m2i_stats *s)
{
    char owners[OWNERS];
    printf("%*s%-*s %15s %4s %5s", 2 * depth, "", NAME_COLUMNS - 2 * depth, name, shape,
           m2_dtype_name(v->r->mf.tensors[begin].info.dtype),
           m2i_owners(&v->r->mf, begin, end, owners, sizeof owners));
    if (s->count)
        printf(" %9.3g %9.3g %9.3g %9.3g", s->min, s->max, m2i_stats_mean(s), m2i_stats_deviation(s));
    if (v->histogram && end == begin + 1) print_bins(s);
    if (s->bad) printf("  %" PRId64 " not finite", s->bad);
    if (s->lost) printf("  %" PRId64 " elements lost or unreadable", s->lost);
    putchar('\n');
}

/* Length of the first component of name, its dot included if there are more. */
static size_t component(const char *name)
{
    const char *dot = strchr(name, '.');
    return dot ? (size_t)(dot - name) + 1 : strlen(name);
}

/* Tensors [begin, end) share their names' first `skip` characters. Levels with one tensor are joined to its name, and so are
 * those that hold nothing but tensors. */
static void print_tree(const view *v, int begin, int end, size_t skip, int depth)
{
    const m2_saved_tensor *t = v->r->mf.tensors;
    for (int i = begin, next; i < end; i = next) {
        const char *name = t[i].name + skip;
        size_t n = component(name);
        int leaves = 1;
        char shape[SHAPE];
        for (next = i;
             next < end && (next == i || (name[n - 1] == '.' && !strncmp(t[next].name + skip, name, n)));
             next++)
            leaves = leaves && !strchr(t[next].name + skip + n, '.');
        if (next == i + 1 || leaves) {
            for (int k = i; k < next; k++)
                print_line(v, depth, t[k].name + skip, m2i_shape_text(&t[k].info, shape, sizeof shape), k,
                           k + 1, &v->r->tensors[k]);
            continue;
        }
        printf("%*s%.*s\n", 2 * depth, "", (int)n - 1, name);
        print_tree(v, i, next, skip + n, depth + 1);
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

/* Sum over the tensors of a kind. */
static m2i_stats kind_stats(const m2i_report *r, const char *kind)
{
    m2i_stats sum = {0};
    for (int i = 0; i < r->mf.n_tensors; i++)
        if (!strncmp(r->mf.tensors[i].name, kind, strlen(kind))) m2i_stats_merge(&sum, &r->tensors[i]);
    return sum;
}

static void print_kinds(const view *v)
{
    const m2_manifest *mf = &v->r->mf;
    printf("%-*s %15s %4s %5s %9s %9s %9s %9s\n", NAME_COLUMNS, "tensor", "shape", "type", "ranks", "min",
           "max", "mean", "std");
    for (int i = 0, end; i < mf->n_tensors; i = end) {
        char count[32], kind[8];
        end = kind_end(mf, i);
        snprintf(kind, sizeof kind, "%.*s", (int)strcspn(mf->tensors[i].name, "/") + 1, mf->tensors[i].name);
        m2i_stats sum = kind_stats(v->r, kind);
        const char *shape = m2_human_count(count, (double)(sum.count + sum.lost));
        view plain = *v;
        plain.histogram = 0;
        print_line(&plain, 0, kind_says(mf->tensors[i].name), shape, i, end, &sum);
        if (v->all || i == 0) print_tree(v, i, end, strcspn(mf->tensors[i].name, "/") + 1, 1);
    }
}

/* ---- in words ---------------------------------------------------------------------------------------------------- */
static double rms(const m2i_stats *s)
{
    double n = (double)(s->count - s->bad);
    return n > 0 ? sqrt(s->squares / n) : 0;
}

static void print_loader(const view *v)
{
    const m2_manifest *mf = &v->r->mf;
    m2_tokens tokens;
    printf("  loader  goes on at row %" PRId64, mf->rows);
    if (m2_tokens_open(&v->cfg, "data.train", v->cfg.data_train, &tokens) == M2_OK && tokens.sequences > 0)
        printf(": epoch %" PRId64 ", %.1f%% through the %" PRId64 " sequences of %s",
               mf->rows / tokens.sequences + 1,
               100 * (double)(mf->rows % tokens.sequences) / (double)tokens.sequences, tokens.sequences,
               v->cfg.data_train);
    else
        printf(" of %s%s", *v->cfg.data_train ? v->cfg.data_train : "its data",
               access(v->cfg.data_train, F_OK) ? ", which is not here" : "");
    m2_tokens_free(&tokens);
    printf("; order is keyed by seed %" PRId64 "\n", v->cfg.train_seed);
}

/* v is a mean of squared gradients, m one of gradients; both start at 0, which the division takes out. */
static void print_moments(const view *v)
{
    const m2_config *cfg = &v->cfg;
    m2_schedule schedule;
    m2i_stats first = kind_stats(v->r, "m/"), second = kind_stats(v->r, "v/");
    int64_t step = v->r->mf.step;
    if (!second.count || m2_schedule_make(cfg, &schedule) != M2_OK) return;
    double noise = sqrt(fmax(0, m2i_stats_mean(&second) / (1 - pow(cfg->optim_beta2, (double)step))));
    double signal = rms(&first) / (1 - pow(cfg->optim_beta1, (double)step));
    printf("  adam    after %" PRId64
           " updates: gradients of %.2g (root of the mean v), of which %.2g (rms m) is steady; ",
           step, noise, signal);
    printf("next learning rate %.3g\n", (double)m2_optim_step(cfg, &schedule, step + 1).lr);
}

static void print_head(const view *v)
{
    const m2_manifest *mf = &v->r->mf;
    const m2_config *cfg = &v->cfg;
    char tokens[32], bytes[32];
    printf("%s\n", mf->folder);
    if (v->has_config) {
        printf("  run     step %" PRId64 " of %" PRId64 ", %s tokens seen\n", mf->step, cfg->train_steps,
               m2_human_count(tokens, (double)(mf->rows * cfg->model_length)));
        print_loader(v);
        print_moments(v);
        printf("  model   %s, %" PRId64 " layers, width %" PRId64 ", length %" PRId64 ", vocabulary %" PRId64
               ", mlp %s\n",
               cfg->model_family, cfg->model_layers, cfg->model_width, cfg->model_length, cfg->model_vocab,
               cfg->model_mlp);
    } else {
        printf("  run     step %" PRId64 "; the loader goes on at row %" PRId64 "\n", mf->step, mf->rows);
    }
    printf("  saved   by %d rank%s%s%s%s, %s%s%s, content %016" PRIx64 "\n\n", mf->ranks,
           mf->ranks == 1 ? "" : "s", *mf->mesh ? " (mesh: " : "", mf->mesh, *mf->mesh ? ")" : "",
           m2_human_bytes(bytes, v->r->bytes), v->has_config ? ", " : "",
           v->has_config ? cfg->train_precision : "", v->r->content);
}

/* "damaged: param/x (rank 1): why" */
static void print_damages(const m2i_report *r)
{
    for (int i = 0; i < r->n_damages; i++) {
        const m2i_damage *d = &r->damages[i];
        printf("damaged: ");
        if (d->tensor >= 0) printf("%s", r->mf.tensors[d->tensor].name);
        if (d->tensor >= 0 && d->rank >= 0) printf(" (rank %d)", d->rank);
        if (d->tensor < 0 && d->rank >= 0) printf("rank %d", d->rank);
        if (d->tensor < 0 && d->rank < 0) printf("the description");
        printf(": %s\n", d->why);
    }
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */
static void print_json_stats(const view *v, const m2i_stats *s)
{
    printf(", \"min\": %.9g, \"max\": %.9g, \"mean\": %.9g, \"std\": %.9g, \"not_finite\": %" PRId64, s->min,
           s->max, m2i_stats_mean(s), m2i_stats_deviation(s), s->bad);
    if (!v->histogram) return;
    printf(", \"histogram\": [");
    for (int i = 0; i < M2I_BINS; i++) printf("%s%" PRId64, i ? ", " : "", s->bins[i]);
    printf("]");
}

static void print_json_damages(const m2i_report *r)
{
    printf("\"damages\": [");
    for (int i = 0; i < r->n_damages; i++) {
        const m2i_damage *d = &r->damages[i];
        printf("%s{", i ? ", " : "");
        if (d->rank >= 0) printf("\"rank\": %d, ", d->rank);
        if (d->tensor >= 0) printf("\"tensor\": \"%s\", ", r->mf.tensors[d->tensor].name);
        printf("\"why\": ");
        m2i_print_json_string(d->why);
        printf("}");
    }
    printf("]");
}

static void print_json(const view *v)
{
    const m2_manifest *mf = &v->r->mf;
    printf("{\"checkpoint\": ");
    m2i_print_json_string(mf->folder);
    printf(", \"step\": %" PRId64 ", \"rows\": %" PRId64 ", \"tokens\": %" PRId64
           ", \"ranks\": %d, \"mesh\": \"%s\", ",
           mf->step, mf->rows, v->has_config ? mf->rows * v->cfg.model_length : 0, mf->ranks, mf->mesh);
    printf("\"bytes\": %" PRId64 ", \"content\": \"%016" PRIx64 "\", ", v->r->bytes, v->r->content);
    print_json_damages(v->r);
    printf(", \"config\": ");
    m2i_print_json_string(mf->config);
    printf(", \"tensors\": [");
    for (int i = 0; i < mf->n_tensors; i++) {
        const m2_saved_tensor *t = &mf->tensors[i];
        const m2i_stats *s = &v->r->tensors[i];
        char owners[256];
        printf("%s\n  {\"name\": \"%s\", \"dtype\": \"%s\", \"ranks\": \"%s\", \"shape\": [", i ? "," : "",
               t->name, m2_dtype_name(t->info.dtype), m2i_owners(mf, i, i + 1, owners, sizeof owners));
        for (int d = 0; d < t->info.rank; d++) printf("%s%" PRId64, d ? ", " : "", t->info.shape[d]);
        printf("], \"unreadable\": %" PRId64, s->lost);
        if (!v->verify) print_json_stats(v, s);
        putchar('}');
    }
    printf("]}\n");
}

/* ---- the subject ------------------------------------------------------------------------------------------------- */
static void show(const view *v, int json)
{
    const m2i_report *r = v->r;
    char bytes[32];
    if (json) {
        print_json(v);
        return;
    }
    if (!v->verify) print_head(v), print_kinds(v);
    if (!v->verify && r->n_damages) putchar('\n');
    print_damages(r);
    if (v->verify && !r->n_damages)
        printf("%s is whole: %d tensors in %d slabs, %s, content %016" PRIx64 "\n", r->mf.folder,
               r->mf.n_tensors, r->mf.n_slabs, m2_human_bytes(bytes, r->bytes), r->content);
}

/* PATH's newest checkpoint; a folder that was one is taken as it is. */
static m2_status find_folder(const char *path, char folder[M2_PATH])
{
    char part[M2_PATH + 32];
    for (int rank = 0; rank < 64; rank++) {
        snprintf(part, sizeof part, "%.*s/rank-%05d.h5", M2_PATH - 1, path, rank);
        if (access(part, F_OK)) continue;
        snprintf(folder, M2_PATH, "%s", path);
        return M2_OK;
    }
    m2_status st = m2_checkpoint_find(path, folder, NULL);
    return st == M2_DATA && *folder && access(folder, F_OK) == 0 ? M2_OK : st;
}

m2_status m2i_inspect_open(const char *path, m2i_depth depth, m2i_report *r)
{
    char folder[M2_PATH] = "";
    memset(r, 0, sizeof *r);
    M2_TRY(find_folder(path, folder));
    return m2i_report_make(folder, depth, r);
}

static m2_status print_config(const char *path)
{
    char folder[M2_PATH];
    m2_manifest mf = {0};
    M2_TRY(m2_checkpoint_find(path, folder, NULL));
    m2_status st = m2_manifest_read(folder, &mf);
    if (st == M2_OK) fputs(mf.config, stdout);
    m2_manifest_free(&mf);
    return st;
}

static m2_status inspect(const char *path, view *v, int json)
{
    m2i_report r;
    m2i_depth depth = v->verify ? M2I_HASHES : v->histogram ? M2I_HISTOGRAMS : M2I_STATS;
    m2_status st = m2i_inspect_open(path, depth, &r);
    v->r = &r;
    m2_config_defaults(&v->cfg);
    v->has_config = st == M2_OK && *r.mf.config;
    if (v->has_config) st = m2_config_parse_text(&v->cfg, r.mf.config, r.mf.folder);
    if (st == M2_OK) {
        show(v, json);
        st = m2i_report_verdict(&r);
    }
    m2i_report_free(&r);
    return st;
}

m2_status inspect_checkpoint(int argc, char **argv)
{
    view v = {0};
    int config = 0, json = 0;
    const m2_flag flags[] = {{"--all", M2_FLAG_ON, &v.all},     {"--histogram", M2_FLAG_ON, &v.histogram},
                             {"--config", M2_FLAG_ON, &config}, {"--verify", M2_FLAG_ON, &v.verify},
                             {"--json", M2_FLAG_ON, &json},     {NULL, M2_FLAG_ON, NULL}};
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (argc == 4 && !strcmp(argv[1], "diff")) return m2i_inspect_diff(argv[2], argv[3], v.all, json);
    if (argc != 2)
        return m2_fail(M2_USAGE,
                       "which checkpoint? m2 inspect checkpoint PATH, or m2 inspect checkpoint diff A B; see m2 "
                       "inspect checkpoint --help");
    return config ? print_config(argv[1]) : inspect(argv[1], &v, json);
}
