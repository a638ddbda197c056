/* embed.c - m2 embed CHECKPOINT STORE.h5 --out FILE */
#include "data/store.h"
#include "kernels/base/log.h"
#include "runtime/embed.h"
#include "runtime/tokens.h"
#include "tools/tool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char tool_embed_usage[] =
    "usage: m2 embed CHECKPOINT STORE.h5 --out FILE.h5|FILE.jsonl [--rows N] [KEY=VALUE ...]\n"
    "\n"
    "A vector for each document of a token store (m2 prepare): the mean of what the model makes of its\n"
    "first model.length tokens, [CLS] and [SEP] included, padding not. CHECKPOINT is a run folder or a\n"
    "checkpoints/step-N folder of a masked language model (model.family=bert), fine-tuned or not; the\n"
    "store must have been prepared with its tokenizer.\n"
    "\n"
    "  m2 prepare --tokenizer vocab.txt --out texts.h5 texts.jsonl\n"
    "  m2 embed runs/bert texts.h5 --out vectors.h5\n"
    "\n"
    "  --out FILE.h5     HDF5: /embeddings (documents, width) f32, a row per document in the order of the store\n"
    "  --out FILE.jsonl  a line {\"document\": N, \"embedding\": [...]} for each\n"
    "  --rows N          documents at a time (32)\n"
    "  KEY=VALUE         options as in m2 help options: run.device, ...; model.length=2048 reads more of each\n"
    "                    document with a model of 128: its position embeddings are repeated\n";

typedef struct output {
    const char *path;
    char temporary[1024]; /* of lines, until all are written */
    FILE *lines;          /* .jsonl */
    m2_store *store; /* .h5 */
    int64_t width, written;
} output;

static int ends_with(const char *path, const char *end)
{
    size_t n = strlen(path), k = strlen(end);
    return n > k && !strcmp(path + n - k, end);
}

static m2_status create(output *o, const m2_embedder *e, const m2_restored *m)
{
    m2_array_info info = {M2_F32, 2, {m2_embedder_documents(e), m2_embedder_width(e)}};
    m2_array_options plain = {0};
    o->width = info.shape[1];
    if (ends_with(o->path, ".jsonl")) {
        int n = snprintf(o->temporary, sizeof o->temporary, "%s.tmp", o->path);
        if (n >= (int)sizeof o->temporary) return m2_fail(M2_USAGE, "--out %.60s... is too long", o->path);
        o->lines = fopen(o->temporary, "w");
        return o->lines ? M2_OK : m2_fail(M2_IO, "opening %s failed: %s", o->temporary, strerror(errno));
    }
    M2_TRY(m2_store_create(o->path, &o->store));
    M2_TRY(m2_store_set_text(o->store, "/", "checkpoint", m->manifest.folder));
    M2_TRY(m2_store_set_i64(o->store, "/", "step", m->manifest.step));
    M2_TRY(m2_store_set_i64(o->store, "/", "length", m->cfg.model_length));
    return m2_store_make(o->store, "/embeddings", &info, &plain);
}

static m2_status put(output *o, const float *x, int64_t n)
{
    int64_t offset[] = {o->written, 0}, count[] = {n, o->width};
    for (int64_t i = 0; i < n && o->lines; i++) {
        fprintf(o->lines, "{\"document\": %" PRId64 ", \"embedding\": [", o->written + i);
        for (int64_t k = 0; k < o->width; k++)
            fprintf(o->lines, "%s%.9g", k ? ", " : "", (double)x[i * o->width + k]);
        fputs("]}\n", o->lines);
    }
    if (o->lines && ferror(o->lines))
        return m2_fail(M2_IO, "writing %s failed: %s", o->path, strerror(errno));
    o->written += n;
    return o->lines ? M2_OK : m2_store_write(o->store, "/embeddings", offset, count, x);
}

static m2_status finish(output *o, m2_status st)
{
    if (o->lines && fclose(o->lines) && st == M2_OK)
        st = m2_fail(M2_IO, "writing %s failed: %s", o->path, strerror(errno));
    if (o->lines && st == M2_OK && rename(o->temporary, o->path))
        st = m2_fail(M2_IO, "renaming %s to %s failed: %s", o->temporary, o->path, strerror(errno));
    if (o->lines && st != M2_OK) remove(o->temporary);
    if (o->store && st == M2_OK) st = m2_store_commit(&o->store);
    m2_store_close(&o->store);
    return st;
}

static m2_status embed_all(m2_embedder *e, output *o, int64_t rows)
{
    float *x = malloc((size_t)(rows * o->width) * sizeof *x);
    m2_status st = x ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " vectors", rows);
    for (int64_t n = 1; st == M2_OK && n > 0;) {
        st = m2_embedder_next(e, x, &n);
        if (st == M2_OK && n > 0) st = put(o, x, n);
    }
    free(x);
    return st;
}

m2_status tool_embed(int argc, char **argv)
{
    output o = {.path = NULL};
    int64_t rows = 32;
    const m2_flag flags[] = {
        {"--out", M2_FLAG_TEXT, &o.path}, {"--rows", M2_FLAG_INT, &rows}, {NULL, M2_FLAG_ON, NULL}};
    m2_restored m = {0};
    m2_ranks ranks = {0};
    m2_tokens data = {0};
    m2_embedder *e = NULL;
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (argc < 3 || strchr(argv[2], '=') || !o.path)
        return m2_fail(M2_USAGE,
                       "which checkpoint, store and output? m2 embed CHECKPOINT STORE.h5 --out FILE, see m2 "
                       "help embed");
    if (!ends_with(o.path, ".jsonl") && !ends_with(o.path, ".h5"))
        return m2_fail(M2_USAGE, "--out %s: expected a name that ends with .h5 or .jsonl", o.path);
    if (rows < 1) return m2_fail(M2_USAGE, "--rows %" PRId64 ": expected at least 1", rows);
    m2_status st = m2_restore(argv[1], argc - 3, argv + 3, &m);
    if (st == M2_OK && strcmp(m.cfg.model_family, "bert") != 0)
        st = m2_fail(M2_USAGE, "%s is of model.family=%s: m2 embed needs a masked language model, model.family=bert",
                     m.manifest.folder, m.cfg.model_family);
    if (st == M2_OK) snprintf(m.cfg.task_name, sizeof m.cfg.task_name, "embed");
    if (st == M2_OK) st = m2_tokens_open(&m.cfg, "the store", argv[2], &data);
    if (st == M2_OK) st = m2_tokens_expect(&data, argv[2], m.manifest.tokenizer, "the checkpoint");
    if (st == M2_OK) st = m2_ranks_open(&m.cfg, &ranks);
    if (st == M2_OK && ranks.comm->size > 1)
        st = m2_fail(M2_USAGE, "m2 embed runs as one process, not under mpirun");
    if (st == M2_OK) st = m2_embedder_open(&m, &ranks, argv[2], rows, &e);
    if (st == M2_OK) st = create(&o, e, &m);
    if (st == M2_OK) st = embed_all(e, &o, rows);
    st = finish(&o, st);
    if (st == M2_OK)
        m2_log(M2_LOG_INFO, "%s: %" PRId64 " vector%s of %" PRId64 " numbers", o.path, o.written,
               o.written == 1 ? "" : "s", o.width);
    m2_embedder_close(&e);
    m2_ranks_close(&ranks);
    m2_tokens_free(&data);
    m2_restored_free(&m);
    return st;
}
