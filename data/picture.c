#include "data/picture.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>
#include <png.h>

static m2_status make(m2i_picture *out, int64_t height, int64_t width)
{
    if (height < 1 || width < 1 || height > M2I_PICTURE_SIDE || width > M2I_PICTURE_SIDE)
        return m2_fail(M2_DATA, "a picture of %lld x %lld pixels; sides of 1 to %d are read",
                       (long long)width, (long long)height, M2I_PICTURE_SIDE);
    out->height = (int)height;
    out->width = (int)width;
    out->pixels = malloc((size_t)(height * width * 3));
    return out->pixels ? M2_OK
                       : m2_fail(M2_TRANSIENT, "out of memory for %lld x %lld pixels", (long long)width,
                                 (long long)height);
}

/* ---- JPEG -------------------------------------------------------------------------------------------------------- */
typedef struct jpeg_failure {
    struct jpeg_error_mgr base;
    jmp_buf back;
    char why[JMSG_LENGTH_MAX];
} jpeg_failure;

static void jpeg_fail(j_common_ptr j)
{
    jpeg_failure *f = (jpeg_failure *)j->err;
    j->err->format_message(j, f->why);
    longjmp(f->back, 1);
}

/* libjpeg paints what is missing grey and warns; here a picture is whole or refused. Other oddities are common and harmless. */
static void jpeg_message(j_common_ptr j, int level)
{
    if (level >= 0) return;
    int code = j->err->msg_code;
    if (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE) jpeg_fail(j);
}

/* A row of CMYK as Adobe writes it, inverted, to RGB in place. */
static void from_cmyk(uint8_t *row, const uint8_t *cmyk, int width)
{
    for (int x = 0; x < width; x++)
        for (int c = 0; c < 3; c++)
            row[3 * x + c] = (uint8_t)((cmyk[4 * x + c] * cmyk[4 * x + 3] + 127) / 255);
}

static m2_status read_jpeg(struct jpeg_decompress_struct *j, m2i_picture *out)
{
    jpeg_read_header(j, TRUE);
    int cmyk = j->jpeg_color_space == JCS_CMYK || j->jpeg_color_space == JCS_YCCK;
    j->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(j);
    M2_TRY(make(out, j->output_height, j->output_width));
    uint8_t *four = cmyk ? j->mem->alloc_large((j_common_ptr)j, JPOOL_IMAGE, (size_t)out->width * 4) : NULL;
    while (j->output_scanline < j->output_height) {
        uint8_t *to = out->pixels + (size_t)j->output_scanline * (size_t)out->width * 3;
        JSAMPROW row = cmyk ? four : to;
        jpeg_read_scanlines(j, &row, 1);
        if (cmyk) from_cmyk(to, four, out->width);
    }
    jpeg_finish_decompress(j);
    return M2_OK;
}

static m2_status decode_jpeg(const void *bytes, size_t n, m2i_picture *out)
{
    struct jpeg_decompress_struct j;
    jpeg_failure failure;
    m2_status st;
    j.err = jpeg_std_error(&failure.base);
    failure.base.error_exit = jpeg_fail;
    failure.base.emit_message = jpeg_message;
    j.mem = NULL; /* creating fails too, where libjpeg is not the one its header belongs to: nothing to destroy then */
    j.src = NULL;
    if (setjmp(failure.back)) {
        size_t left = j.mem && j.src ? j.src->bytes_in_buffer : n, at = left <= n ? n - left : n;
        st = m2_fail(M2_DATA, "broken JPEG at byte %zu of %zu: %s",
                     failure.base.msg_code == JWRN_JPEG_EOF ? n : at, n, failure.why);
    } else {
        jpeg_create_decompress(&j);
        jpeg_mem_src(&j, bytes, n);
        st = read_jpeg(&j, out);
    }
    jpeg_destroy_decompress(&j);
    return st;
}

/* ---- PNG --------------------------------------------------------------------------------------------------------- */
static m2_status decode_png(const void *bytes, size_t n, m2i_picture *out)
{
    png_image p = {.version = PNG_IMAGE_VERSION};
    const png_color black = {0, 0, 0};
    m2_status st = M2_OK;
    int good = png_image_begin_read_from_memory(&p, bytes, n);
    if (good) {
        st = make(out, p.height, p.width);
        p.format = PNG_FORMAT_RGB;
        good = st == M2_OK && png_image_finish_read(&p, &black, out->pixels, 0, NULL);
    }
    if (st == M2_OK && (!good || PNG_IMAGE_FAILED(p)))
        st = m2_fail(M2_DATA, "broken PNG of %zu bytes: %s", n, p.message);
    png_image_free(&p);
    return st;
}

m2_status m2i_picture_decode(const void *bytes, size_t n, m2i_picture *out)
{
    static const unsigned char jpeg[] = {0xff, 0xd8, 0xff},
                               png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    m2_status st;
    out->pixels = NULL;
    if (n >= sizeof jpeg && !memcmp(bytes, jpeg, sizeof jpeg))
        st = decode_jpeg(bytes, n, out);
    else if (n >= sizeof png && !memcmp(bytes, png, sizeof png))
        st = decode_png(bytes, n, out);
    else
        st = m2_fail(M2_DATA, "its %zu bytes begin neither like a JPEG nor like a PNG file", n);
    if (st != M2_OK) {
        free(out->pixels);
        out->pixels = NULL;
    }
    return st;
}
