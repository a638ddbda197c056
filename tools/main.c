/* main.c - m2 TOOL [arguments]: finds the tool, runs it, prints its failure once, exits with its code. */
#include "kernels/base/log.h"
#include "tools/tool.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static int asks_for_help(const char *word)
{
    return !strcmp(word, "--help") || !strcmp(word, "-h");
}

static m2_status dispatch(int argc, char **argv)
{
    if (argc < 2 || asks_for_help(argv[1])) return m2_help(0, NULL);
    if (!strcmp(argv[1], "--version"))
        return puts("m2 " M2_VERSION) < 0 ? m2_fail(M2_IO, "cannot write") : M2_OK;
    const m2_tool *tool = m2_tool_find(argv[1]);
    if (!tool) return m2_tool_unknown(argv[1]);
    if (argc > 2 && asks_for_help(argv[2])) return m2_help(1, argv + 1);
    return tool->run(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    m2_status st = dispatch(argc, argv);
    if (st == M2_OK) return st;
    if (m2_log_rank() != 0) { /* mpirun ends all ranks with the first: it may still be about to say why */
        nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
        return st;
    }
    fprintf(stderr, "m2: error: %s\n", m2_message());
    if (st == M2_BUG) fprintf(stderr, "m2: where: %s\n", m2_trace());
    return st;
}
