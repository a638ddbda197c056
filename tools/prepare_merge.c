/* prepare_merge.c - m2 prepare --merge STORE...: several token stores become one, without a copy of their tokens. */
#include "data/merge.h"
#include "tools/prepare.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static m2_status merge(const char *out, char **paths, int count, const char *command)
{
    char date[32];
    m2_token_store_info info;
    prepare_date(date);
    const char *notes[] = {"date", date, "command", command, NULL};
    M2_TRY(m2_token_store_merge(out, paths, count, notes));
    M2_TRY(m2_token_store_info_read(out, &info));
    printf("%s: %" PRId64 " documents, %" PRId64 " tokens (separators not counted) in %d stores\n", out,
           info.documents, info.tokens - info.documents, count);
    return M2_OK;
}

m2_status prepare_merge(int argc, char **argv)
{
    const char *out = NULL;
    int on, force = 0;
    const m2_flag flags[] = {{"--merge", M2_FLAG_ON, &on},
                             {"--out", M2_FLAG_TEXT, &out},
                             {"--force", M2_FLAG_ON, &force},
                             {NULL, M2_FLAG_ON, NULL}};
    char *command = prepare_command(argv, argc);
    m2_status st =
        command ? m2_flags_take(&argc, argv, flags) : m2_fail(M2_TRANSIENT, "out of memory for the command");
    if (st == M2_OK && (!out || argc < 2))
        st = m2_fail(M2_USAGE, "which stores? m2 prepare --merge --out STORE.h5 STORE.h5 STORE.h5...");
    if (st == M2_OK) st = prepare_check_free(out, force);
    if (st == M2_OK) st = merge(out, argv + 1, argc - 1, command);
    free(command);
    return st;
}
