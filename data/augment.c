#include "data/augment.h"
#include "kernels/base/rng.h"

#include <math.h>

/* What a draw is for: streams of their own, so that one more draw of a kind changes no other. */
enum { CROP = 0x63726f70, FLIP = 0x666c6970, MIX = 0x6d697875, BOX = 0x626f7820 };
enum { TRIES = 10 };

m2_augment m2_augment_usual(uint64_t seed, int size)
{
    return (m2_augment){.seed = seed,
                        .size = size,
                        .area = {0.08, 1},
                        .ratio = {3.0 / 4, 4.0 / 3},
                        .flip = 0.5,
                        .mean = {0.485, 0.456, 0.406},
                        .deviation = {0.229, 0.224, 0.225}};
}

m2_augment m2_augment_none(const m2_augment *a)
{
    m2_augment none = {.seed = a->seed, .size = a->size};
    for (int c = 0; c < 3; c++) none.mean[c] = a->mean[c], none.deviation[c] = a->deviation[c];
    return none;
}

m2_status m2_augment_check(const m2_augment *a)
{
    if (a->size < 1 || a->size > 4096)
        return m2_fail(M2_USAGE, "pictures of %d pixels a side: expected 1 to 4096", a->size);
    if (!(a->area[0] >= 0 && a->area[0] <= a->area[1] && a->area[1] <= 1))
        return m2_fail(M2_USAGE, "crops of %g to %g of the area: expected a range inside 0 to 1", a->area[0],
                       a->area[1]);
    if (a->area[0] > 0 && !(a->ratio[0] > 0 && a->ratio[0] <= a->ratio[1]))
        return m2_fail(M2_USAGE, "crops of ratios %g to %g: expected a range above 0", a->ratio[0],
                       a->ratio[1]);
    if (!(a->flip >= 0 && a->flip <= 1))
        return m2_fail(M2_USAGE, "a flip probability of %g is not in 0 to 1", a->flip);
    if (!(a->smoothing >= 0 && a->smoothing < 1))
        return m2_fail(M2_USAGE, "label smoothing of %g is not in [0, 1)", a->smoothing);
    if (!(a->mixup >= 0 && a->cutmix >= 0))
        return m2_fail(M2_USAGE, "mixup %g or cutmix %g is negative", a->mixup, a->cutmix);
    for (int c = 0; c < 3; c++)
        if (!(a->deviation[c] > 0))
            return m2_fail(M2_USAGE, "a deviation of %g; expected more than 0", a->deviation[c]);
    return M2_OK;
}

/* ---- draws ------------------------------------------------------------------------------------------------------- */
typedef struct draws {
    m2_rng_key key;
    uint64_t next;
} draws;

static draws begin(const m2_augment *a, int64_t position, uint64_t purpose)
{
    return (draws){m2_rng_make_key(a->seed, (uint64_t)position, purpose), 0};
}

static double uniform(draws *d)
{
    return m2_rng_uniform(d->key, d->next++);
}

static double normal(draws *d)
{
    uint64_t block = (d->next + 3) / 4; /* a normal takes four words, a uniform draw one */
    d->next = 4 * (block + 1);
    return m2_rng_normal(d->key, block);
}

/* Marsaglia and Tsang 2000; below 1 by the power of a uniform. */
static double gamma_draw(draws *d, double alpha)
{
    double boost = alpha < 1 ? pow(uniform(d), 1 / alpha) : 1, shape = alpha < 1 ? alpha + 1 : alpha;
    double s = shape - 1.0 / 3, c = 1 / sqrt(9 * s);
    for (;;) {
        double x = normal(d), v = 1 + c * x;
        v = v * v * v;
        if (v > 0 && log(uniform(d)) < 0.5 * x * x + s - s * v + s * log(v)) return boost * s * v;
    }
}

static double beta_draw(draws *d, double alpha)
{
    double x = gamma_draw(d, alpha), y = gamma_draw(d, alpha);
    return x + y > 0 ? x / (x + y) : 0.5;
}

/* A whole number of [0, n). */
static int below(draws *d, int n)
{
    int i = (int)(uniform(d) * n);
    return i < n ? i : n - 1;
}

/* ---- crop and flip ----------------------------------------------------------------------------------------------- */
m2_box m2_augment_crop(const m2_augment *a, int64_t position, int height, int width)
{
    int side = height < width ? height : width;
    m2_box middle = {(height - side) / 2, (width - side) / 2, side, side};
    if (!(a->area[0] > 0)) return middle;
    draws d = begin(a, position, CROP);
    for (int i = 0; i < TRIES; i++) {
        double area = (a->area[0] + (a->area[1] - a->area[0]) * uniform(&d)) * height * width;
        double low = log(a->ratio[0]), high = log(a->ratio[1]);
        double ratio = exp(low + (high - low) * uniform(&d));
        int w = (int)lround(sqrt(area * ratio)), h = (int)lround(sqrt(area / ratio));
        if (w < 1 || h < 1 || w > width || h > height) continue;
        int y = below(&d, height - h + 1), x = below(&d, width - w + 1);
        return (m2_box){y, x, h, w};
    }
    return middle;
}

int m2_augment_flips(const m2_augment *a, int64_t position)
{
    draws d = begin(a, position, FLIP);
    return uniform(&d) < a->flip;
}

m2_status m2_augment_picture(const m2_augment *a, int64_t position, const uint8_t *source, int height,
                             int width, float *out)
{
    int n = a->size;
    M2_TRY(m2_resample(source, height, width, m2_augment_crop(a, position, height, width), n, n, out));
    if (m2_augment_flips(a, position))
        for (int y = 0; y < n; y++)
            for (int x = 0; x < n / 2; x++)
                for (int c = 0; c < 3; c++) {
                    float *left = out + 3 * (y * n + x) + c, *right = out + 3 * (y * n + n - 1 - x) + c,
                          was = *left;
                    *left = *right;
                    *right = was;
                }
    for (int i = 0; i < n * n; i++)
        for (int c = 0; c < 3; c++)
            out[3 * i + c] = (float)((out[3 * i + c] / 255.0 - a->mean[c]) / a->deviation[c]);
    return M2_OK;
}

/* ---- mixing ------------------------------------------------------------------------------------------------------ */
m2_mixing m2_augment_mixing(const m2_augment *a, int64_t position)
{
    m2_mixing m = {.share = 1};
    if (!(a->mixup > 0) && !(a->cutmix > 0)) return m;
    draws d = begin(a, position >> 1, MIX); /* of the pair */
    int cut = a->cutmix > 0 && (!(a->mixup > 0) || uniform(&d) < 0.5);
    m.partner = 1;
    m.share = beta_draw(&d, cut ? a->cutmix : a->mixup);
    if (!cut) return m;
    draws b = begin(a, position >> 1, BOX);
    double side = sqrt(1 - m.share) * a->size;
    int y = below(&b, a->size), x = below(&b, a->size),
        half = (int)(side / 2); /* its centre; what is outside is lost */
    int bottom = y + half < a->size ? y + half : a->size, right = x + half < a->size ? x + half : a->size;
    m.y = y - half > 0 ? y - half : 0;
    m.x = x - half > 0 ? x - half : 0;
    m.height = bottom - m.y;
    m.width = right - m.x;
    m.partner = m.height > 0 && m.width > 0;
    m.share = 1 - (double)m.height * m.width / ((double)a->size * a->size);
    return m;
}

void m2_augment_mix(const m2_augment *a, const m2_mixing *m, const float *partner, float *own)
{
    if (!m->partner) return;
    if (!m->height)
        for (int i = 0; i < 3 * a->size * a->size; i++)
            own[i] = (float)(m->share * own[i] + (1 - m->share) * partner[i]);
    for (int y = m->y; y < m->y + m->height; y++)
        for (int i = 3 * (y * a->size + m->x); i < 3 * (y * a->size + m->x + m->width); i++)
            own[i] = partner[i];
}

void m2_augment_target(const m2_augment *a, const m2_mixing *m, int32_t own, int32_t partner, int64_t classes,
                       float *target)
{
    double share = m->partner ? m->share : 1;
    for (int64_t k = 0; k < classes; k++)
        target[k] = (float)((1 - a->smoothing) * (share * (k == own) + (1 - share) * (k == partner)) +
                            a->smoothing / (double)classes);
}
