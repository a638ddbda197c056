/* Safetensors: what is written is read back, in one file or several; half precision is exact; a damaged header is refused or
 * read within the file's bounds, never beyond. */
#include "kernels/base/rng.h"
#include "runtime/safetensors.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char base[64];

/* ---- three tensors ----------------------------------------------------------------------------------------------- */
static const m2_safetensor tensors[] = {
    {.name = "a", .dtype = "F32", .rank = 2, .dims = {3, 5}, .bytes = 60},
    {.name = "some.\"odd\" name", .dtype = "F64", .rank = 0, .bytes = 8},
    {.name = "h", .dtype = "F16", .rank = 1, .dims = {65536}, .bytes = 131072},
};

static void content(int i, unsigned char *out)
{
    for (int64_t k = 0; k < tensors[i].bytes; k++) out[k] = (unsigned char)(k * 7 + i);
    for (uint32_t h = 0; i == 2 && h < 65536; h++) {
        uint16_t half = (uint16_t)h;
        memcpy(out + 2 * h, &half, 2);
    }
}

static m2_status fill(void *ctx, int i, void *out)
{
    (void)ctx;
    content(i, out);
    return M2_OK;
}

static void path_of(const char *name, char path[128])
{
    snprintf(path, 128, "%s/%s", base, name);
}

static m2_status write_to(const char *name, int64_t file_bytes)
{
    static const char *const metadata[] = {"format", "pt", "text", "two\nlines"};
    char path[128];
    m2_safetensors_spec spec = {.n = 3,
                                .tensors = tensors,
                                .fill = fill,
                                .n_metadata = 2,
                                .metadata = metadata,
                                .file_bytes = file_bytes};
    path_of(name, path);
    return m2_safetensors_write(path, &spec);
}

static void expect_all(const char *name)
{
    char path[128];
    m2_safetensors *s;
    unsigned char *want = malloc(131072);
    path_of(name, path);
    CU_ASSERT_EQUAL_FATAL(m2_safetensors_open(path, &s), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_safetensors_count(s), 3);
    CU_ASSERT_STRING_EQUAL(m2_safetensors_metadata(s, "text"), "two\nlines");
    CU_ASSERT_PTR_NULL(m2_safetensors_metadata(s, "other"));
    for (int i = 0; i < 3; i++) {
        const m2_safetensor *t = NULL;
        for (int k = 0; k < 3; k++)
            if (!strcmp(m2_safetensors_tensor(s, k)->name, tensors[i].name)) t = m2_safetensors_tensor(s, k);
        CU_ASSERT_PTR_NOT_NULL_FATAL(t);
        content(i, want);
        CU_ASSERT(t->rank == tensors[i].rank && !strcmp(t->dtype, tensors[i].dtype) &&
                  t->bytes == tensors[i].bytes);
        CU_ASSERT_EQUAL(memcmp(t->dims, tensors[i].dims, (size_t)t->rank * sizeof *t->dims), 0);
        CU_ASSERT_EQUAL(memcmp(t->data, want, (size_t)t->bytes), 0);
    }
    m2_safetensors_close(&s);
    free(want);
}

static void test_round_trip(void)
{
    CU_ASSERT_EQUAL(write_to("one.safetensors", 0), M2_OK);
    expect_all("one.safetensors");
    CU_ASSERT_EQUAL(write_to("many", 64), M2_OK); /* one tensor each: two do not fit */
    expect_all("many");
    expect_all("many/model.safetensors.index.json");
    char path[128];
    path_of("many/model-00003-of-00003.safetensors", path);
    CU_ASSERT_EQUAL(access(path, F_OK), 0);
}

/* Against the definition: sign, exponent and fraction put together by ldexp. */
static void test_half(void)
{
    char path[128];
    m2_safetensors *s;
    double *x = malloc(65536 * sizeof *x);
    path_of("one.safetensors", path);
    CU_ASSERT_EQUAL_FATAL(m2_safetensors_open(path, &s), M2_OK);
    const m2_safetensor *t = m2_safetensors_tensor(s, 2);
    CU_ASSERT_STRING_EQUAL(t->name, "h");
    CU_ASSERT_EQUAL_FATAL(m2_safetensors_doubles(t, x), M2_OK);
    int wrong = 0;
    for (uint32_t h = 0; h < 65536; h++) {
        int exponent = (h >> 10) & 31, fraction = h & 1023;
        double sign = h & 0x8000 ? -1 : 1;
        double want = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        if (exponent == 31)
            wrong += fraction ? !isnan(x[h]) : x[h] != sign * INFINITY;
        else
            wrong += x[h] != sign * want || signbit(x[h]) != (sign < 0);
    }
    CU_ASSERT_EQUAL(wrong, 0);
    m2_safetensors_close(&s);
    free(x);
}

static uint32_t draw(void)
{
    static uint64_t counter;
    return m2_rng_u32(m2_rng_make_key(6, 6, 6), counter++);
}

/* Every byte that a reader may touch is touched, so that a bad bound shows. */
static uint64_t touch(const m2_safetensors *s)
{
    uint64_t sum = 0;
    for (int i = 0; i < m2_safetensors_count(s); i++) {
        const m2_safetensor *t = m2_safetensors_tensor(s, i);
        for (int64_t k = 0; k < t->bytes; k++) sum += ((const unsigned char *)t->data)[k];
    }
    return sum;
}

static void test_damage(void)
{
    char path[128], bad[128];
    static char whole[200000];
    int refused = 0;
    path_of("one.safetensors", path);
    path_of("bad.safetensors", bad);
    FILE *f = fopen(path, "rb");
    size_t n = fread(whole, 1, sizeof whole, f);
    fclose(f);
    uint64_t header;
    memcpy(&header, whole, 8);
    for (int i = 0; i < 3000; i++) {
        static char copy[200000];
        size_t length = n;
        memcpy(copy, whole, n);
        if (i % 5 == 0) length = draw() % n;
        for (uint32_t k = draw() % 3; k < 3; k++) copy[draw() % (header + 8)] = (char)draw();
        f = fopen(bad, "wb");
        fwrite(copy, 1, length, f);
        fclose(f);
        m2_safetensors *s;
        m2_status st = m2_safetensors_open(bad, &s);
        CU_ASSERT(st == M2_OK || (st == M2_DATA && s == NULL));
        if (st == M2_OK) touch(s);
        refused += st != M2_OK;
        m2_safetensors_close(&s);
    }
    CU_ASSERT(refused > 1500);
}

int main(void)
{
    snprintf(base, sizeof base, "/tmp/m2-safetensors-%ld", (long)getpid());
    mkdir(base, 0777);
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("safetensors", NULL, NULL);
    CU_add_test(suite, "there and back", test_round_trip);
    CU_add_test(suite, "half precision", test_half);
    CU_add_test(suite, "damaged headers", test_damage);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    static const char *const files[] = {"one.safetensors",
                                        "bad.safetensors",
                                        "many/model-00001-of-00003.safetensors",
                                        "many/model-00002-of-00003.safetensors",
                                        "many/model-00003-of-00003.safetensors",
                                        "many/model.safetensors.index.json",
                                        "many",
                                        ""};
    for (int i = 0; i < 8; i++) {
        char path[128];
        path_of(files[i], path);
        remove(path);
    }
    return failures != 0;
}
