/* attributes.c - the attributes and names in a store. */
#include "data/h5.h"
#include "data/store.h"

#include <stdlib.h>

static m2_status open_object(m2_store *s, const char *object, hid_t *out)
{
    if (m2i_h5_failed(*out = H5Oopen(m2i_store_file(s), object, H5P_DEFAULT)))
        return m2_fail(M2_DATA, "%s has no %s: %s", m2_store_path(s), object, m2i_h5_why());
    return M2_OK;
}

static m2_status write_attribute(hid_t object, const char *key, hid_t type, hid_t memory, const void *value)
{
    if (H5Aexists(object, key) > 0) H5Adelete(object, key);
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t id = H5Acreate2(object, key, type, space, H5P_DEFAULT, H5P_DEFAULT);
    int bad = m2i_h5_failed(id) || m2i_h5_failed(H5Awrite(id, memory, value));
    if (id >= 0) H5Aclose(id);
    H5Sclose(space);
    return bad ? m2_fail(M2_IO, "cannot write attribute %s: %s", key, m2i_h5_why()) : M2_OK;
}

static hid_t text_type(void)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

m2_status m2i_attribute_set_text(hid_t object, const char *key, const char *value)
{
    hid_t type = text_type();
    m2_status st = write_attribute(object, key, type, type, &value);
    H5Tclose(type);
    return st;
}

m2_status m2_store_set_text(m2_store *s, const char *object, const char *key, const char *value)
{
    hid_t id;
    m2i_h5_enter();
    m2_status st = open_object(s, object, &id);
    if (st == M2_OK) {
        st = m2_context(m2i_attribute_set_text(id, key, value), "%s: %s", m2_store_path(s), object);
        H5Oclose(id);
    }
    m2i_h5_leave();
    return st;
}

m2_status m2_store_set_i64(m2_store *s, const char *object, const char *key, int64_t value)
{
    hid_t id;
    m2i_h5_enter();
    m2_status st = open_object(s, object, &id);
    if (st == M2_OK) {
        st = write_attribute(id, key, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
        st = m2_context(st, "%s: %s", m2_store_path(s), object);
        H5Oclose(id);
    }
    m2i_h5_leave();
    return st;
}

static m2_status open_attribute(m2_store *s, const char *object, const char *key, H5T_class_t want,
                                hid_t *out)
{
    hid_t id;
    M2_TRY(open_object(s, object, &id));
    int there = H5Aexists(id, key) > 0;
    *out = there ? H5Aopen(id, key, H5P_DEFAULT) : H5I_INVALID_HID;
    H5Oclose(id);
    if (*out < 0) return m2_fail(M2_DATA, "%s: %s has no attribute %s", m2_store_path(s), object, key);
    hid_t type = H5Aget_type(*out);
    H5T_class_t is = H5Tget_class(type);
    H5Tclose(type);
    if (is == want) return M2_OK;
    H5Aclose(*out);
    return m2_fail(M2_DATA, "%s: attribute %s of %s should be %s", m2_store_path(s), key, object,
                   want == H5T_STRING ? "a text" : "an integer");
}

/* Variable-length texts as written here; fixed-length ones as other programs write them. */
static int read_text(hid_t id, char **value)
{
    hid_t type = H5Aget_type(id);
    int bad;
    if (H5Tis_variable_str(type) > 0) {
        char *text = NULL;
        bad = m2i_h5_failed(H5Aread(id, type, &text));
        *value = bad ? NULL : strdup(text ? text : "");
        if (text) H5free_memory(text);
    } else {
        size_t n = H5Tget_size(type);
        *value = calloc(n + 1, 1);
        bad = !*value || m2i_h5_failed(H5Aread(id, type, *value));
        if (bad) free(*value);
    }
    H5Tclose(type);
    return bad || !*value;
}

static m2_status get_text_locked(m2_store *s, const char *object, const char *key, char **value)
{
    hid_t id;
    M2_TRY(open_attribute(s, object, key, H5T_STRING, &id));
    int bad = read_text(id, value);
    H5Aclose(id);
    if (!bad) return M2_OK;
    *value = NULL;
    return m2_fail(M2_DATA, "%s: cannot read attribute %s of %s: %s", m2_store_path(s), key, object,
                   m2i_h5_why());
}

m2_status m2_store_get_text(m2_store *s, const char *object, const char *key, char **value)
{
    *value = NULL;
    M2I_LOCKED(get_text_locked(s, object, key, value));
}

static m2_status get_i64_locked(m2_store *s, const char *object, const char *key, int64_t *value)
{
    hid_t id;
    M2_TRY(open_attribute(s, object, key, H5T_INTEGER, &id));
    int bad = m2i_h5_failed(H5Aread(id, H5T_NATIVE_INT64, value));
    H5Aclose(id);
    if (!bad) return M2_OK;
    return m2_fail(M2_DATA, "%s: cannot read attribute %s of %s: %s", m2_store_path(s), key, object,
                   m2i_h5_why());
}

m2_status m2_store_get_i64(m2_store *s, const char *object, const char *key, int64_t *value)
{
    M2I_LOCKED(get_i64_locked(s, object, key, value));
}

typedef struct visitor {
    void (*visit)(void *ctx, const char *name);
    void *ctx;
} visitor;

static herr_t visit_link(hid_t group, const char *name, const H5L_info_t *info, void *data)
{
    (void)group, (void)info;
    visitor *v = data;
    v->visit(v->ctx, name);
    return 0;
}

static m2_status list_locked(m2_store *s, const char *group, visitor *v)
{
    hid_t id;
    M2_TRY(open_object(s, group, &id));
    int bad = m2i_h5_failed(H5Literate(id, H5_INDEX_NAME, H5_ITER_INC, NULL, visit_link, v));
    H5Oclose(id);
    return bad ? m2_fail(M2_DATA, "%s: cannot list %s: %s", m2_store_path(s), group, m2i_h5_why()) : M2_OK;
}

m2_status m2_store_list(m2_store *s, const char *group, void (*visit)(void *ctx, const char *name), void *ctx)
{
    visitor v = {visit, ctx};
    M2I_LOCKED(list_locked(s, group, &v));
}
