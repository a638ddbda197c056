#include "runtime/guard.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { ENOUGH = 20 }; /* norms before their mean says anything: a run's first ones are large */

m2_status m2_guard_open(const m2_config *cfg, const char *text, m2_guard *out)
{
    *out = (m2_guard){.max_skips = cfg->train_max_skips,
                      .max_rollbacks = cfg->train_max_rollbacks,
                      .outlier = cfg->optim_outlier,
                      .factor = cfg->optim_outlier_factor};
    if (!*text) return M2_OK;
    if (sscanf(text, "skips %" SCNd64 " row %" SCNd64 " rollbacks %" SCNd64 " norms %" SCNd64 " mean %lf", &out->skips,
               &out->in_row, &out->rollbacks, &out->norms, &out->mean) == 5)
        return M2_OK;
    return m2_fail(M2_DATA, "the checkpoint says '%s' about skipped updates, which this m2 does not understand", text);
}

void m2_guard_text(const m2_guard *g, char out[M2_GUARD_TEXT])
{
    memset(out, 0, M2_GUARD_TEXT);
    snprintf(out, M2_GUARD_TEXT,
             "skips %" PRId64 " row %" PRId64 " rollbacks %" PRId64 " norms %" PRId64 " mean %.17g", g->skips, g->in_row,
             g->rollbacks, g->norms, g->mean);
}

double m2_guard_limit(const m2_guard *g)
{
    double relative = g->factor > 0 && g->norms >= ENOUGH ? g->factor * g->mean : 0;
    if (!(relative > 0)) return g->outlier;
    return g->outlier > 0 && g->outlier < relative ? g->outlier : relative;
}

int m2_guard_count(m2_guard *g, int64_t step, double loss, double norm, double limit)
{
    if (isfinite(norm) && !(limit > 0 && norm > limit)) {
        double share = g->norms < 50 ? 1 / (double)(g->norms + 1) : 0.02;
        g->mean += share * (norm - g->mean);
        g->norms++;
        g->in_row = 0;
        return 0;
    }
    g->shown[g->in_row % M2_GUARD_SHOWN] = (struct m2_guard_skip){step, loss, norm, limit};
    g->skips++;
    g->in_row++;
    return 1;
}

int m2_guard_tripped(const m2_guard *g)
{
    return g->in_row >= g->max_skips;
}

static const struct m2_guard_skip *last(const m2_guard *g)
{
    return &g->shown[(g->in_row - 1) % M2_GUARD_SHOWN];
}

/* Of those shown, the first; a row that began before the process did is not known from its beginning. */
static int64_t first_shown(const m2_guard *g)
{
    int64_t k = g->in_row > M2_GUARD_SHOWN ? g->in_row - M2_GUARD_SHOWN : 0;
    while (k < g->in_row && !g->shown[k % M2_GUARD_SHOWN].step) k++;
    return k;
}

void m2_guard_describe(const m2_guard *g, char *text, size_t n)
{
    size_t at = 0;
    *text = 0;
    for (int64_t k = first_shown(g); k < g->in_row && at < n; k++) {
        const struct m2_guard_skip *s = &g->shown[k % M2_GUARD_SHOWN];
        at += (size_t)snprintf(text + at, n - at, "%sstep %" PRId64 ": loss %g, gradient norm %g", at ? "; " : "", s->step,
                               s->loss, s->norm);
        if (at < n && isfinite(s->norm)) at += (size_t)snprintf(text + at, n - at, " > %g", s->limit);
    }
}

/* JSON has no NaN. */
static size_t put(char *text, size_t n, const char *key, double x)
{
    int k = isfinite(x) ? snprintf(text, n, ", \"%s\": %.9g", key, x) : snprintf(text, n, ", \"%s\": null", key);
    return k < 0 ? 0 : (size_t)k < n ? (size_t)k : n;
}

void m2_guard_back(m2_guard *g, int64_t to, int64_t first_row, int64_t next_row, char *event, size_t n)
{
    const struct m2_guard_skip *s = last(g);
    g->rollbacks++;
    size_t at = (size_t)snprintf(event, n,
                                 "{\"step\": %" PRId64 ", \"event\": \"rollback\", \"number\": %" PRId64
                                 ", \"from_step\": %" PRId64 ", \"to_step\": %" PRId64 ", \"skipped\": %" PRId64
                                 ", \"first_row\": %" PRId64 ", \"next_row\": %" PRId64,
                                 to + 1, g->rollbacks, s->step, to, g->in_row, first_row, next_row);
    at += put(event + at, n - at, "at_loss", s->loss);
    at += put(event + at, n - at, "at_norm", s->norm);
    snprintf(event + at, n - at, "}");
    g->in_row = 0;
    memset(g->shown, 0, sizeof g->shown);
}
