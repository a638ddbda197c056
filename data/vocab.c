#include "data/vocab.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

/* ---- text -------------------------------------------------------------------------------------------------------- */
static m2_status text_reserve(m2i_text *t, size_t n)
{
    if (t->data && t->size + n < t->capacity) return M2_OK;
    size_t want = 2 * (t->size + n) + 64;
    char *data = realloc(t->data, want);
    if (!data) return m2_fail(M2_TRANSIENT, "out of memory for %zu bytes of text", want);
    t->data = data;
    t->capacity = want;
    return M2_OK;
}

m2_status m2i_text_add(m2i_text *t, const void *bytes, size_t n)
{
    M2_TRY(text_reserve(t, n));
    if (n) memcpy(t->data + t->size, bytes, n);
    t->size += n;
    t->data[t->size] = 0;
    return M2_OK;
}

m2_status m2i_text_print(m2i_text *t, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    M2_CHECK(n >= 0 && (size_t)n < sizeof line);
    return m2i_text_add(t, line, (size_t)n);
}

/* ---- vocabulary -------------------------------------------------------------------------------------------------- */
static uint32_t hash_of(const void *bytes, size_t n)
{
    return (uint32_t)XXH3_64bits(bytes, n);
}

static void put(m2i_vocab *v, int64_t id)
{
    size_t n;
    const char *bytes = m2i_vocab_bytes(v, id, &n);
    uint32_t i = hash_of(bytes, n) & v->mask;
    while (v->slots[i]) i = (i + 1) & v->mask;
    v->slots[i] = (uint32_t)id + 1;
}

static m2_status grow(m2i_vocab *v)
{
    int64_t n = v->capacity ? 2 * v->capacity : 1024;
    uint32_t *start = realloc(v->start, ((size_t)n + 1) * sizeof *start);
    if (start) v->start = start;
    uint8_t *special = start ? realloc(v->special, (size_t)n) : NULL;
    if (special) v->special = special;
    uint32_t *slots = special ? calloc((size_t)n * 2, sizeof *slots) : NULL;
    if (!slots) return m2_fail(M2_TRANSIENT, "out of memory for a vocabulary of %lld tokens", (long long)n);
    free(v->slots);
    v->slots = slots;
    v->mask = (uint32_t)(2 * n - 1);
    v->start[0] = 0;
    v->capacity = n;
    for (int64_t id = 0; id < v->count; id++)
        if (!v->special[id] && v->start[id + 1] > v->start[id]) put(v, id);
    return M2_OK;
}

m2_status m2i_vocab_add(m2i_vocab *v, const void *bytes, size_t n, int special)
{
    if (v->count == v->capacity) M2_TRY(grow(v));
    if (n && !special && m2i_vocab_find(v, bytes, n) >= 0)
        return m2_fail(M2_DATA, "token %lld, '%.*s', occurs twice in the vocabulary", (long long)v->count,
                       (int)(n < 64 ? n : 64), (const char *)bytes);
    M2_TRY(m2i_text_add(&v->bytes, bytes, n));
    int64_t id = v->count++;
    v->start[id + 1] = (uint32_t)v->bytes.size;
    v->special[id] = (uint8_t)special;
    if (n && !special) put(v, id);
    return M2_OK;
}

int64_t m2i_vocab_find(const m2i_vocab *v, const void *bytes, size_t n)
{
    if (!v->count) return -1;
    for (uint32_t i = hash_of(bytes, n) & v->mask; v->slots[i]; i = (i + 1) & v->mask) {
        size_t size;
        const char *token = m2i_vocab_bytes(v, v->slots[i] - 1, &size);
        if (size == n && !memcmp(token, bytes, n)) return v->slots[i] - 1;
    }
    return -1;
}

void m2i_vocab_free(m2i_vocab *v)
{
    free(v->bytes.data);
    free(v->start);
    free(v->special);
    free(v->slots);
    memset(v, 0, sizeof *v);
}

/* ---- as lines of text -------------------------------------------------------------------------------------------- */
m2_status m2i_vocab_write(const m2i_vocab *v, m2i_text *out)
{
    for (int64_t id = 0; id < v->count; id++) {
        size_t n;
        const unsigned char *bytes = (const unsigned char *)m2i_vocab_bytes(v, id, &n);
        if (v->special[id]) M2_TRY(m2i_text_add(out, "!", 1));
        for (size_t i = 0; i < n; i++) {
            int plain = bytes[i] > ' ' && bytes[i] < 0x7f && bytes[i] != '%' && bytes[i] != '!';
            if (plain)
                M2_TRY(m2i_text_add(out, bytes + i, 1));
            else
                M2_TRY(m2i_text_print(out, "%%%02X", bytes[i]));
        }
        M2_TRY(m2i_text_add(out, "\n", 1));
    }
    return M2_OK;
}

static int hex(char c)
{
    const char *digits = "0123456789ABCDEF", *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

m2_status m2i_vocab_read(m2i_vocab *v, int64_t count, const char **text)
{
    const char *p = *text;
    m2i_text token = {0};
    m2_status st = m2i_text_add(&token, "", 0);
    for (int64_t id = 0; st == M2_OK && id < count; id++) {
        int special = *p == '!';
        token.size = 0;
        for (p += special; st == M2_OK && *p && *p != '\n'; p++) {
            int escaped = *p == '%', high = escaped ? hex(p[1]) : 0,
                low = escaped && high >= 0 ? hex(p[2]) : 0;
            char byte = escaped ? (char)(high * 16 + low) : *p;
            if (high < 0 || low < 0)
                st = m2_fail(M2_DATA, "token %lld of the tokenizer is not readable", (long long)id);
            else
                st = m2i_text_add(&token, &byte, 1);
            p += escaped && st == M2_OK ? 2 : 0;
        }
        if (st == M2_OK && *p != '\n')
            st = m2_fail(M2_DATA, "the tokenizer is cut off at token %lld of %lld", (long long)id,
                         (long long)count);
        if (st == M2_OK) st = m2i_vocab_add(v, token.data, token.size, special);
        p++;
    }
    free(token.data);
    *text = p;
    return st;
}
