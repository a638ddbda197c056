/* text.h - text files as a stream of blocks, whatever they are packed in.
 *
 * A name says the format: .jsonl (also .ndjson) holds one JSON object per line, one document each; anything else is text,
 * one document per file. The contents say the packing: zstd, gzip, xz or none. "-" is standard input. */
#ifndef M2_TEXT_H
#define M2_TEXT_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef enum m2_text_format { M2_TEXT_BY_NAME, M2_TEXT_PLAIN, M2_TEXT_JSONL } m2_text_format;

typedef struct m2_text_files {
    char **paths;
    int64_t count, capacity;
    int64_t bytes; /* of all files as they are on disk; 0 for standard input */
    m2_text_format format;
} m2_text_files;

/* Files as given, folders as the .txt and .jsonl files (also packed) below them, by name; a name that is no file but a glob
 * ("books.*.jsonl.zst") as what it matches. M2_DATA if a folder has no text. */
M2_API m2_status m2_text_files_add(m2_text_files *f, const char *path) M2_MUST_USE;
M2_API void m2_text_files_free(m2_text_files *f);

/* Part of one file: whole lines of .jsonl, or text up to a place where cutting changes no token (before a space that
 * follows something else). `data` grows as needed and is reused from call to call. */
typedef struct m2_text_block {
    char *data;
    size_t size, capacity;
    const char *path;
    int64_t file, index;  /* of `path` in m2_text_files; of this block in its file: 0, 1, ... */
    int64_t line, offset; /* of its first byte, in the unpacked file */
    int jsonl;
    int ends_file;     /* no block of this file follows */
    int ends_document; /* text: nothing of its document follows */
    int tail;          /* text: behind the place where m2_text_reader_split cut the document in two */
    char broken
        [512]; /* not empty: the file's packing is broken behind this block, and the rest of it is lost */
} m2_text_block;

typedef struct m2_text_reader m2_text_reader;
M2_API m2_status m2_text_reader_open(const m2_text_files *f,
                                     m2_text_reader **out) M2_MUST_USE; /* *f must stay */
/* From now on the last `fraction` of each text (not of .jsonl) becomes a document of its own, with blocks marked `tail`.
 * Texts are then read twice, to know their size. */
M2_API void m2_text_reader_split(m2_text_reader *r, double fraction);
/* From now on a file whose packing is broken ends there; its last block says so. Otherwise that is M2_DATA. */
M2_API void m2_text_reader_tolerate(m2_text_reader *r);
/* Only the files that wanted() wants are opened. */
M2_API void m2_text_reader_choose(m2_text_reader *r, int (*wanted)(void *ctx, int64_t file), void *ctx);
M2_API m2_status m2_text_reader_next(m2_text_reader *r, m2_text_block *b, int *more) M2_MUST_USE;
M2_API int64_t m2_text_reader_consumed(const m2_text_reader *r); /* bytes of the files as they are on disk */
M2_API void m2_text_reader_close(m2_text_reader **r);

#endif
