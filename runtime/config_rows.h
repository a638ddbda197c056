/* config_rows.h - options.def as a table, for the files that parse, write and explain it (private to runtime/). */
#ifndef M2_CONFIG_ROWS_H
#define M2_CONFIG_ROWS_H

#include "runtime/config.h"

typedef enum m2i_kind { M2I_INT, M2I_REAL, M2I_BOOL, M2I_STR } m2i_kind;

typedef struct m2i_option {
    const char *key;
    m2i_kind kind;
    size_t offset; /* of the field in m2_config */
    int restart;
    union m2i_default {
        int64_t i;
        double r;
        const char *s;
    } def;
    int64_t lo, hi;      /* INT */
    double rlo, rhi;     /* REAL */
    const char *choices; /* STR: "a|b|c" or NULL */
    const char *help;
} m2i_option;

enum { M2I_VALUE = 1024 }; /* bytes enough for any value as text */

int m2i_options(const m2i_option **rows); /* returns their number */
const m2i_option *m2i_option_find(const char *key);
/* M2_USAGE with the nearest key; where: "file.yaml:12" or "". */
m2_status m2i_option_unknown(const char *where, const char *key) M2_MUST_USE;
/* Parses, checks and stores a value. */
m2_status m2i_option_set(m2_config *cfg, const m2i_option *o, const char *where,
                         const char *text) M2_MUST_USE;
char *m2i_option_text(const m2_config *cfg, const m2i_option *o, char text[M2I_VALUE]); /* returns text */

#endif
