/* prepare.h - what the kinds of m2 prepare share. */
#ifndef M2_TOOLS_PREPARE_H
#define M2_TOOLS_PREPARE_H

#include "kernels/base/status.h"
#include <stdint.h>

/* `words` with `between` between them; malloc'd, NULL without memory. */
char *prepare_join(char *const *words, int64_t n, const char *between);
/* The command without what changes nothing in the store: the same store is made with any number of threads. malloc'd. */
char *prepare_command(char *const *words, int count);
/* Now. SOURCE_DATE_EPOCH in the environment stands for now: the same store, byte for byte, at another time. */
void prepare_date(char date[32]);
/* M2_USAGE if the file is there and `force` is not. path may be NULL. */
m2_status prepare_check_free(const char *path, int force) M2_MUST_USE;

m2_status prepare_images(int argc, char **argv) M2_MUST_USE;
m2_status prepare_merge(int argc, char **argv) M2_MUST_USE;

#endif
