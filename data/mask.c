#include "data/mask.h"
#include "data/tokenizer_kind.h"
#include "kernels/base/rng.h"

#include <stdlib.h>
#include <string.h>

static const char MASK[] = "[MASK]";
enum { STREAM = 0x6d61736b }; /* "mask" */

m2_status m2_mask_make(const m2_tokenizer *t, double rate, uint64_t seed, m2_mask *out)
{
    const m2i_vocab *v = &t->vocab;
    int64_t ordinary = 0;
    *out = (m2_mask){.rate = rate, .seed = seed, .vocab = (int32_t)v->count};
    if (!(rate >= 0 && rate <= 1)) return m2_fail(M2_USAGE, "a masking rate of %g is not in [0, 1]", rate);
    for (int64_t id = 0; id < v->count; id++) ordinary += !v->special[id];
    out->mask_id = (int32_t)m2_tokenizer_special(t, MASK);
    if (out->mask_id < 0 || !ordinary)
        return m2_fail(
            M2_DATA,
            "the %s tokenizer has no token %s: masked language modelling needs a vocabulary such as BERT's",
            t->kind->name, MASK);
    out->special = malloc((size_t)v->count);
    if (!out->special) return m2_fail(M2_TRANSIENT, "out of memory for %lld tokens", (long long)v->count);
    memcpy(out->special, v->special, (size_t)v->count);
    return M2_OK;
}

void m2_mask_free(m2_mask *m)
{
    free(m->special);
    m->special = NULL;
}

/* The word of a draw as a number of [0, n). */
static int32_t below(uint32_t word, int32_t n)
{
    return (int32_t)((uint64_t)word * (uint32_t)n >> 32);
}

int64_t m2_mask_row(const m2_mask *m, int64_t row, int64_t n, int32_t *tokens, int32_t *places,
                    int32_t *labels)
{
    m2_rng_key key = m2_rng_make_key(m->seed, (uint64_t)row, STREAM);
    uint64_t chosen_below = (uint64_t)(m->rate * 4294967296.0);
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        m2_rng_block draw = m2_rng_draw(key, (uint64_t)i);
        int32_t token = tokens[i];
        if (token < 0 || token >= m->vocab || m->special[token] || draw.v[0] >= chosen_below) continue;
        places[count] = (int32_t)i;
        labels[count++] = token;
        int32_t what = below(draw.v[1], 10), other = below(draw.v[2], m->vocab);
        for (int k = 1; m->special[other];
             k++) /* a special one was drawn: draw again, from a counter of its own */
            other = below(m2_rng_draw(key, (uint64_t)i + ((uint64_t)k << 40)).v[2], m->vocab);
        if (what < 8)
            tokens[i] = m->mask_id;
        else if (what == 8)
            tokens[i] = other;
    }
    return count;
}
