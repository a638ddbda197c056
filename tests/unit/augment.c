/* Augmentation by its laws: weights of resampling sum to 1, a flip is its own inverse, mixing keeps the sum of a pair, targets
 * sum to 1, draws have the distributions they claim and depend on the position alone. */
#include "data/augment.h"
#include "kernels/base/rng.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OK(call) CU_ASSERT_EQUAL_FATAL((call), M2_OK)

static void noise(uint8_t *pixels, int64_t n, uint64_t seed)
{
    m2_rng_key key = m2_rng_make_key(seed, 0, 0);
    for (int64_t i = 0; i < n; i++) pixels[i] = (uint8_t)m2_rng_u32(key, (uint64_t)i);
}

static void test_resample(void)
{
    enum { H = 23, W = 31, N = 40 };
    static uint8_t source[H * W * 3];
    static float out[N * N * 3];
    noise(source, sizeof source, 1);
    OK(m2_resample(source, H, W, (m2_box){0, 0, H, W}, H, W, out)); /* onto itself: exactly itself */
    for (int i = 0; i < H * W * 3; i++) CU_ASSERT_EQUAL_FATAL(out[i], (float)source[i]);
    OK(m2_resample(source, H, W, (m2_box){3, 5, 11, 13}, 11, 13,
                   out)); /* a box onto as many pixels: a copy */
    for (int y = 0; y < 11; y++)
        CU_ASSERT(out[3 * 13 * y] == (float)source[3 * ((y + 3) * W + 5)] &&
                  out[3 * (13 * y + 12) + 2] == (float)source[3 * ((y + 3) * W + 17) + 2]);
    for (int size = 1; size <= N;
         size++) { /* any way: nothing leaves the range, one colour stays one colour */
        OK(m2_resample(source, H, W, (m2_box){1, 2, 20, 17}, size, N - size + 1, out));
        for (int i = 0; i < 3 * size * (N - size + 1); i++)
            CU_ASSERT_FATAL(out[i] > -0.001 && out[i] < 255.001);
        uint8_t grey[H * W * 3];
        memset(grey, 77, sizeof grey);
        OK(m2_resample(grey, H, W, (m2_box){1, 2, 20, 17}, size, N - size + 1, out));
        for (int i = 0; i < 3 * size * (N - size + 1); i++) CU_ASSERT_FATAL(fabsf(out[i] - 77) < 1e-3f);
    }
    for (int y = 0; y < H; y++) /* a slope stays a slope when it is enlarged, but for the margins */
        for (int x = 0; x < W; x++) memset(source + 3 * (y * W + x), 5 * x, 3);
    OK(m2_resample(source, H, W, (m2_box){0, 4, 16, 20}, 16, N, out));
    for (int x = 0; x < N; x++) CU_ASSERT(fabs(out[3 * x] - 5 * (4 + (x + 0.5) / 2 - 0.5)) < 1e-3);
}

static void test_crop(void)
{
    enum { H = 40, W = 60, DRAWS = 20000 };
    m2_augment a = m2_augment_usual(3, 8);
    double areas = 0, least = 1, most = 0, ys = 0, places = 0;
    for (int64_t p = 0; p < DRAWS; p++) {
        m2_box b = m2_augment_crop(&a, p, H, W), again = m2_augment_crop(&a, p, H, W);
        CU_ASSERT_FATAL(b.y >= 0 && b.x >= 0 && b.height >= 1 && b.width >= 1 && b.y + b.height <= H &&
                        b.x + b.width <= W);
        CU_ASSERT_FATAL(b.y == again.y && b.x == again.x && b.height == again.height);
        double area = b.height * b.width / (H * W), ratio = b.width / b.height;
        CU_ASSERT_FATAL(area > 0.06 && ratio > 0.6 && ratio < 1.7); /* rounded to pixels */
        areas += area;
        least = area < least ? area : least;
        most = area > most ? area : most;
        if (b.height < H) ys += b.y / (H - b.height), places++;
    }
    CU_ASSERT(fabs(areas / DRAWS - 0.45) < 0.1 && least < 0.1 &&
              most > 0.85); /* large ones often do not fit */
    CU_ASSERT(fabs(ys / places - 0.5) < 0.02);
    m2_augment none = m2_augment_none(&a);
    m2_box b = m2_augment_crop(&none, 5, H, W);
    CU_ASSERT(b.y == 0 && b.x == 10 && b.height == 40 && b.width == 40);
}

static void test_flip_and_scale(void)
{
    enum { N = 9 };
    uint8_t source[N * N * 3];
    float plain[N * N * 3], flipped[N * N * 3];
    noise(source, sizeof source, 2);
    m2_augment a = m2_augment_usual(1, N), f;
    a.area[0] = 0;
    a.flip = 0;
    f = a;
    f.flip = 1;
    OK(m2_augment_picture(&a, 0, source, N, N, plain));
    OK(m2_augment_picture(&f, 0, source, N, N, flipped));
    for (int y = 0; y < N; y++)
        for (int x = 0; x < N; x++)
            for (int c = 0; c < 3; c++) {
                float value = plain[3 * (y * N + x) + c];
                CU_ASSERT_EQUAL(value, flipped[3 * (y * N + N - 1 - x) + c]);
                double back = (value * a.deviation[c] + a.mean[c]) * 255; /* what was normalised */
                CU_ASSERT(fabs(back - source[3 * (y * N + x) + c]) < 1e-3);
            }
    int flips = 0;
    a.flip = 0.3;
    for (int64_t p = 0; p < 20000; p++) flips += m2_augment_flips(&a, p);
    CU_ASSERT(fabs(flips / 20000.0 - 0.3) < 0.02);
}

static void test_mixing(void)
{
    enum { N = 16, DRAWS = 20000, CLASSES = 7 };
    static float one[N * N * 3], two[N * N * 3], first[N * N * 3], second[N * N * 3];
    static const struct {
        double mixup, cutmix;
    } cases[] = {{0.8, 0}, {0, 1}, {0.2, 1}, {3, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        m2_augment a = m2_augment_usual(11, N);
        a.mixup = cases[i].mixup;
        a.cutmix = cases[i].cutmix;
        a.smoothing = 0.1;
        double shares = 0, squares = 0;
        int cuts = 0;
        for (int64_t p = 0; p < DRAWS; p += 2) {
            m2_mixing m = m2_augment_mixing(&a, p), n = m2_augment_mixing(&a, p + 1);
            CU_ASSERT_FATAL(m.share >= 0 && m.share <= 1 && m.share == n.share && m.y == n.y &&
                            m.width == n.width);
            shares += m.share;
            squares += m.share * m.share;
            cuts += m.height > 0;
            if (p >= 200) continue;
            for (int k = 0; k < N * N * 3; k++)
                first[k] = one[k] = (float)sin(k + (double)p), second[k] = two[k] = (float)cos(3 * k);
            m2_augment_mix(&a, &m, two, first);
            m2_augment_mix(&a, &n, one, second);
            double from_first = 0, target[2][CLASSES], sum = 0;
            for (int k = 0; k < N * N * 3; k++) {
                CU_ASSERT_FATAL(fabs(first[k] + second[k] - one[k] - two[k]) < 1e-5);
                from_first += fabs(first[k] - one[k]) < 1e-12;
            }
            if (m.height) CU_ASSERT(fabs(from_first / (N * N * 3) - m.share) < 0.01);
            float y[CLASSES], z[CLASSES];
            m2_augment_target(&a, &m, 2, 5, CLASSES, y);
            m2_augment_target(&a, &n, 5, 2, CLASSES, z);
            for (int k = 0; k < CLASSES; k++) {
                sum += target[0][k] = y[k];
                target[1][k] = (k == 2 || k == 5 ? 0.9 : 0) + 0.2 / CLASSES; /* of the pair, unmixed */
                CU_ASSERT(fabs(y[k] + z[k] - target[1][k]) < 1e-6 && y[k] > 0);
            }
            CU_ASSERT(fabs(sum - 1) < 1e-6);
        }
        int n = DRAWS / 2;
        double alpha = cases[i].mixup, variance = squares / n - shares / n * (shares / n);
        if (!cases[i].cutmix) /* Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)) */
            CU_ASSERT(fabs(shares / n - 0.5) < 0.02 && fabs(variance * 4 * (2 * alpha + 1) - 1) < 0.05);
        CU_ASSERT(cases[i].cutmix > 0 ? cuts > n / 3 : cuts == 0);
        CU_ASSERT(!(cases[i].mixup > 0) || cuts < n * 2 / 3);
    }
    m2_augment a = m2_augment_usual(1, N);
    m2_mixing m = m2_augment_mixing(&a, 4);
    CU_ASSERT(!m.partner && m.share == 1);
}

static void test_checks(void)
{
    m2_augment good = m2_augment_usual(1, 32), a = good;
    OK(m2_augment_check(&a));
    a.flip = 1.5;
    CU_ASSERT_EQUAL(m2_augment_check(&a), M2_USAGE);
    a = good, a.area[0] = 2;
    CU_ASSERT_EQUAL(m2_augment_check(&a), M2_USAGE);
    a = good, a.deviation[1] = 0;
    CU_ASSERT_EQUAL(m2_augment_check(&a), M2_USAGE);
    a = good, a.smoothing = 1;
    CU_ASSERT_EQUAL(m2_augment_check(&a), M2_USAGE);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("augment", NULL, NULL);
    CU_ADD_TEST(suite, test_resample);
    CU_ADD_TEST(suite, test_crop);
    CU_ADD_TEST(suite, test_flip_and_scale);
    CU_ADD_TEST(suite, test_mixing);
    CU_ADD_TEST(suite, test_checks);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    return failed;
}
