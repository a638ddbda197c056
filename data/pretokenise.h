/* pretokenise.h - cuts text into the pieces inside which BPE merges: GPT-2's pattern
 *
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * as a scanner of one pass. A byte that is not part of well-formed UTF-8 counts as one character that is neither letter,
 * number nor space. The pieces are the whole text, in order. */
#ifndef M2_DATA_PRETOKENISE_H
#define M2_DATA_PRETOKENISE_H

#include <stddef.h>

typedef enum m2i_class { M2I_OTHER, M2I_LETTER, M2I_NUMBER, M2I_SPACE } m2i_class;

/* Bytes of the first piece of [p, end), p < end. */
size_t m2i_pretoken(const unsigned char *p, const unsigned char *end);

/* The code point at p < end and its bytes; -1 and 1 byte where there is no well-formed character. */
int m2i_utf8(const unsigned char *p, const unsigned char *end, int *bytes);

#endif
