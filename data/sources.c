#include "data/sources.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static m2_status bad_weight(const char *path, const char *word)
{
    return m2_fail(M2_USAGE,
                   "%s: expected a mixture as STORE.h5:WEIGHT,STORE.h5:WEIGHT or STORE.h5,STORE.h5, not '%s'",
                   path, word);
}

/* One "a.h5:3" of a mixture. */
static m2_status add_word(m2i_sources *s, const char *path, const char *word, size_t n)
{
    if (s->count == M2_MIXTURE_STORES)
        return m2_fail(M2_USAGE, "%s: a mixture has at most %d stores", path, M2_MIXTURE_STORES);
    m2i_source *source = &s->item[s->count++];
    source->path = strndup(word, n);
    if (!source->path) return m2_fail(M2_TRANSIENT, "out of memory for the names of stores");
    char *colon = strrchr(source->path, ':'), *end;
    if (colon && access(source->path, F_OK)) {
        source->weight = strtod(colon + 1, &end);
        if (end == colon + 1 || *end || !(source->weight > 0 && source->weight < 1e9))
            return bad_weight(path, source->path);
        *colon = 0;
    }
    if (!*source->path || (source->weight > 0) != (s->item[0].weight > 0)) return bad_weight(path, word);
    if (access(source->path, F_OK)) return m2_fail(M2_DATA, "%s: there is no such file", source->path);
    return M2_OK;
}

static m2_status parse(const char *path, m2i_sources *s)
{
    if (!access(path, F_OK) || !strpbrk(path, ",:")) { /* a name with a comma may still be a file */
        s->count = 1;
        s->item[0].path = strdup(path);
        return s->item[0].path ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for the names of stores");
    }
    for (const char *word = path, *end; word; word = *end ? end + 1 : NULL) {
        end = word + strcspn(word, ",");
        M2_TRY(add_word(s, path, word, (size_t)(end - word)));
    }
    return M2_OK;
}

m2_status m2i_sources_open(const char *path, m2i_sources *s)
{
    memset(s, 0, sizeof *s);
    M2_TRY(parse(path, s));
    for (int i = 0; i < s->count; i++) {
        m2i_source *a = &s->item[i];
        M2_TRY(m2_store_open(a->path, &a->store));
        M2_TRY(m2i_token_store_read_info(a->store, &a->info));
        M2_TRY(m2_store_info(a->store, "/tokens", &a->tokens));
        if (strcmp(a->info.tokenizer_hash, s->item[0].info.tokenizer_hash) != 0)
            return m2_fail(
                M2_DATA,
                "%s was written with another tokenizer (%.8s) than %s (%.8s): stores of a mixture share one",
                a->path, a->info.tokenizer_hash, s->item[0].path, s->item[0].info.tokenizer_hash);
    }
    return M2_OK;
}

m2_status m2i_sources_mix(const m2i_sources *s, m2_row_kind kind, int64_t length, uint64_t seed, int shuffle,
                          m2_mixture *out)
{
    int64_t rows[M2_MIXTURE_STORES];
    double weights[M2_MIXTURE_STORES];
    for (int i = 0; i < s->count; i++) {
        const m2_token_store_info *info = &s->item[i].info;
        rows[i] = m2_token_store_rows(info, kind, length);
        if (rows[i] < 1)
            return m2_fail(M2_DATA,
                           "%s holds %" PRId64 " tokens in %" PRId64
                           " documents, too few for one sequence of %" PRId64,
                           s->item[i].path, info->tokens, info->documents, length);
        weights[i] = s->item[i].weight > 0 ? s->item[i].weight : (double)rows[i];
    }
    if (!shuffle && s->count > 1)
        return m2_fail(
            M2_USAGE,
            "%s, ...: a mixture is for training; validate on one store (m2 prepare --merge joins several)",
            s->item[0].path);
    return m2_mixture_make(s->count, rows, weights, seed, shuffle, out);
}

void m2i_sources_close(m2i_sources *s)
{
    for (int i = 0; i < s->count; i++) {
        m2_store_close(&s->item[i].store);
        free(s->item[i].path);
    }
    memset(s, 0, sizeof *s);
}

m2_status m2_token_store_info_read(const char *path, m2_token_store_info *out)
{
    m2i_sources s;
    m2_status st = m2i_sources_open(path, &s);
    memset(out, 0, sizeof *out);
    if (st == M2_OK) *out = s.item[0].info;
    for (int i = 1; i < s.count && st == M2_OK; i++) {
        out->tokens += s.item[i].info.tokens;
        out->documents += s.item[i].info.documents;
        out->bytes += s.item[i].info.bytes;
    }
    m2i_sources_close(&s);
    return st;
}
