#define _XOPEN_SOURCE 700 /* nftw */
/* Stores of pictures: pixels are libjpeg's and PNG's own, classes are folders, archives and folders give the same, and broken
 * pictures are named. */
#include "data/image_store.h"
#include "data/picture.h"
#include "data/tar.h"
#include "kernels/base/rng.h"

#include <CUnit/Basic.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jpeglib.h>
#include <png.h>

#define OK(call) CU_ASSERT_EQUAL_FATAL((call), M2_OK)
enum { H = 24, W = 36, PICTURES = 300, PIXELS = H * W * 3 };

static char folder[64];
static uint8_t expected[PICTURES][PIXELS];
static const char *const classes[] = {"dog", "ant", "cat"}; /* not in order */

static const char *at(const char *name)
{
    static char path[4][512];
    static int i;
    char *p = path[i++ % 4];
    snprintf(p, 512, "%s/%s", folder, name);
    return p;
}

/* ---- pictures ---------------------------------------------------------------------------------------------------- */
static void paint(int i, uint8_t *pixels)
{
    m2_rng_key key = m2_rng_make_key((uint64_t)i, 0, 0);
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            for (int c = 0; c < 3; c++)
                pixels[3 * (y * W + x) + c] =
                    (uint8_t)((x * (c + 2) + y * (i % 7 + 1)) % 200 +
                              m2_rng_u32(key, (uint64_t)(3 * (y * W + x) + c)) % 40);
}

static size_t make_jpeg(const uint8_t *pixels, int width, int height, uint8_t **out)
{
    struct jpeg_compress_struct j;
    struct jpeg_error_mgr errors;
    unsigned long size = 0;
    *out = NULL;
    j.err = jpeg_std_error(&errors);
    jpeg_create_compress(&j);
    jpeg_mem_dest(&j, out, &size);
    j.image_width = (JDIMENSION)width;
    j.image_height = (JDIMENSION)height;
    j.input_components = 3;
    j.in_color_space = JCS_RGB;
    jpeg_set_defaults(&j);
    jpeg_start_compress(&j, TRUE);
    while (j.next_scanline < j.image_height) {
        JSAMPROW row = (uint8_t *)pixels + (size_t)j.next_scanline * (size_t)width * 3;
        jpeg_write_scanlines(&j, &row, 1);
    }
    jpeg_finish_compress(&j);
    jpeg_destroy_compress(&j);
    return size;
}

static void decode_jpeg(const uint8_t *bytes, size_t n, int width, uint8_t *pixels)
{
    struct jpeg_decompress_struct j;
    struct jpeg_error_mgr errors;
    j.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&j);
    jpeg_mem_src(&j, bytes, n);
    jpeg_read_header(&j, TRUE);
    jpeg_start_decompress(&j);
    while (j.output_scanline < j.output_height) {
        JSAMPROW row = pixels + (size_t)j.output_scanline * (size_t)width * 3;
        jpeg_read_scanlines(&j, &row, 1);
    }
    jpeg_finish_decompress(&j);
    jpeg_destroy_decompress(&j);
}

static size_t make_png(const uint8_t *pixels, uint8_t **out)
{
    png_image p = {.version = PNG_IMAGE_VERSION, .width = W, .height = H, .format = PNG_FORMAT_RGB};
    png_alloc_size_t size = 0;
    png_image_write_to_memory(&p, NULL, &size, 0, pixels, 0, NULL);
    *out = malloc(size);
    png_image_write_to_memory(&p, *out, &size, 0, pixels, 0, NULL);
    return size;
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    CU_ASSERT_FATAL(f && fwrite(bytes, 1, n, f) == n && !fclose(f));
}

static void write_header(FILE *f, const char *name, size_t size, char type)
{
    char block[512] = {0};
    unsigned sum = 0;
    snprintf(block, 100, "%s", name);
    snprintf(block + 100, 8, "%07o", 0644);
    snprintf(block + 124, 12, "%011lo", (unsigned long)size);
    snprintf(block + 136, 12, "%011o", 0);
    memset(block + 148, ' ', 8);
    block[156] = type;
    memcpy(block + 257,
           "ustar\0"
           "00",
           8);
    for (int i = 0; i < 512; i++) sum += (unsigned char)block[i];
    snprintf(block + 148, 8, "%06o", sum);
    fwrite(block, 1, 512, f);
}

static void write_member(FILE *f, const char *name, const void *bytes, size_t n)
{
    static const char zeros[512];
    static int longs;
    if (strlen(name) >= 100 && longs++ % 2) { /* as GNU tar does */
        write_header(f, "././@LongLink", strlen(name) + 1, 'L');
        fwrite(name, 1, strlen(name) + 1, f);
        fwrite(zeros, 1, (512 - (strlen(name) + 1) % 512) % 512, f);
    } else if (strlen(name) >= 100) { /* as pax does: "LENGTH path=NAME\n", the length counting itself */
        char record[512];
        int size =
            snprintf(record, sizeof record, "%d mtime=1.5\n%d path=%s\n", 13, (int)strlen(name) + 10, name);
        write_header(f, "PaxHeaders/x", (size_t)size, 'x');
        fwrite(record, 1, (size_t)size, f);
        fwrite(zeros, 1, (512 - (size_t)size % 512) % 512, f);
    }
    write_header(f, name, n, '0');
    fwrite(bytes, 1, n, f);
    fwrite(zeros, 1, (512 - n % 512) % 512, f);
}

/* Every third a PNG; the same files in folders and in an archive, where some have long names. */
static void write_pictures(void)
{
    static const char zeros[1024];
    static const char deep[] =
        "a-folder-with-a-name-that-is-long/and-another-one-inside-it-whose-name-is-not-short-either/and/more";
    uint8_t pixels[PIXELS];
    char name[256];
    FILE *tar = fopen(at("all.tar"), "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(tar);
    mkdir(at("tree"), 0777);
    for (int c = 0; c < 3; c++) {
        snprintf(name, sizeof name, "tree/%s", classes[c]);
        mkdir(at(name), 0777);
    }
    write_header(tar, "train/", 0, '5');
    for (int i = 0; i < PICTURES; i++) {
        uint8_t *bytes;
        const char *class = classes[i * 3 / PICTURES], *suffix = i % 3 ? "jpg" : "PNG";
        paint(i, pixels);
        size_t n = i % 3 ? make_jpeg(pixels, W, H, &bytes) : make_png(pixels, &bytes);
        if (i % 3)
            decode_jpeg(bytes, n, W, expected[i]);
        else
            memcpy(expected[i], pixels, PIXELS);
        snprintf(name, sizeof name, "tree/%s/%04d.%s", class, i, suffix);
        write_file(at(name), bytes, n);
        snprintf(name, sizeof name, "train/%s%s%s/%04d.%s", i % 50 ? "" : deep, i % 50 ? "" : "/", class, i,
                 suffix);
        write_member(tar, name, bytes, n);
        free(bytes);
    }
    write_member(tar, "train/notes.txt", "no picture", 10);
    fwrite(zeros, 1, 1024, tar);
    fclose(tar);
}

/* ---- stores ------------------------------------------------------------------------------------------------------ */
static m2_status make(const char *from, const char *out, int64_t size, int skip, m2_image_report *r)
{
    char *paths[] = {(char *)from};
    m2_image_spec spec = {
        .paths = paths, .count = 1, .out = out, .size = size, .threads = 3, .skip_errors = skip};
    return m2_image_store_make(&spec, r);
}

/* Every picture of the store is number first, first + 1, ... of the class, whatever the order of classes. */
static void check_store(const char *path)
{
    m2_store *s;
    m2_image_store_info info;
    char *names, *counts;
    int64_t zero = 0, n = PICTURES;
    int32_t labels[PICTURES];
    int next[3] = {PICTURES / 3, 2 * PICTURES / 3, 0}; /* of ant, cat, dog */
    OK(m2_store_open(path, &s));
    OK(m2_image_store_info_read(s, &info));
    CU_ASSERT_FATAL(info.images == PICTURES && info.height == H && info.width == W && info.classes == 3);
    OK(m2_store_get_text(s, "/", "classes", &names));
    OK(m2_store_get_text(s, "/", "class_counts", &counts));
    CU_ASSERT_STRING_EQUAL(names, "ant\ncat\ndog");
    CU_ASSERT_STRING_EQUAL(counts, "100\n100\n100");
    OK(m2_store_read(s, "/labels", &zero, &n, labels));
    for (int64_t i = 0; i < PICTURES; i++) {
        uint8_t pixels[PIXELS];
        int64_t offset[4] = {i}, count[4] = {1, H, W, 3};
        OK(m2_store_read(s, "/images", offset, count, pixels));
        CU_ASSERT_FATAL(labels[i] >= 0 && labels[i] < 3 && next[labels[i]] < PICTURES);
        CU_ASSERT_EQUAL(memcmp(pixels, expected[next[labels[i]]++], PIXELS), 0);
    }
    free(names);
    free(counts);
    m2_store_close(&s);
}

static void test_folders_and_archives(void)
{
    m2_image_report r;
    OK(make(at("tree"), at("tree.h5"), 0, 0, &r));
    CU_ASSERT(r.images == PICTURES && r.classes == 3 && r.skipped == 0);
    check_store(at("tree.h5"));
    OK(make(at("all.tar"), at("tar.h5"), 0, 0, &r));
    check_store(at("tar.h5"));
    char *paths[] = {(char *)at("all.tar")};
    m2_image_spec spec = {.paths = paths, .count = 1, .out = at("under.h5"), .under = "train", .threads = 2};
    OK(m2_image_store_make(&spec, &r));
    check_store(at("under.h5"));
    spec.under = "trai";
    CU_ASSERT_EQUAL(m2_image_store_make(&spec, &r), M2_DATA);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "under a folder trai"));
}

static void test_sizes(void)
{
    m2_image_report r;
    m2_store *s;
    int64_t offset[4] = {0}, count[4] = {1, H, H, 3};
    uint8_t pixels[H * H * 3];
    OK(make(at("all.tar"), at("middle.h5"), H, 0, &r)); /* the middle, not resampled */
    OK(m2_store_open(at("middle.h5"), &s));
    OK(m2_store_read(s, "/images", offset, count, pixels));
    for (int y = 0; y < H; y++)
        CU_ASSERT_EQUAL(memcmp(pixels + 3 * H * y, expected[0] + 3 * (W * y + (W - H) / 2), 3 * H), 0);
    m2_store_close(&s);
    OK(make(at("all.tar"), at("small.h5"), 10, 0, &r));
    CU_ASSERT(r.height == 10 && r.width == 10);
}

static void refuse(const char *from, const char *text)
{
    m2_image_report r;
    CU_ASSERT_EQUAL(make(from, at("bad.h5"), 0, 0, &r), M2_DATA);
    if (!strstr(m2_message(), text)) printf("\n'%s' is not said: %s\n", text, m2_message());
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), text));
    CU_ASSERT(access(at("bad.h5"), F_OK) != 0);
}

static void test_broken(void)
{
    uint8_t pixels[PIXELS], *bytes, *archive;
    m2_image_report r;
    char expect[128];
    mkdir(at("broken"), 0777);
    mkdir(at("broken/x"), 0777);
    refuse(at("broken"), "no picture was found");
    paint(1, pixels);
    size_t n = make_jpeg(pixels, W, H, &bytes);
    write_file(at("broken/x/1.jpg"), bytes, n);
    write_file(at("broken/x/2.jpg"), bytes, n / 2);
    snprintf(expect, sizeof expect, "x/2.jpg: broken JPEG at byte %zu of %zu", n / 2, n / 2);
    refuse(at("broken"), expect);
    free(bytes);
    n = make_png(pixels, &bytes);
    write_file(at("broken/x/3.png"), bytes, n - 20);
    bytes[n / 2] ^= 4;
    write_file(at("broken/x/4.png"), bytes, n);
    write_file(at("broken/x/5.png"), "text", 4);
    free(bytes);
    n = make_jpeg(pixels, W / 2, H, &bytes);
    write_file(at("broken/x/6.jpg"), bytes, n);
    free(bytes);
    OK(make(at("broken"), at("skip.h5"), 0, 1, &r));
    CU_ASSERT(r.images == 1 && r.skipped == 5 && strstr(r.first_skipped, "x/2.jpg"));
    remove(at("broken/x/2.jpg"));
    refuse(at("broken"), "x/3.png: broken PNG");
    remove(at("broken/x/3.png"));
    refuse(at("broken"), "x/4.png: broken PNG");
    remove(at("broken/x/4.png"));
    refuse(at("broken"), "begin neither like a JPEG nor like a PNG");
    remove(at("broken/x/5.png"));
    refuse(at("broken"), "18 x 24 pixels, the pictures before it 36 x 24: give --size");

    FILE *f = fopen(at("all.tar"), "rb"); /* archives cut off, and with a damaged header */
    archive = malloc(1 << 20);
    size_t size = fread(archive, 1, 1 << 20, f);
    fclose(f);
    write_file(at("cut.tar"), archive, 2000);
    refuse(at("cut.tar"), "cut.tar: cut off at byte 2000 of the archive");
    archive[520] ^= 1;
    write_file(at("header.tar"), archive, size);
    refuse(at("header.tar"), "header.tar: byte 512 of the archive is not the beginning of a tar header");
    free(archive);
}

/* Bytes changed at random: a picture, or one sentence; never a crash. Under the sanitizers too. */
static void test_mutations(void)
{
    uint8_t pixels[PIXELS], *files[2], *bytes;
    size_t sizes[2];
    int refused = 0;
    m2_rng_key key = m2_rng_make_key(5, 0, 0);
    paint(3, pixels);
    sizes[0] = make_jpeg(pixels, W, H, &files[0]);
    sizes[1] = make_png(pixels, &files[1]);
    for (uint64_t i = 0; i < 600; i++) {
        size_t n = sizes[i % 2];
        m2i_picture picture;
        bytes = malloc(n);
        memcpy(bytes, files[i % 2], n);
        for (uint64_t k = 0; k <= i % 5; k++)
            bytes[m2_rng_u32(key, 16 * i + k) % (i % 3 ? n : 300)] ^=
                (uint8_t)(1 << m2_rng_u32(key, 16 * i + 8 + k) % 8);
        m2_status st =
            m2i_picture_decode(bytes, n - m2_rng_u32(key, 16 * i + 15) % 8 * (i % 7 == 0), &picture);
        CU_ASSERT((st == M2_OK && picture.pixels) || (st == M2_DATA && !picture.pixels && *m2_message()));
        refused += st != M2_OK;
        if (st == M2_OK) free(picture.pixels);
        free(bytes);
    }
    CU_ASSERT(refused > 250);
    free(files[0]);
    free(files[1]);

    FILE *f = fopen(at("all.tar"), "rb"); /* archives whose headers are damaged, sums put right */
    bytes = malloc(1 << 16);
    size_t size = fread(bytes, 1, 1 << 16, f);
    fclose(f);
    for (uint64_t i = 0; i < 200; i++) {
        uint8_t *copy = malloc(size);
        memcpy(copy, bytes, size);
        uint8_t *header = copy + 512 * (m2_rng_u32(key, 99000 + 8 * i) % 8);
        for (uint64_t k = 0; k < 3; k++)
            header[m2_rng_u32(key, 99000 + 8 * i + 1 + k) % 160] =
                (uint8_t)(m2_rng_u32(key, 99000 + 8 * i + 4 + k) % (i % 2 ? 256 : 56));
        unsigned sum = 0;
        memset(header + 148, ' ', 8);
        for (int k = 0; k < 512; k++) sum += header[k];
        snprintf((char *)header + 148, 8, "%06o", sum);
        write_file(at("mutated.tar"), copy, size);
        free(copy);
        m2_image_report r;
        m2_status st = make(at("mutated.tar"), at("mutated.h5"), 8, (int)(i & 1), &r);
        CU_ASSERT(st == M2_OK || st == M2_DATA || st == M2_TRANSIENT);
    }
    free(bytes);
}

/* All of CIFAR-10, where it is: 60,000 pictures, 6,000 of each class, each exactly as libjpeg decodes it. */
static void test_cifar(void)
{
    enum { SIDE = 32, BYTES = SIDE * SIDE * 3, AT_ONCE = 1000 };
    static uint8_t stored[AT_ONCE][BYTES], pixels[BYTES], file[1 << 16];
    const char *data = getenv("M2_SHARED_DATA"), *source = getenv("M2_SOURCE"), *name;
    char path[512];
    snprintf(path, sizeof path, "%s%s/images/cifar10_jpeg.tar.xz",
             data     ? data
             : source ? source
                      : ".",
             data ? "" : "/../shared/data");
    if (access(path, R_OK)) {
        printf("left out, no %s ", path);
        return;
    }
    m2_image_report r;
    m2_store *s;
    m2i_tar *tar;
    char *counts, *names;
    int64_t bytes, bad = 0;
    OK(make(path, at("cifar.h5"), 0, 0, &r));
    CU_ASSERT_FATAL(r.images == 60000 && r.classes == 10 && r.height == SIDE && r.width == SIDE);
    OK(m2_store_open(at("cifar.h5"), &s));
    OK(m2_store_get_text(s, "/", "class_counts", &counts));
    OK(m2_store_get_text(s, "/", "classes", &names));
    CU_ASSERT_STRING_EQUAL(counts, "6000\n6000\n6000\n6000\n6000\n6000\n6000\n6000\n6000\n6000");
    CU_ASSERT_STRING_EQUAL(names, "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck");
    OK(m2i_tar_open(path, &tar));
    for (int64_t i = 0; i < r.images; i++) {
        do {
            OK(m2i_tar_next(tar, &name, &bytes));
        } while (name && !strstr(name, ".jpg"));
        CU_ASSERT_FATAL(name && bytes <= (int64_t)sizeof file);
        OK(m2i_tar_read(tar, file));
        decode_jpeg(file, (size_t)bytes, SIDE, pixels);
        int64_t offset[4] = {i}, count[4] = {AT_ONCE, SIDE, SIDE, 3};
        if (i % AT_ONCE == 0) OK(m2_store_read(s, "/images", offset, count, stored));
        bad += memcmp(stored[i % AT_ONCE], pixels, BYTES) != 0;
    }
    CU_ASSERT_EQUAL(bad, 0);
    OK(m2i_tar_next(tar, &name, &bytes));
    CU_ASSERT_PTR_NULL(name);
    m2i_tar_close(&tar);
    m2_store_close(&s);
    free(counts);
    free(names);
}

static int remove_entry(const char *path, const struct stat *s, int type, struct FTW *walk)
{
    (void)s, (void)type, (void)walk;
    return remove(path);
}

int main(void)
{
    snprintf(folder, sizeof folder, "/tmp/m2-images-XXXXXX");
    if (!mkdtemp(folder)) return 1;
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("image_store", NULL, NULL);
    CU_ADD_TEST(suite, write_pictures);
    CU_ADD_TEST(suite, test_folders_and_archives);
    CU_ADD_TEST(suite, test_sizes);
    CU_ADD_TEST(suite, test_broken);
    CU_ADD_TEST(suite, test_mutations);
    CU_ADD_TEST(suite, test_cifar);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return failed;
}
