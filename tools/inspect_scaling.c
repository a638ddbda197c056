/* inspect_scaling.c - m2 inspect plan CONFIG --scaling --machine FILE: how a model would scale, length by length. */
#include "kernels/base/log.h"
#include "runtime/search.h"
#include "tools/inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const int ranks[] = {1, 8, 64, 512};
static const int64_t lengths[] = {2048, 8192, 32768, 131072, 1048576};
enum { RANKS = sizeof ranks / sizeof *ranks, LENGTHS = sizeof lengths / sizeof *lengths };

/* Tokens of a step: weak scaling has as many per rank, strong scaling as many in all. A sequence is the least there can be. */
enum { WEAK_TOKENS = 1 << 17, STRONG_TOKENS = 1 << 22 };

typedef struct cell {
    m2_candidate best; /* best.step 0: nothing fits */
    double per_rank;   /* tokens per second */
} cell;

static m2_status fill(const m2_config *cfg, const m2_machine *m, int n, int64_t length, int64_t tokens,
                      cell *out)
{
    m2_config own = *cfg;
    m2_search s;
    m2_planner_spec spec = {
        .ranks = n, .local_size = m->ranks_per_node < n ? m->ranks_per_node : n, .machine = m};
    *out = (cell){0};
    own.model_length = length;
    own.train_batch = tokens / length;
    own.train_micro = 0;
    snprintf(own.train_recompute, sizeof own.train_recompute, "auto");
    if (own.train_batch < 1) return M2_OK;
    m2_status st = m2_search_make(&own, &spec, 0, &s);
    if (st == M2_OK) {
        out->best = s.row[0];
        out->per_rank = (double)tokens / s.row[0].step / n;
    }
    m2_search_free(&s);
    return st == M2_USAGE ? M2_OK : st;
}

/* data x sequence and, in short, what else was chosen: 8x1, 1x8 M (Monarch exchange) Z1 (ZeRO 1) R (recomputed). */
static void say(const cell *c, double first, char *text, size_t size)
{
    int data = 0, cut = 0;
    const char *zero = strstr(c->best.rest, "zero=");
    char stage[16] = "";
    if (c->best.step <= 0) {
        snprintf(text, size, "-");
        return;
    }
    sscanf(c->best.mesh, "data=%d,seq=%d", &data, &cut);
    if (zero && zero[5] != '0') snprintf(stage, sizeof stage, " Z%c", zero[5]);
    snprintf(text, size, "%.0f (%.0f%%) %dx%d%s%s%s", c->per_rank, 100 * c->per_rank / first, data, cut,
             strstr(c->best.rest, "monarch") ? " M" : "", stage, c->best.recompute ? " R" : "");
}

static m2_status print_table(const m2_config *cfg, const m2_machine *m, int weak)
{
    if (weak)
        printf("Weak scaling: %d tokens per rank and step", WEAK_TOKENS);
    else
        printf("Strong scaling: %d tokens per step", STRONG_TOKENS);
    printf("; tokens/s per rank (share of the first column that fits), data x sequence\n\n| L |");
    for (int i = 0; i < RANKS; i++) printf(" %d rank%s |", ranks[i], ranks[i] == 1 ? "" : "s");
    printf("\n|---|");
    for (int i = 0; i < RANKS; i++) printf("---|");
    putchar('\n');
    for (int k = 0; k < LENGTHS; k++) {
        double first = 0;
        printf("| %" PRId64 " |", lengths[k]);
        for (int i = 0; i < RANKS; i++) {
            cell c;
            char text[64];
            M2_TRY(fill(cfg, m, ranks[i], lengths[k], weak ? (int64_t)WEAK_TOKENS * ranks[i] : STRONG_TOKENS,
                        &c));
            if (first <= 0) first = c.per_rank;
            say(&c, first, text, sizeof text);
            printf(" %s |", text);
            fflush(stdout);
        }
        putchar('\n');
    }
    putchar('\n');
    return M2_OK;
}

m2_status inspect_scaling(const m2_config *cfg, const m2_machine *m)
{
    M2_TRY(m2_machine_check(m, 1));
    printf("Predicted, not measured: %s, %" PRId64 " x %" PRId64 " on %s\n", cfg->model_family,
           cfg->model_layers, cfg->model_width, m->name);
    if (*m->note) printf("(%s)\n", m->note);
    printf("M: Monarch exchange, else channel exchange where sequences are cut; Z: stage of ZeRO; R: blocks "
           "recomputed\n\n");
    M2_TRY(print_table(cfg, m, 1));
    return print_table(cfg, m, 0);
}
