/* yaml_map.h - a YAML file of maps and single values, flattened: "node: {all_gather: {gbs: 3}}" is node.all_gather.gbs = 3.
 * Private to runtime/. */
#ifndef M2_YAML_MAP_H
#define M2_YAML_MAP_H

#include "kernels/base/status.h"

/* Called for each value in order; where: "file.yaml:12", for messages. */
typedef m2_status (*m2i_yaml_fn)(void *ctx, const char *where, const char *key, const char *text);

/* M2_USAGE for what is not YAML, not a map, or holds lists; what the function returns else. */
m2_status m2i_yaml_each(const char *path, m2i_yaml_fn fn, void *ctx) M2_MUST_USE;

#endif
