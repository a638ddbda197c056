#include "data/resample.h"

#include <math.h>
#include <stdlib.h>

/* For each place of the output the first source place, and `taps` weights from there on. */
typedef struct filter {
    int taps, *first;
    float *weights;
} filter;

static m2_status make_filter(int from, double start, double extent, int to, filter *f)
{
    double scale = extent / to, support = scale > 1 ? scale : 1;
    f->taps = (int)ceil(2 * support) + 1;
    f->first = malloc((size_t)to * sizeof *f->first);
    f->weights = calloc((size_t)to * (size_t)f->taps, sizeof *f->weights);
    if (!f->first || !f->weights)
        return m2_fail(M2_TRANSIENT, "out of memory for a filter of %d taps", f->taps);
    for (int i = 0; i < to; i++) {
        double centre = start + (i + 0.5) * scale, sum = 0;
        float *w = f->weights + (size_t)i * (size_t)f->taps;
        int first = (int)floor(centre - support);
        f->first[i] = first < 0                ? 0
                      : first + f->taps > from ? (from - f->taps < 0 ? 0 : from - f->taps)
                                               : first;
        for (int k = 0; k < f->taps; k++) {
            double at = fabs(f->first[i] + k + 0.5 - centre) / support;
            w[k] = (float)(at < 1 && f->first[i] + k < from ? 1 - at : 0);
            sum += w[k];
        }
        for (int k = 0; k < f->taps; k++) w[k] = (float)(w[k] / sum);
    }
    return M2_OK;
}

/* Rows first: (height, width) to (height, out_width); only the rows that the columns will ask for. */
static void across(const uint8_t *source, int width, const filter *f, int out_width, int row, float *out)
{
    const uint8_t *line = source + (size_t)row * (size_t)width * 3;
    for (int x = 0; x < out_width; x++) {
        const float *w = f->weights + (size_t)x * (size_t)f->taps;
        float sum[3] = {0};
        for (int k = 0; k < f->taps && f->first[x] + k < width; k++)
            for (int c = 0; c < 3; c++) sum[c] += w[k] * line[3 * (f->first[x] + k) + c];
        for (int c = 0; c < 3; c++) out[3 * x + c] = sum[c];
    }
}

static void down(const float *rows, int height, const filter *f, int first_row, int out_width, int y,
                 float *out)
{
    const float *w = f->weights + (size_t)y * (size_t)f->taps;
    size_t n = (size_t)out_width * 3;
    for (size_t i = 0; i < n; i++) out[i] = 0;
    for (int k = 0; k < f->taps && f->first[y] + k < height; k++) {
        const float *row = rows + (size_t)(f->first[y] + k - first_row) * n;
        for (size_t i = 0; i < n; i++) out[i] += w[k] * row[i];
    }
}

m2_status m2_resample(const uint8_t *source, int height, int width, m2_box box, int out_height, int out_width,
                      float *out)
{
    filter horizontal = {0}, vertical = {0};
    float *rows = NULL;
    m2_status st = make_filter(width, box.x, box.width, out_width, &horizontal);
    if (st == M2_OK) st = make_filter(height, box.y, box.height, out_height, &vertical);
    if (st == M2_OK) {
        int first = vertical.first[0], end = vertical.first[out_height - 1] + vertical.taps;
        end = end < height ? end : height;
        size_t n = (size_t)out_width * 3;
        rows = malloc((size_t)(end - first) * n * sizeof *rows);
        if (!rows) st = m2_fail(M2_TRANSIENT, "out of memory for %d rows of pixels", end - first);
        for (int r = first; rows && r < end; r++)
            across(source, width, &horizontal, out_width, r, rows + (size_t)(r - first) * n);
        for (int y = 0; rows && y < out_height; y++)
            down(rows, height, &vertical, first, out_width, y, out + (size_t)y * n);
    }
    free(rows);
    free(horizontal.first);
    free(horizontal.weights);
    free(vertical.first);
    free(vertical.weights);
    return st;
}
