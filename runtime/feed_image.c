/* feed_image.c - pictures of a store, augmented in training, cut into patches. */
#include "data/image_store.h"
#include "runtime/feed_kinds.h"
#include "runtime/models/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void parts_image(m2_feed *f)
{
    m2i_feed_part(f, "patches", f->spec.rows * f->length * 3 * f->patch * f->patch); /* the bits of floats */
    m2i_feed_part(f, "pooled", f->spec.rows);
    m2i_feed_part(f, "targets", f->spec.rows * (f->classes ? f->classes : 1));
}

static int64_t invent_image(const m2_feed *f, int32_t *batch)
{
    float one = 1;
    for (int64_t i = 0; i < f->parts[0].count; i++) memcpy(batch + i, &one, sizeof one);
    for (int64_t r = 0; r < f->spec.rows; r++) {
        batch[f->parts[1].at + r] = (int32_t)f->length;
    }
    memset(batch + f->parts[2].at, 0, (size_t)f->parts[2].count * sizeof *batch);
    return f->spec.rows;
}

static m2_status check_image(m2_feed *f, const m2_config *cfg)
{
    m2_store *s = NULL;
    m2_image_store_info info;
    M2_TRY(m2_store_open(f->spec.path, &s));
    m2_status st = m2_image_store_info_read(s, &info);
    m2_store_close(&s);
    if (st == M2_OK && info.classes > cfg->model_classes)
        st = m2_fail(M2_DATA, "%s has %" PRId64 " classes, more than model.classes=%" PRId64, f->spec.path,
                     info.classes, cfg->model_classes);
    return st;
}

static m2_status open_image(m2_feed *f, const m2_config *cfg)
{
    m2_augment usual = m2_augment_usual(f->seed, (int)cfg->model_image);
    usual.area[0] = cfg->data_crop;
    usual.mixup = cfg->data_mixup;
    usual.cutmix = cfg->data_cutmix;
    usual.smoothing = cfg->data_smoothing;
    m2_image_loader_spec loader = {.path = f->spec.path,
                                   .rows = f->spec.rows,
                                   .shuffle = f->spec.training,
                                   .workers = f->spec.training ? (int)cfg->data_workers : 1,
                                   .augment = f->spec.training ? usual : m2_augment_none(&usual)};
    int64_t pixels = f->spec.rows * cfg->model_image * cfg->model_image * 3;
    f->pixels = malloc((size_t)pixels * sizeof *f->pixels);
    if (!f->pixels) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " pictures", f->spec.rows);
    f->side = cfg->model_image;
    M2_TRY(m2_image_loader_open(&loader, f->spec.at, f->spec.at_ctx, f->spec.first_batch, &f->pictures));
    f->shares = malloc((size_t)(f->spec.rows * m2_image_loader_classes(f->pictures)) * sizeof *f->shares);
    return f->shares ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " targets", f->spec.rows);
}

/* (side, side, 3) to patches in raster order, in each its channels, rows, columns. */
static void cut(const float *picture, int64_t side, int64_t patch, int32_t *out)
{
    for (int64_t top = 0; top < side; top += patch)
        for (int64_t left = 0; left < side; left += patch)
            for (int64_t c = 0; c < 3; c++)
                for (int64_t y = top; y < top + patch; y++)
                    for (int64_t x = left; x < left + patch; x++, out++)
                        memcpy(out, &picture[(y * side + x) * 3 + c], sizeof *out);
}

/* The store's classes are the first ones of the model's; rows from `keep` on do not count. */
static void put_shares(const m2_feed *f, int64_t keep, int32_t *targets)
{
    int64_t have = m2_image_loader_classes(f->pictures);
    memset(targets, 0, (size_t)f->parts[2].count * sizeof *targets);
    for (int64_t r = 0; r < keep; r++)
        memcpy(targets + r * f->classes, f->shares + r * have, (size_t)have * sizeof *targets);
}

static m2_status next_image(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted)
{
    (void)row;
    int64_t picture = f->side * f->side * 3;
    int32_t *targets = batch + f->parts[2].at;
    if (f->classes)
        M2_TRY(m2_image_loader_next(f->pictures, f->pixels, f->shares, NULL));
    else
        M2_TRY(m2_image_loader_next(f->pictures, f->pixels, NULL, targets));
    for (int64_t r = 0; r < f->spec.rows; r++) {
        cut(f->pixels + r * picture, f->side, f->patch, batch + r * picture);
        batch[f->parts[1].at + r] = (int32_t)f->length;
        if (r >= keep && !f->classes) targets[r] = M2_TARGET_NONE;
    }
    if (f->classes) put_shares(f, keep, targets);
    *predicted = keep;
    return M2_OK;
}

const m2i_feed_kind m2i_feed_image = {"image",    1,          parts_image, check_image,
                                      open_image, next_image, invent_image};
