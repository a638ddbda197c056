#include "runtime/scores.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double accuracy(const double *x, const double *y, int64_t n)
{
    int64_t right = 0;
    for (int64_t i = 0; i < n; i++) right += x[i] == y[i];
    return n ? (double)right / (double)n : 0;
}

typedef struct counts {
    double tp, fp, fn, tn; /* of class 1 */
} counts;

static counts count(const double *x, const double *y, int64_t n)
{
    counts c = {0};
    for (int64_t i = 0; i < n; i++)
        *(x[i] == 1 ? (y[i] == 1 ? &c.tp : &c.fp) : (y[i] == 1 ? &c.fn : &c.tn)) += 1;
    return c;
}

static double f1(const double *x, const double *y, int64_t n)
{
    counts c = count(x, y, n);
    double below = 2 * c.tp + c.fp + c.fn;
    return below > 0 ? 2 * c.tp / below : 0;
}

static double matthews(const double *x, const double *y, int64_t n)
{
    counts c = count(x, y, n);
    double below = sqrt((c.tp + c.fp) * (c.tp + c.fn) * (c.tn + c.fp) * (c.tn + c.fn));
    return below > 0 ? (c.tp * c.tn - c.fp * c.fn) / below : 0;
}

static double mean(const double *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum / (double)n;
}

static double pearson(const double *x, const double *y, int64_t n)
{
    double mx = n ? mean(x, n) : 0, my = n ? mean(y, n) : 0, xx = 0, yy = 0, xy = 0;
    for (int64_t i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        yy += (y[i] - my) * (y[i] - my);
        xy += (x[i] - mx) * (y[i] - my);
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
}

typedef struct place {
    double x;
    int64_t i;
} place;

static int by_value(const void *a, const void *b)
{
    const place *p = a, *q = b;
    return (p->x > q->x) - (p->x < q->x);
}

/* 1 for the smallest; equal ones share the mean of their ranks. */
static void rank_all(const double *x, int64_t n, place *order, double *rank)
{
    for (int64_t i = 0; i < n; i++) order[i] = (place){x[i], i};
    qsort(order, (size_t)n, sizeof *order, by_value);
    for (int64_t i = 0, j; i < n; i = j) {
        for (j = i + 1; j < n && order[j].x == order[i].x;) j++;
        for (int64_t k = i; k < j; k++) rank[order[k].i] = 0.5 * (double)(i + 1 + j);
    }
}

static double spearman(const double *x, const double *y, int64_t n)
{
    place *order = malloc((size_t)n * sizeof *order + 1);
    double *ranks = malloc(2 * (size_t)n * sizeof *ranks + 1), out = (double)NAN;
    if (order && ranks) {
        rank_all(x, n, order, ranks);
        rank_all(y, n, order, ranks + n);
        out = pearson(ranks, ranks + n, n);
    }
    free(order);
    free(ranks);
    return out;
}

static const m2_score scores[] = {
    {"accuracy", accuracy}, {"f1", f1}, {"matthews", matthews}, {"pearson", pearson}, {"spearman", spearman}};

const m2_score *m2_score_find(const char *name, int length)
{
    for (size_t i = 0; i < sizeof scores / sizeof *scores; i++)
        if ((int)strlen(scores[i].name) == length && !memcmp(scores[i].name, name, (size_t)length))
            return &scores[i];
    return NULL;
}
