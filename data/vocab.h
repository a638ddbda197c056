/* vocab.h - the tokens of a tokenizer: id -> bytes, and bytes -> id for those that text may become. */
#ifndef M2_DATA_VOCAB_H
#define M2_DATA_VOCAB_H

#include "kernels/base/status.h"
#include <stdint.h>

/* A growing text. Zeroed is empty; free(data) ends it. `data` is always closed by a 0 that `size` does not count. */
typedef struct m2i_text {
    char *data;
    size_t size, capacity;
} m2i_text;
m2_status m2i_text_add(m2i_text *t, const void *bytes, size_t n) M2_MUST_USE;
m2_status m2i_text_print(m2i_text *t, const char *fmt, ...) M2_PRINTF(2, 3) M2_MUST_USE;

typedef struct m2i_vocab {
    m2i_text bytes;   /* of all tokens, one after the other */
    uint32_t *start;  /* count + 1 */
    uint8_t *special; /* count: 1 = never the result of encoding text, like the separator */
    int64_t count, capacity;
    uint32_t *slots; /* hash table of id + 1; mask + 1 slots */
    uint32_t mask;
} m2i_vocab;

/* Gives the next id. Empty tokens are gaps in the numbering. */
m2_status m2i_vocab_add(m2i_vocab *v, const void *bytes, size_t n, int special) M2_MUST_USE;
int64_t m2i_vocab_find(const m2i_vocab *v, const void *bytes,
                       size_t n); /* -1: none. Special tokens are not found */
void m2i_vocab_free(m2i_vocab *v);

static inline const char *m2i_vocab_bytes(const m2i_vocab *v, int64_t id, size_t *n)
{
    *n = v->start[id + 1] - v->start[id];
    return v->bytes.data + v->start[id];
}

/* One line per token: printable ASCII as it is, other bytes as %XX, special ones after a '!'. */
m2_status m2i_vocab_write(const m2i_vocab *v, m2i_text *out) M2_MUST_USE;
m2_status m2i_vocab_read(m2i_vocab *v, int64_t count,
                         const char **text) M2_MUST_USE; /* moves *text behind them */

#endif
