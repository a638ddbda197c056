/* bytes.c - the tokenizer that needs no file: token b is byte b, 256 is the separator. */
#include "data/tokenizer_kind.h"

#include <string.h>

static m2_status encode(const m2_tokenizer *t, const char *text, size_t bytes, m2_token_buffer *out)
{
    (void)t;
    M2_TRY(m2i_token_reserve(out, (int64_t)bytes));
    for (size_t i = 0; i < bytes; i++) out->ids[out->count + (int64_t)i] = (unsigned char)text[i];
    out->count += (int64_t)bytes;
    return M2_OK;
}

static m2_status write_nothing(const m2_tokenizer *t, m2i_text *out)
{
    (void)t, (void)out;
    return M2_OK;
}

static m2_status read_nothing(m2_tokenizer *t, const char *text)
{
    (void)text;
    for (int64_t c = 0; c < 256; c++)
        if (t->vocab.count != 257 || t->vocab.start[c] != (uint32_t)c ||
            (unsigned char)t->vocab.bytes.data[c] != c)
            return m2_fail(M2_DATA,
                           "the vocabulary of a bytes tokenizer must be the 256 bytes and a separator");
    return M2_OK;
}

static void close_nothing(m2_tokenizer *t)
{
    (void)t;
}

const m2i_tokenizer_kind m2i_tokenizer_bytes = {"bytes",       encode,       m2i_tokenizer_join,
                                                write_nothing, read_nothing, close_nothing};

m2_status m2i_bytes_make(m2_tokenizer **out)
{
    m2_tokenizer *t;
    M2_TRY(m2i_tokenizer_new(&m2i_tokenizer_bytes, &t));
    m2_status st = M2_OK;
    for (int c = 0; c < 256 && st == M2_OK; c++)
        st = m2i_vocab_add(&t->vocab, &(unsigned char){(unsigned char)c}, 1, 0);
    if (st == M2_OK) st = m2i_vocab_add(&t->vocab, M2I_SEPARATOR, strlen(M2I_SEPARATOR), 1);
    t->separator = 256;
    if (st == M2_OK) st = m2i_tokenizer_finish(t);
    if (st != M2_OK) m2_tokenizer_close(&t);
    *out = t;
    return st;
}
