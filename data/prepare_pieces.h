/* prepare_pieces.h - what tokenising and assembling agree on: where pieces are and what they are called. */
#ifndef M2_DATA_PREPARE_PIECES_H
#define M2_DATA_PREPARE_PIECES_H

#include "data/piece.h"
#include "data/prepare.h"

/* "OUT.parts", malloc'd. */
m2_status m2i_prepare_folder(const m2_prepare_spec *spec, char **folder) M2_MUST_USE;
/* Of all pieces of a file: its name, size and time of change, the tokenizer, the options that matter. */
m2_status m2i_prepare_identity(const m2_prepare_spec *spec, int64_t file, m2i_hash128 *out) M2_MUST_USE;

#endif
