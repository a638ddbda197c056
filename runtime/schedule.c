#include "runtime/schedule.h"

#include <math.h>
#include <string.h>

static double cosine(const m2_schedule *s, double x)
{
    (void)s;
    return 0.5 * (1 + cos(3.14159265358979323846 * x));
}

static double linear(const m2_schedule *s, double x)
{
    (void)s;
    return 1 - x;
}

static double constant(const m2_schedule *s, double x)
{
    (void)s, (void)x;
    return 1;
}

static double warmup_stable_decay(const m2_schedule *s, double x)
{
    return x <= s->cooldown ? 1 : (1 - x) / (1 - s->cooldown);
}

static const struct {
    const char *name;
    double (*curve)(const m2_schedule *s, double x);
} curves[] = {{"cosine", cosine}, {"linear", linear}, {"constant", constant}, {"wsd", warmup_stable_decay}};

m2_status m2_schedule_make(const m2_config *cfg, m2_schedule *out)
{
    *out = (m2_schedule){.peak = cfg->optim_lr, .final = cfg->optim_min_lr, .steps = cfg->train_steps};
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++)
        if (!strcmp(curves[i].name, cfg->optim_schedule)) out->curve = curves[i].curve;
    if (!out->curve)
        return m2_fail(M2_USAGE, "optim.schedule: there is no schedule '%s'", cfg->optim_schedule);
    double steps = (double)cfg->train_steps, warmup = cfg->optim_warmup;
    out->warmup = (int64_t)(warmup < 1 ? warmup * steps + 0.5 : warmup);
    if (out->warmup > out->steps)
        return m2_fail(M2_USAGE, "optim.warmup = %lld steps is longer than the run of train.steps = %lld",
                       (long long)out->warmup, (long long)out->steps);
    double rest = steps - (double)out->warmup;
    out->cooldown = rest > 0 ? 1 - fmin(1, cfg->optim_cooldown * steps / rest) : 0;
    return M2_OK;
}

double m2_schedule_lr(const m2_schedule *s, int64_t step)
{
    if (step <= s->warmup) return s->peak * (double)step / (double)s->warmup;
    double x = step < s->steps ? (double)(step - s->warmup) / (double)(s->steps - s->warmup) : 1;
    return s->peak * (s->final + (1 - s->final) * s->curve(s, x));
}
