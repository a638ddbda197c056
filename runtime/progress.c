#include "runtime/progress.h"
#include "kernels/base/log.h"
#include "parallel/comm.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* mpirun gives its ranks a terminal of their own even when its output goes to a file: look at the launcher's. */
static int on_terminal(void)
{
    int rank, size, local_rank, local_size;
    char path[64];
    struct stat mine, parents;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    if (!isatty(STDOUT_FILENO)) return 0;
    if (size == 1) return 1;
    snprintf(path, sizeof path, "/proc/%ld/fd/1", (long)getppid());
    return !fstat(STDOUT_FILENO, &mine) && !stat(path, &parents) && S_ISCHR(parents.st_mode) &&
           parents.st_rdev >> 8 == mine.st_rdev >> 8;
}

void m2_progress_start(m2_progress *p, int64_t steps, int64_t log_every, int64_t step, int64_t tokens,
                       int show)
{
    *p = (m2_progress){.steps = steps, .log_every = log_every, .show = show, .val = (double)NAN};
    p->live = show && on_terminal();
    p->since = m2_now();
    p->since_step = step;
    p->since_tokens = tokens;
}

static void put_number(char *buf, size_t n, const char *fmt, double x)
{
    if (isfinite(x))
        snprintf(buf, n, fmt, x);
    else
        snprintf(buf, n, "%s", isnan(x) ? "-" : "inf");
}

/* Recent rows count more, none decides alone. */
static double pace(const m2_progress *p, int64_t step, double now)
{
    double recent = (now - p->since) / (double)(step - p->since_step);
    return p->pace > 0 ? 0.75 * p->pace + 0.25 * recent : recent;
}

static void put_row(const m2_progress *p, const m2_record *r, double now)
{
    char step[48], loss[24], val[24], norm[24], rate[32], left[32];
    double seconds = now - p->since;
    snprintf(step, sizeof step, "%" PRId64 "/%" PRId64, r->step, p->steps);
    if (isnan(r->loss))
        snprintf(loss, sizeof loss, "nan");
    else
        put_number(loss, sizeof loss, "%.4f", r->loss);
    put_number(val, sizeof val, "%.4f", p->val);
    put_number(norm, sizeof norm, r->grad_norm < 1000 ? "%.2f" : "%.1e", r->grad_norm);
    m2_human_count(rate, seconds > 0 ? (double)(r->tokens - p->since_tokens) / seconds : 0);
    m2_human_time(left, pace(p, r->step, now) * (double)(p->steps - r->step));
    printf("%15s %8s %8s %10.2e %8s %9s %8s", step, loss, val, r->lr, norm, rate, left);
}

static void clear(m2_progress *p)
{
    if (p->open) fputs("\r\033[K", stdout);
    p->open = 0;
}

void m2_progress_step(m2_progress *p, const m2_record *r)
{
    if (r->val_loss != M2_ABSENT) p->val = r->val_loss;
    if (!p->show) return;
    double now = m2_now();
    int stays = r->step % p->log_every == 0 || r->step == p->steps;
    if (!stays && !(p->live && now - p->shown_at > 0.2)) return;
    clear(p);
    if (p->shown_at == 0)
        printf("%15s %8s %8s %10s %8s %9s %8s\n", "step", "loss", "val", "lr", "norm", "tokens/s", "left");
    put_row(p, r, now);
    p->shown_at = now;
    p->open = !stays;
    if (stays) {
        putchar('\n');
        p->pace = pace(p, r->step, now);
        p->since = now;
        p->since_step = r->step;
        p->since_tokens = r->tokens;
    }
    fflush(stdout);
}

void m2_progress_note(m2_progress *p, const char *fmt, ...)
{
    va_list ap;
    if (!p->show) return;
    clear(p);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

void m2_progress_end(m2_progress *p)
{
    if (!p->show) return;
    clear(p);
    fflush(stdout);
}
