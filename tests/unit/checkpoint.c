/* Checkpoints: shares and boxes cover everything once; saved by any number of ranks they load to the same bits; damage,
 * loss and other models are named; old ones go, kept ones stay. */
#include "kernels/base/rng.h"
#include "runtime/checkpoint/internal.h"

#include <CUnit/Basic.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char base[64];
static m2_device *cpu;

/* ---- a made-up model --------------------------------------------------------------------------------------------- */
enum { ROWS = 6, FLAT = 256 * 40 };
typedef struct model {
    m2_param rows[ROWS];
    float data[3][FLAT];
    m2_state state;
} model;

static void fill(model *m, float scale)
{
    static const struct {
        const char *name;
        int rank;
        int64_t dims[4];
        unsigned flags;
    } rows[ROWS] = {{"embed.weight", 2, {37, 16}, 0},         {"block.0.norm.gamma", 1, {16}, 0},
                    {"block.0.mixer.k", 4, {3, 5, 7, 11}, 0}, {"block.0.scale", 0, {0}, 0},
                    {"block.1.odd", 3, {1, 13, 1}, 0},        {"block.1.pos", 2, {9, 5}, M2_PARAM_FROZEN}};
    int64_t at = 0;
    memset(m, 0, sizeof *m);
    for (int i = 0; i < ROWS; i++) {
        m2_param *p = &m->rows[i];
        snprintf(p->name, sizeof p->name, "%s", rows[i].name);
        p->rank = rows[i].rank;
        memcpy(p->dims, rows[i].dims, sizeof p->dims);
        p->flags = rows[i].flags;
        p->offset = at;
        int64_t n = m2i_elements(p->rank, p->dims);
        for (int a = 0; a < 3; a++)
            for (int64_t e = 0; e < n; e++)
                m->data[a][at + e] =
                    scale *
                    (float)m2_rng_normal(m2_rng_make_key(1, 2, (uint64_t)(a * ROWS + i)), (uint64_t)e);
        at += (n + 255) / 256 * 256;
    }
    m->state = (m2_state){.device = cpu, .n_rows = ROWS, .n_arrays = 3, .rows = m->rows};
    static const char *const kinds[] = {"param", "m", "v"};
    for (int a = 0; a < 3; a++) {
        m->state.arrays[a].kind = kinds[a];
        m->state.arrays[a].base = m->data[a];
        m->state.arrays[a].dtype = M2_F32;
    }
}

static void wipe(model *m)
{
    memset(m->data, 0xee, sizeof m->data);
}

/* All rows equal; a frozen row has no moments. */
static int same(const model *x, const model *y)
{
    for (int a = 0; a < x->state.n_arrays; a++)
        for (int i = 0; i < ROWS; i++) {
            const m2_param *p = &x->rows[i];
            if (a && p->flags & M2_PARAM_FROZEN) continue;
            size_t bytes = (size_t)m2i_elements(p->rank, p->dims) * sizeof(float);
            if (memcmp(x->data[a] + p->offset, y->data[a] + p->offset, bytes)) return 0;
        }
    return 1;
}

/* ---- saving by ranks that are threads ---------------------------------------------------------------------------- */
typedef struct saver {
    const m2_state *state;
    m2_comm *comm;
    m2_save_spec spec;
    m2_status got;
    m2_error why;
} saver;

static void *save_thread(void *arg)
{
    saver *s = arg;
    s->got = m2_checkpoint_save(&s->spec, s->state, s->comm);
    m2_error_take(&s->why, s->got);
    return NULL;
}

static m2_status save_keeping(const model *m, int64_t step, int ranks, int64_t keep, int64_t keep_every)
{
    m2_comm *comm[8];
    pthread_t threads[8];
    saver savers[8];
    CU_ASSERT_EQUAL_FATAL(m2_comm_open_threads(ranks, comm), M2_OK);
    for (int r = 0; r < ranks; r++) {
        savers[r] = (saver){.state = &m->state, .comm = comm[r]};
        savers[r].spec = (m2_save_spec){.folder = base,
                                        .step = step,
                                        .rows = 3 * step,
                                        .config = "train:\n  steps: 7\n",
                                        .tokenizer = "bytes",
                                        .keep = keep,
                                        .keep_every = keep_every};
        pthread_create(&threads[r], NULL, save_thread, &savers[r]);
    }
    m2_status st = M2_OK;
    for (int r = 0; r < ranks; r++) {
        pthread_join(threads[r], NULL);
        if (savers[r].got != M2_OK) st = m2_error_put(&savers[r].why);
    }
    for (int r = 0; r < ranks; r++) m2_comm_close(&comm[r]);
    return st;
}

static void save(const model *m, int64_t step, int ranks)
{
    CU_ASSERT_EQUAL_FATAL(save_keeping(m, step, ranks, 100, 0), M2_OK);
}

static m2_status load(model *m, m2_manifest *mf)
{
    char folder[M2_PATH];
    memset(mf, 0, sizeof *mf);
    M2_TRY(m2_checkpoint_find(base, folder, NULL));
    M2_TRY(m2_manifest_read(folder, mf));
    return m2_checkpoint_load(mf, &m->state);
}

static void empty(void)
{
    DIR *dir = opendir(base);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[M2_PATH];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", base, e->d_name);
        (void)m2i_remove_folder(path);
    }
    if (dir) closedir(dir);
}

/* The message of the last load must name all of these. */
static int says(const char *a, const char *b)
{
    if (strstr(m2_message(), a) && strstr(m2_message(), b)) return 1;
    printf("  message: %s\n", m2_message());
    return 0;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */
static void test_shares(void)
{
    for (int64_t total = 0; total < 40; total += 13)
        for (int ranks = 1; ranks < 9; ranks++) {
            int64_t at = 0, begin, end;
            for (int r = 0; r < ranks; r++) {
                m2i_share(total, r, ranks, &begin, &end);
                CU_ASSERT(begin == at && end - begin <= total / ranks + 1);
                at = end;
            }
            CU_ASSERT_EQUAL(at, total);
        }
}

/* The boxes, read row by row, are the elements begin, begin + 1, ... end - 1. */
static int boxes_are(int rank, const int64_t *shape, int64_t begin, int64_t end)
{
    m2i_box boxes[M2I_MAX_BOXES];
    int n = m2i_boxes(rank, shape, begin, end, boxes);
    if (n > 2 * rank - 1) return 0;
    int64_t expected = begin;
    for (int b = 0; b < n; b++) {
        int64_t count = m2i_elements(rank, boxes[b].count);
        for (int64_t e = 0; e < count; e++, expected++) {
            int64_t rest = e, index[4], at = 0;
            for (int d = rank - 1; d >= 0; rest /= boxes[b].count[d--]) index[d] = rest % boxes[b].count[d];
            for (int d = 0; d < rank; d++) at = at * shape[d] + boxes[b].offset[d] + index[d];
            if (at != expected) return 0;
        }
    }
    return expected == end || begin >= end;
}

static void test_boxes(void)
{
    static const int64_t shapes[][4] = {{12}, {4, 5}, {1, 7}, {7, 1}, {3, 4, 5}, {2, 3, 2, 3}, {1, 3, 1, 4}};
    static const int ranks[] = {1, 2, 2, 2, 3, 4, 4};
    for (size_t s = 0; s < sizeof ranks / sizeof *ranks; s++) {
        int64_t n = m2i_elements(ranks[s], shapes[s]);
        for (int64_t begin = 0; begin <= n; begin++)
            for (int64_t end = begin; end <= n; end++) CU_ASSERT(boxes_are(ranks[s], shapes[s], begin, end));
    }
}

static void test_any_ranks(void)
{
    static const int counts[] = {1, 2, 3, 4, 7};
    model *m = malloc(sizeof *m), *back = malloc(sizeof *back);
    for (int c = 0; c < 5; c++) {
        m2_manifest mf;
        empty();
        fill(m, 1);
        fill(back, 0);
        save(m, 12, counts[c]);
        wipe(back);
        CU_ASSERT_EQUAL_FATAL(load(back, &mf), M2_OK);
        CU_ASSERT(same(m, back));
        CU_ASSERT(mf.step == 12 && mf.rows == 36 && mf.ranks == counts[c] && mf.n_tensors == 6 + 5 + 5);
        CU_ASSERT_STRING_EQUAL(mf.config, "train:\n  steps: 7\n");
        CU_ASSERT_STRING_EQUAL(mf.tokenizer, "bytes");
        CU_ASSERT_STRING_EQUAL(mf.tensors[0].name, "param/embed.weight");
        CU_ASSERT_STRING_EQUAL(mf.tensors[15].name, "v/block.1.odd");
        for (int i = 1; i < mf.n_slabs; i++) CU_ASSERT(mf.slabs[i - 1].tensor <= mf.slabs[i].tensor);
        m2_manifest_free(&mf);
    }
    free(m);
    free(back);
}

/* Through the manifest's virtual datasets, as h5py would. */
static void test_whole_view(void)
{
    model *m = malloc(sizeof *m);
    m2_store *s;
    char path[M2_PATH];
    float got[3 * 5 * 7 * 11];
    int64_t zero[4] = {0};
    empty();
    fill(m, 1);
    save(m, 3, 4);
    snprintf(path, sizeof path, "%s/step-00000003/manifest.h5", base);
    CU_ASSERT_EQUAL_FATAL(m2_store_open(path, &s), M2_OK);
    for (int a = 0; a < 3; a++)
        for (int i = 0; i < 3; i++) {
            char name[M2_TENSOR_NAME];
            const m2_param *p = &m->rows[i];
            snprintf(name, sizeof name, "%s/%s", m->state.arrays[a].kind, p->name);
            CU_ASSERT_EQUAL_FATAL(m2_store_read(s, name, zero, p->dims, got), M2_OK);
            CU_ASSERT_EQUAL(memcmp(got, m->data[a] + p->offset, (size_t)m2i_elements(p->rank, p->dims) * 4),
                            0);
        }
    m2_store_close(&s);
    free(m);
}

static void test_double(void)
{
    model *m = malloc(sizeof *m);
    double *wide = malloc(FLAT * sizeof *wide);
    m2_manifest mf;
    empty();
    fill(m, 1);
    save(m, 1, 3);
    m2_state state = {.device = cpu, .n_rows = ROWS, .n_arrays = 1, .rows = m->rows};
    state.arrays[0].kind = "param";
    state.arrays[0].base = wide;
    state.arrays[0].dtype = M2_F64;
    char folder[M2_PATH];
    CU_ASSERT_EQUAL(m2_checkpoint_find(base, folder, NULL), M2_OK);
    CU_ASSERT_EQUAL(m2_manifest_read(folder, &mf), M2_OK);
    CU_ASSERT_EQUAL(m2_checkpoint_load(&mf, &state), M2_OK); /* moments are not asked for */
    for (int64_t e = 0; e < 37 * 16; e++) CU_ASSERT_EQUAL(wide[e], (double)m->data[0][e]);
    m2_manifest_free(&mf);
    free(wide);
    free(m);
}

static void test_other_model(void)
{
    model *m = malloc(sizeof *m);
    m2_manifest mf;
    empty();
    fill(m, 1);
    save(m, 1, 2);
    m->rows[2].dims[3] = 10;
    CU_ASSERT_EQUAL(load(m, &mf), M2_DATA);
    CU_ASSERT(says("param/block.0.mixer.k", "(3, 5, 7, 11) in the file and (3, 5, 7, 10) in this model"));
    m2_manifest_free(&mf);
    fill(m, 1);
    snprintf(m->rows[1].name, sizeof m->rows[1].name, "block.0.other");
    CU_ASSERT_EQUAL(load(m, &mf), M2_DATA);
    CU_ASSERT(says("param/block.0.other", "(16)"));
    m2_manifest_free(&mf);
    fill(m, 1);
    m->state.n_rows = 4;
    CU_ASSERT_EQUAL(load(m, &mf), M2_DATA);
    CU_ASSERT(says("param/block.1.odd", "(1, 13, 1)"));
    m2_manifest_free(&mf);
    free(m);
}

/* Flips the lowest bit of the byte where `pattern` is found in the file. */
static int flip(const char *path, const void *pattern, size_t n)
{
    char buf[1 << 16];
    int fd = open(path, O_RDWR), found = 0;
    for (off_t at = 0;; at += (off_t)sizeof buf / 2) {
        ssize_t got = pread(fd, buf, sizeof buf, at);
        for (ssize_t i = 0; !found && i + (ssize_t)n <= got; i++)
            if (!memcmp(buf + i, pattern, n)) {
                char byte = (char)(buf[i] ^ 1);
                found = pwrite(fd, &byte, 1, at + i) == 1;
            }
        if (found || got < (ssize_t)sizeof buf) break;
    }
    close(fd);
    return found;
}

static void test_damage(void)
{
    model *m = malloc(sizeof *m);
    m2_manifest mf;
    char path[M2_PATH];
    fill(m, 1);
    empty(); /* a flipped bit in a slab */
    save(m, 1, 2);
    snprintf(path, sizeof path, "%s/step-00000001/rank-00000.h5", base);
    CU_ASSERT_FATAL(flip(path, &m->data[1][m->rows[1].offset], 8));
    CU_ASSERT_EQUAL(load(m, &mf), M2_DATA);
    CU_ASSERT(says("rank-00000.h5", "m/block.0.norm.gamma"));
    m2_manifest_free(&mf);
    empty(); /* a flipped bit in the description */
    save(m, 1, 1);
    snprintf(path, sizeof path, "%s/step-00000001/manifest.h5", base);
    CU_ASSERT_FATAL(flip(path, "data 1", 6));
    CU_ASSERT_EQUAL(load(m, &mf), M2_DATA);
    CU_ASSERT(says("manifest.h5", "damaged"));
    m2_manifest_free(&mf);
    empty(); /* a lost file */
    save(m, 1, 3);
    snprintf(path, sizeof path, "%s/step-00000001/rank-00002.h5", base);
    CU_ASSERT_EQUAL(unlink(path), 0);
    CU_ASSERT_EQUAL(load(m, &mf), M2_DATA);
    CU_ASSERT(says("rank-00002.h5", "tensor param/"));
    m2_manifest_free(&mf);
    empty(); /* a truncated file */
    save(m, 1, 1);
    snprintf(path, sizeof path, "%s/step-00000001/rank-00000.h5", base);
    CU_ASSERT_EQUAL(truncate(path, 3000), 0);
    CU_ASSERT_EQUAL(load(m, &mf), M2_DATA);
    CU_ASSERT(says("rank-00000.h5", "param/embed.weight"));
    m2_manifest_free(&mf);
    free(m);
}

static int present(int64_t step)
{
    char path[M2_PATH];
    snprintf(path, sizeof path, "%s/step-%08d/manifest.h5", base, (int)step);
    return access(path, F_OK) == 0;
}

static void test_keeping(void)
{
    model *m = malloc(sizeof *m);
    char folder[M2_PATH], path[M2_PATH];
    int none;
    empty();
    CU_ASSERT_EQUAL(m2_checkpoint_find(base, folder, &none), M2_DATA);
    CU_ASSERT(none);
    fill(m, 1);
    for (int64_t step = 1; step <= 6; step++) {
        CU_ASSERT_EQUAL(save_keeping(m, step, 1 + (int)step % 2, 2, 3), M2_OK);
        CU_ASSERT(present(step));
    }
    for (int64_t step = 1; step <= 6; step++) CU_ASSERT_EQUAL(present(step), step == 3 || step >= 5);
    /* what a dying save leaves is neither found nor kept */
    snprintf(path, sizeof path, "%s/step-00000009.tmp", base);
    CU_ASSERT_EQUAL(mkdir(path, 0777), 0);
    CU_ASSERT_EQUAL(m2_checkpoint_find(base, folder, &none), M2_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(folder, "step-00000006"));
    CU_ASSERT_EQUAL(m2_checkpoint_sweep(base), M2_OK);
    CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0);
    /* losing the newest manifest is not silently an older checkpoint */
    snprintf(path, sizeof path, "%s/step-00000006/manifest.h5", base);
    CU_ASSERT_EQUAL(unlink(path), 0);
    CU_ASSERT_EQUAL(m2_checkpoint_find(base, folder, &none), M2_DATA);
    CU_ASSERT(!none && says("step-00000006", "step 5"));
    free(m);
}

/* A save that cannot be written leaves the older checkpoint and says why. */
static void test_no_space(void)
{
    model *m = malloc(sizeof *m);
    char path[M2_PATH], folder[M2_PATH];
    empty();
    fill(m, 1);
    save(m, 1, 1);
    snprintf(path, sizeof path, "%s/step-00000002.tmp", base);
    FILE *blocker = fopen(path, "w"); /* a file where the folder should be */
    fclose(blocker);
    CU_ASSERT_EQUAL(save_keeping(m, 2, 2, 1, 0), M2_IO);
    CU_ASSERT(says("saving checkpoint of step 2", path));
    unlink(path);
    CU_ASSERT_EQUAL(m2_checkpoint_find(base, folder, NULL), M2_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(folder, "step-00000001"));
    free(m);
}

int main(void)
{
    snprintf(base, sizeof base, "/tmp/m2-checkpoint-%ld", (long)getpid());
    mkdir(base, 0777);
    if (m2_device_open_cpu(1, &cpu) != M2_OK || CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("checkpoint", NULL, NULL);
    CU_add_test(suite, "shares", test_shares);
    CU_add_test(suite, "boxes", test_boxes);
    CU_add_test(suite, "saved by any number of ranks", test_any_ranks);
    CU_add_test(suite, "whole tensors through the manifest", test_whole_view);
    CU_add_test(suite, "f32 into f64", test_double);
    CU_add_test(suite, "another model", test_other_model);
    CU_add_test(suite, "damage", test_damage);
    CU_add_test(suite, "keeping and finding", test_keeping);
    CU_add_test(suite, "a save that fails", test_no_space);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    empty();
    rmdir(base);
    m2_device_close(&cpu);
    return failures != 0;
}
