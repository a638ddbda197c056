/* made_up_state.h - a small made-up model's state, and saving and loading it with ranks that are threads. */
#ifndef M2_TESTS_MADE_UP_STATE_H
#define M2_TESTS_MADE_UP_STATE_H

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
    m2_device *device; /* a rank's own */
    m2_comm *comm;
    m2_save_spec spec;
    m2_status got;
    m2_error why;
} saver;

static void *save_thread(void *arg)
{
    saver *s = arg;
    m2_state own = *s->state;
    s->got = m2_device_open_cpu(1, &s->device);
    own.device = s->device;
    if (s->got == M2_OK) s->got = m2_checkpoint_save(&s->spec, &own, s->comm);
    m2_error_take(&s->why, s->got);
    m2_device_close(&s->device);
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

#endif
