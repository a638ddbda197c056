/* sample.c - m2 sample CHECKPOINT --prompt TEXT */
#include "data/tokenizer.h"
#include "runtime/generate.h"
#include "tools/tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char tool_sample_usage[] =
    "usage: m2 sample CHECKPOINT [--prompt TEXT] [--tokens N] [--temperature T] [--top-p P] [--top-k K]\n"
    "                 [--seed S] [KEY=VALUE ...]\n"
    "\n"
    "Goes on with TEXT, as the trained model would. CHECKPOINT is a run folder (its newest checkpoint) or\n"
    "a checkpoints/step-N folder. Text comes out as it is made; the same seed gives the same text.\n"
    "\n"
    "  m2 sample runs/first --prompt \"Once upon a time\" --tokens 200 --temperature 0.8\n"
    "\n"
    "  --prompt TEXT    what to go on from; none = the beginning of a document\n"
    "  --tokens N       how many tokens to add (100); a document's end ends it earlier\n"
    "  --temperature T  1 = as learned, less = more likely words, 0 = always the most likely (1)\n"
    "  --top-p P        only the most likely tokens that together have probability P (1)\n"
    "  --top-k K        only the K most likely tokens; 0 = all (0)\n"
    "  --seed S         (0)\n"
    "  KEY=VALUE        options as in m2 help options: run.device, data.tokenizer, ...\n";

typedef struct request {
    const char *prompt;
    int64_t tokens, seed;
    m2_sampling sampling;
} request;

static m2_status parse(int *argc, char **argv, request *r)
{
    *r = (request){.prompt = "", .tokens = 100, .sampling = {.temperature = 1, .top_p = 1}};
    const m2_flag flags[] = {{"--prompt", M2_FLAG_TEXT, &r->prompt},
                             {"--tokens", M2_FLAG_INT, &r->tokens},
                             {"--temperature", M2_FLAG_REAL, &r->sampling.temperature},
                             {"--top-p", M2_FLAG_REAL, &r->sampling.top_p},
                             {"--top-k", M2_FLAG_INT, &r->sampling.top_k},
                             {"--seed", M2_FLAG_INT, &r->seed},
                             {NULL, M2_FLAG_ON, NULL}};
    M2_TRY(m2_flags_take(argc, argv, flags));
    r->sampling.seed = (uint64_t)r->seed;
    if (*argc < 2)
        return m2_fail(M2_USAGE, "which checkpoint? m2 sample CHECKPOINT --prompt TEXT, see m2 help sample");
    if (!(r->sampling.temperature >= 0))
        return m2_fail(M2_USAGE, "--temperature %g: expected a number >= 0", r->sampling.temperature);
    if (!(r->sampling.top_p > 0 && r->sampling.top_p <= 1))
        return m2_fail(M2_USAGE, "--top-p %g: expected a number in (0, 1]", r->sampling.top_p);
    return M2_OK;
}

static m2_status write_token(const m2_tokenizer *t, uint32_t id)
{
    char *text = NULL;
    size_t n = 0;
    m2_status st = m2_tokenizer_decode(t, &id, 1, &text, &n);
    if (st == M2_OK && (fwrite(text, 1, n, stdout) != n || fflush(stdout)))
        st = m2_fail(M2_IO, "writing to standard output failed");
    free(text);
    return st;
}

static m2_status speak(m2_generator *g, const m2_tokenizer *t, const request *r)
{
    uint32_t separator = (uint32_t)m2_tokenizer_separator(t), id;
    m2_token_buffer ids = {0};
    m2_status st = m2_tokenizer_encode(t, r->prompt, strlen(r->prompt), &ids);
    if (st == M2_OK && ids.count == 0) st = m2_generator_feed(g, &separator, 1);
    if (st == M2_OK) st = m2_generator_feed(g, ids.ids, ids.count);
    fputs(r->prompt, stdout);
    for (int64_t i = 0; i < r->tokens && st == M2_OK; i++) {
        st = m2_generator_next(g, &r->sampling, &id);
        if (st == M2_OK && id == separator) break;
        if (st == M2_OK) st = write_token(t, id);
    }
    putchar('\n');
    m2_token_buffer_free(&ids);
    return st;
}

m2_status tool_sample(int argc, char **argv)
{
    request r;
    m2_restored m;
    m2_ranks ranks = {0};
    m2_tokenizer *t = NULL;
    m2_generator *g = NULL;
    M2_TRY(parse(&argc, argv, &r));
    m2_status st = m2_restore(argv[1], argc - 2, argv + 2, &m);
    if (st == M2_OK)
        st = *m.cfg.data_tokenizer ? m2_tokenizer_open(m.cfg.data_tokenizer, &t)
                                   : m2_tokenizer_parse(m.manifest.tokenizer, &t);
    if (st == M2_OK) st = m2_ranks_open(&m.cfg, &ranks);
    if (st == M2_OK && ranks.comm->size > 1)
        st = m2_fail(M2_USAGE, "m2 sample runs as one process, not under mpirun");
    if (st == M2_OK) st = m2_generator_open(&m, &ranks, m2_tokenizer_vocab(t), &g);
    if (st == M2_OK) st = speak(g, t, &r);
    m2_generator_close(&g);
    m2_ranks_close(&ranks);
    m2_tokenizer_close(&t);
    m2_restored_free(&m);
    return st;
}
