/* convert.c - m2 convert IN OUT: checkpoints and safetensors files, into each other; averages of checkpoints. */
#include "data/tokenizer.h"
#include "kernels/base/log.h"
#include "runtime/weights.h"
#include "tools/tool.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char tool_convert_usage[] =
    "usage: m2 convert RUN OUT.safetensors [--dtype f32|bf16|f64] [--moments] [--names m2] [--file-mb N]\n"
    "       m2 convert IN.safetensors RUN [--config FILE.yaml [KEY=VALUE ...]] [--tokenizer SPEC]\n"
    "       m2 convert --average RUN RUN ... OUT\n"
    "\n"
    "Between checkpoints and safetensors, the files of Hugging Face: bit for bit there and back. RUN is a run\n"
    "folder (its newest checkpoint) or a checkpoints/step-N folder. As the result it is a new run folder; m2\n"
    "eval, sample and embed take it at once, m2 train goes on from it if the moments came along, else begins\n"
    "with it: train.init=RUN. IN.safetensors may be a file, an index, or a folder of them.\n"
    "\n"
    "Models of family bert are written as the published M2-BERT state dict, complete, and read from it (a\n"
    "fine-tuned one has bert.pooler.dense and classifier instead of cls.predictions, as BERT's have);\n"
    "others have the names that m2 inspect checkpoint shows. Files that m2 wrote say themselves what model\n"
    "they hold; for others say it:\n"
    "\n"
    "  m2 convert m2-bert-80m.safetensors runs/80m --config configs/bert/80m.yaml --tokenizer vocab.txt\n"
    "\n"
    "A file of PyTorch's becomes safetensors in Python:\n"
    "  safetensors.torch.save_file({k: v.clone() for k, v in state.items()}, \"m2-bert-80m.safetensors\")\n"
    "\n"
    "  --dtype      of the numbers in the file; without it, as they were saved\n"
    "  --moments    write the optimizer's m and v too\n"
    "  --names m2   write m2's own names for family bert too\n"
    "  --file-mb N  OUT is a folder: files of about N MB and model.safetensors.index.json\n"
    "  --config     what model IN holds, if it does not say so; KEY=VALUE change it\n"
    "  --tokenizer  the tokenizer to keep with the model, as for m2 prepare\n"
    "  --average    the mean of the parameters of several checkpoints\n";

typedef struct request {
    const char *dtype, *names, *config, *tokenizer;
    int moments, average;
    int64_t file_mb;
} request;

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

/* A file or index by its name; a folder by what is in it. */
static int is_safetensors(const char *path)
{
    int found = 0;
    static const char index[] = ".safetensors.index.json";
    if (ends_with(path, ".safetensors") || ends_with(path, index)) return 1;
    DIR *dir = opendir(path);
    if (!dir) return 0;
    for (struct dirent *e; (e = readdir(dir));)
        found |= ends_with(e->d_name, ".safetensors") || ends_with(e->d_name, index);
    closedir(dir);
    return found;
}

static m2_status read_tokenizer(const char *spec, char **text)
{
    m2_tokenizer *t = NULL;
    *text = NULL;
    if (!spec) return M2_OK;
    M2_TRY(m2_tokenizer_open(spec, &t));
    m2_status st = m2_tokenizer_serialize(t, text);
    m2_tokenizer_close(&t);
    return st;
}

/* words: IN, then KEY=VALUE for the configuration. */
static m2_status read_file(const request *r, int n, char **words, m2_weights *w)
{
    m2_config cfg;
    char *tokenizer = NULL;
    m2_config_defaults(&cfg);
    if (n > 1 && !r->config)
        return m2_fail(M2_USAGE, "%s belongs to a configuration: name it with --config FILE.yaml", words[1]);
    if (r->config) M2_TRY(m2_config_load(&cfg, r->config));
    for (int i = 1; i < n; i++) M2_TRY(m2_config_set(&cfg, words[i]));
    m2_status st = read_tokenizer(r->tokenizer, &tokenizer);
    if (st == M2_OK) st = m2_weights_import(words[0], r->config ? &cfg : NULL, tokenizer, w);
    free(tokenizer);
    return st;
}

static m2_status write_file(const request *r, const m2_weights *w, const char *out)
{
    m2_export_spec spec = {
        .dtype = M2_DTYPE_COUNT, .own_names = r->names != NULL, .file_bytes = r->file_mb * 1000000};
    if (r->names && strcmp(r->names, "m2") != 0)
        return m2_fail(M2_USAGE, "--names %s: expected m2, or no --names for the published ones", r->names);
    if (r->dtype) M2_TRY(m2_dtype_parse(r->dtype, &spec.dtype));
    if (r->dtype && spec.dtype != M2_F32 && spec.dtype != M2_F64 && spec.dtype != M2_BF16)
        return m2_fail(M2_USAGE, "--dtype %s: expected f32, bf16 or f64", r->dtype);
    return m2_weights_export(w, &spec, out);
}

/* What is neither ours nor safetensors, by its name or by being a file. */
static m2_status check_paths(int n_in, char **in, const char *out)
{
    static const char *const others[] = {".bin", ".pt", ".pth", ".ckpt", ".h5"};
    struct stat info;
    for (int i = 0; i < n_in; i++)
        if (!is_safetensors(in[i]) && !stat(in[i], &info) && S_ISREG(info.st_mode))
            return m2_fail(M2_DATA,
                           "%s is neither a .safetensors file nor a run folder; a file of PyTorch's becomes one in Python, "
                           "see m2 help convert", in[i]);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (ends_with(out, others[i]))
            return m2_fail(M2_USAGE, "m2 does not write %s files: expected OUT.safetensors instead of %s, or a new run folder",
                           others[i], out);
    return M2_OK;
}

static m2_status convert(const request *r, int n_in, char **in, int n_words, char **words, const char *out)
{
    m2_weights w = {0};
    m2_status st = check_paths(n_in, in, out);
    int to_file = r->file_mb > 0 || ends_with(out, ".safetensors");
    if (st != M2_OK) return st;
    if (r->average)
        st = m2_weights_average(n_in, in, &w);
    else if (is_safetensors(in[0]))
        st = read_file(r, n_words, words, &w);
    else
        st = m2_weights_load(in[0], to_file ? r->moments : 1, &w);
    if (st == M2_OK) st = to_file ? write_file(r, &w, out) : m2_weights_save(&w, out);
    char count[32];
    if (st == M2_OK)
        printf("%s: %s, %s parameters%s\n", out, w.cfg.model_family,
               m2_human_count(count, (double)m2_program_param_count(w.program)),
               w.state.n_arrays == 3 ? ", with the optimizer's moments" : "");
    m2_weights_free(&w);
    return st;
}

m2_status tool_convert(int argc, char **argv)
{
    request r = {0};
    const m2_flag flags[] = {
        {"--dtype", M2_FLAG_TEXT, &r.dtype},    {"--names", M2_FLAG_TEXT, &r.names},
        {"--config", M2_FLAG_TEXT, &r.config},  {"--tokenizer", M2_FLAG_TEXT, &r.tokenizer},
        {"--moments", M2_FLAG_ON, &r.moments},  {"--average", M2_FLAG_ON, &r.average},
        {"--file-mb", M2_FLAG_INT, &r.file_mb}, {NULL, M2_FLAG_ON, NULL}};
    enum { MOST = 256 };
    char *paths[MOST], *words[MOST + 1];
    int n = 0, n_words = 1;
    M2_TRY(m2_flags_take(&argc, argv, flags));
    for (int i = 1; i < argc; i++) {
        if (n == MOST || n_words == MOST) return m2_fail(M2_USAGE, "more than %d words for m2 convert", MOST);
        if (strchr(argv[i], '='))
            words[n_words++] = argv[i];
        else
            paths[n++] = argv[i];
    }
    if (n < 2) return m2_fail(M2_USAGE, "from where to where? m2 convert IN OUT, see m2 help convert");
    if (n > 2 && !r.average)
        return m2_fail(M2_USAGE, "%d inputs for one result: --average takes their mean", n - 1);
    words[0] = paths[0];
    return convert(&r, n - 1, paths, n_words, words, paths[n - 1]);
}
