#define _GNU_SOURCE /* asprintf, scandir */
#include "data/image_files.h"
#include "data/tar.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { DEEPEST = 32, LARGEST = 1 << 30 };

/* A folder that is being gone through. */
typedef struct level {
    char *path;
    struct dirent **entries;
    int count, next;
} level;

struct m2i_image_files {
    char *const *paths;
    int64_t count, next;
    m2i_tar *tar;
    level levels[DEEPEST];
    int depth;
    char *path;  /* handed out */
    size_t root; /* where the path inside the archive or folder begins in it */
};

m2_status m2i_image_files_open(char *const *paths, int64_t count, m2i_image_files **out)
{
    m2i_image_files *f = *out = calloc(1, sizeof *f);
    if (!f) return m2_fail(M2_TRANSIENT, "out of memory for the names of files");
    f->paths = paths;
    f->count = count;
    return M2_OK;
}

static void leave_folder(m2i_image_files *f)
{
    level *l = &f->levels[--f->depth];
    for (int i = 0; i < l->count; i++) free(l->entries[i]);
    free(l->entries);
    free(l->path);
    memset(l, 0, sizeof *l);
}

void m2i_image_files_close(m2i_image_files **fp)
{
    m2i_image_files *f = *fp;
    *fp = NULL;
    if (!f) return;
    while (f->depth) leave_folder(f);
    m2i_tar_close(&f->tar);
    free(f->path);
    free(f);
}

static m2_status set_path(m2i_image_files *f, const char *folder, const char *between, const char *name)
{
    free(f->path);
    if (asprintf(&f->path, "%s%s%s", folder, between, name) >= 0) return M2_OK;
    f->path = NULL;
    return m2_fail(M2_TRANSIENT, "out of memory for the names of files");
}

static int is_picture(const char *name)
{
    const char *slash = strrchr(name, '/'), *dot = strrchr(name, '.');
    if (!dot || (slash ? slash[1] : *name) == '.') return 0;
    return !strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg") || !strcasecmp(dot, ".png");
}

static m2_status make_room(char **data, size_t *room, int64_t bytes)
{
    if (bytes > LARGEST)
        return m2_fail(M2_DATA, "a picture file of %" PRId64 " bytes; up to %d are read", bytes, LARGEST);
    if ((int64_t)*room >= bytes && *data) return M2_OK;
    if (bytes < 1) bytes = 1;
    char *more = realloc(*data, (size_t)bytes);
    if (!more) return m2_fail(M2_TRANSIENT, "out of memory for a file of %" PRId64 " bytes", bytes);
    *data = more;
    *room = (size_t)bytes;
    return M2_OK;
}

/* ---- folders ----------------------------------------------------------------------------------------------------- */
static m2_status enter_folder(m2i_image_files *f, const char *path)
{
    if (f->depth == DEEPEST)
        return m2_fail(M2_DATA, "%s: folders inside each other, more than %d", path, DEEPEST);
    level *l = &f->levels[f->depth];
    l->path = strdup(path);
    l->count = l->path ? scandir(path, &l->entries, NULL, alphasort) : 0;
    l->next = 0;
    f->depth++;
    if (!l->path) return m2_fail(M2_TRANSIENT, "out of memory for the names of files");
    if (l->count >= 0) return M2_OK;
    l->count = 0;
    return m2_fail(M2_IO, "cannot list the folder %s: %s", path, strerror(errno));
}

static m2_status read_file(const char *path, int64_t size, char **data, size_t *room, size_t *bytes)
{
    M2_TRY(m2_context(make_room(data, room, size), "%s", path));
    FILE *file = fopen(path, "rb");
    *bytes = file ? fread(*data, 1, (size_t)size, file) : 0;
    int bad = !file || ferror(file);
    m2_status st = bad ? m2_fail(M2_IO, "cannot read %s: %s", path, strerror(errno)) : M2_OK;
    if (file) fclose(file);
    return st;
}

/* One entry of the innermost folder; *found = 1: it was a picture. */
static m2_status next_entry(m2i_image_files *f, char **data, size_t *room, size_t *bytes, int *found)
{
    level *l = &f->levels[f->depth - 1];
    struct stat s;
    *found = 0;
    if (l->next == l->count) {
        leave_folder(f);
        return M2_OK;
    }
    const char *name = l->entries[l->next++]->d_name;
    if (*name == '.') return M2_OK;
    M2_TRY(set_path(f, l->path, "/", name));
    if (stat(f->path, &s)) return m2_fail(M2_IO, "cannot open %s: %s", f->path, strerror(errno));
    if (S_ISDIR(s.st_mode)) return enter_folder(f, f->path);
    *found = is_picture(name);
    return *found ? read_file(f->path, s.st_size, data, room, bytes) : M2_OK;
}

/* ---- archives ---------------------------------------------------------------------------------------------------- */
static m2_status next_member(m2i_image_files *f, char **data, size_t *room, size_t *bytes, int *found)
{
    const char *name;
    int64_t size;
    *found = 0;
    M2_TRY(m2i_tar_next(f->tar, &name, &size));
    if (!name) {
        m2i_tar_close(&f->tar);
        return M2_OK;
    }
    *found = is_picture(name);
    if (!*found) return M2_OK;
    M2_TRY(set_path(f, f->paths[f->next - 1], ":", name));
    M2_TRY(m2_context(make_room(data, room, size), "%s", f->path));
    *bytes = (size_t)size;
    return m2i_tar_read(f->tar, *data);
}

static m2_status open_next(m2i_image_files *f)
{
    struct stat s;
    const char *path = f->paths[f->next++];
    if (stat(path, &s)) return m2_fail(M2_IO, "cannot open %s: %s", path, strerror(errno));
    f->root = strlen(path) + 1;
    return S_ISDIR(s.st_mode) ? enter_folder(f, path) : m2i_tar_open(path, &f->tar);
}

m2_status m2i_image_files_next(m2i_image_files *f, const char **path, const char **inside, char **data,
                               size_t *room, size_t *bytes)
{
    *path = NULL;
    for (int found = 0; !found;) {
        if (f->depth)
            M2_TRY(next_entry(f, data, room, bytes, &found));
        else if (f->tar)
            M2_TRY(next_member(f, data, room, bytes, &found));
        else if (f->next == f->count)
            return M2_OK;
        else
            M2_TRY(open_next(f));
    }
    *path = f->path;
    *inside = f->path + f->root;
    return M2_OK;
}
