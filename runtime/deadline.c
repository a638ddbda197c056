#include "runtime/deadline.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

double m2_deadline_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static m2_status job_end(double *out)
{
    const char *text = getenv("SLURM_JOB_END_TIME");
    char *end;
    *out = INFINITY;
    if (!text || !*text) return M2_OK;
    errno = 0;
    long long seconds = strtoll(text, &end, 10);
    if (*end || errno || seconds < 0)
        return m2_fail(M2_USAGE,
                       "SLURM_JOB_END_TIME is '%.40s': expected seconds since 1970; run.margin=0 ignores it", text);
    *out = (double)seconds;
    return M2_OK;
}

m2_status m2_deadline_start(const m2_config *cfg, m2_deadline *out)
{
    *out = (m2_deadline){.end = INFINITY};
    if (cfg->run_margin > 0) M2_TRY(job_end(&out->end));
    out->end -= cfg->run_margin;
    snprintf(out->why, sizeof out->why, "the job's time limit");
    double own = m2_deadline_clock() + 60 * cfg->run_minutes;
    if (cfg->run_minutes == 0 || own >= out->end) return M2_OK;
    out->end = own;
    snprintf(out->why, sizeof out->why, "run.minutes");
    return M2_OK;
}

int m2_deadline_near(m2_deadline *d, double now, double save)
{
    int first = d->looked == 0;
    double since = first ? 0 : now - d->looked;
    d->looked = now;
    d->pace = since > 0.98 * d->pace ? since : 0.98 * d->pace;
    return !first && now + d->pace + save >= d->end;
}
