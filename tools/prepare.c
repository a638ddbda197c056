/* prepare.c - m2 prepare ... TEXT...: text becomes a token store. Alone or under mpirun. */
#include "data/prepare.h"
#include "data/tokenizer.h"
#include "kernels/base/log.h"
#include "kernels/base/device.h"
#include "parallel/comm.h"
#include "tools/prepare.h"
#include "tools/tool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char tool_prepare_usage[] =
    "usage: m2 prepare --tokenizer bytes|PATH --out STORE.h5 [OPTION ...] TEXT...\n"
    "       m2 prepare --train-tokenizer N    --out STORE.h5 [OPTION ...] TEXT...\n"
    "       m2 prepare --images --out STORE.h5 [--size N] [--under NAME] FOLDER|ARCHIVE.tar...\n"
    "       m2 prepare --merge  --out STORE.h5 STORE.h5 STORE.h5...\n"
    "\n"
    "Makes a token store, what m2 train reads, out of text. TEXT: .txt files (one document each), .jsonl\n"
    "files (one document a line), folders of them, quoted patterns ('books/*.zst'), - for standard input;\n"
    "packed as .zst, .gz or .xz or not. The store depends on text and tokenizer only, not on the number of\n"
    "threads or, under mpirun, of ranks. It appears when it is complete: until then what is done is in\n"
    "STORE.h5.parts, where the same command, started again after a kill, finds it and goes on.\n"
    "\n"
    "  --tokenizer PATH     bytes, tokenizer.json, *.tiktoken, vocab.txt (BERT's), a folder with these or "
    "with\n"
    "                       encoder.json + vocab.bpe or vocab.json + merges.txt, what --save-tokenizer "
    "wrote\n"
    "  --train-tokenizer N  train a byte-level BPE of N tokens on the text itself; the store keeps it\n"
    "  --save-tokenizer F   write the tokenizer to F too, for other stores\n"
    "  --val-out V.h5 --val-fraction F\n"
    "                       a second store for validation: a fraction F (0.05) of the documents of .jsonl\n"
    "                       files, drawn, and the last part of each .txt file\n"
    "  --field NAME         where a .jsonl line has its text (text)\n"
    "  --format txt|jsonl   read all files so, whatever their names say; for standard input\n"
    "  --dedup              leave out documents that repeat an earlier one exactly (texts up to 1 MiB)\n"
    "  --on-error stop|skip what to do with lines that hold no document, bytes that are not UTF-8 and the "
    "rest\n"
    "                       of a file whose packing is broken (stop); skip leaves them out and counts them\n"
    "  --threads N          that tokenise (all cores; of each rank, its cores); beyond 8, use ranks\n"
    "  --force              overwrite existing stores\n"
    "\n"
    "Pictures (.jpg, .png) in class folders or tar archives, packed or not, become a store of pictures: the\n"
    "folder of a picture is its class. Token stores become one that holds no copy of their tokens.\n"
    "\n"
    "  --size N             bring the shorter side to N and cut out the middle (else all are of one size)\n"
    "  --under NAME         only pictures that have a folder of this name above them, such as train\n"
    "\n"
    "  m2 prepare --train-tokenizer 4096 --out train.h5 --val-out val.h5 books/ news.jsonl.zst\n"
    "  mpirun -np 8 m2 prepare --tokenizer gpt2/ --dedup --on-error skip --out web.h5 'web/*.jsonl.zst'\n"
    "  m2 prepare --images --size 256 --out imagenet.h5 ILSVRC2012_train/\n";

typedef struct options {
    const char *tokenizer, *out, *val_out, *field, *format, *on_error, *save;
    int64_t train, threads;
    double val_fraction;
    int dedup, force;
} options;

/* ---- checks ------------------------------------------------------------------------------------------------------ */
static m2_status check_options(const options *o, int texts)
{
    if (!texts)
        return m2_fail(M2_USAGE,
                       "which text? m2 prepare --tokenizer ... --out STORE.h5 TEXT..., see m2 help prepare");
    if (!o->out) return m2_fail(M2_USAGE, "which store is to be written? Give --out STORE.h5");
    if (!o->tokenizer == !o->train)
        return m2_fail(
            M2_USAGE,
            "give either --tokenizer bytes|PATH or --train-tokenizer N, so that one tokenizer is meant");
    if (!(o->val_fraction > 0 && o->val_fraction < 1))
        return m2_fail(M2_USAGE, "--val-fraction %g is not between 0 and 1", o->val_fraction);
    if (o->threads < 1 || o->threads > 1024)
        return m2_fail(M2_USAGE, "--threads %" PRId64 " is not in 1 .. 1024", o->threads);
    if (strcmp(o->on_error, "stop") && strcmp(o->on_error, "skip"))
        return m2_fail(M2_USAGE, "--on-error %s: expected stop or skip", o->on_error);
    if (o->format && strcmp(o->format, "txt") && strcmp(o->format, "jsonl"))
        return m2_fail(M2_USAGE, "--format %s: expected txt or jsonl", o->format);
    if (o->val_out && !strcmp(o->val_out, o->out))
        return m2_fail(M2_USAGE, "--out and --val-out are the same file, %s", o->out);
    return M2_OK;
}

/* ---- the tokenizer ----------------------------------------------------------------------------------------------- */
static m2_status train_tokenizer(const options *o, const m2_prepare_spec *spec, m2_tokenizer **out)
{
    m2_prepare_text *text;
    for (int64_t i = 0; i < spec->files->count; i++)
        if (!strcmp(spec->files->paths[i], "-"))
            return m2_fail(
                M2_USAGE,
                "standard input cannot be read twice, to train a tokenizer and to tokenise: give a file");
    double start = m2_now();
    M2_TRY(m2_prepare_text_open(spec, &text));
    m2_status trained = m2_tokenizer_train(o->train, m2_prepare_text_next, text, out);
    m2_error failure;
    m2_error_take(&failure, trained);
    m2_status read = m2_prepare_text_close(&text);
    if (read != M2_OK) m2_tokenizer_close(out); /* trained on half the text */
    M2_TRY(read);
    if (trained != M2_OK) return m2_error_put(&failure);
    m2_log(M2_LOG_INFO, "trained a tokenizer of %" PRId64 " tokens in %.1f s", o->train, m2_now() - start);
    return M2_OK;
}

static m2_status save_tokenizer(const m2_tokenizer *t, const char *path)
{
    char *text;
    M2_TRY(m2_tokenizer_serialize(t, &text));
    FILE *f = fopen(path, "w");
    int bad = !f || fputs(text, f) < 0;
    bad |= f && fclose(f);
    free(text);
    return bad ? m2_fail(M2_IO, "cannot write %s: %s", path, strerror(errno)) : M2_OK;
}

/* ---- what the user sees ------------------------------------------------------------------------------------------ */
typedef struct display {
    int terminal, shown, ranks;
    double next_line; /* without a terminal: when to print again */
} display;

static void show_progress(void *ctx, const m2_prepare_report *r)
{
    display *d = ctx;
    char tokens[32], rate[32], left[32] = "", of[48] = "";
    if (!d->terminal && r->seconds < d->next_line) return;
    d->next_line = r->seconds + 10;
    double share = r->share ? (double)r->consumed / (double)r->share : 0;
    if (share > 0.01 && share < 1) m2_human_time(left, r->seconds * (1 - share) / share);
    if (d->ranks > 1) snprintf(of, sizeof of, "rank 0 of %d: ", d->ranks);
    fprintf(stderr, "%s%s%5.1f%%  %s tokens  %s tokens/s%s%s%s", d->terminal ? "\r" : "", of, 100 * share,
            m2_human_count(tokens, (double)r->tokenised),
            m2_human_count(rate, (double)r->tokenised / (r->seconds + 1e-9)), *left ? "  " : "", left,
            *left ? " left" : "");
    fputs(d->terminal ? "\033[K" : "\n", stderr);
    d->shown = 1;
}

static void print_store(const char *path, const m2_token_store_info *info)
{
    char bytes[32];
    int64_t tokens = info->tokens - info->documents;
    printf("%s: %" PRId64 " documents, %" PRId64
           " tokens (separators not counted), %s of text, %.3f bytes/token\n",
           path, info->documents, tokens, m2_human_bytes(bytes, info->bytes),
           (double)info->bytes / (double)(tokens ? tokens : 1));
}

static void print_summary(const options *o, const m2_tokenizer *t, const m2_prepare_report *r, int ranks)
{
    char rate[32], hash[33], of[48] = "";
    m2_tokenizer_hash(t, hash);
    print_store(o->out, &r->out);
    if (o->val_out) print_store(o->val_out, &r->val);
    if (r->skipped) printf("%" PRId64 " errors left out, the first: %s\n", r->skipped, r->first_skipped);
    if (r->duplicates) printf("%" PRId64 " documents left out as duplicates\n", r->duplicates);
    if (r->empty) printf("%" PRId64 " documents left out as empty\n", r->empty);
    if (ranks > 1) snprintf(of, sizeof of, "%d ranks of ", ranks);
    printf("tokenizer %s, %" PRId64 " tokens, %.8s; %s tokens/s with %s%" PRId64 " threads, %.1f s\n",
           m2_tokenizer_kind(t), m2_tokenizer_vocab(t), hash,
           m2_human_count(rate, (double)r->tokenised / (r->seconds + 1e-9)), of, o->threads, r->seconds);
}

/* ---- the tool ---------------------------------------------------------------------------------------------------- */
static m2_status make_tokenizer(const options *o, const m2_prepare_spec *spec, char **text)
{
    m2_tokenizer *t = NULL;
    M2_TRY(o->train ? train_tokenizer(o, spec, &t) : m2_tokenizer_open(o->tokenizer, &t));
    m2_status st = o->save ? save_tokenizer(t, o->save) : M2_OK;
    if (st == M2_OK) st = m2_tokenizer_serialize(t, text);
    m2_tokenizer_close(&t);
    return st;
}

/* One rank opens or trains it; all have it. */
static m2_status share_tokenizer(m2_comm *c, const options *o, const m2_prepare_spec *spec,
                                 m2_tokenizer **out)
{
    char *text = NULL;
    m2_status st = m2_comm_agree(c, c->rank ? M2_OK : make_tokenizer(o, spec, &text));
    int64_t size = text ? (int64_t)strlen(text) + 1 : 0;
    if (st == M2_OK) st = c->api->broadcast(c, &size, 1, M2_I64, 0, NULL);
    if (st == M2_OK && c->rank) text = malloc((size_t)size);
    if (st == M2_OK && !text)
        st = m2_fail(M2_TRANSIENT, "out of memory for a tokenizer of %" PRId64 " bytes", size);
    st = m2_comm_agree(c, st);
    if (st == M2_OK) st = c->api->broadcast(c, text, size, M2_U8, 0, NULL);
    if (st == M2_OK) st = m2_tokenizer_parse(text, out);
    free(text);
    return m2_comm_agree(c, st);
}

/* Every rank its share of the text; the first then joins them. */
static m2_status write_store(m2_comm *c, const options *o, m2_prepare_spec *spec)
{
    m2_prepare_report report;
    display d = {.terminal = isatty(STDERR_FILENO), .ranks = c->size, .next_line = 10};
    spec->ctx = &d;
    spec->progress = c->rank ? NULL : show_progress;
    double start = m2_now();
    m2_status st = m2_prepare_tokenise(spec, &report);
    if (d.terminal && d.shown) fputs("\r\033[K", stderr);
    if (st != M2_OK && c->size > 1)
        c->api->abort(c, st); /* the others may be hours from the end of their shares */
    M2_TRY(st);
    int64_t sums[2] = {report.tokenised, report.kept};
    M2_TRY(c->api->all_reduce(c, sums, sums, 2, M2_I64, M2_SUM, NULL));
    if (sums[1] && !c->rank)
        m2_log(M2_LOG_INFO, "went on from %" PRId64 " finished pieces in %s.parts", sums[1], spec->out);
    st = c->rank ? M2_OK : m2_prepare_assemble(spec, &report);
    report.tokenised = sums[0];
    report.seconds = m2_now() - start;
    if (st == M2_OK && !c->rank) print_summary(o, spec->tokenizer, &report, c->size);
    return m2_comm_agree(c, st);
}

static m2_status prepare_text(m2_comm *c, const options *o, m2_prepare_spec *spec, char *const *words,
                              int count)
{
    m2_tokenizer *t = NULL;
    char date[32], *command = prepare_command(words, count),
                   *sources = prepare_join(spec->files->paths, spec->files->count, "\n");
    prepare_date(date);
    const char *notes[] = {"date", date, "command", command, "sources", sources, NULL};
    m2_status st = command && sources ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for the names of files");
    st = m2_comm_agree(c, st);
    if (st == M2_OK) st = share_tokenizer(c, o, spec, &t);
    if (st == M2_OK) {
        spec->tokenizer = t;
        spec->notes = notes;
        spec->index = c->rank;
        spec->count = c->size;
        st = write_store(c, o, spec);
    }
    m2_tokenizer_close(&t);
    free(command);
    free(sources);
    return st;
}

static m2_status add_files(const options *o, int ranks, int argc, char **argv, m2_text_files *files)
{
    if (o->format) files->format = strcmp(o->format, "txt") ? M2_TEXT_JSONL : M2_TEXT_PLAIN;
    for (int i = 1; i < argc; i++) {
        if (ranks > 1 && !strcmp(argv[i], "-"))
            return m2_fail(M2_USAGE, "standard input cannot be shared by %d ranks: use one, with --threads",
                           ranks);
        M2_TRY(m2_text_files_add(files, argv[i]));
    }
    return M2_OK;
}

static m2_status run(m2_comm *c, int argc, char **argv, char *const *line, int words)
{
    options o = {.field = "text", .on_error = "stop", .val_fraction = 0.05};
    const m2_flag flags[] = {{"--tokenizer", M2_FLAG_TEXT, &o.tokenizer},
                             {"--train-tokenizer", M2_FLAG_INT, &o.train},
                             {"--save-tokenizer", M2_FLAG_TEXT, &o.save},
                             {"--out", M2_FLAG_TEXT, &o.out},
                             {"--val-out", M2_FLAG_TEXT, &o.val_out},
                             {"--val-fraction", M2_FLAG_REAL, &o.val_fraction},
                             {"--field", M2_FLAG_TEXT, &o.field},
                             {"--format", M2_FLAG_TEXT, &o.format},
                             {"--dedup", M2_FLAG_ON, &o.dedup},
                             {"--on-error", M2_FLAG_TEXT, &o.on_error},
                             {"--threads", M2_FLAG_INT, &o.threads},
                             {"--force", M2_FLAG_ON, &o.force},
                             {NULL, M2_FLAG_ON, NULL}};
    int cores;
    m2_text_files files = {0};
    M2_TRY(m2_comm_cores(c, &cores));
    o.threads = cores;
    m2_status st = m2_flags_take(&argc, argv, flags);
    if (st == M2_OK) st = check_options(&o, argc - 1);
    if (st == M2_OK) st = prepare_check_free(o.out, o.force);
    if (st == M2_OK) st = prepare_check_free(o.val_out, o.force);
    if (st == M2_OK) st = prepare_check_free(o.save, o.force);
    if (st == M2_OK) st = add_files(&o, c->size, argc, argv, &files);
    st = m2_comm_agree(c, st);
    m2_prepare_spec spec = {.files = &files,
                            .out = o.out,
                            .val_out = o.val_out,
                            .val_fraction = o.val_fraction,
                            .field = o.field,
                            .threads = (int)o.threads,
                            .skip_errors = !strcmp(o.on_error, "skip"),
                            .dedup = o.dedup};
    if (st == M2_OK) st = prepare_text(c, &o, &spec, line, words);
    m2_text_files_free(&files);
    return st;
}

static int wants(int argc, char **argv, const char *flag)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], flag)) return 1;
    return 0;
}

m2_status tool_prepare(int argc, char **argv)
{
    int rank, size, local_rank, local_size;
    int images = wants(argc, argv, "--images"), merge = wants(argc, argv, "--merge");
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    m2_log_setup(M2_LOG_INFO, rank);
    if ((images || merge) && rank) return M2_OK;
    if ((images || merge) && size > 1)
        m2_log(M2_LOG_WARN, "m2 prepare %s is the work of one process: %d of %d ranks have nothing to do",
               images ? "--images" : "--merge", size - 1, size);
    if (images) return prepare_images(argc, argv);
    if (merge) return prepare_merge(argc, argv);
    char **line = malloc(((size_t)argc + 1) * sizeof *line); /* m2_flags_take reorders argv */
    if (!line) return m2_fail(M2_TRANSIENT, "out of memory for the command line");
    memcpy(line, argv, ((size_t)argc + 1) * sizeof *line);
    m2_device *device = NULL;
    m2_comm *c = NULL;
    m2_status st = m2_device_open("cpu", 1, &device);
    if (st == M2_OK) st = m2_comm_open(size > 1 ? "mpi" : "self", device, &c);
    if (st == M2_OK) st = run(c, argc, argv, line, argc);
    m2_comm_close(&c);
    m2_device_close(&device);
    free(line);
    return st;
}
