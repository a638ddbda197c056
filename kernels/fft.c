#include "kernels/fft.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const int64_t longest = (int64_t)1 << 40;

m2_status m2_fft_make(int order, const int *factor, m2_fft *out)
{
    if (order < 1 || order > M2_FFT_MAX_ORDER)
        return m2_fail(M2_USAGE, "a Monarch DFT of order %d was asked for; the order is 1 to %d", order,
                       M2_FFT_MAX_ORDER);
    *out = (m2_fft){.n = 1, .order = order};
    for (int s = 0; s < order; s++) {
        if (factor[s] < 1 || factor[s] > longest / out->n)
            return m2_fail(
                M2_USAGE,
                "factor %d of a Monarch DFT is %d; factors are positive, their product at most 2^40", s,
                factor[s]);
        out->factor[s] = factor[s];
        out->n *= factor[s];
    }
    return M2_OK;
}

/* ---- choosing ------------------------------------------------------------------------------------------ */

/* Walks all multisets of blocks (in menu order, so each once) whose product just reaches `points`. */
typedef struct search {
    const m2_fft_menu *menu;
    int64_t points;
    int exact, most, found;
    m2_fft *plan; /* the best so far, the best first */
    double *cost;
} search;

static int is_power_of_two(int64_t n)
{
    return (n & (n - 1)) == 0;
}

static int is_better(const m2_fft *a, double cost_a, const m2_fft *b, double cost_b)
{
    if (cost_a != cost_b) return cost_a < cost_b;
    return a->n < b->n || (a->n == b->n && a->order < b->order);
}

static void consider(search *s, const m2_fft *f, double cost)
{
    if (s->exact ? f->n != s->points : f->n < s->points) return;
    if (s->menu->multiple && !is_power_of_two(f->n) && f->n % s->menu->multiple) return;
    cost *= (double)f->n;
    int at = s->found;
    while (at > 0 && is_better(f, cost, &s->plan[at - 1], s->cost[at - 1])) at--;
    if (at == s->most) return;
    if (s->found < s->most) s->found++;
    for (int i = s->found - 1; i > at; i--) s->plan[i] = s->plan[i - 1], s->cost[i] = s->cost[i - 1];
    s->plan[at] = *f;
    s->cost[at] = cost;
}

static void extend(search *s, int item, m2_fft *f, double cost)
{
    if (f->order > 0) consider(s, f, cost);
    if (f->n >= s->points || f->order == M2_FFT_MAX_ORDER) return;
    for (int i = item; i < s->menu->count; i++) {
        m2_fft longer = *f;
        longer.factor[longer.order++] = s->menu->block[i].size;
        longer.n *= s->menu->block[i].size;
        extend(s, i, &longer, cost + s->menu->block[i].cost);
    }
}

static int goes_before(int a, int b)
{
    return (a & 1) != (b & 1) ? a & 1 : a > b;
}

static void sort_factors(m2_fft *f, int keep_last)
{
    int last = f->factor[0];
    if (keep_last) memmove(f->factor, f->factor + 1, sizeof f->factor[0] * (size_t)(f->order - 1));
    int count = f->order - keep_last;
    for (int i = 1; i < count; i++)
        for (int j = i; j > 0 && goes_before(f->factor[j], f->factor[j - 1]); j--) {
            int t = f->factor[j];
            f->factor[j] = f->factor[j - 1];
            f->factor[j - 1] = t;
        }
    if (keep_last) f->factor[count] = last;
}

static m2_status choose(search *s)
{
    const m2_fft_menu *menu = s->menu;
    if (s->points < 1 || s->points > longest)
        return m2_fail(M2_USAGE, "a Monarch DFT of %" PRId64 " points was asked for; 1 to 2^40 are possible",
                       s->points);
    m2_fft start = {.n = 1};
    if (menu->last) {
        start.n = start.factor[0] = menu->last;
        start.order = 1;
    }
    extend(s, 0, &start, menu->fixed);
    if (!s->found)
        return m2_fail(M2_USAGE,
                       "no Monarch DFT of %s%" PRId64
                       " points can be built from at most %d of the %d block sizes",
                       s->exact ? "" : "at least ", s->points, M2_FFT_MAX_ORDER, menu->count);
    for (int i = 0; i < s->found; i++) sort_factors(&s->plan[i], menu->last != 0);
    return M2_OK;
}

m2_status m2_fft_choose(int64_t points, const m2_fft_menu *menu, m2_fft *out)
{
    double cost;
    return choose(&(search){.menu = menu, .points = points, .most = 1, .plan = out, .cost = &cost});
}

m2_status m2_fft_exact(int64_t n, const m2_fft_menu *menu, m2_fft *out)
{
    double cost;
    return choose(&(search){.menu = menu, .points = n, .exact = 1, .most = 1, .plan = out, .cost = &cost});
}

m2_status m2_fft_list(int64_t points, const m2_fft_menu *menu, int most, m2_fft *out, double *cost,
                      int *count)
{
    search s = {.menu = menu, .points = points, .most = most, .plan = out, .cost = cost};
    m2_status st = choose(&s);
    *count = s.found;
    return st;
}

/* ---- digits -------------------------------------------------------------------------------------------- */

int64_t m2_fft_columns(const m2_fft *f, int stage)
{
    int64_t m = 1;
    for (int s = stage + 1; s < f->order; s++) m *= f->factor[s];
    return m;
}

int64_t m2_fft_position(const m2_fft *f, int64_t frequency)
{
    int64_t p = 0;
    for (int s = 0; s < f->order; s++) {
        p = p * f->factor[s] + frequency % f->factor[s];
        frequency /= f->factor[s];
    }
    return p;
}

int64_t m2_fft_frequency(const m2_fft *f, int64_t position)
{
    int64_t k = 0;
    for (int s = f->order - 1; s >= 0; s--) {
        k = k * f->factor[s] + position % f->factor[s];
        position /= f->factor[s];
    }
    return k;
}

/* ---- tables -------------------------------------------------------------------------------------------- */

/* q/n of the circle, in eighths: the angle left over is in [0, pi/4], where sine and cosine are accurate, and the
 * symmetries of the circle are exact (w^0, w^{n/4}, w^{n/2} come out without rounding). */
void m2_fft_root(int64_t q, int64_t n, double out[2])
{
    q %= n;
    if (q < 0) q += n;
    int64_t octant = 8 * q / n, rest = 8 * q - octant * n; /* rest / (8n) of the circle beyond the octant */
    if (octant & 1) rest = n - rest;                       /* odd octants are mirrored */
    long double a = 6.283185307179586476925286766559005768L * (long double)rest / (8.0L * (long double)n);
    double c = (double)cosl(a), s = (double)sinl(a);
    int swap = (octant + 1) / 2 & 1; /* octants 1, 2, 5, 6: the angle is measured from the imaginary axis */
    double re = swap ? s : c, im = swap ? c : s;
    if (octant >= 2 && octant < 6) re = -re;
    if (octant >= 4) im = -im;
    out[0] = re;
    out[1] = -im;
}

void m2_fft_block(int b, double *out)
{
    for (int k = 0; k < b; k++)
        for (int j = 0; j < b; j++) m2_fft_root((int64_t)k * j, b, out + 2 * ((int64_t)k * b + j));
}

void m2_fft_twiddle(const m2_fft *f, int stage, int64_t from, int64_t to, double *out)
{
    int64_t n = f->factor[stage] * m2_fft_columns(f, stage);
    for (int64_t k = 0; k < f->factor[stage]; k++)
        for (int64_t j = from; j < to; j++, out += 2) m2_fft_root(k * j, n, out);
}

void m2_fft_quarter(int64_t n, int64_t from, int64_t to, double *out)
{
    for (int64_t j = from; j < to; j++, out += 2) m2_fft_root(-j, 4 * n, out);
}
