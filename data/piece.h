/* piece.h - the tokens of one stretch of one input file, on disk until a store is assembled from all of them.
 *
 * OUT.parts/<file>-<number>: a header, its documents, its tokens (as wide as the store's); XXH3 over all of it. A piece
 * appears by rename, so that it is whole or not there, and names what it was made from: another file, another time of
 * change, another tokenizer or option is another piece. Hence any number of processes may make pieces at once, be killed,
 * and find again what is done. */
#ifndef M2_DATA_PIECE_H
#define M2_DATA_PIECE_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct m2i_hash128 {
    uint64_t low, high;
} m2i_hash128;

enum { M2I_PIECE_ENDS = 1, M2I_PIECE_TAIL = 2, M2I_PIECE_LINE = 4 };

typedef struct m2i_piece_document { /* or the part of one that is in this piece */
    int64_t tokens, bytes;          /* without separator; of text */
    m2i_hash128 hash;               /* of the text */
    int64_t flags;                  /* its end is here; it is for validation; it is a line of .jsonl */
} m2i_piece_document;

typedef struct m2i_piece {
    char magic[8];
    uint64_t checksum; /* of header, with 0 here, documents and tokens */
    m2i_hash128 identity;
    int64_t last; /* no piece of this file follows */
    int64_t count, tokens, width;
    int64_t skipped;
    char first_skipped[512];
    /* behind the header in the file */
    m2i_piece_document *documents;
    void *ids; /* width bytes each */
    int64_t document_room, byte_room;
} m2i_piece;

/* Empties a piece for the next stretch; its memory is kept. */
void m2i_piece_begin(m2i_piece *p, m2i_hash128 identity, int64_t width);
/* `document->tokens` ids. */
m2_status m2i_piece_add(m2i_piece *p, const m2i_piece_document *document, const uint32_t *ids) M2_MUST_USE;
m2_status m2i_piece_write(m2i_piece *p, const char *folder, int64_t file, int64_t number) M2_MUST_USE;
/* *found = 0: there is none of this identity, or it is damaged. M2_IO: it cannot be read. */
m2_status m2i_piece_read(m2i_piece *p, const char *folder, int64_t file, int64_t number, m2i_hash128 identity,
                         int *found) M2_MUST_USE;
void m2i_piece_free(m2i_piece *p);

/* The folder of pieces; removing it takes the pieces in it along, or with `only_empty` leaves a folder that holds any. */
m2_status m2i_pieces_make_folder(const char *folder) M2_MUST_USE;
void m2i_pieces_remove_folder(const char *folder, int only_empty);

#endif
