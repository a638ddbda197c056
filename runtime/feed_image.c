/* feed_image.c - pictures of a store, augmented in training, cut into patches. */
#include "data/sampler.h"
#include "runtime/feed_kinds.h"
#include "runtime/models/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void parts_image(m2_feed *f)
{
    m2i_feed_part(f, "patches", f->spec.rows * f->length * 3 * f->patch * f->patch); /* the bits of floats */
    m2i_feed_part(f, "pooled", f->spec.rows);
    m2i_feed_part(f, "targets", f->spec.rows);
}

static int64_t invent_image(const m2_feed *f, int32_t *batch)
{
    float one = 1;
    for (int64_t i = 0; i < f->parts[0].count; i++) memcpy(batch + i, &one, sizeof one);
    for (int64_t r = 0; r < f->spec.rows; r++) {
        batch[f->parts[1].at + r] = (int32_t)f->length;
        batch[f->parts[2].at + r] = 0;
    }
    return f->spec.rows;
}

static m2_status check_image(m2_feed *f, const m2_config *cfg)
{
    m2_store *s = NULL;
    M2_TRY(m2_store_open(f->spec.path, &s));
    m2_status st = m2_image_store_info_read(s, &f->image_info);
    m2_store_close(&s);
    if (st == M2_OK && f->image_info.classes > cfg->model_classes)
        st = m2_fail(M2_DATA, "%s has %" PRId64 " classes, more than model.classes=%" PRId64, f->spec.path,
                     f->image_info.classes, cfg->model_classes);
    return st;
}

static m2_status open_image(m2_feed *f, const m2_config *cfg)
{
    const m2_image_store_info *info = &f->image_info;
    int64_t zero = 0, side = cfg->model_image;
    m2_augment usual = m2_augment_usual(f->seed, (int)side);
    usual.area[0] = cfg->data_crop;
    f->augment = f->spec.training ? usual : m2_augment_none(&usual);
    M2_TRY(m2_augment_check(&f->augment));
    f->labels = malloc((size_t)info->images * sizeof *f->labels + 1);
    f->source = malloc((size_t)(info->height * info->width * 3) + 1);
    f->picture = malloc((size_t)(side * side * 3) * sizeof *f->picture);
    if (!f->labels || !f->source || !f->picture) return m2_fail(M2_TRANSIENT, "out of memory for pictures");
    M2_TRY(m2_store_open(f->spec.path, &f->images));
    return m2_store_read(f->images, "/labels", &zero, &info->images, f->labels);
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

static m2_status next_image(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted)
{
    const m2_image_store_info *info = &f->image_info;
    int64_t values = f->length * 3 * f->patch * f->patch;
    for (int64_t r = 0; r < f->spec.rows; r++) {
        int64_t i = m2_sampler_item(row + r, info->images, f->seed, f->spec.training);
        int64_t offset[] = {i, 0, 0, 0}, count[] = {1, info->height, info->width, 3};
        M2_TRY(m2_store_read(f->images, "/images", offset, count, f->source));
        M2_TRY(m2_augment_picture(&f->augment, row + r, f->source, (int)info->height, (int)info->width,
                                  f->picture));
        cut(f->picture, f->augment.size, f->patch, batch + r * values);
        batch[f->parts[1].at + r] = (int32_t)f->length;
        batch[f->parts[2].at + r] = r < keep ? f->labels[i] : M2_TARGET_NONE;
    }
    *predicted = keep;
    return M2_OK;
}

const m2i_feed_kind m2i_feed_image = {"image",    1,          parts_image, check_image,
                                      open_image, next_image, invent_image};
