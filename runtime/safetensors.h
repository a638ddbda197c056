/* safetensors.h - the file format of Hugging Face models: 8 bytes length of a JSON header, the header {name: {dtype, shape,
 * data_offsets}, "__metadata__": {text: text}}, raw little-endian tensors. Several files have an index,
 * NAME.safetensors.index.json: {"weight_map": {tensor: file}}. */
#ifndef M2_SAFETENSORS_H
#define M2_SAFETENSORS_H

#include "kernels/base/status.h"
#include <stdint.h>

enum { M2_SAFETENSORS_RANK = 8 };

typedef struct m2_safetensor {
    const char *name;
    char dtype[8]; /* "F32", "BF16", "F16", "F64", "I64", ... */
    int rank;
    int64_t dims[M2_SAFETENSORS_RANK];
    int64_t bytes;
    const void *data; /* of opened ones */
} m2_safetensor;

/* ---- reading */
typedef struct m2_safetensors m2_safetensors;
/* path: a file, an index, or a folder with one index or with files. M2_DATA, naming file and tensor, when a header does not
 * describe exactly what is there. Tensors are in the order of their data. */
M2_API m2_status m2_safetensors_open(const char *path, m2_safetensors **out) M2_MUST_USE;
M2_API void m2_safetensors_close(m2_safetensors **s); /* accepts NULL; nulls */
M2_API int m2_safetensors_count(const m2_safetensors *s);
M2_API const m2_safetensor *m2_safetensors_tensor(const m2_safetensors *s, int i);
M2_API const char *m2_safetensors_metadata(const m2_safetensors *s, const char *key); /* NULL if there is none */

/* Elements [0, n) as doubles, exactly; M2_DATA for integers and unknown types. */
M2_API m2_status m2_safetensors_doubles(const m2_safetensor *t, double *out) M2_MUST_USE;
M2_API int64_t m2_safetensors_elements(const m2_safetensor *t);

/* ---- writing */
typedef struct m2_safetensors_spec {
    int n;
    const m2_safetensor *tensors; /* `data` is not used: bytes come from fill, one tensor at a time */
    m2_status (*fill)(void *ctx, int tensor, void *out);
    void *ctx;
    int n_metadata;
    const char *const *metadata; /* key, text, key, text, ... */
    int64_t file_bytes;          /* > 0: path is a folder, which gets files of about so many bytes and an index */
} m2_safetensors_spec;
/* Under temporary names, flushed, renamed: a file that is there is whole. */
M2_API m2_status m2_safetensors_write(const char *path, const m2_safetensors_spec *spec) M2_MUST_USE;

#endif
