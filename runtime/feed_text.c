/* feed_text.c - rows of token stores: the next token, hidden tokens, beginnings of documents. */
#include "runtime/feed_kinds.h"
#include "runtime/models/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

m2_row_kind m2_feed_row_kind(const m2_config *cfg)
{
    if (!strcmp(m2_model_task(cfg), "embed")) return M2_ROWS_DOCUMENT;
    if (strcmp(m2_model_task(cfg), "mlm") != 0)
        return strcmp(cfg->data_documents, "packed") ? M2_ROWS_TRUNCATED : M2_ROWS_STREAM;
    return strcmp(cfg->mlm_rows, "packed") ? M2_ROWS_DOCUMENT : M2_ROWS_PACKED;
}

static m2_status open_loader(m2_feed *f, const m2_config *cfg)
{
    m2_loader_spec loader = {.path = f->spec.path,
                             .length = f->length,
                             .seed = f->seed,
                             .shuffle = f->spec.training,
                             .rows = f->spec.rows,
                             .workers = f->spec.training ? (int)cfg->data_workers : 1,
                             .frame = f->frame};
    if (f->spec.slice.count < f->length) {
        f->whole = malloc(2 * (size_t)(f->spec.rows * f->length) * sizeof *f->whole);
        if (!f->whole) return m2_fail(M2_TRANSIENT, "out of memory for rows of %" PRId64 " tokens", f->length);
    }
    return m2_loader_open(&loader, f->spec.at, f->spec.at_ctx, f->spec.first_batch, &f->loader);
}

/* ---- slices: this rank's positions of whole rows ----------------------------------------------------------------- */
static void cut_rows(const m2_feed *f, const int32_t *whole, int32_t *part)
{
    const m2_runs *s = &f->spec.slice;
    for (int64_t r = 0; r < f->spec.rows; r++)
        for (int64_t i = 0; i < s->count; i += s->run)
            memcpy(part + r * s->count + i, whole + r * f->length + m2_runs_at(s, i), (size_t)s->run * sizeof *part);
}

/* ---- causal: the next token -------------------------------------------------------------------------------------- */
static void parts_causal(m2_feed *f)
{
    m2i_feed_part(f, "tokens", f->spec.rows * f->spec.slice.count);
    m2i_feed_part(f, "targets", f->spec.rows * f->spec.slice.count);
}

static int64_t invent_causal(const m2_feed *f, int32_t *batch)
{
    m2i_feed_random(f, 0, f->size, batch);
    return f->parts[1].count;
}

static m2_status check_causal(m2_feed *f, const m2_config *cfg)
{
    m2_token_store_info info;
    M2_TRY(m2_token_store_info_read(f->spec.path, &info));
    f->frame = (m2_row_frame){.kind = m2_feed_row_kind(cfg),
                              .pad = (int32_t)info.separator,
                              .none = M2_TARGET_NONE,
                              .mask_starts = cfg->data_mask_starts};
    return M2_OK;
}

static m2_status next_causal(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted)
{
    (void)row;
    int32_t *targets = batch + f->parts[1].at, *whole = f->whole;
    int64_t kept = keep * f->spec.slice.count, size = f->spec.rows * f->length;
    M2_TRY(m2_loader_next(f->loader, whole ? whole : batch, whole ? whole + size : targets));
    if (whole) cut_rows(f, whole, batch), cut_rows(f, whole + size, targets);
    for (int64_t i = kept; i < f->parts[1].count; i++) targets[i] = M2_TARGET_NONE;
    *predicted = 0;
    for (int64_t i = 0; i < kept; i++) *predicted += targets[i] != M2_TARGET_NONE;
    return M2_OK;
}

/* ---- mlm: hidden tokens ------------------------------------------------------------------------------------------ */
static void parts_mlm(m2_feed *f)
{
    int64_t tokens = f->spec.rows * f->spec.slice.count, places = m2_mlm_places(tokens, f->rate);
    m2i_feed_part(f, "tokens", tokens);
    m2i_feed_part(f, "places", places);
    m2i_feed_part(f, "targets", places);
}

/* As many places as are expected, at equal distances. */
static int64_t invent_mlm(const m2_feed *f, int32_t *batch)
{
    int64_t tokens = f->parts[0].count, room = f->parts[1].count, n = (int64_t)((double)tokens * f->rate);
    int32_t *places = batch + f->parts[1].at, *targets = batch + f->parts[2].at;
    m2i_feed_random(f, 0, tokens, batch);
    m2i_feed_random(f, 1, room, targets);
    for (int64_t i = 0; i < room; i++) places[i] = i < n ? (int32_t)(i * tokens / n) : -1;
    for (int64_t i = n; i < room; i++) targets[i] = M2_TARGET_NONE;
    return n;
}

static m2_status find_frame(m2_feed *f, const m2_config *cfg, const m2_tokenizer *t)
{
    static const char *const names[] = {"[CLS]", "[SEP]", "[PAD]"};
    int64_t ids[3];
    for (int i = 0; i < 3; i++) {
        ids[i] = m2_tokenizer_special(t, names[i]);
        if (ids[i] < 0)
            return m2_fail(
                M2_DATA,
                "%s was written with a %s tokenizer, which has no token %s: model.family=%s needs a "
                "WordPiece vocabulary such as BERT's vocab.txt",
                f->spec.path, m2_tokenizer_kind(t), names[i], cfg->model_family);
    }
    f->frame = (m2_row_frame){m2_feed_row_kind(cfg), (int32_t)ids[0], (int32_t)ids[1], (int32_t)ids[2], 0, 0};
    return M2_OK;
}

static m2_status open_tokenizer(const m2_feed *f, m2_tokenizer **out)
{
    char *text = NULL;
    M2_TRY(m2_token_store_tokenizer(f->spec.path, &text));
    m2_status st = m2_tokenizer_parse(text, out);
    free(text);
    return st;
}

static m2_status check_mlm(m2_feed *f, const m2_config *cfg)
{
    m2_tokenizer *t = NULL;
    M2_TRY(open_tokenizer(f, &t));
    m2_status st = find_frame(f, cfg, t);
    if (st == M2_OK) st = m2_mask_make(t, f->rate, f->seed, &f->mask);
    m2_tokenizer_close(&t);
    return st;
}

static m2_status open_mlm(m2_feed *f, const m2_config *cfg)
{
    f->scratch = malloc(2 * (size_t)f->length * sizeof *f->scratch);
    if (!f->scratch) return m2_fail(M2_TRANSIENT, "out of memory for a row of %" PRId64 " tokens", f->length);
    return open_loader(f, cfg);
}

static m2_status next_mlm(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted)
{
    int32_t *places = batch + f->parts[1].at, *targets = batch + f->parts[2].at;
    int64_t room = f->parts[1].count, n = 0, length = f->length, count = f->spec.slice.count;
    int32_t *tokens = f->whole ? f->whole : batch, *labels = f->scratch + length;
    M2_TRY(m2_loader_next(f->loader, tokens, NULL));
    for (int64_t r = 0; r < keep; r++) {
        int64_t hidden = m2_mask_row(&f->mask, row + r, length, tokens + r * length, f->scratch, labels), own = 0;
        for (int64_t i = 0; i < hidden; i++) { /* those of this rank's positions */
            int64_t place = m2_runs_find(&f->spec.slice, f->scratch[i]);
            if (place < 0) continue;
            f->scratch[own] = (int32_t)place;
            labels[own++] = labels[i];
        }
        if (n + own > room)
            return m2_fail(
                M2_BUG,
                "more than %" PRId64 " of %" PRId64
                " tokens were drawn to be hidden at a rate of %g: start the run with another train.seed",
                room, f->parts[0].count, f->mask.rate);
        for (int64_t i = 0; i < own; i++, n++) {
            places[n] = (int32_t)(r * count) + f->scratch[i];
            targets[n] = labels[i];
        }
    }
    if (f->whole) cut_rows(f, tokens, batch);
    *predicted = n;
    for (; n < room; n++) places[n] = -1, targets[n] = M2_TARGET_NONE;
    return M2_OK;
}

/* ---- embed: beginnings of documents ------------------------------------------------------------------------------ */
static void parts_embed(m2_feed *f)
{
    m2i_feed_part(f, "tokens", f->spec.rows * f->length);
    m2i_feed_part(f, "pooled", f->spec.rows);
}

static int64_t invent_embed(const m2_feed *f, int32_t *batch)
{
    m2i_feed_random(f, 0, f->parts[0].count, batch);
    for (int64_t r = 0; r < f->spec.rows; r++) batch[f->parts[1].at + r] = (int32_t)f->length;
    return f->spec.rows;
}

static m2_status check_embed(m2_feed *f, const m2_config *cfg)
{
    m2_tokenizer *t = NULL;
    M2_TRY(open_tokenizer(f, &t));
    m2_status st = find_frame(f, cfg, t);
    m2_tokenizer_close(&t);
    return st;
}

static m2_status next_embed(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted)
{
    (void)row;
    M2_TRY(m2_loader_next(f->loader, batch, NULL));
    for (int64_t r = 0; r < f->spec.rows; r++) {
        int64_t n = f->length;
        while (n > 0 && batch[r * f->length + n - 1] == f->frame.pad) n--;
        batch[f->parts[1].at + r] = (int32_t)n;
    }
    *predicted = keep;
    return M2_OK;
}

const m2i_feed_kind m2i_feed_causal = {"causal",    0,           parts_causal, check_causal,
                                       open_loader, next_causal, invent_causal};
const m2i_feed_kind m2i_feed_mlm = {"mlm", 1, parts_mlm, check_mlm, open_mlm, next_mlm, invent_mlm};
const m2i_feed_kind m2i_feed_embed = {"embed",     0,          parts_embed, check_embed,
                                      open_loader, next_embed, invent_embed};
