/* weights.c - a model in host memory: from checkpoints, averaged, and back. */
#include "runtime/weights.h"
#include "runtime/models/model.h"
#include "runtime/rundir.h"
#include "runtime/weights_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static m2_status copy_text(char **out, const char *text)
{
    *out = malloc(strlen(text) + 1);
    if (!*out) return m2_fail(M2_TRANSIENT, "out of memory for the description of a model");
    memcpy(*out, text, strlen(text) + 1);
    return M2_OK;
}

m2_status m2i_weights_make(m2_weights *w, const char *config, const char *tokenizer, int arrays,
                           m2_dtype dtype)
{
    static const char *const kinds[] = {"param", "m", "v"};
    m2_program_spec spec = {.mode = M2_MODE_EVAL, .rows = 1, .rows_whole = 1, .length = w->cfg.model_length};
    m2_plan_options naive = {.naive = 1, .threads = 1};
    M2_TRY(copy_text(&w->config, config));
    M2_TRY(copy_text(&w->tokenizer, tokenizer));
    M2_TRY(m2_device_open("cpu", 1, &w->device));
    M2_TRY(m2_model_build(&w->cfg, &spec, &w->program));
    M2_TRY(m2_program_plan(w->program, &naive));
    w->state = (m2_state){.device = w->device, .n_arrays = arrays};
    w->state.n_rows = m2_program_params(w->program, &w->state.rows);
    for (int a = 0; a < arrays; a++) {
        w->flat[a] = calloc((size_t)m2_program_flat_count(w->program) + 1, (size_t)m2_dtype_size(dtype));
        if (!w->flat[a]) return m2_fail(M2_TRANSIENT, "out of memory for the parameters of a model");
        w->state.arrays[a].kind = kinds[a];
        w->state.arrays[a].base = w->flat[a];
        w->state.arrays[a].dtype = dtype;
    }
    return M2_OK;
}

void m2_weights_free(m2_weights *w)
{
    m2_program_free(&w->program);
    m2_device_close(&w->device);
    free(w->config);
    free(w->tokenizer);
    for (int a = 0; a < 3; a++) free(w->flat[a]);
    memset(w, 0, sizeof *w);
}

/* ---- from checkpoints -------------------------------------------------------------------------------------------- */
/* dtype M2_DTYPE_COUNT: that of the file. */
static m2_status load(const char *path, int moments, m2_dtype dtype, m2_weights *w)
{
    char folder[M2_PATH];
    m2_manifest mf = {0};
    memset(w, 0, sizeof *w);
    M2_TRY(m2_checkpoint_find(path, folder, NULL));
    m2_status st = m2_manifest_read(folder, &mf);
    m2_config_defaults(&w->cfg);
    if (st == M2_OK) st = m2_config_parse_text(&w->cfg, mf.config, folder);
    int has_moments = 0;
    for (int i = 0; i < mf.n_tensors; i++) has_moments |= !strncmp(mf.tensors[i].name, "v/", 2);
    if (st == M2_OK) {
        if (dtype == M2_DTYPE_COUNT) dtype = mf.tensors[0].info.dtype;
        st = m2i_weights_make(w, mf.config, mf.tokenizer, moments && has_moments ? 3 : 1, dtype);
    }
    if (st == M2_OK) st = m2_checkpoint_load(&mf, &w->state);
    w->step = mf.step;
    w->rows = mf.rows;
    m2_manifest_free(&mf);
    return st;
}

m2_status m2_weights_load(const char *path, int moments, m2_weights *out)
{
    return load(path, moments, M2_DTYPE_COUNT, out);
}

m2_status m2_weights_average(int n, char **paths, m2_weights *out)
{
    m2_weights one;
    M2_TRY(load(paths[n - 1], 0, M2_DTYPE_COUNT, out));
    int64_t count = m2_program_flat_count(out->program);
    double *sum = calloc((size_t)count + 1, sizeof *sum);
    m2_status st = sum ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for the mean of %d checkpoints", n);
    for (int i = 0; i < n && st == M2_OK; i++) {
        st = load(paths[i], 0, M2_F64, &one);
        if (st == M2_OK && m2_program_flat_count(one.program) != count)
            st = m2_fail(M2_DATA, "%s and %s are of different models: they have no mean", paths[i],
                         paths[n - 1]);
        for (int r = 0; st == M2_OK && r < one.state.n_rows; r++)
            if (strcmp(one.state.rows[r].name, out->state.rows[r].name) != 0)
                st = m2_fail(M2_DATA, "%s has %s where %s has %s: they are of different models", paths[i],
                             one.state.rows[r].name, paths[n - 1], out->state.rows[r].name);
        const double *x = one.flat[0];
        for (int64_t e = 0; st == M2_OK && e < count; e++)
            sum[e] = i ? sum[e] + x[e] : x[e]; /* -0 stays -0 */
        m2_weights_free(&one);
    }
    for (int64_t e = 0; st == M2_OK && e < count; e++) {
        if (out->state.arrays[0].dtype == M2_F64)
            ((double *)out->flat[0])[e] = sum[e] / n;
        else
            ((float *)out->flat[0])[e] = (float)(sum[e] / n);
    }
    free(sum);
    return st;
}

/* ---- to a run folder --------------------------------------------------------------------------------------------- */
static m2_status save_into(const m2_weights *w, const m2_rundir *dir)
{
    char folder[M2_PATH];
    int none;
    m2_comm *comm = NULL;
    m2_status st = m2_checkpoint_find(dir->checkpoints, folder, &none);
    if (!none)
        return st == M2_OK ? m2_fail(M2_USAGE, "%s has a checkpoint already, %s: give a new folder",
                                     dir->path, folder)
                           : st;
    M2_TRY(m2_comm_open_self(w->device, &comm));
    m2_save_spec spec = {.folder = dir->checkpoints,
                         .step = w->step,
                         .rows = w->rows,
                         .config = w->config,
                         .tokenizer = w->tokenizer,
                         .keep = 1};
    st = m2_checkpoint_save(&spec, &w->state, comm);
    m2_comm_close(&comm);
    return st == M2_OK ? m2_rundir_write_config(dir, &w->cfg) : st;
}

m2_status m2_weights_save(const m2_weights *w, const char *run)
{
    m2_rundir dir;
    M2_TRY(m2_rundir_paths(run, &dir));
    M2_TRY(m2_rundir_open(&dir));
    m2_status st = save_into(w, &dir);
    m2_rundir_close(&dir);
    return st;
}
