/* config.h - a resolved configuration: one struct field per row of options.def. */
#ifndef M2_CONFIG_H
#define M2_CONFIG_H

#include "kernels/base/status.h"
#include <stdint.h>
#include <stdio.h>

typedef struct m2_config {
#define INT(field, key, def, lo, hi, restart, help) int64_t field;
#define REAL(field, key, def, lo, hi, restart, help) double field;
#define BOOL(field, key, def, restart, help) int field;
#define STR(field, key, def, choices, restart, help) char field[256];
#include "runtime/options.def"
#undef INT
#undef REAL
#undef BOOL
#undef STR
} m2_config;

M2_API void m2_config_defaults(m2_config *cfg);
/* Reads a YAML file (nested maps or dotted keys; `base: other.yaml` first, relative to the file). Unknown key, wrong type
 * or out-of-bounds value: M2_USAGE naming file, line, key, value, what was expected, and the nearest known key. */
M2_API m2_status m2_config_load(m2_config *cfg, const char *path) M2_MUST_USE;
M2_API m2_status m2_config_set(m2_config *cfg, const char *key_equals_value) M2_MUST_USE; /* "optim.lr=3e-4" */
M2_API void m2_config_write(const m2_config *cfg, FILE *out); /* YAML that loads back to the same config */
M2_API m2_status m2_config_parse_text(m2_config *cfg, const char *yaml, const char *origin) M2_MUST_USE;
/* The values of all options whose key starts with prefix. */
M2_API void m2_config_copy(m2_config *to, const m2_config *from, const char *prefix);
/* M2_USAGE naming the first key that differs though it is not restart-safe (values of both). */
M2_API m2_status m2_config_check_resume(const m2_config *saved, const m2_config *now) M2_MUST_USE;
/* Prints the table of options whose key starts with prefix; M2_USAGE with the nearest key if there are none. */
M2_API m2_status m2_config_help(FILE *out, const char *prefix) M2_MUST_USE;
M2_API const char *m2_nearest_name(const char *name, const char *const *names, int n); /* NULL if nothing is near */

#endif
