#include "runtime/tokens.h"
#include "data/tokenizer.h"
#include "data/image_store.h"
#include "runtime/feed.h"
#include "runtime/models/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int64_t m2_tokens_padded(int64_t vocab)
{
    return (vocab + 7) / 8 * 8;
}

/* A store of pictures: what stands for the tokenizer are the names of its classes. */
static m2_status open_pictures(const char *path, m2_tokens *out)
{
    m2_store *s = NULL;
    m2_image_store_info info;
    M2_TRY(m2_store_open(path, &s));
    m2_status st = m2_image_store_info_read(s, &info);
    if (st == M2_OK) st = m2_store_get_text(s, "/", "classes", &out->tokenizer);
    if (st == M2_OK) out->sequences = info.images;
    m2_store_close(&s);
    return st;
}

m2_status m2_tokens_open(const m2_config *cfg, const char *key, const char *path, m2_tokens *out)
{
    memset(out, 0, sizeof *out);
    if (!*path)
        return m2_fail(M2_USAGE, "%s is not set: give the token store that m2 prepare wrote, %s=FILE.h5", key,
                       key);
    if (!strpbrk(path, ",:") && access(path, F_OK))
        return m2_fail(M2_DATA, "%s=%s: there is no such file", key, path);
    if (!strcmp(m2_model_task(cfg), "image")) return m2_context(open_pictures(path, out), "%s", key);
    m2_status st = m2_token_store_info_read(path, &out->info);
    if (st != M2_OK) return m2_context(st, "%s", key);
    int64_t length = cfg->model_length;
    out->sequences = m2_token_store_rows(&out->info, m2_feed_row_kind(cfg), length);
    if (out->sequences < 1)
        return m2_fail(M2_DATA,
                       "%s=%s holds %" PRId64 " tokens, too few for one sequence of model.length=%" PRId64
                       ": use more text or a shorter length",
                       key, path, out->info.tokens, length);
    if (cfg->model_vocab && out->info.vocab > cfg->model_vocab)
        return m2_fail(M2_DATA,
                       "%s=%s has tokens of a vocabulary of %" PRId64 ", more than model.vocab=%" PRId64
                       ": it was written with another tokenizer",
                       key, path, out->info.vocab, cfg->model_vocab);
    return m2_token_store_tokenizer(path, &out->tokenizer);
}

static void describe(const char *text, char *out, size_t n)
{
    m2_tokenizer *t = NULL;
    char hash[33];
    if (m2_tokenizer_parse(text, &t) != M2_OK) {
        snprintf(out, n, "an unreadable one");
        return;
    }
    m2_tokenizer_hash(t, hash);
    snprintf(out, n, "%s, %" PRId64 " entries, %.8s", m2_tokenizer_kind(t), m2_tokenizer_vocab(t), hash);
    m2_tokenizer_close(&t);
}

m2_status m2_tokens_expect(const m2_tokens *t, const char *path, const char *expected, const char *whose)
{
    char here[96], there[96];
    if (!strcmp(t->tokenizer, expected)) return M2_OK;
    describe(t->tokenizer, here, sizeof here);
    describe(expected, there, sizeof there);
    return m2_fail(M2_DATA, "%s was written with another tokenizer (%s) than %s (%s)", path, here, whose,
                   there);
}

m2_status m2_tokens_expect_option(const m2_config *cfg, const m2_tokens *t, const char *path)
{
    m2_tokenizer *named = NULL;
    char *text = NULL;
    if (!*cfg->data_tokenizer) return M2_OK;
    m2_status st = m2_tokenizer_open(cfg->data_tokenizer, &named);
    if (st == M2_OK) st = m2_tokenizer_serialize(named, &text);
    if (st == M2_OK) st = m2_tokens_expect(t, path, text, "data.tokenizer");
    free(text);
    m2_tokenizer_close(&named);
    return st;
}

void m2_tokens_free(m2_tokens *t)
{
    free(t->tokenizer);
    t->tokenizer = NULL;
}
