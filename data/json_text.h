/* json_text.h - the one text of a JSON object that is wanted, without building the rest: the speed of reading .jsonl. */
#ifndef M2_DATA_JSON_TEXT_H
#define M2_DATA_JSON_TEXT_H

#include <stddef.h>

/* Writes the string under `field` of the object line[0 .. n) to out, which has room for n bytes. Returns NULL, or what is
 * wrong at byte *at. *found = 0: a sound object without such a string. Of repeated fields the last one counts. */
const char *m2i_json_text(const char *line, size_t n, const char *field, char *out, size_t *size, int *found,
                          size_t *at);

#endif
