/* Batches of pictures: what the position says, whatever the rows of a batch, workers and ranks. Run under TSan too. */
#include "data/image_loader.h"
#include "data/image_store.h"
#include "data/sampler.h"
#include "kernels/base/rng.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK(call) CU_ASSERT_EQUAL_FATAL((call), M2_OK)
enum {
    N = 53,
    SIDE = 12,
    BYTES = SIDE * SIDE * 3,
    CLASSES = 5,
    POSITIONS = 240,
    SMALL = 8,
    FLOATS = SMALL * SMALL * 3
};

static char path[] = "/tmp/m2-image-loader-XXXXXX";
static uint8_t pictures[N][BYTES];
static int32_t classes[N];

static void write_store(void)
{
    m2_store *s;
    m2_array_info images = {M2_U8, 4, {0, SIDE, SIDE, 3}}, labels = {M2_I32, 1, {0}};
    m2_array_options options = {.chunk = 4, .fletcher32 = 1};
    m2_rng_key key = m2_rng_make_key(1, 2, 3);
    for (int i = 0; i < N; i++) {
        classes[i] = i * 7 % CLASSES;
        for (int k = 0; k < BYTES; k++) pictures[i][k] = (uint8_t)m2_rng_u32(key, (uint64_t)(i * BYTES + k));
    }
    OK(m2_store_create(path, &s));
    OK(m2_store_make(s, "/images", &images, &options));
    OK(m2_store_make(s, "/labels", &labels, &options));
    OK(m2_store_append(s, "/images", 20, pictures)); /* along the first of four dimensions */
    OK(m2_store_append(s, "/images", N - 20, pictures[20]));
    OK(m2_store_append(s, "/labels", N, classes));
    OK(m2_store_set_text(s, "/", "classes", "a\nb\nc\nd\ne"));
    OK(m2_store_commit(&s));
}

typedef struct share { /* rank `rank` of `ranks`, rows each */
    int64_t rows, rank, ranks;
} share;

static int64_t first_row(void *ctx, int64_t batch)
{
    const share *s = ctx;
    return (batch * s->ranks + s->rank) * s->rows;
}

static void test_plain(void)
{
    m2_augment usual = m2_augment_usual(4, SIDE);
    share s = {6, 0, 1};
    m2_image_loader_spec spec = {path, 6, 1, 2, 0, m2_augment_none(&usual)};
    m2_image_loader *l;
    float pixels[6][BYTES], targets[6][CLASSES];
    int32_t labels[6];
    OK(m2_image_loader_open(&spec, first_row, &s, 0, &l));
    CU_ASSERT(m2_image_loader_pictures(l) == N && m2_image_loader_classes(l) == CLASSES);
    for (int64_t b = 0; b < 30; b++) {
        OK(m2_image_loader_next(l, &pixels[0][0], &targets[0][0], labels));
        for (int r = 0; r < 6; r++) {
            int64_t i = m2_sampler_item(6 * b + r, N, 4, 1);
            CU_ASSERT_EQUAL(labels[r], classes[i]);
            double worst = 0;
            for (int k = 0; k < BYTES; k++) {
                double e = fabs(pixels[r][k] -
                                (pictures[i][k] / 255.0 - usual.mean[k % 3]) / usual.deviation[k % 3]);
                worst = e > worst ? e : worst;
            }
            CU_ASSERT(worst < 1e-5);
            for (int k = 0; k < CLASSES; k++) CU_ASSERT_EQUAL(targets[r][k], k == classes[i]);
        }
    }
    CU_ASSERT_EQUAL(m2_image_loader_statistics(l).batches, 30);
    m2_image_loader_close(&l);
}

static void read_all(const share *s, int workers, float (*pixels)[FLOATS], float (*targets)[CLASSES])
{
    m2_image_loader_spec spec = {path, s->rows, 1, workers, workers == 2, m2_augment_usual(9, SMALL)};
    spec.augment.mixup = 0.8;
    spec.augment.cutmix = 1;
    spec.augment.smoothing = 0.1;
    m2_image_loader *l;
    OK(m2_image_loader_open(&spec, first_row, (void *)s, 0, &l));
    for (int64_t b = 0; b < POSITIONS / (s->rows * s->ranks); b++) {
        int64_t p = first_row((void *)s, b);
        OK(m2_image_loader_next(l, pixels[p], targets[p], NULL));
    }
    m2_image_loader_close(&l);
}

static void test_position_alone(void)
{
    static float pixels[2][POSITIONS][FLOATS], targets[2][POSITIONS][CLASSES];
    static const int64_t cuts[][2] = {{1, 1}, {3, 2}, {5, 3}, {8, 1}, {6, 4}, {1, 8}}; /* rows, ranks */
    share one = {POSITIONS, 0, 1};
    read_all(&one, 1, pixels[0], targets[0]);
    for (int p = 0; p < POSITIONS; p++) {
        double sum = 0;
        for (int k = 0; k < CLASSES; k++) sum += targets[0][p][k];
        CU_ASSERT(fabs(sum - 1) < 1e-5);
    }
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        memset(pixels[1], 0xff, sizeof pixels[1]);
        for (int64_t rank = 0; rank < cuts[c][1]; rank++) {
            share s = {cuts[c][0], rank, cuts[c][1]};
            read_all(&s, 1 + (int)(c % 3), pixels[1], targets[1]);
        }
        CU_ASSERT_EQUAL(memcmp(pixels[0], pixels[1], sizeof pixels[0]), 0);
        CU_ASSERT_EQUAL(memcmp(targets[0], targets[1], sizeof targets[0]), 0);
    }
}

static void test_failures(void)
{
    share s = {4, 0, 1};
    m2_image_loader *l;
    m2_image_loader_spec spec = {"/tmp/m2-no-such-store.h5", 4, 1, 1, 0, m2_augment_usual(1, SMALL)};
    static float pixels[4 * FLOATS];
    CU_ASSERT_EQUAL(m2_image_loader_open(&spec, first_row, &s, 0, &l), M2_IO);
    spec.path = path;
    spec.augment.flip = 2;
    CU_ASSERT_EQUAL(m2_image_loader_open(&spec, first_row, &s, 0, &l), M2_USAGE);
    CU_ASSERT_PTR_NULL(l);
    FILE *f = fopen(path, "r+b"); /* a flipped byte: the batch that needs it fails, and says where */
    uint8_t file[1 << 16];
    size_t n = fread(file, 1, sizeof file, f), at = 0;
    while (at + BYTES < n && memcmp(file + at, pictures[9], BYTES) != 0) at++;
    CU_ASSERT_FATAL(at + BYTES < n);
    fseek(f, (long)at + 17, SEEK_SET);
    fputc(file[at + 17] ^ 1, f);
    fclose(f);
    spec.augment.flip = 0;
    OK(m2_image_loader_open(&spec, first_row, &s, 0, &l));
    m2_status st = M2_OK;
    for (int i = 0; i < N && st == M2_OK; i++) st = m2_image_loader_next(l, pixels, NULL, NULL);
    CU_ASSERT_EQUAL(st, M2_DATA);
    const char *said = strstr(m2_message(), "in bytes ");
    unsigned long from = 0, to = 0;
    CU_ASSERT(said && sscanf(said, "in bytes %lu to %lu", &from, &to) == 2 && from <= at + 17 &&
              at + 17 < to);
    m2_image_loader_close(&l);
}

int main(void)
{
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("image_loader", NULL, NULL);
    CU_ADD_TEST(suite, write_store);
    CU_ADD_TEST(suite, test_plain);
    CU_ADD_TEST(suite, test_position_alone);
    CU_ADD_TEST(suite, test_failures);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    remove(path);
    return failed;
}
