#define _GNU_SOURCE /* asprintf, sync_file_range */
#include "data/store.h"
#include "data/h5.h"
#include "kernels/base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { OPEN_ARRAYS = 4, CACHE_BYTES = 32 << 20 };

/* Arrays stay open between calls: opening costs more than reading a row, and the chunk cache lives in the open array. */
typedef struct open_array {
    char *name;
    hid_t id;
} open_array;

struct m2_store {
    char *path, *temporary; /* temporary: NULL when opened for reading */
    hid_t file;
    open_array open[OPEN_ARRAYS];
    int next; /* slot to replace */
    int raw;  /* file descriptor of m2_store_put, -1 = none yet */
};

const char *m2_store_library(void)
{
    static char text[64];
    unsigned major = 0, minor = 0, release = 0;
#ifdef H5_HAVE_PARALLEL
    const char *variant = "parallel";
#else
    const char *variant = "serial";
#endif
    H5get_libversion(&major, &minor, &release);
    snprintf(text, sizeof text, "HDF5 %u.%u.%u, %s", major, minor, release, variant);
    return text;
}

m2_status m2_store_library_check(void)
{
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    if (major == H5_VERS_MAJOR && minor == H5_VERS_MINOR && release == H5_VERS_RELEASE) return M2_OK;
    return m2_fail(M2_TRANSIENT,
                   "HDF5 %u.%u.%u is found here, but m2 was built for %d.%d.%d: build m2 again, or look at "
                   "LD_LIBRARY_PATH",
                   major, minor, release, H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */
static m2_status system_failure(const char *doing, const char *path)
{
    return m2_fail(M2_IO, "cannot %s %s: %s", doing, path, strerror(errno));
}

static m2_status make_handle(const char *path, m2_store **out)
{
    m2_store *s = calloc(1, sizeof *s);
    if (s) s->path = strdup(path);
    if (!s || !s->path) {
        free(s);
        return m2_fail(M2_TRANSIENT, "out of memory for the store %s", path);
    }
    s->file = H5I_INVALID_HID;
    s->raw = -1;
    *out = s;
    return M2_OK;
}

/* Closing writes what HDF5 still holds back of the array. */
static m2_status finish_array(m2_store *s, open_array *slot)
{
    m2_status st = M2_OK;
    if (slot->name && m2i_h5_failed(H5Dclose(slot->id)))
        st = m2_fail(M2_IO, "%s: cannot write array %s: %s", s->path, slot->name, m2i_h5_why());
    free(slot->name);
    slot->name = NULL;
    return st;
}

static void drop_arrays(m2_store *s)
{
    for (int i = 0; i < OPEN_ARRAYS; i++) {
        if (!s->open[i].name) continue;
        H5Dclose(s->open[i].id);
        free(s->open[i].name);
        s->open[i].name = NULL;
    }
}

static hid_t access_properties(void)
{
    hid_t p = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(p,
                         H5F_CLOSE_WEAK); /* as HDF5 opens the pieces of virtual arrays: both may be open */
    H5Pset_libver_bounds(p, H5F_LIBVER_V110, H5F_LIBVER_LATEST);
    return p;
}

static m2_status create_locked(const char *path, m2_store **out)
{
    m2_store *s = NULL;
    M2_TRY(make_handle(path, &s));
    if (asprintf(&s->temporary, "%s.tmp-%ld", path, (long)getpid()) < 0) {
        s->temporary = NULL;
        m2_store_close(&s);
        return m2_fail(M2_TRANSIENT, "out of memory for the store %s", path);
    }
    int fd =
        open(s->temporary, O_WRONLY | O_CREAT | O_TRUNC, 0666); /* the system's own reason, before HDF5's */
    if (fd < 0 || close(fd)) {
        m2_status st = system_failure("create", s->temporary);
        m2_store_close(&s);
        return st;
    }
    hid_t p = access_properties();
    hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_obj_track_times(creation, 0);
    int bad = m2i_h5_failed(s->file = H5Fcreate(s->temporary, H5F_ACC_TRUNC, creation, p));
    H5Pclose(creation);
    H5Pclose(p);
    if (bad) {
        m2_status st = m2_fail(M2_IO, "cannot create %s: %s", s->temporary, m2i_h5_why());
        m2_store_close(&s);
        return st;
    }
    *out = s;
    return M2_OK;
}

m2_status m2_store_create(const char *path, m2_store **out)
{
    *out = NULL;
    M2I_LOCKED(create_locked(path, out));
}

static m2_status open_locked(const char *path, m2_store **out)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0) return system_failure("open", path);
    close(fd);
    if (H5Fis_hdf5(path) <= 0) {
        H5Eclear2(H5E_DEFAULT);
        return m2_fail(M2_DATA, "%s is not an HDF5 file, or its beginning is damaged", path);
    }
    m2_store *s = NULL;
    M2_TRY(make_handle(path, &s));
    hid_t p = access_properties();
    int bad = m2i_h5_failed(s->file = H5Fopen(path, H5F_ACC_RDONLY, p));
    H5Pclose(p);
    if (bad) {
        m2_status st = m2_fail(M2_DATA, "cannot read %s, it is cut off or damaged: %s", path, m2i_h5_why());
        m2_store_close(&s);
        return st;
    }
    *out = s;
    return M2_OK;
}

m2_status m2_store_open(const char *path, m2_store **out)
{
    *out = NULL;
    M2I_LOCKED(open_locked(path, out));
}

static m2_status sync_path(const char *path, int flags)
{
    int fd = open(path, flags);
    if (fd < 0) return system_failure("open", path);
    int bad = fsync(fd);
    m2_status st = bad ? system_failure("flush to disk", path) : M2_OK;
    close(fd);
    return st;
}

static m2_status sync_folder_of(const char *path)
{
    char *folder = strdup(path);
    if (!folder) return m2_fail(M2_TRANSIENT, "out of memory for the name %s", path);
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    m2_status st = sync_path(slash ? folder : ".", O_RDONLY | O_DIRECTORY);
    free(folder);
    return st;
}

/* What HDF5 still holds back goes into the file. */
static m2_status finish_locked(m2_store *s)
{
    if (!s->temporary) return m2_fail(M2_BUG, "%s was opened for reading and cannot be committed", s->path);
    for (int i = 0; i < OPEN_ARRAYS; i++) M2_TRY(finish_array(s, &s->open[i]));
    int bad = m2i_h5_failed(H5Fclose(s->file));
    s->file = H5I_INVALID_HID;
    return bad ? m2_fail(M2_IO, "cannot write %s: %s", s->temporary, m2i_h5_why()) : M2_OK;
}

static m2_status finish(m2_store *s)
{
    M2I_LOCKED(finish_locked(s));
}

/* Flushing takes as long as the disk takes: nobody else waits for HDF5's lock meanwhile. */
static m2_status publish(m2_store *s)
{
    M2_FAULT("flush a file");
    if (s->raw >= 0 && fsync(s->raw)) return system_failure("flush to disk", s->temporary);
    M2_TRY(sync_path(s->temporary, O_RDONLY));
    M2_FAULT("rename a file");
    if (rename(s->temporary, s->path)) return system_failure("rename a finished file to", s->path);
    free(s->temporary);
    s->temporary = NULL; /* from here on nothing is left to delete */
    M2_FAULT("flush a file's folder");
    return sync_folder_of(s->path);
}

m2_status m2_store_commit(m2_store **s)
{
    m2_status st = finish(*s);
    if (st == M2_OK) st = publish(*s);
    m2_store_close(s);
    return st;
}

void m2_store_close(m2_store **sp)
{
    m2_store *s = *sp;
    *sp = NULL;
    if (!s) return;
    m2i_h5_enter();
    drop_arrays(s);
    if (s->file >= 0) H5Fclose(s->file);
    H5Eclear2(H5E_DEFAULT);
    m2i_h5_leave();
    if (s->raw >= 0) close(s->raw);
    if (s->temporary) unlink(s->temporary);
    free(s->temporary);
    free(s->path);
    free(s);
}

hid_t m2i_store_file(const m2_store *s)
{
    return s->file;
}

const char *m2_store_path(const m2_store *s)
{
    return s->path;
}

/* ---- arrays ------------------------------------------------------------------------------------------------------ */
static void to_hsize(hsize_t *to, const int64_t *from, int rank)
{
    for (int i = 0; i < rank; i++) to[i] = (hsize_t)from[i];
}

static hid_t make_space(const m2_array_info *info, int grows)
{
    hsize_t dims[M2_STORE_RANK], max[M2_STORE_RANK];
    if (info->rank == 0) return H5Screate(H5S_SCALAR);
    to_hsize(dims, info->shape, info->rank);
    to_hsize(max, info->shape, info->rank);
    if (grows) max[0] = H5S_UNLIMITED;
    return H5Screate_simple(info->rank, dims, max);
}

static m2_status check_info(const m2_store *s, const char *name, const m2_array_info *info)
{
    int ok = info->rank >= 0 && info->rank <= M2_STORE_RANK && (unsigned)info->dtype < M2_DTYPE_COUNT;
    for (int i = 0; ok && i < info->rank; i++) ok = info->shape[i] >= 0;
    return ok ? M2_OK : m2_fail(M2_BUG, "%s: array %s has an impossible dtype, rank or shape", s->path, name);
}

/* Creates the dataset and says its dtype where HDF5 has none. Takes over `space` and `plist`. */
static m2_status create_array(m2_store *s, const char *name, const m2_array_info *info, hid_t space,
                              hid_t plist)
{
    hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_obj_track_times(plist, 0); /* the same contents are the same bytes */
    H5Pset_create_intermediate_group(links, 1);
    hid_t id = H5Dcreate2(s->file, name, m2i_h5_file_type(info->dtype), space, links, plist, H5P_DEFAULT);
    m2_status st = M2_OK;
    if (m2i_h5_failed(id)) st = m2_fail(M2_IO, "cannot make array %s in %s: %s", name, s->path, m2i_h5_why());
    if (st == M2_OK && info->dtype == M2_BF16)
        st = m2_context(m2i_attribute_set_text(id, "m2_dtype", "bf16"), "%s: %s", s->path, name);
    if (id >= 0) H5Dclose(id);
    H5Pclose(links);
    H5Pclose(plist);
    H5Sclose(space);
    return st;
}

static m2_status make_locked(m2_store *s, const char *name, const m2_array_info *info,
                             const m2_array_options *opt)
{
    static const m2_array_options plain;
    if (!opt) opt = &plain;
    M2_TRY(check_info(s, name, info));
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    if (opt->chunk > 0 && info->rank > 0) {
        hsize_t chunk[M2_STORE_RANK];
        to_hsize(chunk, info->shape, info->rank);
        chunk[0] = (hsize_t)opt->chunk;
        for (int i = 1; i < info->rank; i++) chunk[i] += chunk[i] == 0;
        H5Pset_chunk(plist, info->rank, chunk);
        if (opt->deflate) H5Pset_shuffle(plist);
        if (opt->deflate) H5Pset_deflate(plist, (unsigned)opt->deflate);
        if (opt->fletcher32) H5Pset_fletcher32(plist);
    } else {
        H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER);
    }
    return create_array(s, name, info, make_space(info, opt->chunk > 0), plist);
}

m2_status m2_store_make(m2_store *s, const char *name, const m2_array_info *info, const m2_array_options *opt)
{
    M2I_LOCKED(make_locked(s, name, info, opt));
}

static m2_status reserve_locked(m2_store *s, const char *name, const m2_array_info *info, int64_t *at)
{
    M2_TRY(check_info(s, name, info));
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE), id;
    H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER);
    H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY);
    M2_TRY(create_array(s, name, info, make_space(info, 0), plist));
    if (m2i_h5_failed(id = H5Dopen2(s->file, name, H5P_DEFAULT)))
        return m2_fail(M2_IO, "cannot make array %s in %s: %s", name, s->path, m2i_h5_why());
    haddr_t place = H5Dget_offset(id);
    H5Eclear2(H5E_DEFAULT);
    H5Dclose(id);
    if (place == HADDR_UNDEF) return m2_fail(M2_BUG, "%s: array %s got no place in the file", s->path, name);
    *at = (int64_t)place;
    return M2_OK;
}

m2_status m2_store_reserve(m2_store *s, const char *name, const m2_array_info *info, int64_t *at)
{
    M2I_LOCKED(reserve_locked(s, name, info, at));
}

m2_status m2_store_put(m2_store *s, int64_t at, const void *bytes, int64_t n)
{
    if (s->raw < 0) s->raw = open(s->temporary, O_WRONLY);
    if (s->raw < 0) return system_failure("open", s->temporary);
    M2_FAULT("write to a file");
    for (int64_t done = 0; done < n;) {
        ssize_t k = pwrite(s->raw, (const char *)bytes + done, (size_t)(n - done), (off_t)(at + done));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return system_failure("write", s->temporary);
        done += k;
    }
    (void)sync_file_range(s->raw, at, n, SYNC_FILE_RANGE_WRITE); /* a hint: commit's fsync is the promise */
    return M2_OK;
}

static m2_status make_virtual_locked(m2_store *s, const char *name, const m2_array_info *info, int n,
                                     const m2_virtual_slab *slabs)
{
    M2_TRY(check_info(s, name, info));
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE), space = make_space(info, 0);
    int bad = 0;
    for (int i = 0; i < n && !bad; i++) {
        hsize_t offset[M2_STORE_RANK], count[M2_STORE_RANK], elements = 1;
        to_hsize(offset, slabs[i].offset, info->rank);
        to_hsize(count, slabs[i].count, info->rank);
        for (int k = 0; k < info->rank; k++) elements *= count[k];
        if (!elements) continue;
        hid_t whole = H5Scopy(space);
        hid_t source = info->rank ? H5Screate_simple(info->rank, count, NULL) : H5Screate(H5S_SCALAR);
        if (info->rank)
            bad |= m2i_h5_failed(H5Sselect_hyperslab(whole, H5S_SELECT_SET, offset, NULL, count, NULL));
        bad |= m2i_h5_failed(H5Pset_virtual(plist, whole, slabs[i].file, slabs[i].array, source));
        H5Sclose(source);
        H5Sclose(whole);
    }
    if (!bad) return create_array(s, name, info, space, plist);
    H5Pclose(plist);
    H5Sclose(space);
    return m2_fail(M2_IO, "cannot compose array %s in %s: %s", name, s->path, m2i_h5_why());
}

m2_status m2_store_make_virtual(m2_store *s, const char *name, const m2_array_info *info, int n,
                                const m2_virtual_slab *slabs)
{
    M2I_LOCKED(make_virtual_locked(s, name, info, n, slabs));
}

int m2_store_has(m2_store *s, const char *name)
{
    m2i_h5_enter();
    int found = !strcmp(name, "/") || H5Lexists(s->file, name, H5P_DEFAULT) > 0;
    H5Eclear2(H5E_DEFAULT);
    m2i_h5_leave();
    return found;
}

/* Is the file of piece i there, with an array as large as when the whole was made? */
static m2_status check_piece(hid_t plist, size_t i, const char *path)
{
    char array[1024];
    m2_store *piece = NULL;
    m2_array_info info;
    M2_TRY(m2_store_open(path, &piece));
    H5Pget_virtual_dsetname(plist, i, array, sizeof array);
    m2_status st = m2_store_info(piece, array, &info);
    hid_t space = H5Pget_virtual_vspace(plist, i);
    int64_t was = H5Sget_select_npoints(space), is = 1;
    for (int k = 0; st == M2_OK && k < info.rank; k++) is *= info.shape[k];
    if (st == M2_OK && is != was)
        st = m2_fail(M2_DATA, "%s: array %s has %" PRId64 " elements now, and had %" PRId64, path, array, is,
                     was);
    H5Sclose(space);
    m2_store_close(&piece);
    return st;
}

/* A piece's path: seen from the folder of the store. */
static void find_piece(const m2_store *s, hid_t plist, size_t i, char *path, size_t n)
{
    char file[1024];
    H5Pget_virtual_filename(plist, i, file, sizeof file);
    const char *slash = strrchr(s->path, '/');
    int folder = slash && file[0] != '/' ? (int)(slash - s->path) + 1 : 0;
    snprintf(path, n, "%.*s%s", folder, s->path, file);
}

/* HDF5 reads zeros where a piece of a virtual array is missing; here that is a failure. */
static m2_status check_pieces(const m2_store *s, const char *name, hid_t id)
{
    hid_t plist = H5Dget_create_plist(id);
    size_t n = 0;
    m2_status st = M2_OK;
    if (H5Pget_layout(plist) == H5D_VIRTUAL) H5Pget_virtual_count(plist, &n);
    for (size_t i = 0; i < n && st == M2_OK; i++) {
        char path[4096];
        find_piece(s, plist, i, path, sizeof path);
        st = m2_context(check_piece(plist, i, path), "%s: a piece of %s", s->path, name);
    }
    H5Pclose(plist);
    return st;
}

static m2_status find_array(m2_store *s, const char *name, hid_t *out)
{
    for (int i = 0; i < OPEN_ARRAYS; i++)
        if (s->open[i].name && !strcmp(s->open[i].name, name)) {
            *out = s->open[i].id;
            return M2_OK;
        }
    if (!m2_store_has(s, name)) return m2_fail(M2_DATA, "%s has no array %s", s->path, name);
    hid_t access = H5Pcreate(H5P_DATASET_ACCESS);
    H5Pset_chunk_cache(access, 12289, CACHE_BYTES, 1.0);
    H5Pset_virtual_prefix(access, "${ORIGIN}");
    hid_t id = H5Dopen2(s->file, name, access);
    int bad = m2i_h5_failed(id);
    H5Pclose(access);
    if (bad) return m2_fail(M2_DATA, "%s: cannot open array %s: %s", s->path, name, m2i_h5_why());
    m2_status st = check_pieces(s, name, id);
    char *copy = st == M2_OK ? strdup(name) : NULL;
    if (!copy) {
        H5Dclose(id);
        return st != M2_OK ? st : m2_fail(M2_TRANSIENT, "out of memory for array %s", name);
    }
    open_array *slot = &s->open[s->next++ % OPEN_ARRAYS];
    st = finish_array(s, slot);
    *slot = (open_array){copy, id};
    *out = id;
    return st;
}

static m2_status describe(m2_store *s, const char *name, hid_t id, m2_array_info *out)
{
    hid_t type = H5Dget_type(id), space = H5Dget_space(id);
    int rank = H5Sget_simple_extent_ndims(space), known = m2i_h5_dtype(type, &out->dtype);
    hsize_t dims[H5S_MAX_RANK] = {0};
    if (rank > 0) H5Sget_simple_extent_dims(space, dims, NULL);
    H5Tclose(type);
    H5Sclose(space);
    if (!known || rank < 0 || rank > M2_STORE_RANK)
        return m2_fail(M2_DATA, "%s: array %s has a type or a rank (%d) that m2 does not write", s->path,
                       name, rank);
    out->rank = rank;
    for (int i = 0; i < M2_STORE_RANK; i++) out->shape[i] = i < rank ? (int64_t)dims[i] : 0;
    if (out->dtype == M2_U16 && H5Aexists(id, "m2_dtype") > 0) out->dtype = M2_BF16;
    return M2_OK;
}

static m2_status info_locked(m2_store *s, const char *name, m2_array_info *out)
{
    hid_t id;
    M2_TRY(find_array(s, name, &id));
    return describe(s, name, id, out);
}

m2_status m2_store_info(m2_store *s, const char *name, m2_array_info *out)
{
    M2I_LOCKED(info_locked(s, name, out));
}

/* After [offset, offset + count) of a virtual array of rank 1 could not be read: the failure of the piece that is damaged. */
static m2_status blame_piece(const m2_store *s, const char *name, hid_t id, int64_t offset, int64_t count)
{
    hid_t plist = H5Dget_create_plist(id);
    size_t n = 0;
    m2_status st = M2_OK;
    if (H5Pget_layout(plist) == H5D_VIRTUAL) H5Pget_virtual_count(plist, &n);
    for (size_t i = 0; i < n && st == M2_OK; i++) {
        char path[4096], array[1024];
        hsize_t first, last;
        m2_store *piece = NULL;
        hid_t space = H5Pget_virtual_vspace(plist, i);
        H5Sget_select_bounds(space, &first, &last);
        H5Sclose(space);
        int64_t from = offset > (int64_t)first ? offset : (int64_t)first;
        int64_t end = offset + count < (int64_t)last + 1 ? offset + count : (int64_t)last + 1;
        if (from >= end) continue;
        find_piece(s, plist, i, path, sizeof path);
        H5Pget_virtual_dsetname(plist, i, array, sizeof array);
        void *buffer = malloc((size_t)(end - from) * 8);
        from -= (int64_t)first;
        end -= (int64_t)first + from;
        st = m2_store_open(path, &piece);
        if (st == M2_OK && buffer) st = m2_store_read(piece, array, &from, &end, buffer);
        st = m2_context(st, "%s: a piece of %s", s->path, name);
        m2_store_close(&piece);
        free(buffer);
    }
    H5Pclose(plist);
    return st;
}

/* One hyperslab in (buf written to) or out (buf read into). */
static m2_status transfer(m2_store *s, const char *name, const int64_t *offset, const int64_t *count,
                          void *in, const void *out)
{
    hid_t id;
    m2_array_info info;
    M2_TRY(find_array(s, name, &id));
    M2_TRY(describe(s, name, id, &info));
    hsize_t start[M2_STORE_RANK], extent[M2_STORE_RANK], elements = 1;
    for (int i = 0; i < info.rank; i++) {
        if (offset[i] < 0 || count[i] < 0 || offset[i] > info.shape[i] - count[i])
            return m2_fail(M2_DATA,
                           "%s: [%" PRId64 ", %" PRId64
                           ") of dimension %d is outside array %s, which has %" PRId64,
                           s->path, offset[i], offset[i] + count[i], i, name, info.shape[i]);
        start[i] = (hsize_t)offset[i];
        elements *= extent[i] = (hsize_t)count[i];
    }
    if (!elements) return M2_OK;
    hid_t memory = info.rank ? H5Screate_simple(info.rank, extent, NULL) : H5Screate(H5S_SCALAR);
    hid_t space = H5Dget_space(id), type = m2i_h5_memory_type(info.dtype);
    int bad =
        info.rank && m2i_h5_failed(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, extent, NULL));
    if (!bad)
        bad = m2i_h5_failed(in ? H5Dread(id, type, memory, space, H5P_DEFAULT, in)
                               : H5Dwrite(id, type, memory, space, H5P_DEFAULT, out));
    H5Sclose(space);
    H5Sclose(memory);
    if (!bad) return M2_OK;
    if (in) {
        char where[160];
        if (info.rank == 1) M2_TRY(blame_piece(s, name, id, offset[0], count[0]));
        m2i_store_find_damage(id, offset, count, info.rank, where, sizeof where);
        return m2_fail(M2_DATA, "%s: cannot read array %s, the file is damaged%s: %s", s->path, name, where,
                       m2i_h5_why());
    }
    return m2_fail(M2_IO, "%s: cannot write array %s: %s", s->path, name, m2i_h5_why());
}

m2_status m2_store_write(m2_store *s, const char *name, const int64_t *offset, const int64_t *count,
                         const void *buf)
{
    M2I_LOCKED(transfer(s, name, offset, count, NULL, buf));
}

m2_status m2_store_read(m2_store *s, const char *name, const int64_t *offset, const int64_t *count, void *buf)
{
    M2I_LOCKED(transfer(s, name, offset, count, buf, NULL));
}

static m2_status append_locked(m2_store *s, const char *name, int64_t count, const void *buf)
{
    hid_t id;
    m2_array_info info;
    M2_TRY(find_array(s, name, &id));
    M2_TRY(describe(s, name, id, &info));
    if (info.rank < 1)
        return m2_fail(M2_BUG, "%s: array %s is a scalar, nothing can be appended", s->path, name);
    int64_t offset[M2_STORE_RANK] = {info.shape[0]}, extent[M2_STORE_RANK];
    hsize_t size[M2_STORE_RANK];
    to_hsize(size, info.shape, info.rank);
    memcpy(extent, info.shape, sizeof extent);
    size[0] += (hsize_t)count;
    extent[0] = count;
    if (m2i_h5_failed(H5Dset_extent(id, size)))
        return m2_fail(M2_IO, "%s: cannot extend array %s: %s", s->path, name, m2i_h5_why());
    return transfer(s, name, offset, extent, NULL, buf);
}

m2_status m2_store_append(m2_store *s, const char *name, int64_t count, const void *buf)
{
    if (count == 0) return M2_OK;
    M2I_LOCKED(append_locked(s, name, count, buf));
}
