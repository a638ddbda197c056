/* Checkpoints: shares and boxes cover everything once; saved by any number of ranks they load to the same bits; damage,
 * loss and other models are named; old ones go, kept ones stay. */
#include "tests/made_up_state.h"

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

/* ---- ZeRO -------------------------------------------------------------------------------------------------------- */
/* What rank `shard` keeps when the moments of m are cut into shards. */
typedef struct sharded {
    m2_shards table;
    float *moments[2];
    m2_state state;
} sharded;

static void cut(sharded *s, const model *m, int ranks, int shard, int copy, int64_t bucket)
{
    int64_t total = m->rows[5].offset;
    s->table = m2_shards_make(total, ranks, bucket, 64);
    s->state = m->state;
    for (int a = 1; a < 3; a++) {
        float *part = s->moments[a - 1] = calloc((size_t)m2_shards_count(&s->table), sizeof *part);
        m2_shard_part p;
        for (int b = 0; m2_shards_next(&s->table, shard, (m2_slab){0, total}, &b, &p);)
            memcpy(part + p.at, m->data[a] + p.flat.at, (size_t)p.flat.count * sizeof *part);
        s->state.arrays[a].base = part;
        s->state.arrays[a].shards = &s->table;
        s->state.arrays[a].shard = shard;
        s->state.arrays[a].copy = copy;
    }
}

static void drop(sharded *s)
{
    free(s->moments[0]);
    free(s->moments[1]);
}

/* `copies` ranks have each of `shards` shards. */
static void save_sharded(const model *m, int64_t step, int shards, int copies, int64_t bucket)
{
    m2_comm *comm[8];
    pthread_t threads[8];
    saver savers[8];
    sharded parts[8];
    int ranks = shards * copies;
    CU_ASSERT_EQUAL_FATAL(m2_comm_open_threads(ranks, comm), M2_OK);
    for (int r = 0; r < ranks; r++) {
        cut(&parts[r], m, shards, r / copies, r % copies, bucket);
        savers[r] = (saver){.state = &parts[r].state, .comm = comm[r]};
        savers[r].spec =
            (m2_save_spec){.folder = base, .step = step, .config = "", .tokenizer = "", .keep = 9};
        pthread_create(&threads[r], NULL, save_thread, &savers[r]);
    }
    for (int r = 0; r < ranks; r++) pthread_join(threads[r], NULL);
    for (int r = 0; r < ranks; r++) {
        CU_ASSERT_EQUAL(savers[r].got, M2_OK);
        m2_comm_close(&comm[r]);
        drop(&parts[r]);
    }
}

/* Saved with any shards, loaded into any others: the same bits. */
static void test_zero(void)
{
    static const int from[][3] = {{1, 1, 500}, {2, 1, 700}, {3, 1, 1 << 20},
                                  {2, 2, 512}, {1, 4, 300}, {7, 1, 200}};
    model *m = malloc(sizeof *m), *back = malloc(sizeof *back);
    fill(m, 1);
    for (int c = 0; c < 6; c++) {
        m2_manifest mf;
        empty();
        save_sharded(m, c, from[c][0], from[c][1], from[c][2]);
        fill(back, 0);
        wipe(back);
        CU_ASSERT_EQUAL_FATAL(load(back, &mf), M2_OK);
        CU_ASSERT(same(m, back));
        for (int ranks = 1; ranks <= 4; ranks++)
            for (int r = 0; r < ranks; r++) {
                sharded want, got;
                cut(&want, m, ranks, r, 0, 384);
                fill(back, 0);
                cut(&got, back, ranks, r, 0, 384);
                CU_ASSERT_EQUAL(m2_checkpoint_load(&mf, &got.state), M2_OK);
                for (int a = 0; a < 2; a++)
                    CU_ASSERT_EQUAL(memcmp(want.moments[a], got.moments[a],
                                           (size_t)m2_shards_count(&want.table) * sizeof(float)),
                                    0);
                drop(&want);
                drop(&got);
            }
        m2_manifest_free(&mf);
    }
    free(m);
    free(back);
}

/* ---- in the background ------------------------------------------------------------------------------------------- */
static void test_background(void)
{
    model *m = malloc(sizeof *m), *was = malloc(sizeof *was), *back = malloc(sizeof *back);
    m2_comm *comm;
    m2_saver *s;
    m2_manifest mf;
    int64_t committed;
    empty();
    fill(m, 1);
    fill(was, 1);
    fill(back, 0);
    CU_ASSERT_EQUAL_FATAL(m2_comm_open_threads(1, &comm), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_saver_open(&m->state, comm, &s), M2_OK);
    m2_save_spec spec = {
        .folder = base, .step = 1, .config = "", .tokenizer = "", .keep = 1, .bandwidth = 2e5};
    CU_ASSERT_EQUAL(m2_saver_start(s, &spec), M2_OK);
    wipe(m); /* training goes on */
    CU_ASSERT(m2_saver_pending(s) && m2_saver_busy(s));
    CU_ASSERT_EQUAL(m2_saver_start(s, &spec), M2_BUG);
    for (committed = -1; committed < 0;) CU_ASSERT_EQUAL_FATAL(m2_saver_advance(s, &committed), M2_OK);
    CU_ASSERT(committed == 1 && !m2_saver_pending(s) && !m2_saver_busy(s));
    CU_ASSERT(m2_saver_statistics(s).wrote >= 0.1); /* 22 KB at 200 KB/s */
    CU_ASSERT_EQUAL_FATAL(load(back, &mf), M2_OK);
    CU_ASSERT(same(was, back));
    m2_manifest_free(&mf);
    spec.step = 3;
    spec.bandwidth = 10; /* half an hour, if nobody waited for it */
    fill(m, 1);
    CU_ASSERT_EQUAL(m2_saver_start(s, &spec), M2_OK);
    CU_ASSERT_EQUAL(m2_saver_wait(s, &committed), M2_OK);
    CU_ASSERT_EQUAL(committed, 3);
    spec.step = 2; /* one that is given up leaves nothing */
    CU_ASSERT_EQUAL(m2_saver_start(s, &spec), M2_OK);
    m2_saver_close(&s);
    char path[M2_PATH];
    snprintf(path, sizeof path, "%s/step-00000002.tmp", base);
    CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0);
    CU_ASSERT_EQUAL_FATAL(load(back, &mf), M2_OK);
    CU_ASSERT_EQUAL(mf.step, 3);
    m2_manifest_free(&mf);
    m2_comm_close(&comm);
    free(m);
    free(was);
    free(back);
}

/* ---- every byte -------------------------------------------------------------------------------------------------- */
static void flip_bit(const char *path, off_t at, int bit)
{
    unsigned char byte;
    int fd = open(path, O_RDWR);
    CU_ASSERT_EQUAL(pread(fd, &byte, 1, at), 1);
    byte ^= (unsigned char)(1 << bit);
    CU_ASSERT_EQUAL(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* One flipped bit, anywhere in any file, is refused at load, by a message that names the file. */
static void test_any_byte(void)
{
    static const char *const files[] = {"manifest.h5", "manifest.xxh", "rank-00000.h5", "rank-00001.h5",
                                        "rank-00002.h5"};
    model *m = malloc(sizeof *m);
    empty();
    fill(m, 1);
    save(m, 1, 3);
    uint64_t draw = 0;
    for (int f = 0; f < 5; f++) {
        char path[M2_PATH];
        struct stat info;
        snprintf(path, sizeof path, "%s/step-00000001/%s", base, files[f]);
        CU_ASSERT_EQUAL_FATAL(stat(path, &info), 0);
        for (int i = 0; i < 400; i++) {
            m2_manifest mf;
            uint32_t r = m2_rng_u32(m2_rng_make_key(8, 8, 8), draw++);
            off_t at = (off_t)(r % (uint32_t)info.st_size);
            flip_bit(path, at, (int)(r >> 29));
            m2_status st = load(m, &mf);
            if (st != M2_DATA) printf("  byte %ld of %s: %d\n", (long)at, files[f], st);
            CU_ASSERT_EQUAL(st, M2_DATA);
            CU_ASSERT(f == 1 || says(files[f], ""));
            m2_manifest_free(&mf);
            flip_bit(path, at, (int)(r >> 29));
        }
    }
    m2_manifest mf;
    CU_ASSERT_EQUAL(load(m, &mf), M2_OK);
    m2_manifest_free(&mf);
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
    CU_add_test(suite, "shards of ZeRO", test_zero);
    CU_add_test(suite, "in the background", test_background);
    CU_add_test(suite, "any byte", test_any_byte);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    empty();
    rmdir(base);
    m2_device_close(&cpu);
    return failures != 0;
}
