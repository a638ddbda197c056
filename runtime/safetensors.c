#include "runtime/safetensors.h"
#include "kernels/base/dtype.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH = 1100, HEADER_MOST = 100000000 };

static const struct {
    const char *name;
    int bytes;
} types[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8}, {"I32", 4}, {"I16", 2},
             {"I8", 1},  {"U64", 8}, {"U32", 4}, {"U16", 2},  {"U8", 1},  {"BOOL", 1}};

static int type_bytes(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, name)) return types[i].bytes;
    return 0;
}

int64_t m2_safetensors_elements(const m2_safetensor *t)
{
    int64_t n = 1;
    for (int d = 0; d < t->rank; d++) n *= t->dims[d];
    return n;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */
typedef struct mapped {
    void *bytes;
    size_t size;
    json_t *header;
} mapped;

struct m2_safetensors {
    int n_files, n, room;
    mapped *files;
    m2_safetensor *tensors;
};

static m2_status out_of_memory(const char *path)
{
    return m2_fail(M2_TRANSIENT, "out of memory for %s", path);
}

static m2_status map_file(const char *path, mapped *out)
{
    struct stat info;
    int fd = open(path, O_RDONLY);
    if (fd < 0 && errno == ENOENT) return m2_fail(M2_DATA, "%s is missing", path);
    if (fd < 0 || fstat(fd, &info)) {
        m2_status st = m2_fail(M2_IO, "opening %s failed: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return st;
    }
    out->size = (size_t)info.st_size;
    void *bytes = out->size ? mmap(NULL, out->size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    int why = errno;
    close(fd);
    if (!out->size) return m2_fail(M2_DATA, "%s is empty", path);
    if (bytes == MAP_FAILED) return m2_fail(M2_IO, "reading %s failed: %s", path, strerror(why));
    out->bytes = bytes;
    return M2_OK;
}

/* Reads "name": {...}; `room` bytes of data begin at `data`. */
static m2_status read_entry(const char *path, const char *name, json_t *entry, const char *data, int64_t room,
                            m2_safetensor *t)
{
    json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    *t = (m2_safetensor){.name = name, .rank = (int)json_array_size(shape)};
    if (!dtype || !json_is_array(shape) || json_array_size(offsets) != 2 || t->rank > M2_SAFETENSORS_RANK)
        return m2_fail(M2_DATA, "%s: tensor %s has no usable dtype, shape or data_offsets", path, name);
    if (!type_bytes(dtype))
        return m2_fail(M2_DATA, "%s: tensor %s has the unknown dtype %.20s", path, name, dtype);
    snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
    int64_t n = type_bytes(dtype);
    for (int d = 0; d < t->rank; d++) {
        t->dims[d] = json_integer_value(json_array_get(shape, (size_t)d));
        if (t->dims[d] < 0 || (t->dims[d] && n > INT64_MAX / 16 / t->dims[d]))
            return m2_fail(M2_DATA, "%s: tensor %s has an impossible shape", path, name);
        n *= t->dims[d];
    }
    int64_t begin = json_integer_value(json_array_get(offsets, 0)),
            end = json_integer_value(json_array_get(offsets, 1));
    if (begin < 0 || end < begin || end > room || end - begin != n)
        return m2_fail(M2_DATA,
                       "%s: tensor %s should be bytes %" PRId64 " to %" PRId64 " of %" PRId64
                       ", and its shape asks for %" PRId64 ": the file is cut off or damaged",
                       path, name, begin, end, room, n);
    t->bytes = n;
    t->data = data + begin;
    return M2_OK;
}

static int by_data(const void *a, const void *b)
{
    const char *x = ((const m2_safetensor *)a)->data, *y = ((const m2_safetensor *)b)->data;
    return (x > y) - (x < y);
}

static m2_status read_header(const char *path, mapped *file, m2_safetensors *s)
{
    uint64_t length = 0;
    json_error_t error;
    if (file->size >= 8) memcpy(&length, file->bytes, 8);
    if (file->size < 8 || length > HEADER_MOST || length > file->size - 8)
        return m2_fail(M2_DATA, "%s is no safetensors file: its first 8 bytes are no length of a header",
                       path);
    const char *text = (const char *)file->bytes + 8, *data = text + length;
    file->header = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(file->header))
        return m2_fail(M2_DATA, "%s: its header is no JSON object: %s", path, error.text);
    int first = s->n;
    const char *name;
    json_t *entry;
    json_object_foreach(file->header, name, entry)
    {
        if (!strcmp(name, "__metadata__")) continue;
        if (s->n == s->room) {
            int more = s->room ? 2 * s->room : 256;
            m2_safetensor *bigger = realloc(s->tensors, (size_t)more * sizeof *bigger);
            if (!bigger) return out_of_memory(path);
            s->tensors = bigger;
            s->room = more;
        }
        M2_TRY(read_entry(path, name, entry, data, (int64_t)(file->size - 8 - length), &s->tensors[s->n]));
        s->n++;
    }
    if (s->n > first) qsort(s->tensors + first, (size_t)(s->n - first), sizeof *s->tensors, by_data);
    return M2_OK;
}

static m2_status add_file(m2_safetensors *s, const char *path)
{
    mapped *bigger = realloc(s->files, ((size_t)s->n_files + 1) * sizeof *bigger);
    if (!bigger) return out_of_memory(path);
    s->files = bigger;
    s->files[s->n_files] = (mapped){0};
    mapped *file = &s->files[s->n_files++];
    M2_TRY(map_file(path, file));
    return read_header(path, file, s);
}

/* Every file of the index once; then every tensor must be there. */
static m2_status add_index(m2_safetensors *s, const char *path)
{
    json_error_t error;
    char file[PATH];
    const char *name;
    json_t *where, *index = json_load_file(path, 0, &error), *map = json_object_get(index, "weight_map");
    json_t *seen = json_object();
    m2_status st = M2_OK;
    const char *slash = strrchr(path, '/');
    if (!seen) st = out_of_memory(path);
    if (!json_is_object(map))
        st = m2_fail(M2_DATA, "%s is no index of safetensors files: %s", path,
                     index ? "it has no weight_map" : error.text);
    json_object_foreach(map, name, where)
    {
        const char *text = json_string_value(where);
        if (st != M2_OK || (text && json_object_get(seen, text))) continue;
        if (!text || strchr(text, '/')) {
            st = m2_fail(M2_DATA, "%s: tensor %s is in no file beside the index", path, name);
            continue;
        }
        snprintf(file, sizeof file, "%.*s%s", slash ? (int)(slash - path) + 1 : 0, path, text);
        json_object_set_new(seen, text, json_true());
        st = add_file(s, file);
    }
    json_object_foreach(map, name, where)
    {
        int i = 0;
        while (i < s->n && strcmp(s->tensors[i].name, name)) i++;
        if (st == M2_OK && i == s->n)
            st = m2_fail(M2_DATA, "%s: tensor %s is not in %s", path, name, json_string_value(where));
    }
    json_decref(seen);
    json_decref(index);
    return st;
}

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

/* The folder's index or, without one, all its files. */
static m2_status add_folder(m2_safetensors *s, const char *path)
{
    DIR *dir = opendir(path);
    char file[PATH];
    int indices = 0, files = 0;
    m2_status st = M2_OK;
    if (!dir) return m2_fail(M2_IO, "reading folder %s failed: %s", path, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) indices += ends_with(e->d_name, ".safetensors.index.json");
    rewinddir(dir);
    for (struct dirent *e; st == M2_OK && (e = readdir(dir));) {
        if (!ends_with(e->d_name, indices ? ".safetensors.index.json" : ".safetensors")) continue;
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        st = indices ? add_index(s, file) : add_file(s, file);
        files++;
    }
    closedir(dir);
    if (st == M2_OK && !files) return m2_fail(M2_DATA, "%s holds no safetensors file", path);
    if (st == M2_OK && indices > 1)
        return m2_fail(M2_DATA, "%s holds %d indices of safetensors files: name one", path, indices);
    return st;
}

m2_status m2_safetensors_open(const char *path, m2_safetensors **out)
{
    struct stat info;
    m2_safetensors *s = *out = calloc(1, sizeof *s);
    if (!s) return out_of_memory(path);
    m2_status st;
    if (strlen(path) > PATH - 100)
        st = m2_fail(M2_USAGE, "path '%.60s...' is too long", path);
    else if (stat(path, &info))
        st = m2_fail(M2_DATA, "%s: there is no such file or folder", path);
    else if (S_ISDIR(info.st_mode))
        st = add_folder(s, path);
    else
        st = ends_with(path, ".json") ? add_index(s, path) : add_file(s, path);
    if (st != M2_OK) m2_safetensors_close(out);
    return st;
}

void m2_safetensors_close(m2_safetensors **sp)
{
    m2_safetensors *s = *sp;
    *sp = NULL;
    if (!s) return;
    for (int i = 0; i < s->n_files; i++) {
        json_decref(s->files[i].header);
        if (s->files[i].bytes) munmap(s->files[i].bytes, s->files[i].size);
    }
    free(s->files);
    free(s->tensors);
    free(s);
}

int m2_safetensors_count(const m2_safetensors *s)
{
    return s->n;
}

const m2_safetensor *m2_safetensors_tensor(const m2_safetensors *s, int i)
{
    return &s->tensors[i];
}

const char *m2_safetensors_metadata(const m2_safetensors *s, const char *key)
{
    const char *text = NULL;
    for (int i = 0; i < s->n_files && !text; i++)
        text = json_string_value(json_object_get(json_object_get(s->files[i].header, "__metadata__"), key));
    return text;
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */
static double from_half(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff, bits;
    float x;
    if (exponent == 0) return (sign ? -1.0 : 1.0) * (double)fraction / 16777216.0; /* times 2^-24 */
    bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    memcpy(&x, &bits, 4);
    return x;
}

m2_status m2_safetensors_doubles(const m2_safetensor *t, double *out)
{
    int64_t n = m2_safetensors_elements(t);
    const unsigned char *p = t->data; /* not aligned */
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        float x;
        if (!strcmp(t->dtype, "F64")) {
            memcpy(&out[i], p + 8 * i, 8);
        } else if (!strcmp(t->dtype, "F32")) {
            memcpy(&x, p + 4 * i, 4);
            out[i] = x;
        } else if (!strcmp(t->dtype, "BF16") || !strcmp(t->dtype, "F16")) {
            memcpy(&h, p + 2 * i, 2);
            out[i] = *t->dtype == 'B' ? (double)m2_bf16_to_f32(h) : from_half(h);
        } else {
            return m2_fail(M2_DATA, "tensor %s holds %s, expected F32, BF16, F16 or F64", t->name, t->dtype);
        }
    }
    return M2_OK;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */
/* The header of tensors [begin, end), padded so that data is aligned; malloc'd. */
static char *make_header(const m2_safetensors_spec *spec, int begin, int end, size_t *length)
{
    json_t *header = json_object(), *metadata = json_object();
    int64_t at = 0;
    int bad = json_object_set(header, "__metadata__", metadata);
    for (int i = 0; i < spec->n_metadata; i++)
        bad |= json_object_set_new(metadata, spec->metadata[2 * i], json_string(spec->metadata[2 * i + 1]));
    for (int i = begin; i < end; i++) {
        const m2_safetensor *t = &spec->tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < t->rank; d++) bad |= json_array_append_new(shape, json_integer(t->dims[d]));
        bad |= json_object_set_new(header, t->name,
                                   json_pack("{s:s, s:o, s:[I, I]}", "dtype", t->dtype, "shape", shape,
                                             "data_offsets", (json_int_t)at, (json_int_t)(at + t->bytes)));
        at += t->bytes;
    }
    char *text = bad ? NULL : json_dumps(header, JSON_COMPACT);
    json_decref(metadata);
    json_decref(header);
    size_t n = text ? strlen(text) : 0, padded = (n + 7) / 8 * 8;
    char *out = text ? malloc(padded + 1) : NULL;
    if (out) {
        memcpy(out, text, n);
        memset(out + n, ' ', padded - n);
        *length = padded;
    }
    free(text);
    return out;
}

static m2_status write_failed(const char *path)
{
    return m2_fail(M2_IO, "writing %s failed: %s", path, strerror(errno));
}

/* Renames a finished, flushed file to its place. */
static m2_status finish(FILE *f, const char *temporary, const char *path, m2_status st)
{
    if (st == M2_OK && (fflush(f) || fsync(fileno(f)))) st = write_failed(temporary);
    if (fclose(f) && st == M2_OK) st = write_failed(temporary);
    if (st == M2_OK && rename(temporary, path)) st = write_failed(path);
    if (st != M2_OK) unlink(temporary);
    return st;
}

static m2_status write_tensors(FILE *f, const char *path, const m2_safetensors_spec *spec, int begin, int end)
{
    size_t length = 0;
    m2_status st = M2_OK;
    char *header = make_header(spec, begin, end, &length);
    if (!header)
        return m2_fail(M2_DATA,
                       "the header of %s cannot be made: a name or a text of its metadata is no UTF-8", path);
    uint64_t n = length;
    if (fwrite(&n, 8, 1, f) != 1 || fwrite(header, 1, length, f) != length) st = write_failed(path);
    free(header);
    for (int i = begin; i < end && st == M2_OK; i++) {
        size_t bytes = (size_t)spec->tensors[i].bytes;
        void *data = malloc(bytes + 1);
        st = data ? spec->fill(spec->ctx, i, data) : out_of_memory(path);
        if (st == M2_OK && fwrite(data, 1, bytes, f) != bytes) st = write_failed(path);
        free(data);
    }
    return st;
}

static m2_status write_file(const char *path, const m2_safetensors_spec *spec, int begin, int end)
{
    char temporary[PATH + 8];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *f = fopen(temporary, "wb");
    if (!f) return write_failed(temporary);
    return finish(f, temporary, path, write_tensors(f, temporary, spec, begin, end));
}

static m2_status write_index(const char *folder, json_t *index)
{
    char path[PATH], temporary[PATH + 8];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *f = fopen(temporary, "w");
    if (!f) return write_failed(temporary);
    return finish(f, temporary, path, json_dumpf(index, f, JSON_INDENT(2)) ? write_failed(temporary) : M2_OK);
}

/* The first tensor that no longer fits the file that begins with `begin`. */
static int file_end(const m2_safetensors_spec *spec, int begin, int64_t *total)
{
    int end = begin;
    int64_t bytes = 0;
    while (end < spec->n && (end == begin || bytes + spec->tensors[end].bytes <= spec->file_bytes))
        bytes += spec->tensors[end++].bytes;
    *total += bytes;
    return end;
}

static m2_status write_folder(const char *folder, const m2_safetensors_spec *spec)
{
    int files = 0, number = 0;
    int64_t total = 0, again = 0;
    m2_status st = M2_OK;
    if (mkdir(folder, 0777) && errno != EEXIST)
        return m2_fail(M2_IO, "making folder %s failed: %s", folder, strerror(errno));
    for (int i = 0; i < spec->n; files++) i = file_end(spec, i, &total);
    json_t *map = json_object();
    for (int begin = 0, end; begin < spec->n && st == M2_OK; begin = end) {
        char name[64], path[PATH];
        end = file_end(spec, begin, &again);
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", ++number, files);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        st = write_file(path, spec, begin, end);
        for (int i = begin; i < end; i++) json_object_set_new(map, spec->tensors[i].name, json_string(name));
    }
    json_t *index =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    if (st == M2_OK) st = index ? write_index(folder, index) : out_of_memory(folder);
    json_decref(index);
    return st;
}

m2_status m2_safetensors_write(const char *path, const m2_safetensors_spec *spec)
{
    if (strlen(path) > PATH - 100) return m2_fail(M2_USAGE, "path '%.60s...' is too long", path);
    return spec->file_bytes > 0 ? write_folder(path, spec) : write_file(path, spec, 0, spec->n);
}
