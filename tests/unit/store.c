/* Stores: what is written comes back, pieces make a whole, nothing unfinished is visible, damage is noticed and named. */
#include "data/store.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define OK(call) CU_ASSERT_EQUAL_FATAL((call), M2_OK)

static char folder[64];

static const char *at(const char *name)
{
    static char path[4][128];
    static int i;
    char *p = path[i++ % 4];
    snprintf(p, 128, "%s/%s", folder, name);
    return p;
}

static void test_arrays_of_every_type(void)
{
    m2_store *s;
    OK(m2_store_create(at("types.h5"), &s));
    for (int t = 0; t < M2_DTYPE_COUNT; t++) {
        unsigned char in[6 * 8], out[6 * 8];
        for (size_t i = 0; i < sizeof in; i++) in[i] = (unsigned char)(7 * i + 1);
        char name[64];
        snprintf(name, sizeof name, "group/deep/%s", m2_dtype_name((m2_dtype)t));
        m2_array_info info = {(m2_dtype)t, 2, {2, 3}}, back;
        int64_t zero[2] = {0, 0}, all[2] = {2, 3};
        OK(m2_store_make(s, name, &info, NULL));
        OK(m2_store_write(s, name, zero, all, in));
        OK(m2_store_info(s, name, &back));
        CU_ASSERT(back.dtype == (m2_dtype)t && back.rank == 2 && back.shape[0] == 2 && back.shape[1] == 3);
        OK(m2_store_read(s, name, zero, all, out));
        CU_ASSERT_EQUAL(memcmp(in, out, (size_t)(6 * m2_dtype_size((m2_dtype)t))), 0);
        int64_t corner[2] = {1, 1}, two[2] = {1, 2};
        OK(m2_store_read(s, name, corner, two, out));
        CU_ASSERT_EQUAL(
            memcmp(in + 4 * m2_dtype_size((m2_dtype)t), out, (size_t)(2 * m2_dtype_size((m2_dtype)t))), 0);
    }
    OK(m2_store_commit(&s));
    CU_ASSERT_PTR_NULL(s);
}

static void test_append_grows(void)
{
    m2_store *s;
    m2_array_info info = {M2_U16, 1, {0}};
    m2_array_options opt = {.chunk = 64, .fletcher32 = 1};
    OK(m2_store_create(at("grow.h5"), &s));
    OK(m2_store_make(s, "/tokens", &info, &opt));
    uint16_t v[1000], back[1000];
    for (int i = 0; i < 1000; i++) v[i] = (uint16_t)(i * i);
    for (int64_t n = 0, step; n < 1000; n += step) {
        step = n + 1 < 1000 - n ? n + 1 : 1000 - n;
        OK(m2_store_append(s, "/tokens", step, v + n));
    }
    OK(m2_store_commit(&s));
    OK(m2_store_open(at("grow.h5"), &s));
    OK(m2_store_info(s, "/tokens", &info));
    CU_ASSERT_EQUAL_FATAL(info.shape[0], 1000);
    int64_t zero = 0, all = 1000;
    OK(m2_store_read(s, "/tokens", &zero, &all, back));
    CU_ASSERT_EQUAL(memcmp(v, back, sizeof v), 0);
    m2_store_close(&s);
}

static void collect(void *ctx, const char *name)
{
    char *all = ctx;
    snprintf(all + strlen(all), 64 - strlen(all), "%s ", name);
}

static void test_attributes_and_names(void)
{
    m2_store *s;
    OK(m2_store_create(at("attr.h5"), &s));
    char *big = malloc(300001), *text;
    memset(big, 'x', 300000);
    big[300000] = 0;
    OK(m2_store_set_text(s, "/", "big", big));
    OK(m2_store_set_text(s, "/", "name", "first"));
    OK(m2_store_set_text(s, "/", "name", "h\xc3\xa9"));
    OK(m2_store_set_i64(s, "/", "n", -5000000000));
    m2_array_info info = {M2_F32, 0, {0}};
    float x = 3, y = 0;
    OK(m2_store_make(s, "b/one", &info, NULL));
    OK(m2_store_make(s, "a", &info, NULL));
    OK(m2_store_write(s, "a", NULL, NULL, &x));
    OK(m2_store_commit(&s));
    OK(m2_store_open(at("attr.h5"), &s));
    OK(m2_store_get_text(s, "/", "name", &text));
    CU_ASSERT_STRING_EQUAL(text, "h\xc3\xa9");
    free(text);
    OK(m2_store_get_text(s, "/", "big", &text));
    CU_ASSERT_STRING_EQUAL(text, big);
    free(text);
    free(big);
    int64_t n;
    OK(m2_store_get_i64(s, "/", "n", &n));
    CU_ASSERT_EQUAL(n, -5000000000);
    OK(m2_store_read(s, "a", NULL, NULL, &y));
    CU_ASSERT_EQUAL(y, 3);
    char names[64] = "";
    OK(m2_store_list(s, "/", collect, names));
    CU_ASSERT_STRING_EQUAL(names, "a b ");
    CU_ASSERT(m2_store_has(s, "b/one") && !m2_store_has(s, "b/two") && !m2_store_has(s, "c/two"));
    CU_ASSERT_EQUAL(m2_store_get_i64(s, "/", "missing", &n), M2_DATA);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "missing"));
    CU_ASSERT_EQUAL(m2_store_get_i64(s, "/", "name", &n), M2_DATA);
    m2_store_close(&s);
}

/* A 4 x 6 array cut into two files, by columns; the folder is moved before it is read. */
static void test_virtual(void)
{
    char from[96], to[96], path[128];
    snprintf(from, sizeof from, "%s/step.tmp", folder);
    snprintf(to, sizeof to, "%s/step", folder);
    CU_ASSERT_EQUAL_FATAL(mkdir(from, 0777), 0);
    m2_store *s;
    m2_virtual_slab slabs[2] = {{"p0.h5", "w", {0, 0}, {4, 2}}, {"p1.h5", "w", {0, 2}, {4, 4}}};
    int64_t zero[2] = {0, 0};
    for (int p = 0; p < 2; p++) {
        m2_array_info info = {M2_F32, 2, {4, slabs[p].count[1]}};
        float v[16];
        for (int64_t i = 0; i < 4; i++)
            for (int64_t j = 0; j < info.shape[1]; j++)
                v[i * info.shape[1] + j] = (float)(10 * i + j + slabs[p].offset[1]);
        snprintf(path, sizeof path, "%s/%s", from, slabs[p].file);
        OK(m2_store_create(path, &s));
        OK(m2_store_make(s, "w", &info, NULL));
        OK(m2_store_write(s, "w", zero, slabs[p].count, v));
        OK(m2_store_commit(&s));
    }
    m2_array_info whole = {M2_F32, 2, {4, 6}};
    snprintf(path, sizeof path, "%s/manifest.h5", from);
    OK(m2_store_create(path, &s));
    OK(m2_store_make_virtual(s, "w", &whole, 2, slabs));
    OK(m2_store_commit(&s));
    CU_ASSERT_EQUAL_FATAL(rename(from, to), 0);
    snprintf(path, sizeof path, "%s/manifest.h5", to);
    OK(m2_store_open(path, &s));
    float back[24];
    int64_t all[2] = {4, 6};
    OK(m2_store_read(s, "w", zero, all, back));
    for (int i = 0; i < 24; i++) CU_ASSERT_EQUAL(back[i], (float)(10 * (i / 6) + i % 6));
    m2_store_close(&s);
    char piece[128];
    snprintf(piece, sizeof piece, "%s/p1.h5", to);
    unlink(piece);
    OK(m2_store_open(path, &s));
    CU_ASSERT_EQUAL(m2_store_read(s, "w", zero, all, back), M2_IO); /* not zeros */
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "p1.h5"));
    m2_store_close(&s);
}

static void test_unfinished_is_invisible(void)
{
    m2_store *s;
    m2_array_info info = {M2_I32, 1, {4}};
    OK(m2_store_create(at("half.h5"), &s));
    OK(m2_store_make(s, "x", &info, NULL));
    CU_ASSERT_NOT_EQUAL(access(at("half.h5"), F_OK), 0);
    char temporary[128];
    snprintf(temporary, sizeof temporary, "%s.tmp-%ld", at("half.h5"), (long)getpid());
    CU_ASSERT_EQUAL(access(temporary, F_OK), 0);
    m2_store_close(&s);
    CU_ASSERT_NOT_EQUAL(access(temporary, F_OK), 0);
    m2_store_close(&s); /* NULL */
    CU_ASSERT_EQUAL(m2_store_create(at("no/such/folder.h5"), &s), M2_IO);
    CU_ASSERT_EQUAL(m2_store_open(at("none.h5"), &s), M2_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "none.h5"));
}

static void flip(const char *path, long offset)
{
    FILE *f = fopen(path, "r+b");
    fseek(f, offset, SEEK_SET);
    int c = fgetc(f);
    fseek(f, offset, SEEK_SET);
    fputc(c ^ 0x10, f);
    fclose(f);
}

static void test_damage(void)
{
    m2_store *s;
    m2_array_info info = {M2_U16, 1, {0}};
    m2_array_options opt = {.chunk = 4096, .fletcher32 = 1};
    static uint16_t v[40960];
    for (int i = 0; i < 40960; i++) v[i] = 0x5a5a;
    OK(m2_store_create(at("flip.h5"), &s));
    OK(m2_store_make(s, "/tokens", &info, &opt));
    OK(m2_store_append(s, "/tokens", 40960, v));
    OK(m2_store_commit(&s));
    FILE *f = fopen(at("flip.h5"), "rb");
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    fclose(f);
    flip(at("flip.h5"), size / 2);
    OK(m2_store_open(at("flip.h5"), &s));
    int64_t zero = 0, all = 40960;
    CU_ASSERT_EQUAL(m2_store_read(s, "/tokens", &zero, &all, v), M2_DATA);
    CU_ASSERT(strstr(m2_message(), "flip.h5") && strstr(m2_message(), "/tokens") &&
              strstr(m2_message(), "Fletcher32"));
    int64_t beyond = 40961;
    CU_ASSERT_EQUAL(m2_store_read(s, "/tokens", &zero, &beyond, v), M2_DATA);
    CU_ASSERT_EQUAL(m2_store_read(s, "/other", &zero, &all, v), M2_DATA);
    m2_store_close(&s);
    CU_ASSERT_EQUAL_FATAL(truncate(at("flip.h5"), size / 2), 0);
    CU_ASSERT_EQUAL(m2_store_open(at("flip.h5"), &s), M2_DATA);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "truncated"));
    f = fopen(at("text.h5"), "w");
    fputs("not a store", f);
    fclose(f);
    CU_ASSERT_EQUAL(m2_store_open(at("text.h5"), &s), M2_DATA);
}

int main(void)
{
    snprintf(folder, sizeof folder, "/tmp/m2-store-XXXXXX");
    if (!mkdtemp(folder)) return 1;
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("store", NULL, NULL);
    CU_ADD_TEST(suite, test_arrays_of_every_type);
    CU_ADD_TEST(suite, test_append_grows);
    CU_ADD_TEST(suite, test_attributes_and_names);
    CU_ADD_TEST(suite, test_virtual);
    CU_ADD_TEST(suite, test_unfinished_is_invisible);
    CU_ADD_TEST(suite, test_damage);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    char clean[96];
    snprintf(clean, sizeof clean, "%s", folder);
    if (!failed) { /* the files of a failed run stay for a look */
        static const char *const names[] = {"types.h5", "grow.h5",          "attr.h5",    "flip.h5",
                                            "text.h5",  "step/manifest.h5", "step/p0.h5", "step"};
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) remove(at(names[i]));
        remove(clean);
    }
    CU_cleanup_registry();
    return failed;
}
